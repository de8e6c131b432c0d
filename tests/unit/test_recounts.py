"""What is counted of each user is compared with the records and put right, whatever changes meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.unit.calls import WatchedRecords, audit_of, call, code_of, ok, set_user, watch
from tests.unit.test_quotas import accept, counted, end_by_result_of, run_one, running

from runvoy_agent.core import recounts
from runvoy_agent.core.model import Execution
from runvoy_agent.core.progress import Recount, Suspicion
from runvoy_agent.core.recounts import Bounds, Looked
from runvoy_agent.handlers import reconcile
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.metered import MeteredRecords
from runvoy_agent.ports import Add, Delete, Page, Position, Versioned, Write
from runvoy_protocol import aws_layout
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import Run, World

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
START_AT_VERSION = 7


# -- the rule


def looked(version: int = 1, *, unfinished: bool = True, running: bool = False) -> Looked:
    return Looked(version, unfinished, running)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, (0, 0)),
        ({"a": looked()}, {"a": looked(2)}, (1, 1)),
        ({"a": looked()}, {"a": looked(2, unfinished=False)}, (0, 1)),
        ({"a": looked(2, unfinished=False)}, {"a": looked(2, unfinished=False)}, (0, 0)),
        ({}, {"a": looked()}, (0, 1)),
        ({"a": looked()}, {}, (0, 1)),
    ],
)
def test_what_was_unfinished_at_both_looks_was_so_in_between(
    before: dict[str, Looked], after: dict[str, Looked], expected: tuple[int, int]
) -> None:
    assert recounts.unfinished(before, after) == Bounds(*expected)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": looked(running=True)}, {"a": looked(running=True)}, (1, 1)),
        ({"a": looked()}, {"a": looked()}, (0, 0)),
        ({"a": looked(1, running=True)}, {"a": looked(2, running=True)}, (0, 1)),
        ({"a": looked(1)}, {"a": looked(2)}, (0, 1)),
        ({}, {"a": looked(1, running=True)}, (0, 1)),
    ],
)
def test_a_place_is_certain_of_a_record_alone_that_did_not_change(
    before: dict[str, Looked], after: dict[str, Looked], expected: tuple[int, int]
) -> None:
    assert recounts.running(before, after) == Bounds(*expected)


@pytest.mark.parametrize(("number", "expected"), [(1, -1), (2, 0), (3, 0), (4, 0), (5, 1), (-3, -5)])
def test_a_number_is_wrong_outside_of_its_bounds(number: int, expected: int) -> None:
    assert recounts.excess(number, Bounds(2, 4)) == expected


@pytest.mark.parametrize(
    ("found", "confirmed", "expected"), [(-2, 0, 2), (-2, 5, 2), (3, 0, 0), (3, 2, -2), (2, 3, -2), (0, 3, 0)]
)
def test_too_low_is_put_right_at_once_and_too_high_by_what_was_found_twice(
    found: int, confirmed: int, expected: int
) -> None:
    assert recounts.correction(found, confirmed) == expected


# -- in a deployment


def miscount(world: World, unfinished: int = 0, places: int = 0, name: str = "ada") -> None:
    """As a bug would, or another version."""
    both = ((counts.unfinished_key(name), unfinished), (counts.running_key(name), places))
    world.records.commit([Add(key, amount) for key, amount in both if amount])


def recount(world: World) -> list[str]:
    """A round in which it is time for a recount; what it put right."""
    world.clock.move(minutes=11)
    return [repair.problem for repair in world.reconcile() if repair.subject.startswith("the count of")]


def corrections(world: World) -> list[tuple[str, str, str]]:
    return [
        (one.actor, one.subject, one.message)
        for one in audit_of(world)
        if one.action == "recount-quotas" and one.message
    ]


@pytest.mark.parametrize(("unfinished", "places"), [(3, 0), (-2, 0), (0, 5), (0, -1), (4, -1), (-2, 1)])
def test_wrong_numbers_are_put_right_and_told_of(
    world: World, caplog: pytest.LogCaptureFixture, unfinished: int, places: int
) -> None:
    run_one(world)
    accept(world)
    miscount(world, unfinished, places)
    with caplog.at_level(logging.WARNING, "runvoy.recounts"):
        [problem] = recount(world)
    assert (counted(world), running(world)) == (2, 1)
    [(actor, subject, words)] = corrections(world)
    assert (actor, subject) == ("reconciler", "ada")
    assert words in problem
    assert words in caplog.text
    assert (f"unfinished: {2 + unfinished} to 2" in words) is bool(unfinished)
    assert (f"running: {1 + places} to 1" in words) is bool(places)
    assert recount(world) == []
    assert len(corrections(world)) == 1


def test_right_numbers_are_left_alone_and_cost_no_commit(world: World) -> None:
    run_one(world)
    accept(world)
    recount(world)
    watched = watch(world)
    assert recount(world) == []
    assert not any(write.key.startswith(("unfinished#", "running#", "recount#")) for write in written(watched))


def written(watched: WatchedRecords) -> list[Write]:
    return [write for commit in watched.commits for write in commit]


def test_who_was_kept_out_by_a_wrong_number_gets_in_again(world: World) -> None:
    set_user(world, "ada", max_unfinished=2)
    miscount(world, 2)
    assert world.submit(world.request()).code is ErrorCode.QUOTA_EXCEEDED
    recount(world)
    accept(world)


def test_a_record_that_somebody_removed_counts_no_more(world: World) -> None:
    first, _ = run_one(world), run_one(world)
    loaded = store.load_execution(world.records, first)
    world.records.commit([Delete(loaded.key, loaded.version)])
    assert recount(world) != []
    assert (counted(world), running(world)) == (1, 1)


def test_an_end_that_another_version_did_not_count_is_counted(world: World) -> None:
    first = run_one(world)
    loaded = store.load_execution(world.records, first)
    assert loaded.document is not None
    stopped = msgspec.structs.replace(loaded.document, stopped_at=world.clock.now())
    world.records.commit([store.put(loaded, stopped)])
    assert recount(world) != []
    assert (counted(world), running(world)) == (0, 0)


def test_what_an_older_version_admitted_is_not_counted_in(world: World) -> None:
    loaded = store.load_execution(world.records, accept(world).request_id)
    assert loaded.document is not None
    old = msgspec.structs.replace(loaded.document, counted=False)
    world.records.commit([store.put(loaded, old), Add(counts.unfinished_key("ada"), -1)])
    assert recount(world) == []
    assert counted(world) == 0


def test_a_user_who_has_nothing_and_somebody_elses_numbers(world: World) -> None:
    world.add_user("bob", Role.DEVELOPER)
    accept(world)
    miscount(world, 5, 2, "bob")
    assert len(recount(world)) == 1
    assert (counted(world, "bob"), running(world, "bob"), counted(world)) == (0, 0, 1)


def test_many_wrong_ones_are_put_right_over_several_rounds(world: World) -> None:
    names = [f"user{number}" for number in range(30)]
    for name in names:
        world.add_user(name, Role.DEVELOPER)
        miscount(world, 1, 0, name)
    assert len(recount(world)) == 20
    world.clock.move(minutes=1)
    assert len([one for one in world.reconcile() if one.subject.startswith("the count of")]) == 10
    assert {counted(world, name) for name in names} == {0}


def test_a_round_that_takes_long_leaves_the_rest_to_the_next(world: World) -> None:
    """A function has no more time for all of a round, and the inbox comes after this."""
    names = [f"user{number}" for number in range(5)]
    for name in names:
        world.add_user(name, Role.DEVELOPER)
        miscount(world, 1, 0, name)

    def slow(_number: int) -> None:
        if watched.calls[-1].startswith("get unfinished#"):
            world.clock.move(seconds=30)

    watched = watch(world)
    watched.on_call = slow
    assert [len(recount(world)) for _ in range(4)] == [2, 2, 1, 0]
    assert {counted(world, name) for name in names} == {0}


def during(world: World, wanted: str, nth: int, act: Callable[[], object]) -> WatchedRecords:
    """Have something happen before the nth call of a kind that a recount makes."""
    watched = watch(world)
    seen: list[str] = []

    def meanwhile(_number: int) -> None:
        made = watched.calls[-1]
        if made.startswith(wanted):
            seen.append(made)
            if len(seen) == nth:
                act()

    watched.on_call = meanwhile
    return watched


@pytest.mark.parametrize("at", ["query owner", "get running#ada", "get unfinished#ada", "commit"])
@pytest.mark.parametrize("drift", [3, -1])
def test_what_is_admitted_and_ends_meanwhile_makes_no_correction_wrong(world: World, at: str, drift: int) -> None:
    first, second = run_one(world), run_one(world)
    miscount(world, drift, drift)

    def meanwhile() -> None:
        end_by_result_of(world, first)
        run_one(world)
        run_one(world)

    during(world, at, 1, meanwhile)
    for _ in range(3):
        recount(world)
    assert (counted(world), running(world)) == (3, 3)
    assert sum(drift_of(message) for _, _, message in corrections(world)) == -2 * drift
    assert second


def drift_of(words: str) -> int:
    """What a correction added, of both numbers together."""
    pairs = [part.partition(": ")[2].split(" to ") for part in words.split(", ")]
    return sum(int(after) - int(before) for before, after in pairs)


@pytest.mark.parametrize("drift", [2, -2])
def test_of_two_recounts_at_once_one_puts_it_right(world: World, drift: int) -> None:
    run_one(world)
    run_one(world)
    miscount(world, drift, drift)
    done: list[int] = []

    def other() -> None:
        done.append(1)
        ok(world, "POST", "/quotas/recount", {})

    watched = watch(world)

    def before_the_correction(_number: int) -> None:
        if watched.calls[-1] == "commit" and "get unfinished#ada" in watched.calls and not done:
            other()

    watched.on_call = before_the_correction
    assert recount(world) == []
    assert done
    assert (counted(world), running(world)) == (2, 2)
    assert [actor for actor, _, _ in corrections(world)] == ["ada"]


# -- a store whose indexes lag


class Lagging:
    """Records whose indexes do not show the executions that are `hidden`."""

    def __init__(self, world: World, lag: timedelta) -> None:
        self._records = world.records
        self.index_lag = lag
        self.hidden: set[str] = set()
        self.hides_owners = False
        self.get, self.get_many, self.commit = self._records.get, self._records.get_many, self._records.commit

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        if self.hides_owners and index == store.INDEX_OWNER:
            return Page([], None)
        page = self._records.query(index, partition, after=after, limit=limit, descending=descending)
        return Page([record for record in page.records if not self._is_hidden(record)], page.after)

    def _is_hidden(self, record: Versioned) -> bool:
        return record.key.removeprefix("execution#") in self.hidden


def lag(world: World) -> Lagging:
    lagging = Lagging(world, timedelta(minutes=5))
    world.ports = world.ports._replace(records=lagging)
    return lagging


def run_one_that_is_shown_late(world: World) -> str:
    """A running execution that no index showed at the first recount."""
    lagging = lag(world)
    recount(world)
    hidden = run_one(world)
    lagging.hidden.add(hidden)
    assert recount(world) == []
    lagging.hidden.clear()
    return hidden


def test_what_indexes_do_not_show_yet_is_not_taken_for_gone(world: World) -> None:
    run_one_that_is_shown_late(world)
    assert recount(world) == []
    assert recount(world) == []
    assert (counted(world), running(world)) == (1, 1)


def test_what_was_never_shown_before_it_ended_is_not_taken_for_gone(world: World) -> None:
    """When it ended, the number was right again: that it seemed wrong before is no reason to put it down."""
    shown = run_one_that_is_shown_late(world)
    end_by_result_of(world, shown)
    assert recount(world) == []
    assert (counted(world), running(world)) == (0, 0)


def test_too_high_is_put_right_when_indexes_must_have_shown_all(world: World) -> None:
    lagging = lag(world)
    recount(world)
    miscount(world, 3, 2)
    lagging.hidden.add(run_one(world))
    assert recount(world) == []
    assert ok(world, "POST", "/quotas/recount", {"user": "ada"})["users"] == [
        {"user": "ada", "unfinished": 4, "running": 3, "unfinished_suspected": 4, "running_suspected": 3}
    ]
    lagging.hidden.clear()
    assert recount(world) == ["it was not that of the records: unfinished: 4 to 1, running: 3 to 1"]
    assert (counted(world), running(world)) == (1, 1)


def test_another_that_is_not_shown_each_time_is_not_taken_for_gone(world: World) -> None:
    """Somebody who always has one more that no index shows yet."""
    lagging = lag(world)
    for _ in range(6):
        one = run_one(world)
        lagging.hidden = {one}
        assert recount(world) == []
        lagging.hidden = set()
        end_by_result_of(world, one)
    assert (counted(world), running(world)) == (0, 0)


def test_of_who_has_too_many_no_suspicion_is_kept_whichever_index_shows_them(world: World) -> None:
    """Each index lags on its own; what would be remembered of a large batch does not fit into a record."""
    lagging = lag(world)
    count = recounts.MOST_KNOWN + 1
    made = [msgspec.structs.replace(admitted(f"{n:032x}", 0), owner="ada", admitted_at=START) for n in range(count)]
    world.clock.time = START
    for begun in range(0, count, 50):
        world.records.commit(
            [store.put_new(store.execution_key(one.execution_id), one) for one in made[begun : begun + 50]]
        )
    miscount(world, count + 1)
    lagging.hides_owners = True
    assert ok(world, "POST", "/quotas/recount", {"user": "ada"})["users"] == []
    assert store.load(world.records, store.recount_key("ada"), Recount).document is None


def test_an_admission_says_from_which_version_of_the_number_it_counted() -> None:
    suspicion = Suspicion(at=START, version=START_AT_VERSION, unfinished=1, known=("known",))
    made = [
        admitted("known", START_AT_VERSION - 1),
        admitted("before", START_AT_VERSION - 1),
        admitted("at", START_AT_VERSION),
        admitted("later", START_AT_VERSION + 1),
        msgspec.structs.replace(admitted("old", 0), counted=False),
    ]
    assert recounts.unknown(suspicion, made) == 1


def admitted(execution_id: str, counted_from: int) -> Execution:
    fields: dict[str, object] = {
        "execution_id": execution_id,
        "state": "QUEUED",
        "owner": "ada",
        "key_id": "k",
        "content_digest": "",
        "object_sha256": "",
        "command": "true",
        "isolation": "process",
        "timeout_seconds": 1,
        "issued_at": "2026-05-04T12:00:00Z",
        "admitted_at": "2026-05-04T12:00:00Z",
        "updated_at": "2026-05-04T12:00:00Z",
        "granted": True,
        "counted": True,
        "counted_from": counted_from,
    }
    return msgspec.convert(fields, Execution)


def test_a_suspicion_fits_into_a_record() -> None:
    suspicion = Suspicion(
        at=START, version=1, unfinished=1, known=tuple(f"{n:032x}" for n in range(recounts.MOST_KNOWN))
    )
    assert len(msgspec.json.encode(suspicion)) < 300_000, "a record of DynamoDB's holds 400 KB"


# -- asked for


def test_an_admin_asks_for_it(world: World) -> None:
    bob = world.add_user("bob", Role.OPERATOR)
    accept(world)
    miscount(world, 1)
    miscount(world, 2, 0, "bob")
    assert ok(world, "POST", "/quotas/recount", {"user": "ada"})["users"] == [
        {"user": "ada", "unfinished": 1, "running": 0, "unfinished_added": -1}
    ]
    assert counted(world, "bob") == 2
    assert [one["user"] for one in ok(world, "POST", "/quotas/recount", {})["users"]] == ["bob"]
    assert ok(world, "POST", "/quotas/recount", {}) == {"users": []}
    assert corrections(world) == [("ada", "ada", "unfinished: 2 to 1"), ("ada", "bob", "unfinished: 2 to 0")]
    assert code_of(call(world, "POST", "/quotas/recount", {}, bob)) is ErrorCode.FORBIDDEN
    assert code_of(call(world, "POST", "/quotas/recount", {"user": "nobody"})) is ErrorCode.NOT_FOUND
    assert code_of(call(world, "POST", "/quotas/recount", {"user": 3})) is ErrorCode.INVALID_REQUEST


def test_the_command_tells_what_was_wrong(world: World, runvoy: Run) -> None:
    world.add_user("bob", Role.DEVELOPER)
    assert runvoy("quotas", "recount") == (0, "every count was right\n", "")
    miscount(world, 3, 1)
    miscount(world, -1, 0, "bob")
    told = "ada: unfinished was 3 and is 0, running was 1 and is 0\nbob: unfinished was -1 and is 0\n"
    assert runvoy("quotas", "recount") == (0, told, "")
    code, _, error = runvoy("quotas", "recount", "--user", "nobody")
    assert (code, "NOT_FOUND" in error) == (1, True)


def test_the_command_tells_of_what_is_not_certain_yet(world: World, runvoy: Run) -> None:
    lag(world)
    miscount(world, 2)
    code, out, _ = runvoy("quotas", "recount", "--user", "ada")
    assert (code, "ada: unfinished is 2, which seems 2 too high; that is told, and put right," in out) == (0, True)


def test_a_start_does_not_wait_for_it(world: World) -> None:
    miscount(world, 1)
    world.clock.move(minutes=30)
    reconcile.handle(world.ports, starting_up=True)
    assert counted(world) == 1


def test_a_correction_is_a_metric_and_a_call_that_finds_nothing_is_none(world: World) -> None:
    counted_metrics: list[str] = []
    metered = MeteredRecords(world.records, lambda name, _value, **_dimensions: counted_metrics.append(name))
    world.ports = world.ports._replace(records=metered)
    ok(world, "POST", "/quotas/recount", {})
    assert counted_metrics == []
    miscount(world, 1)
    recount(world)
    assert counted_metrics == [aws_layout.METRIC_CORRECTED]
