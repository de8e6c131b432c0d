"""Which image a run gets, and the sizes and roles that an image can have."""

from datetime import UTC, datetime

import pytest

from runvoy_agent.core.images import (
    FARGATE_SIZES,
    Registered,
    check_task_role,
    choose,
    fargate_size,
    not_found,
    resolve,
    size_of_run,
    task_role_of,
)
from runvoy_agent.core.model import Image
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import RunRequest

AT = datetime(2026, 5, 4, tzinfo=UTC)
GIB = 1024
TERRAFORM = "docker.io/hashicorp/terraform:1.9"


def image(reference, name=None, **fields):
    return Image(
        name=name or reference,
        reference=reference,
        registered_by="ada",
        registered_at=AT,
        updated_by="ada",
        updated_at=AT,
        **fields,
    )


def request(**fields):
    return RunRequest(1, "here", "0" * 32, AT, AT, ("true",), **fields)


def refused(function, *arguments, **options):
    with pytest.raises(RunvoyError) as caught:
        function(*arguments, **options)
    assert caught.value.hint
    return caught.value


# --- names ---

IMAGES = (
    image(TERRAFORM),
    image("ghcr.io/team/tools:2", "tools"),
    image("docker.io/other/tools:2"),
    image("python:3.12"),
    image("python:3.13"),
    image("alpine:3", "small", task_role="reader"),
    image("alpine:3", "small-deploy", task_role="deployer"),
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        *((asked, TERRAFORM) for asked in (TERRAFORM, "terraform", "terraform:1.9", "hashicorp/terraform")),
        *((asked, TERRAFORM) for asked in ("hashicorp/terraform:1.9", "docker.io/hashicorp/terraform")),
        ("tools", "tools"),  # a name wins over other images' short names
        ("other/tools", "docker.io/other/tools:2"),
        ("team/tools:2", "tools"),
        ("python:3.12", "python:3.12"),
        ("small", "small"),
        ("small-deploy", "small-deploy"),
    ],
)
def test_what_is_meant(asked, name):
    assert resolve(asked, IMAGES).name == name


@pytest.mark.parametrize(
    ("asked", "candidates"),
    [
        ("python", ["python:3.12", "python:3.13"]),
        ("tools:2", ["docker.io/other/tools:2", "tools"]),
        ("alpine:3", ["small", "small-deploy"]),
        ("alpine", ["small", "small-deploy"]),
    ],
)
def test_what_may_be_several_is_none_and_lists_them(asked, candidates):
    error = refused(resolve, asked, IMAGES)
    assert error.code is ErrorCode.IMAGE_NOT_FOUND
    assert error.message == f"the image {asked!r} may be {' or '.join(candidates)}"
    for may_use_any in (False, True):
        assert (
            refused(choose, request(image=asked), Registered(IMAGES), may_use_any=may_use_any).message == error.message
        )


def test_a_long_list_of_candidates_is_cut():
    many = tuple(image(f"host{number:02}.example/tool") for number in range(30))
    assert refused(resolve, "tool", many).message.endswith("host09.example/tool or 20 more")


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("teraform", [TERRAFORM]),
        ("hashicorp/terraform:1.8", [TERRAFORM]),
        ("TERRAFORM", [TERRAFORM]),
        ("pyton:3.12", ["python:3.12", "python:3.13"]),
        ("erraform:1.9", [TERRAFORM]),
        ("/terraform", [TERRAFORM]),
    ],
)
def test_an_unknown_one_names_the_nearest(asked, nearest):
    error = refused(resolve, asked, IMAGES)
    assert error.code is ErrorCode.IMAGE_NOT_FOUND
    assert error.message.startswith(f"no image is registered as {asked!r}; the nearest: ")
    listed = error.message.partition("nearest: ")[2].split(", ")
    assert listed[: len(nearest)] == nearest
    assert len(listed) <= 3


@pytest.mark.parametrize("asked", ["", " ", "zzzzzzzz", "-", "\n", "x" * 512, "ü" * 512])
def test_what_is_like_nothing_is_told_short_and_without_a_guess(asked):
    error = refused(resolve, asked, IMAGES)
    assert "nearest" not in error.message
    assert len(error.message) < 600


