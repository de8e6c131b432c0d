"""Images through the handlers: registered, resolved at admission, and at most one default whatever comes at once."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from tests.unit.calls import add_key, call, code_of, set_user

from runvoy_agent.core.model import AuditEvent, DefaultImage, Image, Key
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.resources import registered
from runvoy_agent.ports import Launched, NoCapacity, Write
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.images import MAX_NAME_LENGTH
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World

TERRAFORM = "docker.io/hashicorp/terraform:1.9"


def register(world: World, reference: str, signing_key: SigningKey | None = None, **fields: Any) -> dict[str, Any]:
    """Register an image that must be taken; the answer."""
    response = call(world, "POST", "/images", {"reference": reference, **fields}, signing_key)
    assert response.status == 200, response
    return dict(json.loads(response.body))


def show(world: World, name: str, signing_key: SigningKey | None = None) -> dict[str, Any] | ErrorCode:
    response = call(world, "GET", f"/images/{quote(name, safe='')}", None, signing_key)
    return dict(json.loads(response.body)) if response.status == 200 else code_of(response)


def unregister(world: World, name: str) -> dict[str, Any] | ErrorCode:
    response = call(world, "DELETE", f"/images/{quote(name, safe='')}")
    return dict(json.loads(response.body)) if response.status == 200 else code_of(response)


def names(world: World) -> list[str]:
    return [image["name"] for image in json.loads(call(world, "GET", "/images").body)["images"]]


def defaults(world: World) -> list[str]:
    listed = json.loads(call(world, "GET", "/images").body)["images"]
    return [image["name"] for image in listed if image.get("is_default")]


def audited(world: World, *actions: str) -> list[tuple[str, str, str, str]]:
    found = []
    for shard in range(store.SHARDS):
        partition = store.shard_partition(store.day(world.clock.now()), shard)
        for record in store.partition_records(world.records, store.INDEX_AUDIT, partition):
            event = msgspec.json.decode(record.body, type=AuditEvent)
            if event.action in actions:
                found.append((event.actor, event.action, event.outcome, event.subject))
    return sorted(found)


def with_containers(world: World, **fields: Any) -> None:
    capabilities = world.deployment.capabilities._replace(isolations=frozenset({"process", "container"}), **fields)
    world.deployment = world.deployment._replace(capabilities=capabilities)


@contextmanager
def held_up(world: World, meanwhile: Callable[[], object]):
    """The next commit of a handler is held up while something else happens."""
    records = world.records
    commit = records.commit

    def late(writes: Sequence[Write]) -> None:
        if any(write.key.startswith(("image#", "execution#")) for write in writes):
            records.commit = commit  # type: ignore[method-assign]
            meanwhile()
        commit(writes)

    records.commit = late  # type: ignore[method-assign]
    try:
        yield
    finally:
        records.commit = commit  # type: ignore[method-assign]


# -- the routes


def test_register_list_show_unregister(world: World) -> None:
    made = register(world, TERRAFORM, cpu=512, platform="linux/arm64", description="ours")
    assert (made["name"], made["reference"], made["cpu"], made["memory_mib"]) == (TERRAFORM, TERRAFORM, 512, 1024)
    assert (made["registered_by"], made["version"]) == ("ada", 1)
    assert "is_default" not in made
    register(world, TERRAFORM, name="tf-prod", is_default=True)
    assert names(world) == [TERRAFORM, "tf-prod"]
    assert defaults(world) == ["tf-prod"]
    assert show(world, TERRAFORM) == made
    assert unregister(world, TERRAFORM) == made
    assert names(world) == ["tf-prod"]
    shown = show(world, "terraform")
    assert isinstance(shown, dict)
    assert (shown["name"], shown["is_default"]) == ("tf-prod", True)
    assert audited(world, "register-image", "unregister-image") == [
        ("ada", "register-image", "ok", TERRAFORM),
        ("ada", "register-image", "ok", "tf-prod"),
        ("ada", "unregister-image", "ok", TERRAFORM),
    ]


def test_the_longest_name_has_a_place_in_the_index(world: World) -> None:
    register(world, "alpine", name="n" * MAX_NAME_LENGTH)
    assert names(world) == ["n" * MAX_NAME_LENGTH]


def test_what_is_unknown_is_not_found_with_the_nearest(world: World) -> None:
    register(world, TERRAFORM)
    for method in ("GET", "DELETE"):
        response = call(world, method, "/images/teraform")
        error = control.parse_error(response.body)
        assert error is not None
        assert (response.status, error.code) == (404, ErrorCode.IMAGE_NOT_FOUND)
        assert TERRAFORM in error.message
    assert unregister(world, "terraform") is ErrorCode.IMAGE_NOT_FOUND, "only by its very name"
    for odd in (" ", "x" * 2000, "ü" * 256, "\0", "a\nb"):
        assert show(world, odd) is ErrorCode.IMAGE_NOT_FOUND


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "reference"),
        ({"reference": 7}, "malformed"),
        ([], "malformed"),
        ({"reference": "a b"}, "no reference"),
        ({"reference": "a", "platform": "linux/mips"}, "linux/arm64 or linux/amd64"),
        ({"reference": "a", "cpu": 300}, "256, 512, 1024"),
        ({"reference": "a", "cpu": 256, "memory_mib": 4096}, "512, 1024 or 2048 MiB"),
        ({"reference": "a", "cpu": -1}, "malformed"),
        ({"reference": "a", "memory_mib": 10**300}, "malformed"),
        ({"reference": "a", "task_role": "deploy"}, "no task roles"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_the_choices(world: World, body: object, told: str) -> None:
    response = call(world, "POST", "/images", body)
    error = control.parse_error(response.body)
    assert error is not None
    assert error.code is ErrorCode.INVALID_REQUEST
    assert told in error.message
    assert names(world) == []


def test_a_role_must_be_one_of_the_deployment_s(world: World) -> None:
    with_containers(world, task_roles=frozenset({"reader", "deployer"}))
    assert register(world, "a", task_role="deployer")["task_role"] == "deployer"
    response = call(world, "POST", "/images", {"reference": "b", "task_role": "admin"})
    assert b"one of deployer, reader" in response.body


def test_who_may_do_what(world: World) -> None:
    people = {role: world.add_user(role.value, role) for role in Role}
    assert [show_code(world, people[role]) for role in Role] == [200, 200, 200, 403]
    answers = [call(world, "POST", "/images", {"reference": "a:1", "name": role.value}, people[role]) for role in Role]
    assert [answer.status for answer in answers] == [200, 200, 403, 403]
    assert [call(world, "DELETE", "/images/admin", None, people[role]).status for role in reversed(Role)] == [
        *(403, 403, 200, 404)
    ]


def show_code(world: World, signing_key: SigningKey) -> int:
    return call(world, "GET", "/images", None, signing_key).status


# -- one wins, one is told


def test_registering_again_replaces_all_but_the_default(world: World) -> None:
    first = register(world, "a:1", cpu=256, description="x", is_default=True)
    bob = world.add_user("bob", Role.OPERATOR)
    world.clock.move(minutes=1)
    second = register(world, "a:2", bob, name="a:1", version=first["version"])
    assert (second["version"], second["reference"], second["is_default"]) == (2, "a:2", True)
    assert "cpu" not in second
    assert "description" not in second
    assert (second["registered_by"], second["updated_by"]) == ("ada", "bob")
    assert second["registered_at"] < second["updated_at"]
    assert "is_default" not in register(world, "a:2", name="a:1", version=2, is_default=False)
    assert defaults(world) == []


@pytest.mark.parametrize("version", [0, 1, 3])
def test_who_did_not_see_the_last_change_is_told(world: World, version: int) -> None:
    register(world, "a")
    register(world, "a", version=1, description="of another admin")
    response = call(world, "POST", "/images", {"reference": "a", "cpu": 512, "version": version})
    assert code_of(response) is ErrorCode.CONFLICT
    shown = show(world, "a")
    assert isinstance(shown, dict)
    assert shown["description"] == "of another admin"


def test_the_same_registration_again_after_a_lost_answer_is_the_same(world: World) -> None:
    first = register(world, "a", cpu=256, is_default=True)
    world.clock.move(seconds=1)
    assert register(world, "a", cpu=256, is_default=True) == first
    # The second one changed nothing; that it was called is on record all the same.
    assert [event[3] for event in audited(world, "register-image")] == ["a", "a"]


def test_an_unregistered_one_comes_back_as_a_new_one_with_a_version_that_never_restarts(world: World) -> None:
    register(world, "a", is_default=True)
    unregister(world, "a")
    assert unregister(world, "a") is ErrorCode.IMAGE_NOT_FOUND
    assert defaults(world) == []
    assert code_of(call(world, "POST", "/images", {"reference": "a", "version": 1})) is ErrorCode.CONFLICT
    world.clock.move(days=1)
    again = register(world, "a")
    assert again["version"] == 3
    assert again["registered_at"] == again["updated_at"]
    assert "is_default" not in again


def test_two_admins_at_once_one_wins_and_one_is_told(world: World) -> None:
    bob = world.add_user("bob", Role.ADMIN)
    register(world, "a")
    with held_up(world, lambda: register(world, "a", bob, version=1, description="of bob")):
        response = call(world, "POST", "/images", {"reference": "a", "version": 1, "description": "of ada"})
    assert code_of(response) is ErrorCode.CONFLICT
    assert show(world, "a")["description"] == "of bob"  # type: ignore[index]


def test_two_new_ones_of_a_name_at_once(world: World) -> None:
    with held_up(world, lambda: register(world, "a:1", name="a")):
        response = call(world, "POST", "/images", {"reference": "a:2", "name": "a"})
    assert code_of(response) is ErrorCode.CONFLICT
    assert show(world, "a")["reference"] == "a:1"  # type: ignore[index]


@pytest.mark.parametrize("old", [None, "old"])
def test_two_defaults_at_once_leave_one(world: World, old: str | None) -> None:
    if old is not None:
        register(world, old, is_default=True)
    with held_up(world, lambda: register(world, "a", is_default=True)):
        response = call(world, "POST", "/images", {"reference": "b", "is_default": True})
    assert code_of(response) is ErrorCode.CONFLICT
    assert defaults(world) == ["a"]
    assert "b" not in names(world)


def test_a_default_that_is_unregistered_meanwhile_is_not_left_the_default(world: World) -> None:
    register(world, "a", is_default=True)
    with held_up(world, lambda: register(world, "a", version=1, cpu=256)):
        assert unregister(world, "a") is ErrorCode.CONFLICT
    with held_up(world, lambda: unregister(world, "a")):
        response = call(world, "POST", "/images", {"reference": "a", "version": 2, "is_default": True, "cpu": 512})
    assert code_of(response) is ErrorCode.CONFLICT
    assert (names(world), defaults(world)) == ([], [])


def test_a_role_that_is_lost_while_registering_loses(world: World) -> None:
    bob = world.add_user("bob", Role.OPERATOR)
    with held_up(world, lambda: world.revoke(bob)):
        response = call(world, "POST", "/images", {"reference": "a"}, bob)
    assert code_of(response) is ErrorCode.CONFLICT
    assert names(world) == []


def test_many_at_once_leave_at_most_one_default(world: World) -> None:
    """On real SQLite, from threads: whoever is answered 200 was the default at that moment, and one is at the end."""
    barrier = threading.Barrier(4)
    statuses: list[int] = []

    def take(number: int) -> None:
        barrier.wait()
        for turn in range(5):
            name = f"image-{number}-{turn}"
            statuses.append(call(world, "POST", "/images", {"reference": name, "is_default": True}).status)

    # The clock's randomness counts up and is not made for threads.
    counter = itertools.count(10**6)
    world.clock.random = lambda count: next(counter).to_bytes(count, "big")  # type: ignore[method-assign]
    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 20
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    assert len(defaults(world)) == 1
    assert len(names(world)) == statuses.count(200), "who was told CONFLICT registered nothing"
    pointer = store.load(world.records, store.DEFAULT_IMAGE_KEY, DefaultImage)
    assert pointer.version == statuses.count(200)


# -- admission


def test_a_run_by_a_short_name_gets_all_that_was_registered(world: World) -> None:
    with_containers(world, task_roles=frozenset({"deploy"}))
    register(world, TERRAFORM, name="tf", cpu=512, platform="linux/arm64", task_role="deploy")
    dev = world.add_user("dev", Role.DEVELOPER)
    request = world.request(image="terraform", memory_mib=2048)
    receipt = world.submit(request, dev)
    assert receipt.resolved is not None
    for shown in (receipt.resolved, world.status(request.request_id)):
        assert (shown.isolation, shown.image, shown.image_name) == ("container", TERRAFORM, "tf")
        assert (shown.cpu, shown.memory_mib) == (512, 2048)
        assert (shown.platform, shown.task_role) == ("linux/arm64", "deploy")
    world.start(request.request_id)
    [launch] = world.launcher.launches
    assert (launch.isolation, launch.image, launch.cpu, launch.memory_mib) == ("container", TERRAFORM, 512, 2048)
    assert (launch.platform, launch.task_role) == ("linux/arm64", "deploy")


def test_what_was_admitted_keeps_what_it_was_given(world: World) -> None:
    with_containers(world)
    register(world, "a:1", name="a", cpu=256)
    request = world.request(image="a")
    world.submit(request)
    register(world, "a:2", name="a", cpu=512, version=1)
    unregister(world, "a")
    world.start(request.request_id)
    [launch] = world.launcher.launches
    assert (launch.image, launch.cpu) == ("a:1", 256)


def test_the_default_image_is_for_runs_that_name_none_and_do_not_ask_for_a_process(world: World) -> None:
    with_containers(world)
    register(world, "a:1", name="a", is_default=True)
    by_default, process, named = (
        world.request(),
        world.request(isolation="process"),
        world.request(isolation="container"),
    )
    for request in (by_default, process, named):
        assert world.submit(request).outcome == "accepted"
    for request in (by_default, named):
        execution = world.execution(request.request_id)
        assert (execution.isolation, execution.image, execution.image_name) == ("container", "a:1", "a")
    execution = world.execution(process.request_id)
    assert (execution.isolation, execution.image, execution.image_name) == ("process", None, None)
    unregister(world, "a")
    after = world.request()
    world.submit(after)
    assert world.execution(after.request_id).isolation == "process"


def test_the_engine_is_looked_for_where_the_default_image_wants_one(world: World) -> None:
    looked: list[int] = []
    both = world.deployment.capabilities._replace(isolations=frozenset({"process", "container"}))
    world.deployment = world.deployment._replace(look_for_containers=lambda: looked.append(1) or both)  # type: ignore[arg-type, return-value]
    world.submit(world.request())
    assert not looked
    register(world, "a", is_default=True)
    assert world.submit(world.request()).outcome == "accepted"
    assert looked
    world.deployment = world.deployment._replace(look_for_containers=None)
    refused = world.submit(world.request())
    assert refused.code is ErrorCode.UNAVAILABLE
    assert "its default image" in refused.message
    assert "`isolation: process`" in refused.hint


def test_an_unregistered_image_is_for_who_manages_images_and_only_where_any_may_run(world: World) -> None:
    dev, operator = world.add_user("dev", Role.DEVELOPER), world.add_user("op", Role.OPERATOR)
    with_containers(world)
    assert world.submit(world.request(image="nobody/made:it"), operator).code is ErrorCode.IMAGE_NOT_FOUND
    with_containers(world, any_image=True)
    request = world.request(image="nobody/made:it", cpu=100)
    assert world.submit(request, operator).outcome == "accepted"
    execution = world.execution(request.request_id)
    assert (execution.image, execution.image_name, execution.cpu) == ("nobody/made:it", None, 100)
    refused = world.submit(world.request(image="nobody/made:it"), dev)
    assert (refused.code, "no image is registered" in refused.message) == (ErrorCode.IMAGE_NOT_FOUND, True)


@pytest.mark.parametrize("waits_for", ["a lock", "room"])
def test_who_may_use_any_image_no_more_does_not_start_what_waits_with_one(world: World, waits_for: str) -> None:
    """An operator's request waits; by the time it may start they are a developer, whose images are the registered ones."""
    with_containers(world, any_image=True)
    register(world, "alpine")
    carol = world.add_user("carol", Role.OPERATOR)
    holder = world.request(locks=("db",))
    world.submit(holder)
    locks = ("db",) if waits_for == "a lock" else ()
    unregistered, registered_one = (world.request(image=name, locks=locks) for name in ("alpine:edge", "alpine"))
    world.launcher.outcome = NoCapacity("full")
    for request in (unregistered, registered_one):
        assert world.submit(request, carol).outcome == "accepted"
        world.start(request.request_id)
    set_user(world, "carol", role=Role.DEVELOPER)
    world.launcher.outcome = Launched("task")
    assert call(world, "DELETE", f"/executions/{holder.request_id}").status == 200
    for request in (unregistered, registered_one):
        world.start(request.request_id)
    ended = world.execution(unregistered.request_id)
    assert (ended.state, ended.reason) == (State.STOPPED, Reason.REVOKED)
    assert "manage-images" in ended.message
    assert world.execution(registered_one.request_id).state is State.STARTING


