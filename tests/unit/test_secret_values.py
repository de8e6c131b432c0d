"""Values of secrets: whoever dies or is overtaken between two steps leaves no secret without its value, and no value that
nothing refers to for long. And what a run gets of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from runvoy_agent.core.model import AuditEvent, DiscardedValue, Key, Secret
from runvoy_agent.handlers import control as control_handler
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.resources import secret_values
from runvoy_agent.handlers.routes import Request, Response
from runvoy_agent.ports import (
    Conflict,
    Launched,
    NoCapacity,
    Page,
    Ports,
    Position,
    Records,
    Secrets,
    Unavailable,
    Versioned,
    Write,
)
from runvoy_protocol import control
from runvoy_protocol.control import ControlCall
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.states import Reason, State

if TYPE_CHECKING:
    from tests.unit.conftest import World

R = TypeVar("R")
OLD, NEW, NEWER = b"the-old-value", b"the-new-value", b"a-still-newer-value"


class Died(BaseException):
    """The process is gone: nothing in production code may survive it."""


class Calls:
    """Counts what handlers do through records and secrets; at the `at`th call, before or after it, does `then`."""

    def __init__(self, ports: Ports, at: int = -1, then: Callable[[], object] | None = None, *, after: bool = False):
        self.count = 0
        self.records = CountedRecords(ports.records, self)
        self.secrets = CountedSecrets(ports.secrets, self)
        self.ports = ports._replace(records=self.records, secrets=self.secrets)
        self._at, self._then, self._after = at, then, after

    @property
    def refs(self) -> set[str]:
        """Every name that a value was put under."""
        return self.secrets.refs

    def call(self, effect: Callable[[], R]) -> R:
        self.count += 1
        then = None
        if self.count == self._at:
            then, self._then = self._then, None
        if then is not None and not self._after:
            then()
        result = effect()
        if then is not None and self._after:
            then()
        return result


class CountedRecords:
    def __init__(self, records: Records, calls: Calls) -> None:
        self._records = records
        self._calls = calls

    @property
    def index_lag(self) -> timedelta:
        return self._records.index_lag

    def get(self, key: str) -> Versioned | None:
        return self._calls.call(lambda: self._records.get(key))

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        return self._calls.call(lambda: self._records.get_many(keys))

    def commit(self, writes: Sequence[Write]) -> None:
        self._calls.call(lambda: self._records.commit(writes))

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        return self._calls.call(
            lambda: self._records.query(index, partition, after=after, limit=limit, descending=descending)
        )


class CountedSecrets:
    """`is_out`: nothing can be deleted now."""

    def __init__(self, secrets: Secrets, calls: Calls) -> None:
        self._secrets = secrets
        self._calls = calls
        self.refs: set[str] = set()
        self.is_out = False

    def put(self, name: str, value: bytes, *, if_absent: bool = False) -> None:
        self.refs.add(name)
        self._calls.call(lambda: self._secrets.put(name, value, if_absent=if_absent))

    def get(self, name: str) -> bytes | None:
        return self._calls.call(lambda: self._secrets.get(name))

    def delete(self, name: str) -> None:
        if self.is_out:
            raise Unavailable("the store is out")
        self._calls.call(lambda: self._secrets.delete(name))


def request_of(world: World, method: str, path: str, body: object = None) -> Request:
    target = f"/api/v1{path}"
    raw = b"" if body is None else msgspec.json.encode(body)
    signed = ControlCall(1, "here", method, target, control.body_digest(raw), world.clock.now(), world.clock.random(16))
    query = dict([path.partition("?")[2].split("=")]) if "?" in path else {}
    header = control.authorization(signed, world.signing_key)
    return Request(method, target.partition("?")[0], target, query, {"authorization": header}, raw)


def serve(world: World, ports: Ports, method: str, path: str, body: object = None) -> Response:
    return control_handler.handle(ports, world.deployment, request_of(world, method, path, body))


def create(world: World, ports: Ports | None = None, name: str = "db", **fields: Any) -> Response:
    body = {"name": name, "env_name": "DB_PASSWORD", "value": OLD} | fields
    return serve(world, ports or world.ports, "POST", "/secrets", body)


def update(world: World, ports: Ports | None = None, version: int = 1, value: bytes = NEW, **fields: Any) -> Response:
    body = {"version": version, "value": value} | fields
    return serve(world, ports or world.ports, "PUT", "/secrets/db", body)


def delete(world: World, ports: Ports | None = None, version: int = 1) -> Response:
    return serve(world, ports or world.ports, "DELETE", f"/secrets/db?version={version}")


def code_of(response: Response) -> ErrorCode | None:
    error = control.parse_error(response.body)
    return None if response.status == 200 or error is None else error.code


def value_now(world: World) -> bytes | None:
    """What the secret `db` is, if there is one; its value has to be there."""
    secret = store.load_secret(world.records, "db").document
    if secret is None:
        return None
    value = world.ports.secrets.get(secret.value_ref)
    assert value is not None, "a secret without its value"
    return value


def referred_to(world: World, *, by_secrets_alone: bool = False) -> set[str]:
    refs = {secret.value_ref for secret, _ in store.of_kind(world.records, store.KIND_SECRET, Secret)}
    if not by_secrets_alone:
        refs |= {one.ref for one, _ in store.of_kind(world.records, store.KIND_DISCARDED_VALUE, DiscardedValue)}
    return refs


def stored(world: World, known: set[str]) -> set[str]:
    found = {ref for ref in known if world.ports.secrets.get(ref) is not None}
    assert len(found) == len(list((world.folder / "secrets").glob("*.secret"))), "a value under another name"
    return found


def assert_nothing_is_left(world: World, known: set[str]) -> None:
    """Now each value is referred to; a while later by a secret."""
    value_now(world)
    assert stored(world, known) <= referred_to(world)
    world.clock.move(minutes=16)
    world.reconcile()
    value_now(world)
    assert stored(world, known) == referred_to(world) == referred_to(world, by_secrets_alone=True)


OPERATIONS = ("create", "update", "delete")


def act(world: World, operation: str, ports: Ports) -> Response:
    if operation == "create":
        return create(world, ports)
    version = store.load_secret(world.records, "db").version
    return update(world, ports, version) if operation == "update" else delete(world, ports, version)


def prepare(world: World, operation: str) -> tuple[set[str], bytes | None]:
    """The values there are, and the secret's, before an operation."""
    if operation == "create":
        return set(), None
    assert create(world).status == 200
    return referred_to(world, by_secrets_alone=True), OLD


