"""The audit: each call and decision leaves one record, nothing rewrites one, and an admin can read them all."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import (
    SOURCE,
    add_key,
    audit_of,
    call,
    claim,
    claim_body,
    claim_raw,
    code_of,
    new_key,
    ok,
    secret_of,
    signed,
    user_of,
    watch,
)
from tests.unit.cases import BY_CALL, CASES, scene

from runvoy_agent.core.model import AuditEvent, LockRecord
from runvoy_agent.handlers.audit.entries import READS
from runvoy_agent.handlers.documents import listings, store
from runvoy_agent.handlers.routes import Request, Response
from runvoy_agent.ports import Delete, NoCapacity, TaskState, Unavailable
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

CALLERS = [(Role.ADMIN, False), (Role.DEVELOPER, False), (Role.VIEWER, False), (Role.ADMIN, True)]


def told(events: list[AuditEvent]) -> list[tuple[str, str, str]]:
    return [(event.actor, event.action, event.outcome) for event in events]


def new_records(world: World, before: list[AuditEvent]) -> list[AuditEvent]:
    known = {event.event_id for event in before}
    return [event for event in audit_of(world) if event.event_id not in known]


# -- every call


def expected_outcome(response: Response) -> set[str]:
    if response.status != 200:
        return {code_of(response).value}
    answered = json.loads(response.body)
    if not answered.get("allowed", True):  # a dry run of what would be refused
        return {answered["refused"]["code"]}
    state = (answered.get("status") or {}).get("state")
    return {"ok", state} if state else {"ok"}


@pytest.mark.parametrize(("role", "limited"), CALLERS)
@pytest.mark.parametrize("whose", ["own", "other"])
def test_every_route_leaves_one_record_done_or_refused(world: World, role: Role, limited: bool, whose: str) -> None:
    for name, case in CASES.items():
        caller = scene(world, role, limited=limited, whose=whose)
        method, path, body = case(caller)
        before = audit_of(world)
        response = call(world, method, path, body, caller.key)
        (event,) = new_records(world, before)
        assert event.action == BY_CALL[name].name, name
        assert event.outcome in expected_outcome(response), (name, event)
        assert (event.actor, event.key_id) == (caller.name, caller.key.key_id), name
        assert (event.source, event.at) == (SOURCE, world.clock.now()), name


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"claim":"!"}', b'{"name":"X y","role":"admin"}'])
def test_a_malformed_body_leaves_one_record(world: World, body: bytes) -> None:
    for name, route in BY_CALL.items():
        if route.method == "GET":
            continue
        path = route.path.format(execution_id="0" * 12 + "7" + "0" * 3 + "8" + "0" * 15, name="db", key_id="a" * 32)
        before = audit_of(world)
        response = world.call(signed(world, route.method, path, body))
        (event,) = new_records(world, before)
        assert (event.action, event.source) == (route.name, SOURCE), name
        assert event.outcome in expected_outcome(response)


def test_an_address_that_does_not_exist_and_a_replay_leave_their_records(world: World) -> None:
    call(world, "PUT", "/nothing")
    request = signed(world, "POST", "/api/v1/grants/inbox")
    world.call(request)
    world.call(request)
    assert told(audit_of(world)) == [
        ("ada", "PUT /api/v1/nothing", "NOT_FOUND"),
        ("ada", "grant-inbox", "ok"),
        ("ada", "grant-inbox", "SIGNATURE_INVALID"),
    ]


def test_a_call_that_fails_leaves_its_record(world: World) -> None:
    class Broken:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __getattr__(self, name: str) -> Any:
            raise self.error

    whole = world.ports
    for error, code in ((Unavailable("no disk"), "UNAVAILABLE"), (KeyError("bug"), "INTERNAL")):
        world.ports = whole._replace(inbox=Broken(error))
        before = audit_of(world)
        assert code_of(call(world, "POST", "/grants/inbox")).value == code
        assert told(new_records(world, before)) == [("ada", "grant-inbox", code)]


def test_what_cannot_be_recorded_is_not_told(world: World) -> None:
    class NoAudit:
        def __init__(self, records: Any) -> None:
            self.get, self.get_many, self.query = records.get, records.get_many, records.query
            self.index_lag, self._commit = records.index_lag, records.commit

        def commit(self, writes: Any) -> None:
            if any(write.key.startswith("audit#") for write in writes):
                raise Unavailable("the disk is full")
            self._commit(writes)

    world.ports = world.ports._replace(records=NoAudit(world.records))
    for path in ("/whoami", "/users", "/audit"):
        assert code_of(call(world, "GET", path)) is ErrorCode.UNAVAILABLE


def test_a_record_says_what_the_call_was_about(world: World) -> None:
    execution_id = world.request().request_id
    call(world, "POST", "/grants/outbox", {"execution_id": execution_id})
    call(world, "GET", "/keys?user=dave")
    call(world, "POST", "/users", {"name": "dave", "role": "viewer"})
    call(world, "POST", "/locks/prod%2Fdb/release", {"execution_id": execution_id})
    call(world, "GET", "/executions?status=FAILED&limit=3")
    shown = [(event.action, event.subject, event.execution_id, event.message[:20]) for event in audit_of(world)]
    assert shown == [
        ("grant-outbox", "", execution_id, "there is no executio"),
        ("list-keys", "dave", None, "there is no user 'da"),
        ("create-user", "dave", None, "as viewer"),
        ("release-lock", "prod/db", execution_id, "the lock 'prod/db' i"),
        ("list-executions", "", None, "status=FAILED&limit="),
    ]


def test_every_route_is_known_to_read_or_to_change(world: World) -> None:
    """What only reads is left out by `changes=yes`, and nothing else is."""
    reading = {route.name for route in BY_CALL.values() if route.method == "GET"}
    reading |= {"grant-inbox", "grant-outbox", "grant-logs"}  # leave to upload or to read
    reading |= {
        "show-executions",
        "find-records",
        "dry-run",
        "reveal-secret",
    }  # what is asked for is too long for an address
    assert READS - reading == {"show-stack", "renew-grant"}  # the embedded stack's, and the runner's
    assert reading <= READS


# -- nobody known, and who is known and not let in


def test_calls_of_nobody_known_leave_one_record_a_minute_for_each_code(world: World) -> None:
    stranger = SigningKey(b"q" * 32)
    for number in range(200):
        unsigned = Request("GET", f"/api/v1/{number}", f"/api/v1/{number}", {}, {}, b"", SOURCE)
        assert code_of(world.call(unsigned)) is ErrorCode.SIGNATURE_INVALID
        assert code_of(call(world, "GET", "/whoami", None, stranger)) is ErrorCode.KEY_UNKNOWN
        assert code_of(claim(world, bytes(32), stranger)) is ErrorCode.NOT_FOUND
        if number == 99:
            world.clock.move(minutes=1)
    shown = [(event.actor, event.key_id, event.outcome, event.source) for event in audit_of(world)]
    one_minute = [("", None, code, SOURCE) for code in ("SIGNATURE_INVALID", "KEY_UNKNOWN", "NOT_FOUND")]
    assert shown == one_minute * 2


def test_a_signature_that_is_not_the_key_s_is_nobody_s(world: World) -> None:
    """Whose key id stands in a forged call is not whoever made it."""
    request = signed(world, "GET", "/api/v1/whoami")
    header = request.headers["authorization"]
    # The last bytes of the envelope are the signature's.
    forged = header[:-8] + ("A" if header[-8] != "A" else "B") + header[-7:]
    assert code_of(world.call(request._replace(headers={"authorization": forged}))) is ErrorCode.SIGNATURE_INVALID
    assert [(event.actor, event.key_id) for event in audit_of(world)] == [("", None)]


def test_who_is_known_and_not_let_in_is_named_once_a_minute(world: World) -> None:
    dave, eve = world.add_user("dave", Role.DEVELOPER), world.add_user("eve", Role.DEVELOPER)
    world.revoke(dave)
    world.revoke(eve)
    for _ in range(20):
        assert code_of(call(world, "GET", "/whoami", None, dave)) is ErrorCode.KEY_REVOKED
        assert code_of(call(world, "POST", "/users", {}, eve)) is ErrorCode.KEY_REVOKED
    shown = [(event.actor, event.key_id, event.action) for event in audit_of(world)]
    assert shown == [
        ("dave", dave.key_id, "GET /api/v1/whoami"),
        ("eve", eve.key_id, "POST /api/v1/users"),
    ]


def test_what_a_stranger_sends_is_cut_and_can_be_kept(world: World) -> None:
    path = "/api/v1/" + "x\ud800" * 5000
    world.call(Request("M" * 9000, path, path, {}, {}, b"", "s" * 5000))
    (event,) = audit_of(world)
    assert len(event.action) <= 200
    assert len(event.source) <= 64


# -- the story of a run, of a user, of a key


def test_an_ordinary_run_leaves_its_whole_story(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    ok(world, "POST", "/grants/inbox", None, dave)
    request = world.request(locks=("db",))
    delivery = msgspec.structs.replace(world.upload(request, dave), source=SOURCE)
    world.deliver(delivery)
    execution_id = request.request_id
    world.start(execution_id)
    world.leave_started(execution_id)
    world.tell(execution_id, "started")
    world.leave_result(execution_id, exit_code=3)
    world.tell(execution_id, "result")
    world.tell(execution_id, "stopped", 1)
    ok(world, "POST", "/grants/outbox", {"execution_id": execution_id}, dave)
    before = audit_of(world)
    # Late and twice is normal, and no news.
    world.deliver(delivery)
    world.start(execution_id)
    for event in ("started", "result", "stopped"):
        world.tell(execution_id, event)  # type: ignore[arg-type]
    world.reconcile()
    assert audit_of(world) == before
    assert told(before) == [
        ("dave", "grant-inbox", "ok"),
        ("dave", "admit", "accepted"),
        ("dave", "start", "STARTING"),
        ("runner", "started", "RUNNING"),
        ("runner", "result", "FAILED"),
        ("platform", "stopped", "FAILED"),
        ("dave", "grant-outbox", "ok"),
    ]
    assert [event.execution_id for event in before[1:]] == [execution_id] * 6
    assert {event.key_id for event in before if event.actor == "dave"} == {dave.key_id}
    assert [event.source for event in before if event.action in ("grant-inbox", "admit", "grant-outbox")] == [
        SOURCE
    ] * 3


def test_an_admission_has_one_time_in_record_and_audit(world: World) -> None:
    """Else a story of it would tell that it joined its locks before it was admitted."""
    world.clock.tick = timedelta(milliseconds=7)
    request = world.request(locks=("db",))
    world.submit(request)
    [admitted] = [event.at for event in audit_of(world) if event.action == "admit"]
    assert admitted == world.execution(request.request_id).admitted_at


def hard_times(world: World) -> None:
    refused = world.request(deployment_id="elsewhere")
    world.submit(refused)
    killed = world.request(locks=("db",))
    world.submit(killed)
    world.start(killed.request_id)
    waiting = world.request(locks=("db",), queue_timeout_seconds=60)
    world.submit(waiting)
    ok(world, "POST", "/locks/db/release", {"execution_id": killed.request_id})
    ok(world, "DELETE", f"/executions/{killed.request_id}")
    ok(world, "DELETE", f"/executions/{killed.request_id}")
    world.clock.move(minutes=5)
    world.reconcile()
    late = world.request()
    world.submit(late)
    world.start(late.request_id)
    world.launcher.tasks[late.request_id] = TaskState("running")
    world.clock.move(minutes=20)
    world.reconcile()


def test_kills_refusals_locks_and_the_reconciler_s_decisions(world: World) -> None:
    hard_times(world)
    assert told(audit_of(world)) == [
        ("ada", "admit", "WRONG_DEPLOYMENT"),
        ("ada", "admit", "accepted"),
        ("ada", "start", "STARTING"),
        ("ada", "admit", "accepted"),
        ("ada", "release-lock", "ok"),
        ("ada", "kill", "TERMINATING"),
        ("ada", "kill", "ok"),
        ("reconciler", "expire", "TIMED_OUT"),
        ("ada", "admit", "accepted"),
        ("ada", "start", "STARTING"),
        ("reconciler", "expire", "TERMINATING"),
    ]


def test_a_lock_that_the_reconciler_mends_is_on_record(world: World) -> None:
    waiting = world.request(locks=("db",))
    holder = world.request(locks=("db",))
    world.submit(holder)
    world.submit(waiting)
    gone = store.load_execution(world.records, holder.request_id)
    world.records.commit([Delete(gone.key, gone.version)])  # as a restored backup may have it
    world.reconcile()
    *_, event, recounted = audit_of(world)
    assert (event.actor, event.action, event.outcome) == ("reconciler", "mend-lock", "released")
    assert (recounted.action, recounted.subject, recounted.message) == ("recount-quotas", "ada", "unfinished: 2 to 1")
    assert (event.subject, event.execution_id) == ("db", holder.request_id)
    lock = store.load(world.records, store.lock_key("db"), LockRecord).document
    assert lock is not None
    assert lock.queue == (waiting.request_id,)


def life_of_a_user(world: World) -> tuple[SigningKey, SigningKey, SigningKey]:
    ticket = ok(world, "POST", "/users", {"name": "dave", "role": "developer"})
    dave, second, rotated = new_key(world), new_key(world), new_key(world)
    assert claim(world, secret_of(ticket), dave).status == 200
    ok(world, "POST", "/keys", claim_body(second), dave)
    ok(world, "POST", "/keys", claim_body(second), dave)
    ok(world, "POST", "/keys/rotate", claim_body(rotated), dave)
    ok(world, "DELETE", f"/keys/{second.key_id}", None, rotated)
    ok(world, "POST", "/users/dave/role", {"role": "viewer", "version": 1})
    ok(world, "POST", "/users/dave/claims", {})
    ok(world, "POST", "/users/dave/revoke", {"version": 2})
    ok(world, "POST", "/users/dave/revoke", {"version": 3, "stop_all": True})
    return dave, second, rotated


def test_the_story_of_a_user_and_their_keys(world: World) -> None:
    dave, second, rotated = life_of_a_user(world)
    shown = [(event.actor, event.action, event.outcome, event.subject, event.source) for event in audit_of(world)]
    assert shown == [
        ("ada", "create-user", "ok", "dave", SOURCE),
        ("dave", "claim-key", "ok", dave.key_id, SOURCE),
        ("dave", "create-key", "ok", second.key_id, SOURCE),
        ("dave", "create-key", "ok", second.key_id, SOURCE),
        ("dave", "rotate-key", "ok", rotated.key_id, SOURCE),
        ("dave", "revoke-key", "ok", second.key_id, SOURCE),
        ("ada", "change-role", "ok", "dave", SOURCE),
        ("ada", "create-claim", "ok", "dave", SOURCE),
        ("ada", "revoke-user", "ok", "dave", SOURCE),
        ("ada", "revoke-user", "ok", "dave", SOURCE),
    ]


def test_stopping_all_of_a_user_is_on_record_for_each(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    made = [world.request() for _ in range(3)]
    for request in made:
        world.submit(request, dave)
    world.start(made[0].request_id)
    before = audit_of(world)
    answered = ok(world, "POST", "/users/dave/revoke", {"version": user_of(world, "dave")[1], "stop_all": True})
    assert set(answered["killed"]) == {request.request_id for request in made}
    events = new_records(world, before)
    assert sorted(told(events)) == [
        ("ada", "kill", "STOPPED"),
        ("ada", "kill", "STOPPED"),
        ("ada", "kill", "TERMINATING"),
        ("ada", "revoke-user", "ok"),
    ]
    assert {event.execution_id for event in events if event.action == "kill"} == set(answered["killed"])


def test_no_path_rewrites_or_deletes_a_record(world: World) -> None:
    watched = watch(world)
    hard_times(world)
    life_of_a_user(world)
    for case in CASES.values():
        caller = scene(world, Role.ADMIN, limited=False, whose="other")
        method, path, body = case(caller)
        call(world, method, path, body, caller.key)
    world.launcher.outcome = NoCapacity("full")
    request = world.request()
    world.submit(request)
    world.start(request.request_id)
    world.records.purge_expired(world.clock.now() + timedelta(days=4000))
    writes = [write for commit in watched.commits for write in commit if write.key.startswith("audit#")]
    assert len(writes) > 50
    assert {(type(write).__name__, write.version) for write in writes} == {("Put", 0)}
    assert all(write.item.expires_at is None for write in writes)  # type: ignore[union-attr]
    assert {event.event_id for event in audit_of(world)} == {write.key.removeprefix("audit#") for write in writes}


# -- reading it


def read(world: World, query: str = "") -> tuple[list[dict[str, Any]], str | None]:
    page = ok(world, "GET", f"/audit{query}")
    return page["entries"], page.get("after")


def read_all(world: World, query: str) -> list[dict[str, Any]]:
    found, after = read(world, f"?{query}")
    while after is not None:
        entries, after = read(world, f"?{query}&after={after}")
        found += entries
    return found


def test_pages_have_no_gap_and_no_repeat_over_days(world: World) -> None:
    for number in range(60):
        call(world, "GET", "/whoami" if number % 3 else "/nothing")
        if number % 5 == 0:
            world.clock.move(hours=7)
    wanted = [event.event_id for event in audit_of(world)]
    found = read_all(world, "limit=7")
    # Reading is on record, too: what is read later is newer than the first page.
    assert sorted(entry["event_id"] for entry in found) == sorted(wanted)
    assert [entry["at"] for entry in found] == sorted((entry["at"] for entry in found), reverse=True)


def test_filters(world: World) -> None:
    dave = world.add_user("dave", Role.DEVELOPER)
    call(world, "GET", "/users", None, dave)
    call(world, "GET", "/whoami", None, dave)
    world.clock.move(hours=30)
    began = world.clock.now()
    request = world.request()
    world.submit(request, dave)
    world.start(request.request_id)
    world.clock.move(hours=30)
    call(world, "GET", f"/executions/{request.request_id}")

    def shown(query: str) -> list[tuple[str, str]]:
        return [(entry["action"], entry["outcome"]) for entry in read_all(world, query)]

    story = [("show-execution", "ok"), ("start", "STARTING"), ("admit", "accepted")]
    assert shown(f"execution={request.request_id}") == story
    assert shown(f"execution={request.request_id}&limit=1") == [("read-audit", "ok"), *story]
    assert shown("user=dave") == [*story[1:], ("whoami", "ok"), ("list-users", "FORBIDDEN")]
    assert shown("user=dave&outcome=refused") == [("list-users", "FORBIDDEN")]
    assert shown("outcome=STARTING") == [("start", "STARTING")]
    assert shown("changes=yes") == [("admit", "accepted")]
    assert shown("changes=no&user=dave") == shown("user=dave")
    assert shown("changes=yes&outcome=refused") == []
    assert code_of(call(world, "GET", "/audit?changes=true")) is ErrorCode.INVALID_REQUEST
    assert shown("action=admit") == [("admit", "accepted")]
    since = began.isoformat().replace("+", "%2B")
    until = (began + timedelta(milliseconds=1)).isoformat().replace("+", "%2B")
    assert shown(f"user=dave&since={since}") == story[1:]
    assert shown(f"user=dave&since={since}&until={since}") == []
    assert shown(f"since={since}&until={until}&limit=1") == story[1:]
    assert shown(f"until={since}&limit=1") == [("whoami", "ok"), ("list-users", "FORBIDDEN")]
    assert shown("user=nobody") == []


def test_the_unknown_are_found_by_an_empty_name(world: World) -> None:
    claim_raw(world, b"{}")
    target = "/api/v1/audit?user="
    request = signed(world, "GET", target)._replace(query={"user": ""})
    entries = json.loads(world.call(request).body)["entries"]
    assert [(entry["actor"], entry["outcome"]) for entry in entries] == [("", "INVALID_REQUEST")]


def test_a_page_looks_at_so_many_days_and_goes_on(world: World) -> None:
    call(world, "GET", "/whoami")
    first = audit_of(world)[0]
    world.clock.move(days=450)
    entries, after = read(world, "?action=whoami")
    assert entries == []
    pages = 1
    while not entries:
        assert after is not None
        entries, after = read(world, f"?action=whoami&after={after}")
        pages += 1
    assert ([entry["event_id"] for entry in entries], pages) == ([first.event_id], 5)


def test_a_page_looks_at_so_many_records_and_goes_on(world: World) -> None:
    """Every 2,000th is asked for, and each is found once, wherever a page ends."""
    count = 2 * listings.MOST_EXAMINED + 500
    for first in range(0, count, 100):
        world.clock.move(seconds=1)
        numbers = range(first, first + 100)
        world.records.commit(
            [
                store.audit(world.clock, "ada", "rare" if n % 2000 == 0 else "usual", "ok", subject=str(n))
                for n in numbers
            ]
        )
    wanted = list(range(0, count, 2000))[::-1]
    for limit, pages_wanted in ((50, 3), (2, 3), (1, 6)):
        found: list[int] = []
        pages = 0
        after: str | None = ""
        while after is not None:
            entries, after = read(world, f"?action=rare&limit={limit}{after and f'&after={after}'}")
            found += [int(entry["subject"]) for entry in entries]
            pages += 1
        assert (found, pages) == (wanted, pages_wanted)


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=201",
        "?limit=0000000019999",
        "?limit=%C2%B2",
        "?since=yesterday",
        "?until=2026-05-04T12:00:00",
        "?execution=x",
        "?colour=red",
        "?after=x",
        "?after=2026-13-01T00~00000000000070008000000000000000",
    ],
)
def test_bad_filters_are_named(world: World, query: str) -> None:
    assert code_of(call(world, "GET", f"/audit{query}")) is ErrorCode.INVALID_REQUEST


def test_far_times_cost_nothing(world: World) -> None:
    call(world, "GET", "/whoami")
    assert len(read(world, "?since=0001-01-01T00:00:00%2B14:00")[0]) == 1
    assert read(world, "?since=9999-12-31T23:59:59-14:00") == ([], None)
    assert read(world, "?until=0001-01-01T00:00:00%2B14:00") == ([], None)
    assert len(read(world, "?until=9999-12-31T23:59:59-14:00&action=whoami")[0]) == 1


def test_admins_alone_read_it(world: World) -> None:
    for role in Role:
        key = world.add_user(f"m-{role.value}", role)
        response = call(world, "GET", "/audit", None, key)
        assert (response.status == 200) == (role is Role.ADMIN)
    limited = add_key(world, "ada", expires_in=timedelta(hours=1))
    assert call(world, "GET", "/audit", None, limited).status == 200
