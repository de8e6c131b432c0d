"""Images as an operator and a member have them: registered, listed, and run by a short name in a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.test_cli_json import documented, keys_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

REFERENCE = "docker.io/hashicorp/terraform:1.9"


@pytest.fixture
def engine(engine: Path) -> Path:
    (engine / "registry" / REFERENCE.replace("/", "_")).touch()
    return engine


def printed(machine: Machine, *args: str) -> Any:
    """What a command prints with --json, which has the documented shape."""
    value = json.loads(machine.ok("--json", *args))
    [shape] = documented(" ".join(args[:2]))
    assert keys_of(value) == keys_of(shape)
    return value


def error_of(machine: Machine, exit_code: int, *args: str) -> dict[str, Any]:
    done = machine("--json", *args)
    assert done.returncode == exit_code, done
    return dict(json.loads(done.stderr.splitlines()[-1])["error"])


def test_an_image_from_its_registration_to_a_run(machine: Machine, engine: Path) -> None:
    register = ["images", "register", REFERENCE, "--name", "tf", "--cpu", "0.5", "--platform", "linux/arm64"]
    made = printed(machine, *register, "--description", "applies")
    assert (made["name"], made["cpu"], made["memory_mib"], made["version"]) == ("tf", 512, 1024, 1)
    assert machine.ok("images", "list").splitlines()[1].split() == [
        *("tf", REFERENCE, "0.5", "vCPU", "1", "GiB", "linux/arm64", "applies")
    ]
    assert printed(machine, "images", "list") == [made]
    assert printed(machine, "images", "show", "hashicorp/terraform") == made
    assert "registered  " in machine.ok("images", "show", "tf")

    assert machine.ok("run", "--image", "terraform", "--memory", "2g", "echo hello") == "hello\n"
    [status] = json.loads(machine.ok("--json", "list"))
    assert (status["isolation"], status["image"], status["image_name"]) == ("container", REFERENCE, "tf")
    assert (status["cpu"], status["memory_mib"], status["platform"]) == (512, 2048, "linux/arm64")
    shown = machine.ok("status", status["execution_id"])
    assert f"container, image tf ({REFERENCE})" in shown
    [create] = [line for line in map(json.loads, (engine / "calls").read_text().splitlines()) if line[0] == "create"]
    assert create[create.index("--platform") + 1] == "linux/arm64"
    assert create[create.index("--memory") + 1] == "2048m"


def test_the_default_image_comes_and_goes(machine: Machine, engine: Path) -> None:
    machine.ok("images", "register", REFERENCE)
    assert machine.ok("run", "pwd") != ""
    told = machine.ok("images", "register", REFERENCE, "--name", "tf", "--default")
    assert told == "registered tf; runs without --image use it\n"
    machine.ok("run", "true")
    machine.ok("run", "--isolation", "process", "true")
    by_process, by_default, before = json.loads(machine.ok("--json", "list"))
    assert [one["isolation"] for one in (before, by_default, by_process)] == ["process", "container", "process"]
    assert by_default["image_name"] == "tf"
    assert machine.ok("images", "register", REFERENCE, "--name", "tf", "--no-default") == "replaced tf\n"
    machine.ok("images", "register", REFERENCE, "--name", "tf", "--default")
    assert printed(machine, "images", "unregister", "tf")["is_default"] is True
    machine.ok("run", "true")
    assert json.loads(machine.ok("--json", "list"))[0]["isolation"] == "process"
    assert [image["name"] for image in json.loads(machine.ok("--json", "images", "list"))] == [REFERENCE]


def test_what_is_wrong_is_told_with_the_choices(machine: Machine) -> None:
    machine.ok("images", "register", REFERENCE)
    machine.ok("images", "register", REFERENCE, "--name", "tf")
    ambiguous = error_of(machine, 121, "run", "--image", "terraform", "true")
    assert (ambiguous["code"], ambiguous["message"]) == (
        "IMAGE_NOT_FOUND",
        f"the image 'terraform' may be {REFERENCE} or tf",
    )
    assert REFERENCE in error_of(machine, 1, "images", "show", "teraform")["message"]
    assert error_of(machine, 1, "images", "unregister", "terraform")["code"] == "IMAGE_NOT_FOUND"
    register = ("images", "register", "a:1")
    assert "512, 1024 or 2048 MiB" in error_of(machine, 1, *register, "--cpu", "256", "--memory", "4g")["message"]
    assert "no task roles" in error_of(machine, 1, *register, "--task-role", "deploy")["message"]
    for wrong in (["--platform", "linux/mips"], ["--cpu", "x"], ["--memory", "x"], ["--name", "a b"], ["--name", ""]):
        error_of(machine, 2, *register, *wrong)
    assert "no reference" in error_of(machine, 2, "images", "register", "https://a")["message"]
    assert len(json.loads(machine.ok("--json", "images", "list"))) == 2