AFTERWARDS = {"create": OLD, "update": NEW, "delete": None}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_dying_at_any_step_leaves_nothing(world: World, operation: str, after: bool) -> None:
    def die() -> None:
        raise Died

    seen = set()
    for at in range(1, 60):
        known, before = prepare(world, operation)
        calls = Calls(world.ports, at, die, after=after)
        try:
            response = act(world, operation, calls.ports)
        except Died:
            assert value_now(world) in (before, AFTERWARDS[operation])
            seen.add(value_now(world))
        else:
            assert response.status == 200
            assert before in seen
            assert not after or AFTERWARDS[operation] in seen, "it died on both sides of what counts"
            return
        assert_nothing_is_left(world, known | calls.refs)
        current = store.load_secret(world.records, "db")
        if current.document is not None:
            assert delete(world, version=current.version).status == 200
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("other", ["update", "delete", "a long stop, and the reconciler"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_being_overtaken_at_any_step_leaves_nothing(world: World, operation: str, other: str) -> None:
    """Of two at once one wins, and one is told."""

    def overtake() -> None:
        if other in OPERATIONS:
            version = store.load_secret(world.records, "db").version
            if version:
                answers.append(
                    update(world, None, version, NEWER) if other == "update" else delete(world, None, version)
                )
        else:
            world.clock.move(minutes=20)
            world.reconcile()

    outcomes = set()
    for at in range(1, 60):
        known, before = prepare(world, operation)
        answers: list[Response] = []
        calls = Calls(world.ports, at, overtake)
        response = act(world, operation, calls.ports)
        assert all(answer.status == 200 for answer in answers)
        code = code_of(response)
        outcomes.add(code)
        assert code in (None, ErrorCode.CONFLICT, ErrorCode.NOT_FOUND, ErrorCode.CLOCK_SKEW), response
        if code is not None:
            overtaken = {"update": NEWER, "delete": None}.get(other, before) if answers else before
            assert value_now(world) == overtaken, "who was told that they lost changed nothing"
        refs = referred_to(world) | known | calls.refs
        assert_nothing_is_left(world, refs)
        left = store.load_secret(world.records, "db")
        if left.document is not None:
            assert delete(world, version=left.version).status == 200
        if calls.count < at:
            break
    assert None in outcomes
    if operation == "update" or other not in OPERATIONS:
        assert ErrorCode.CONFLICT in outcomes or operation == "delete"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_value_that_is_being_swept_is_referred_to_no_more(world: World, after: bool) -> None:
    """Whoever put it stopped for a while, and goes on in the midst of the reconciler's round."""
    outcomes = set()
    went_well: list[bool] = []
    for at in range(1, 30):
        stored_value = secret_values.put(world.ports, f"n{at}", OLD)
        now = world.clock.now()
        secret = Secret(
            name=f"n{at}",
            env_name="N",
            owner="ada",
            value_ref=stored_value.ref,
            created_at=now,
            updated_at=now,
            updated_by="ada",
        )
        world.clock.move(minutes=16)
        went_well.clear()

        def go_on(secret: Secret = secret, stored_value: DiscardedValue = stored_value) -> None:
            record = store.put_new(store.secret_key(secret.name), secret)
            try:
                world.records.commit([record, secret_values.referred_to(stored_value)])
            except Conflict:
                went_well.append(False)
            else:
                went_well.append(True)

        calls = Calls(world.ports, at, go_on, after=after)
        swept = list(secret_values.sweep(calls.ports))
        if not went_well:
            break
        is_there = world.ports.secrets.get(stored_value.ref) is not None
        assert went_well == [is_there], "a secret has its value, or is not there"
        assert swept == ([] if is_there else [secret.name])
        outcomes.add(is_there)
    assert outcomes == {True, False}


def test_a_value_that_cannot_be_deleted_now_is_deleted_later(world: World) -> None:
    """And does not keep the reconciler from the rest of its work."""
    create(world)
    known = referred_to(world)

    calls = Calls(world.ports)
    calls.secrets.is_out = True
    assert delete(world, calls.ports).status == 200, "it is deleted as far as anybody can tell"
    world.clock.move(minutes=16)
    assert list(secret_values.sweep(calls.ports)) == []
    assert stored(world, known) == known
    calls.secrets.is_out = False
    assert list(secret_values.sweep(calls.ports)) == ["db"]
    assert stored(world, known) == set()


# --- the secrets of a run ---


def admit(world: World, signing_key: SigningKey | None = None, **fields: Any) -> str:
    request = world.request(**({"secrets": ("db",)} | fields))
    receipt = world.submit(request, signing_key)
    assert receipt.outcome == "accepted", receipt
    return request.request_id


def refused(world: World, signing_key: SigningKey | None = None, **fields: Any) -> tuple[ErrorCode | None, str, str]:
    receipt = world.submit(world.request(**({"secrets": ("db",)} | fields)), signing_key)
    assert receipt.outcome == "refused"
    return receipt.code, receipt.message, receipt.hint


def launched_with(world: World) -> list[Any]:
    return [json.loads(launch.payload).get("secrets") for launch in world.launcher.launches]


def in_base64(value: bytes) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_run_gets_its_secrets_and_the_audit_says_which(world: World) -> None:
    create(world)
    create(world, name="other", env_name="OTHER", value=NEW)
    execution_id = admit(world, secrets=("other", "db"), env={"A": "1"})
    world.start(execution_id)
    assert launched_with(world) == [{"OTHER": in_base64(NEW), "DB_PASSWORD": in_base64(OLD)}]
    page = world.records.query(store.INDEX_AUDIT_EXECUTION, execution_id)
    events = [msgspec.json.decode(record.body, type=AuditEvent) for record in page.records]
    assert [event.message for event in events if event.action == "start"] == ["with the secrets other, db"]
    assert OLD.decode() not in repr(world.launcher.launches)
    assert in_base64(OLD) not in repr(world.launcher.launches)


def test_what_is_not_there_and_what_is_not_yours_are_refused_in_the_same_words(world: World) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world, name="my-db")
    code, message, hint = refused(world, bob, secrets=("my-db",))
    assert code is ErrorCode.SECRET_NOT_FOUND
    assert refused(world, bob, secrets=("no-db",)) == (code, message.replace("my-db", "no-db"), hint)
    assert "my-db" not in hint
    code, message, hint = refused(world, secrets=("my_db",))
    assert code is ErrorCode.SECRET_NOT_FOUND
    assert "'my-db'" in hint, "the owner's own is a hint"


@pytest.mark.parametrize("shared", [["bob"], ["*"]])
def test_what_is_shared_may_be_used(world: World, shared: list[str]) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world, shared_with=shared)
    world.start(admit(world, bob))
    assert launched_with(world) == [{"DB_PASSWORD": in_base64(OLD)}]