def test_without_any_image_it_is_said_who_registers_them():
    assert "`runvoy images register`" in refused(resolve, "alpine", ()).hint


# --- the choice ---


def test_what_a_run_gets():
    registered = Registered(IMAGES, default=IMAGES[0])
    assert choose(request(image="terraform"), registered, may_use_any=False) == (TERRAFORM, IMAGES[0])
    assert choose(request(), registered, may_use_any=False) == (TERRAFORM, IMAGES[0])
    assert choose(request(isolation="container"), registered, may_use_any=False) == (TERRAFORM, IMAGES[0])
    assert choose(request(), Registered(IMAGES), may_use_any=True) is None
    chosen = choose(request(image="tools"), registered, may_use_any=True)
    assert chosen is not None
    assert (chosen.name, chosen.reference) == ("tools", "ghcr.io/team/tools:2")


def test_a_host_process_gets_none_whatever_it_names():
    for asked in (None, "tools", "nobody/made:it"):
        assert (
            choose(request(image=asked, isolation="process"), Registered(IMAGES, IMAGES[0]), may_use_any=False) is None
        )


def test_an_unregistered_one_is_for_who_may_use_any():
    asked = request(image="nobody/made:it")
    assert choose(asked, Registered(IMAGES), may_use_any=True) == ("nobody/made:it", None)
    assert refused(choose, asked, Registered(IMAGES), may_use_any=False).code is ErrorCode.IMAGE_NOT_FOUND


# --- sizes ---


def expected_memory(cpu):
    """Fargate's own table, by another way of writing it."""
    return {
        256: [512, 1 * GIB, 2 * GIB],
        512: [n * GIB for n in range(1, 5)],
        1024: [n * GIB for n in range(2, 9)],
        2048: [n * GIB for n in range(4, 17)],
        4096: [n * GIB for n in range(8, 31)],
        8192: [n * GIB for n in (16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60)],
        16384: [n * GIB for n in (32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120)],
    }[cpu]