def test_a_key_limited_to_images_uses_those_and_no_other(world: World) -> None:
    with_containers(world, any_image=True)
    register(world, TERRAFORM, name="tf")
    register(world, "a")
    signing_key = world.add_user("ci", Role.ADMIN)
    key = store.load(world.records, store.key_key(signing_key.key_id), Key)
    assert key.document is not None
    limited = msgspec.structs.replace(key.document, limits=KeyLimits(images=("tf",)))
    world.records.commit([store.put(key, limited)])
    assert world.submit(world.request(image="terraform"), signing_key).outcome == "accepted"
    assert world.submit(world.request(image="a"), signing_key).code is ErrorCode.FORBIDDEN
    assert world.submit(world.request(), signing_key).code is ErrorCode.FORBIDDEN
    assert world.submit(world.request(image="tf", isolation="process"), signing_key).code is ErrorCode.FORBIDDEN
    assert world.submit(world.request(image="nobody/made:it"), signing_key).code is ErrorCode.FORBIDDEN
    assert show(world, "tf", signing_key) is ErrorCode.FORBIDDEN


def test_a_size_that_fargate_lacks_is_refused_where_that_counts(world: World) -> None:
    with_containers(world, fargate_sizes=True)
    register(world, "a", cpu=512)
    refused = world.submit(world.request(image="a", memory_mib=8192))
    assert refused.code is ErrorCode.INVALID_REQUEST
    assert "1 to 4 GiB" in refused.message
    fits = world.request(image="a", memory_mib=4096)
    assert world.submit(fits).outcome == "accepted"
    assert (world.execution(fits.request_id).cpu, world.execution(fits.request_id).memory_mib) == (512, 4096)
    with_containers(world, fargate_sizes=False)
    assert world.submit(world.request(image="a", memory_mib=8191)).outcome == "accepted"