def test_a_limited_key_may_use_what_its_user_may(world: World) -> None:
    robot = SigningKey(b"r" * 32)
    limits = KeyLimits(labels={"ci": "yes"})
    key = Key(key_id=robot.key_id, public_key=robot.public_key, user="bob", created_at=world.clock.now(), limits=limits)
    world.add_user("bob", Role.DEVELOPER)
    world.records.commit([store.put_new(store.key_key(robot.key_id), key)])
    create(world, shared_with=["bob"])
    world.start(admit(world, robot, labels={"ci": "yes"}))
    assert launched_with(world) == [{"DB_PASSWORD": in_base64(OLD)}]


def test_two_that_set_one_variable_are_named(world: World) -> None:
    create(world)
    create(world, name="other")
    code, message, _ = refused(world, secrets=("db", "other"))
    assert code is ErrorCode.INVALID_REQUEST
    assert "'db' and 'other' both set the variable DB_PASSWORD" in message
    code, message, hint = refused(world, env={"DB_PASSWORD": "x"})
    assert code is ErrorCode.INVALID_REQUEST
    assert "'db' and the request itself both set the variable DB_PASSWORD" in message
    assert "`env`" in hint


UNSHARE = {"version": 1, "shared_with": []}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (delete, "no secret 'db' that bob may use"),
        (lambda world: serve(world, world.ports, "PUT", "/secrets/db", UNSHARE), "no secret 'db' that bob may use"),
        (
            lambda world: serve(world, world.ports, "PUT", "/secrets/db", {"version": 1, "env_name": "A"}),
            "both set the variable A",
        ),
    ],
    ids=["deleted", "shared no more", "sets another variable"],
)
def test_what_changed_before_the_start_keeps_it_from_starting(
    world: World, change: Callable[[World], Response], told: str
) -> None:
    bob = world.add_user("bob", Role.DEVELOPER)
    create(world, shared_with=["bob"])
    execution_id = admit(world, bob, env={"A": "1"}, locks=("prod",))
    waiting = admit(world, secrets=(), locks=("prod",))
    assert change(world).status == 200
    world.start(execution_id)
    status = world.status(execution_id)
    assert (status.state, status.reason) == (State.STOPPED, Reason.REVOKED)
    assert told in status.message
    assert world.launcher.launches == []
    assert world.execution(waiting).granted, "its lock is free"