@pytest.mark.parametrize("cpu", FARGATE_SIZES)
def test_every_pair_and_its_neighbours(cpu):
    valid = expected_memory(cpu)
    assert list(FARGATE_SIZES[cpu]) == valid
    assert fargate_size(cpu, None) == (cpu, valid[0])
    for memory_mib in valid:
        assert fargate_size(cpu, memory_mib) == (cpu, memory_mib)
    others = {near for memory_mib in valid for near in (memory_mib - 1, memory_mib + 1)}
    others |= {valid[0] // 2, valid[-1] + GIB, 0, -GIB}
    for memory_mib in others - set(valid):
        error = refused(fargate_size, cpu, memory_mib)
        assert error.code is ErrorCode.INVALID_REQUEST
        assert f"not {memory_mib} MiB" in error.message


@pytest.mark.parametrize(
    ("cpu", "told"),
    [
        (256, "512, 1024 or 2048 MiB"),
        (512, "1 to 4 GiB in steps of 1"),
        (4096, "8 to 30 GiB in steps of 1"),
        (8192, "16 to 60 GiB in steps of 4"),
        (16384, "32 to 120 GiB in steps of 8"),
    ],
)
def test_the_valid_memory_is_told(cpu, told):
    assert told in refused(fargate_size, cpu, 3).message


@pytest.mark.parametrize("cpu", [0, 1, 255, 257, 768, 3072, 16383, 32768])
def test_the_valid_cpus_are_told(cpu):
    message = refused(fargate_size, cpu, None).message
    assert "256, 512, 1024, 2048, 4096, 8192, 16384" in message
    assert str(cpu) in message


@pytest.mark.parametrize(
    ("memory_mib", "cpu"),
    [(512, 256), (1 * GIB, 256), (2 * GIB, 256), (3 * GIB, 512), (4 * GIB, 512), (5 * GIB, 1024), (8 * GIB, 1024)]
    + [(9 * GIB, 2048), (16 * GIB, 2048), (17 * GIB, 4096), (30 * GIB, 4096), (32 * GIB, 8192), (60 * GIB, 8192)]
    + [(64 * GIB, 16384), (120 * GIB, 16384)],
)
def test_the_least_cpu_that_a_memory_goes_with(memory_mib, cpu):
    assert fargate_size(None, memory_mib) == (cpu, memory_mib)


@pytest.mark.parametrize(
    ("memory_mib", "near"),
    [(1, "512 MiB"), (513, "512 MiB and 1024 MiB"), (31 * GIB, "30720 MiB and 32768 MiB"), (121 * GIB, "122880 MiB")],
)
def test_a_memory_that_no_cpu_goes_with_tells_the_nearest(memory_mib, near):
    assert refused(fargate_size, None, memory_mib).message.endswith(f"goes with: {near}")


def test_no_size_is_left_to_the_deployment():
    assert fargate_size(None, None) == (None, None)


def test_a_run_s_own_size_lies_over_that_of_its_image():
    registered = image("a", cpu=512, memory_mib=2 * GIB)
    assert size_of_run(request(), registered, on_fargate=True) == (512, 2 * GIB)
    assert size_of_run(request(memory_mib=4 * GIB), registered, on_fargate=True) == (512, 4 * GIB)
    assert size_of_run(request(cpu=1024, memory_mib=8 * GIB), registered, on_fargate=True) == (1024, 8 * GIB)
    assert size_of_run(request(cpu=1024), image("a"), on_fargate=True) == (1024, 2 * GIB)
    assert size_of_run(request(cpu=1024), None, on_fargate=True) == (1024, 2 * GIB)
    assert "not 2048 MiB" in refused(size_of_run, request(cpu=2048), registered, on_fargate=True).message


def test_elsewhere_a_run_may_have_any_size():
    assert size_of_run(request(cpu=100), image("a", cpu=512, memory_mib=GIB), on_fargate=False) == (100, GIB)
    assert size_of_run(request(memory_mib=77), None, on_fargate=False) == (None, 77)


# --- roles ---


def test_a_role_is_one_of_the_deployment_s():
    check_task_role(None, frozenset())
    arns = [f"arn:aws:iam::123456789012:role/{name}" for name in ("deploy", "team/read", "other/read")]
    for asked, meant in ((None, None), ("deploy", arns[0]), (arns[1], arns[1]), ("team/read", arns[1])):
        assert task_role_of(asked, arns) == meant
    assert "several task roles" in refused(task_role_of, "read", arns).message
    for unknown in ("", "/", "team", "deploy/", "Deploy", arns[0][:-1], arns[0].replace("deploy", "team")):
        assert "must be one of" in refused(task_role_of, unknown, arns).message
    assert "has no task roles" in refused(task_role_of, "deploy", frozenset()).message
    check_task_role("deploy", frozenset({"deploy"}))
    assert "one of deploy, read, not 'admin'" in refused(check_task_role, "admin", {"read", "deploy"}).message
    assert "has no task roles" in refused(check_task_role, "deploy", frozenset()).message


def test_just_ten_candidates_are_all_listed():
    many = tuple(image(f"host{number:02}.example/tool") for number in range(11))
    assert refused(resolve, "tool", many[:10]).message.endswith("host08.example/tool or host09.example/tool")
    assert refused(resolve, "tool", many).message.endswith("host09.example/tool or 1 more")


def test_at_most_three_near_ones_are_named():
    many = tuple(image(f"tool{number}") for number in range(6))
    assert len(refused(resolve, "toolx", many).message.partition("nearest: ")[2].split(", ")) == 3
    near = image(f"registry.example/a/very/long/way/to/terraform@sha256:{'0' * 64}", "x")
    assert refused(resolve, "teraform", (near,)).message.endswith("the nearest: x")


def test_a_run_that_asks_for_no_size_has_the_least_of_fargate():
    assert size_of_run(request(), image("a"), on_fargate=True) == (256, 512)
    assert size_of_run(request(), None, on_fargate=False) == (None, None)


def test_a_short_form_is_no_name_where_a_name_is_asked_for():
    error = not_found("terraform", IMAGES)
    assert error.message.startswith(f"no image is registered as 'terraform'; the nearest: {TERRAFORM}")