def test_a_role_that_the_deployment_lost_is_handed_to_nobody(world: World) -> None:
    with_containers(world, task_roles=frozenset({"deploy"}))
    register(world, "a", task_role="deploy")
    with_containers(world, task_roles=frozenset())
    assert world.submit(world.request(image="a")).code is ErrorCode.INVALID_REQUEST


def test_an_image_that_is_unregistered_before_the_admission_commits_loses(world: World) -> None:
    with_containers(world)
    register(world, "a:1", name="a")
    delivery = world.upload(world.request(image="a"))
    with held_up(world, lambda: unregister(world, "a")):
        assert world.deliver(delivery).code is ErrorCode.IMAGE_NOT_FOUND


@pytest.mark.parametrize("asked", ["a", "team/tool", None])
def test_an_image_that_is_replaced_before_the_admission_commits_is_the_new_one(world: World, asked: str | None) -> None:
    """Even if it was unregistered and came back, which a version that restarts would hide."""
    with_containers(world)
    register(world, "team/tool:1", name="a", is_default=True)
    request = world.request(image=asked)
    delivery = world.upload(request)

    def replace() -> None:
        unregister(world, "a")
        register(world, "team/tool:2", name="a", is_default=True)

    with held_up(world, replace):
        assert world.deliver(delivery).outcome == "accepted"
    assert world.execution(request.request_id).image == "team/tool:2"