@pytest.mark.parametrize("change", ["delete", "update"])
def test_who_commits_first_wins(world: World, change: str) -> None:
    """A right to a secret that is taken back in the midst of a start holds for it, or came too late: never in between."""
    bob = world.add_user("bob", Role.DEVELOPER)
    outcomes = set()
    states: list[State] = []
    for at in range(1, 30):
        version = json.loads(create(world, shared_with=["bob"]).body)["version"]
        execution_id = admit(world, bob)

        states.clear()

        def take_back(version: int = version, execution_id: str = execution_id) -> None:
            states.append(world.execution(execution_id).state)
            taken = delete(world, None, version) if change == "delete" else update(world, None, version, shared_with=[])
            assert taken.status == 200

        calls = Calls(world.ports, at, take_back)
        ports, world.ports = world.ports, calls.ports
        try:
            world.start(execution_id)
        finally:
            world.ports = ports
        execution = world.execution(execution_id)
        outcomes.add((execution.state, execution.reason))
        if State.QUEUED in states:
            assert execution.state is State.STOPPED, "it was taken back before the run was to start"
        launches = [launch for launch in world.launcher.launches if launch.execution_id == execution_id]
        assert bool(launches) == (execution.state is State.STARTING)
        assert all(json.loads(launch.payload)["secrets"] == {"DB_PASSWORD": in_base64(OLD)} for launch in launches)
        left = store.load_secret(world.records, "db")
        if left.document is not None:
            delete(world, None, left.version)
        if calls.count < at:
            break
    late = {(State.FAILED, Reason.LAUNCH_FAILED)} if change == "delete" else set()
    assert outcomes == {(State.STOPPED, Reason.REVOKED), (State.STARTING, None)} | late


