"""The real SqliteRecords against a model, by threads and processes, some of which are killed.

Quick in the suite; `RUNVOY_PROPERTY_EXAMPLES=2000 pytest tests/property` goes on for longer. What is drawn never depends
on what was found, because threads and processes may end otherwise the next time: versions are drawn as `current`, `stale`
and so on, and resolved when the rule runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.property.records_model import Model, to_plain

from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.ports import Add, Check, Conflict, Delete, IndexEntry, Item, Put, Write

EXAMPLES = int(os.environ.get("RUNVOY_PROPERTY_EXAMPLES", "20"))
ROOT = Path(__file__).parents[2]
START = datetime(2026, 5, 4, tzinfo=UTC)

# Orders of text differ between UTF-8, UTF-16 and locales, NUL ends a C string: all of it is somebody's key.
KEYS = ("a", "a\0b", "ä", "\uffff", "\U0001f600", "B")
NUMBERS = ("n", "n\0")
EVERY_KEY = (*KEYS, *NUMBERS)
INDEXES = ("owner", "day")
PARTITIONS = ("p", "q\u2028")
SORTS = ("", "1", "é", "\U0001f600", "\uffff")

index_entries = st.builds(IndexEntry, st.sampled_from(PARTITIONS), st.sampled_from(SORTS))
items = st.builds(
    Item,
    st.binary(max_size=3),
    st.dictionaries(st.sampled_from(INDEXES), index_entries, max_size=2),
    st.one_of(st.none(), st.integers(0, 72).map(lambda hours: START + timedelta(hours=hours))),
)


class Draft(NamedTuple):
    """A write whose version is resolved when it is made. `version`: how far from the current one; mostly not at all."""

    kind: str
    item: Item
    version: int | None

    def at(self, key: str, current: int) -> Write:
        version = 0 if self.version is None else max(0, current + self.version)
        if self.kind == "put":
            return Put(key, self.item, version)
        return Delete(key, version) if self.kind == "delete" else Check(key, version)


drafts = st.builds(
    Draft,
    st.sampled_from(["put", "put", "put", "delete", "check"]),
    items,
    st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, None]),
)


class DraftAdd(NamedTuple):
    """What is added to a number, whatever its version."""

    amount: int
    at_most: int | None

    def at(self, key: str, _current: int) -> Write:
        return Add(key, self.amount, self.at_most)


adds = st.builds(DraftAdd, st.sampled_from([1, 1, 1, -1, 7]), st.one_of(st.none(), st.integers(0, 9)))
Plan = dict[str, Draft | DraftAdd]
plans = st.builds(
    lambda documents, numbers: {**documents, **numbers},
    st.dictionaries(st.sampled_from(KEYS), drafts, max_size=len(KEYS)),
    st.dictionaries(st.sampled_from(NUMBERS), adds, max_size=len(NUMBERS)),
).filter(bool)


def is_committed(records: SqliteRecords, writes: Sequence[Write]) -> bool:
    try:
        records.commit(writes)
    except Conflict:
        return False
    return True


class Worker:
    """Another process on the same file."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.property.records_worker", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def commit(self, commits: Sequence[Sequence[Write]], die_at: int = 0) -> list[str]:
        """Commit one after the other; the answers that came, fewer than commits if it died."""
        assert self._process.stdin is not None
        order = {"commits": [to_plain(writes) for writes in commits], "die_at": die_at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answers = []
        while (line := self._line()) not in ("end", ""):
            answers.append(line)
        return answers

    def await_death(self) -> None:
        """Of one that said no more: its end may take a while to be seen."""
        self._process.wait(60)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue


def in_threads(actions: Sequence[Callable[[], bool]]) -> list[bool]:
    """Run all at once; what each gave."""
    results: list[bool | BaseException | None] = [None] * len(actions)
    gate = threading.Barrier(len(actions))

    def run(number: int) -> None:
        gate.wait(30)
        try:
            results[number] = actions[number]()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below, in the test's own thread
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(isinstance(result, bool) for result in results), results
    return [result is True for result in results]


class RecordsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="records"))
        self.path = self.folder / "state.db"
        self.records = SqliteRecords(self.path)
        self.model = Model()
        self.now = START
        self.cursors: list[tuple[str, str, bool, Any, tuple[str, str]]] = []
        self._worker: Worker | None = None

    def teardown(self) -> None:
        self.records.close()
        if self._worker is not None:
            self._worker.close()
        shutil.rmtree(self.folder)

    def worker(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self.path)
        return self._worker

    def writes(self, plan: Plan) -> list[Write]:
        return [draft.at(key, self.model.version(key)) for key, draft in plan.items()]

    @rule(plan=plans)
    def commit(self, plan: Plan) -> None:
        writes = self.writes(plan)
        assert is_committed(self.records, writes) == self.model.commit(writes)

    @rule(plan=plans)
    def commit_in_another_process(self, plan: Plan) -> None:
        writes = self.writes(plan)
        expected = "done" if self.model.commit(writes) else "conflict"
        assert self.worker().commit([writes]) == [expected]

    @rule(first=plans, others=st.lists(plans, min_size=1, max_size=3), is_one_a_process=st.booleans())
    def commit_at_once(self, first: Plan, others: list[Plan], is_one_a_process: bool) -> None:
        """Commits made at once came in *some* order: one order explains every outcome, and what is stored afterwards."""
        commits = [self.writes(plan) for plan in (first, *others)]
        worker = self.worker()

        def by_process() -> bool:
            return worker.commit([commits[0]]) == ["done"]

        def by_thread(number: int) -> Callable[[], bool]:
            return lambda: is_committed(self.records, commits[number])

        actions = [by_process if is_one_a_process else by_thread(0)]
        actions += [by_thread(number) for number in range(1, len(commits))]
        outcomes = in_threads(actions)
        for order in permutations(range(len(commits))):
            candidate = self.model.copy()
            if [candidate.commit(commits[number]) for number in order] != [outcomes[number] for number in order]:
                continue
            if all(self.records.get(key) == candidate.get(key) for key in EVERY_KEY):
                self.model = candidate
                return
        raise AssertionError(f"no order explains {outcomes} of {commits}")

    @rule(order=st.lists(plans, min_size=1, max_size=4), die_at=st.integers(1, 60))
    def kill_a_process_that_commits(self, order: list[Plan], die_at: int) -> None:
        """What was answered stays; of what was not, a beginning may have come through, each commit whole or not at all."""
        commits = []
        planned = self.model.copy()
        for plan in order:
            writes = [draft.at(key, planned.version(key)) for key, draft in plan.items()]
            planned.commit(writes)
            commits.append(writes)
        worker = self.worker()
        answers = worker.commit(commits, die_at)
        for writes, answer in zip(commits, answers, strict=False):
            assert self.model.commit(writes) == (answer == "done"), answer
        if len(answers) < len(commits):
            worker.await_death()
        self._worker = None
        worker.close()  # one that lives has its trap still set
        unanswered = commits[len(answers) :][:1]  # it does one after the other: no further one can have begun
        if unanswered and any(self.records.get(key) != self.model.get(key) for key in EVERY_KEY):
            assert self.model.commit(unanswered[0])

    @rule(
        writes=st.sampled_from(
            [
                [Put("a", Item(b""), 0), Check("a", 0)],
                [Put("B", Item(b"x"), 0), Put("\ud800", Item(b""), 0)],
                [Put("B", Item(b"x"), 0), Check("a", -1)],
                [Put("B", Item(b"x", {}, datetime(2026, 1, 1)), 0)],
                [Put("B", Item(b"x", {"day": IndexEntry("\udfff", "")}), 0)],
                [Check(f"k{number}", 0) for number in range(101)],
            ]
        )
    )
    def refuse_what_breaks_the_rules(self, writes: list[Write]) -> None:
        with pytest.raises(ValueError):
            self.records.commit(writes)

    @rule(hours=st.integers(0, 40))
    def purge(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        assert self.records.purge_expired(self.now) == self.model.purge(self.now)

    @rule()
    def reopen(self) -> None:
        self.records.close()
        self.records = SqliteRecords(self.path)

    @rule(index=st.sampled_from(INDEXES), partition=st.sampled_from(PARTITIONS), descending=st.booleans())
    def keep_a_cursor(self, index: str, partition: str, descending: bool) -> None:
        page = self.records.query(index, partition, limit=1, descending=descending)
        if page.after is not None:
            listed = self.model.listed(index, partition)
            sort, record = listed[-1] if descending else listed[0]
            self.cursors.append((index, partition, descending, page.after, (sort, record.key)))

    @rule(number=st.integers(0, 5))
    def go_on_from_a_cursor(self, number: int) -> None:
        """A cursor names a place, not a page: what was written there meanwhile is found."""
        if not self.cursors:
            return
        index, partition, descending, cursor, place = self.cursors[number % len(self.cursors)]
        begin = (place[0].encode(), place[1].encode())
        rest = [
            record
            for sort, record in self.model.listed(index, partition)
            if (sort.encode(), record.key.encode()) != begin
            and ((sort.encode(), record.key.encode()) < begin) == descending
        ]
        page = self.records.query(index, partition, after=cursor, descending=descending)
        assert page.records == (rest[::-1] if descending else rest)

    @invariant()
    def every_record_is_the_model_s(self) -> None:
        for key in EVERY_KEY:
            assert self.records.get(key) == self.model.get(key)
        assert self.records.get_many(EVERY_KEY) == [self.model.get(key) for key in EVERY_KEY]

    @invariant()
    def every_index_lists_the_model_s_records(self) -> None:
        for index in INDEXES:
            for partition in PARTITIONS:
                expected = [record for _, record in self.model.listed(index, partition)]
                found, after = [], None
                while True:
                    page = self.records.query(index, partition, after=after, limit=2)
                    found += page.records
                    after = page.after
                    if after is None:
                        break
                assert found == expected
                assert self.records.query(index, partition, descending=True).records == expected[::-1]


TestRecords = RecordsMachine.TestCase
TestRecords.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_a_query_never_sees_half_a_commit(tmp_path: Path) -> None:
    """Writers in threads and a process put one stamp on every record in one commit; each page holds one stamp only."""
    path = tmp_path / "state.db"
    records = SqliteRecords(path)
    worker = Worker(path)
    places = {"day": IndexEntry("p", "")}

    def stamp(body: bytes, versions: dict[str, int]) -> list[Write]:
        return [Put(key, Item(body, places), versions[key]) for key in KEYS]

    records.commit(stamp(b"0", dict.fromkeys(KEYS, 0)))
    stop = threading.Event()
    torn: list[set[bytes]] = []

    def read() -> None:
        while not stop.is_set():
            bodies = {record.body for record in records.query("day", "p").records}
            if len(bodies) != 1:
                torn.append(bodies)

    def write(name: bytes) -> int:
        won = 0
        for number in range(60):
            version = records.query("day", "p").records[0].version
            won += is_committed(records, stamp(b"%b%d" % (name, number), dict.fromkeys(KEYS, version)))
        return won

    readers = [threading.Thread(target=read) for _ in range(2)]
    wins: list[int] = []
    writers = [threading.Thread(target=lambda name=name: wins.append(write(name))) for name in (b"x", b"y")]
    try:
        for thread in (*readers, *writers):
            thread.start()
        answers = []
        for number in range(60):
            version = records.query("day", "p").records[0].version
            answers += worker.commit([stamp(b"w%d" % number, dict.fromkeys(KEYS, version))])
        for thread in writers:
            thread.join(60)
    finally:
        stop.set()
        for thread in readers:
            thread.join(60)
        worker.close()
    final = records.query("day", "p").records
    records.close()
    assert not torn
    # Every commit that was answered counted once: versions rose by one each.
    assert {record.version for record in final} == {1 + sum(wins) + answers.count("done")}