def test_a_listing_that_lags_behind_is_caught_by_the_commit(world: World) -> None:
    """A query may be stale: what was found in one counts only if its record is still that."""
    with_containers(world)
    register(world, "team/tool:1", name="a")
    image = store.load(world.records, store.image_key("a"), Image)
    query = world.records.query
    stale = query(store.INDEX_KIND, store.KIND_IMAGE)
    register(world, "team/tool:2", name="a", version=1)
    asked: list[int] = []

    def lagging(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return stale if len(asked) < 3 and arguments[1] == store.KIND_IMAGE else query(*arguments, **options)

    world.records.query = lagging  # type: ignore[method-assign]
    request = world.request(image="tool")
    assert world.submit(request).outcome == "accepted"
    assert world.execution(request.request_id).image == "team/tool:2"
    assert len(asked) == 3
    assert registered.load(world.records, "a").version == image.version + 1


def test_another_delivery_of_what_was_admitted_gets_the_same_answer_whatever_became_of_the_image(world: World) -> None:
    with_containers(world)
    register(world, "a")
    delivery = world.upload(world.request(image="a"))
    first = world.deliver(delivery)
    unregister(world, "a")
    assert world.deliver(delivery) == first


@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(images=("tools",)),
        KeyLimits(locks=("db",)),
        KeyLimits(labels={"env": "test"}),
    ],
)
def test_what_a_limited_key_may_not_do_is_refused_without_telling_of_images(world: World, limits: KeyLimits) -> None:
    """It may not list images: nor is it to learn their names by asking for one like them."""
    with_containers(world)
    register(world, "registry.internal/terraform:1.9")
    ci = add_key(world, "ada", limits)
    receipt = world.submit(world.request(image="terrafrom", locks=("prod",)), ci)
    assert receipt.code is ErrorCode.FORBIDDEN
    assert "registry.internal" not in receipt.message + (receipt.hint or "")