def test_a_launch_again_has_the_same_values(world: World) -> None:
    create(world)
    execution_id = admit(world)
    world.start(execution_id)
    update(world)
    world.start(execution_id)
    assert launched_with(world) == [{"DB_PASSWORD": in_base64(OLD)}] * 2
    world.start(admit(world))
    assert launched_with(world)[2] == {"DB_PASSWORD": in_base64(NEW)}


def test_a_replaced_value_is_kept_for_who_waits_to_be_launched_with_it(world: World) -> None:
    create(world)
    world.launcher.outcome = NoCapacity("full")
    world.launcher.relaunch_window = None
    execution_id = admit(world)
    world.start(execution_id)
    known = referred_to(world)
    update(world)
    known |= referred_to(world)
    world.clock.move(hours=3)
    world.reconcile()
    assert stored(world, known) == known
    world.launcher.outcome = Launched("task")
    world.start(execution_id)
    assert launched_with(world)[-1] == {"DB_PASSWORD": in_base64(OLD)}
    world.leave_started(execution_id)
    world.tell(execution_id, "started")
    assert [repair.subject for repair in world.reconcile()] == ["secret db"]
    assert stored(world, known) == referred_to(world)


def test_a_value_that_is_gone_before_the_launch_ends_the_run(world: World) -> None:
    create(world)
    world.launcher.outcome = NoCapacity("full")
    execution_id = admit(world, locks=("prod",))
    world.start(execution_id)
    launches = len(world.launcher.launches)
    delete(world)
    world.start(execution_id)
    status = world.status(execution_id)
    assert (status.state, status.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
    assert "the secret 'db' was deleted" in status.message
    assert len(world.launcher.launches) == launches
    lock = store.load_lock(world.records, "prod").document
    assert lock is not None
    assert lock.queue == ()
    assert not world.execution(execution_id).is_active


def test_a_task_that_was_launched_outlives_the_secret(world: World) -> None:
    """A delivery of its start that comes late finds no value, and a task that needs none."""
    create(world)
    execution_id = admit(world)
    world.start(execution_id)
    delete(world)
    world.start(execution_id)
    assert world.execution(execution_id).state is State.STARTING
    assert len(world.launcher.launches) == 1


def test_a_store_that_is_out_is_waited_for_as_long_as_a_start_may_take(world: World) -> None:
    create(world)
    world.launcher.relaunch_window = None
    [damaged] = (world.folder / "secrets").glob("*.secret")
    damaged.write_bytes(b"damaged")
    execution_id = admit(world)
    with pytest.raises(Unavailable):
        world.start(execution_id)
    world.clock.move(minutes=14)
    with pytest.raises(Unavailable):
        world.start(execution_id)
    assert world.execution(execution_id).state is State.STARTING
    world.clock.move(minutes=2)
    world.start(execution_id)
    status = world.status(execution_id)
    assert (status.state, status.reason) == (State.FAILED, Reason.LAUNCH_FAILED)
    assert "cannot be read" in status.message


def test_as_many_secrets_and_locks_as_there_may_be_fit_a_commit(world: World) -> None:
    names = tuple(f"s{number}" for number in range(64))
    for number, name in enumerate(names):
        create(world, name=name, env_name=f"S{number}")
    execution_id = admit(world, secrets=names, locks=tuple(f"l{number}" for number in range(8)))
    world.start(execution_id)
    [secrets] = launched_with(world)
    assert len(secrets) == 64


def test_no_record_and_no_message_holds_a_value(world: World) -> None:
    create(world)
    execution_id = admit(world)
    world.start(execution_id)
    update(world)
    serve(world, world.ports, "POST", "/secrets/db/value")
    forms = {form for value in (OLD, NEW) for form in (value, in_base64(value).encode(), value.hex().encode())}
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        held = path.read_bytes()
        assert not [form for form in forms if form in held], path
