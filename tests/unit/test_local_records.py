"""SqliteRecords beyond the contract: crashes, several processes, forgetting, and a model to compare with."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runvoy_agent.local import database
from runvoy_agent.local.records import TOMBSTONE_LIFETIME, SqliteRecords
from runvoy_agent.ports import Check, Conflict, Delete, IndexEntry, Item, Put, Unavailable, Versioned, Write

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def dated(body: bytes, expires_at: datetime | None) -> Item:
    return Item(body, {"day": IndexEntry("d", "s")}, expires_at)


def test_what_expired_is_forgotten_and_its_version_is_not(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")
    records.commit([Put("old", dated(b"", NOW - timedelta(seconds=1)), 0)])
    records.commit([Put("young", dated(b"", NOW + timedelta(seconds=1)), 0), Put("kept", dated(b"", None), 0)])
    assert records.purge_expired(NOW) == 1
    assert records.get("old") is None
    assert [record.key for record in records.query("day", "d").records] == ["kept", "young"]
    assert records.purge_expired(NOW) == 0
    with pytest.raises(Conflict):
        records.commit([Delete("old", 1)])
    records.commit([Put("old", dated(b"", None), 0)])
    assert records.get("old") == Versioned("old", b"", 2)


def test_many_expired_records_go_in_one_call(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")
    for start in range(0, 1200, 100):
        records.commit([Put(f"n{number}", dated(b"", NOW), 0) for number in range(start, start + 100)])
    assert records.purge_expired(NOW + timedelta(hours=1)) == 1200
    assert records.query("day", "d").records == []


def test_tombstones_go_after_their_lifetime(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")

    def rows() -> int:
        with sqlite3.connect(tmp_path / "r") as connection:
            return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])

    records.commit([Put("a", dated(b"", None), 0)])
    records.commit([Delete("a", 1)])
    for now, expected in ((NOW, 1), (NOW + TOMBSTONE_LIFETIME, 1), (NOW + 2 * TOMBSTONE_LIFETIME, 0)):
        records.purge_expired(now)
        assert rows() == expected


def test_writes_that_sqlite_would_refuse_do_not_reach_it(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")
    naive = datetime(2026, 1, 1)
    writes: list[Write] = [
        Put("\ud800", Item(b""), 0),
        Put("a", Item(b"", {"i": IndexEntry("p", "\ud800")}), 0),
        Put("a", dated(b"", naive), 0),
        Check("a", -1),
        Check("a", 2**63),
    ]
    for write in writes:
        with pytest.raises(ValueError):
            records.commit([write])
    records.commit([Check("a", 0)])


def test_dead_threads_leave_no_connections(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")

    def open_files() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(1 for link in links if link.readlink().is_relative_to(tmp_path))

    def use() -> None:
        records.get("a")
        records.commit([Check("a", 0)])

    if not Path("/proc/self/fd").exists():
        pytest.skip("counts descriptors in /proc")
    for _ in range(50):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    # A file, its -wal and -shm for the writer and one reader.
    assert len({path.name for path in tmp_path.iterdir()}) == 3
    assert open_files() <= 6
    records.close()
    assert open_files() == 0


@pytest.mark.parametrize("length", [504, 505])
def test_a_path_too_long_for_sqlite_says_so(tmp_path: Path, length: int) -> None:
    folder = tmp_path.resolve()
    while length - len(str(folder)) > 200:
        folder /= "d" * 99
    folder.mkdir(parents=True)
    path = folder / ("f" * (length - len(str(folder)) - 1))
    if length == 504:
        SqliteRecords(path).commit([Put("k", Item(b""), 0)])
        return
    with pytest.raises(Unavailable, match="SQLite takes paths of up to 504 bytes, and it has 505"):
        SqliteRecords(path)


def test_closed_file_newer_schema_and_garbage_are_unavailable(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "r")
    records.commit([Put("a", Item(b"a"), 0)])
    records.close()
    for call in (lambda: records.get("a"), lambda: records.commit([Check("a", 0)]), lambda: records.query("i", "p")):
        with pytest.raises(Unavailable):
            call()
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(tmp_path / "r")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(Unavailable, match="newer"):
        SqliteRecords(tmp_path / "r")
    (tmp_path / "garbage").write_bytes(b"not a database" * 1000)
    for path in (tmp_path / "garbage", tmp_path / "missing" / "r"):
        with pytest.raises(Unavailable):
            SqliteRecords(path)


def test_held_lock_is_unavailable_after_a_while(tmp_path: Path) -> None:
    held = database.Database(tmp_path / "d", "CREATE TABLE t (n INTEGER)", 1, busy_timeout_seconds=0.2)
    other = sqlite3.connect(tmp_path / "d", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        held.write(lambda connection: connection.execute("INSERT INTO t VALUES (1)"))
    other.execute("ROLLBACK")
    held.write(lambda connection: connection.execute("INSERT INTO t VALUES (1)"))
    other.close()


def together(shared: database.Database, actions: Sequence[Callable[[sqlite3.Connection], object]]) -> list[str]:
    """Commit `actions` in one transaction, by holding the writer until all of them wait; the names of their errors."""
    gate, holding = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        holding.set()
        assert gate.wait(30)

    def outcome(action: Callable[[sqlite3.Connection], object]) -> str:
        try:
            shared.write(action)
        except (KeyError, Unavailable) as error:
            return type(error).__name__
        return "written"

    with ThreadPoolExecutor(len(actions) + 1) as pool:
        pool.submit(shared.write, hold)
        assert holding.wait(30)
        outcomes = [pool.submit(outcome, action) for action in actions]
        while len(shared._waiting) < len(actions):
            time.sleep(0.001)
        gate.set()
        return [future.result(30) for future in outcomes]


def test_commits_in_one_transaction_stand_or_fall_by_themselves(tmp_path: Path) -> None:
    shared = database.Database(tmp_path / "d", "CREATE TABLE t (n INTEGER PRIMARY KEY)", 1)

    def insert(number: int) -> Callable[[sqlite3.Connection], object]:
        def action(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO t VALUES (?)", (number,))
            if number % 2:
                raise KeyError(number)

        return action

    def rows() -> list[int]:
        with shared.read() as connection:
            return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]

    assert together(shared, [insert(number) for number in range(6)]) == ["written", "KeyError"] * 3
    assert rows() == [0, 2, 4]

    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    # Nothing that was found out in a transaction that never was may be told as true.
    assert together(shared, [insert(6), insert(7), fail]) == ["Unavailable"] * 3
    assert rows() == [0, 2, 4]
    assert together(shared, [insert(8)]) == ["written"]


INCREMENT = """
import sys
from pathlib import Path
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.ports import Conflict, Item, Put
records = SqliteRecords(Path(sys.argv[1]))
for _ in range(40):
    while True:
        found = records.get("counter")
        count, version = (int(found.body), found.version) if found else (0, 0)
        try:
            records.commit([Put("counter", Item(b"%d" % (count + 1)), version)])
            break
        except Conflict:
            pass
"""


def test_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    # They also race to make the file.
    processes = [subprocess.Popen([sys.executable, "-c", INCREMENT, str(tmp_path / "r")]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert SqliteRecords(tmp_path / "r").get("counter") == Versioned("counter", b"160", 160)


COMMIT_FOREVER = """
import sys
from pathlib import Path
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.ports import IndexEntry, Item, Put
records = SqliteRecords(Path(sys.argv[1]))
found = records.get("left")
number = found.version if found else 0
while True:
    place = {"at": IndexEntry("p", f"{number + 1:09d}")}
    body = b"%d" % (number + 1)
    records.commit([Put("left", Item(body * 500, place), number), Put("right", Item(body, place), number)])
    number += 1
    print(number, flush=True)
"""


def test_kill_leaves_whole_commits(tmp_path: Path) -> None:
    told = 0
    for round_number in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", COMMIT_FOREVER, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(5 + 37 * round_number):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            lines = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        records = SqliteRecords(tmp_path / "r")
        left, right = records.get("left"), records.get("right")
        assert left is not None
        assert right is not None
        assert left.version == right.version == int(right.body)
        assert left.body == right.body * 500
        told = max([told, *map(int, lines)])
        assert left.version >= told
        assert [record.key for record in records.query("at", "p").records] == ["left", "right"]
        records.close()


KEYS = ["a", "b", "c"]
PLACES = st.dictionaries(
    st.sampled_from(["day", "owner"]),
    st.builds(IndexEntry, st.sampled_from(["p", "q"]), st.sampled_from(["", "1", "2", "é"])),
)

# Mostly the right version, else one beside it.
OFFSETS = st.sampled_from([0, 0, 0, 0, -1, 1])
WRITES = st.tuples(st.sampled_from(KEYS), st.sampled_from([Put, Put, Delete, Check]), PLACES, OFFSETS)


class RecordsAgainstModel(RuleBasedStateMachine):
    """Any sequence of commits leaves the records, their versions and their indexes as a dict says."""

    @initialize(folder=st.uuids().map(str))
    def open(self, folder: str) -> None:
        self.path = ROOT / folder
        self.path.parent.mkdir(exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.records = SqliteRecords(self.path)
        self.model: dict[str, tuple[int, Item]] = {}
        self.highest = dict.fromkeys(KEYS, 0)

    @rule(writes=st.lists(WRITES, max_size=3, unique_by=lambda write: write[0]))
    def commit(self, writes: list[tuple[str, type[Write], dict[str, IndexEntry], int]]) -> None:
        planned: list[Write] = []
        for key, kind, places, offset in writes:
            version = max(0, (self.model[key][0] if key in self.model else 0) + offset)
            if kind is Put:
                planned.append(Put(key, Item(repr(sorted(places)).encode(), places), version))
            else:
                planned.append(Delete(key, version) if kind is Delete else Check(key, version))
        holds = all(write.version == (self.model[write.key][0] if write.key in self.model else 0) for write in planned)
        if not holds:
            with pytest.raises(Conflict):
                self.records.commit(planned)
            return
        self.records.commit(planned)
        for write in planned:
            if isinstance(write, Put):
                self.highest[write.key] += 1
                self.model[write.key] = (self.highest[write.key], write.item)
            elif isinstance(write, Delete):
                self.model.pop(write.key, None)

    @rule()
    def reopen(self) -> None:
        self.records.close()
        self.records = SqliteRecords(self.path)

    @invariant()
    def agrees(self) -> None:
        for key in KEYS:
            expected = Versioned(key, self.model[key][1].body, self.model[key][0]) if key in self.model else None
            assert self.records.get(key) == expected
        for index in ("day", "owner"):
            for partition in ("p", "q"):
                places = sorted(
                    (item.indexes[index].sort, key)
                    for key, (_, item) in self.model.items()
                    if index in item.indexes and item.indexes[index].partition == partition
                )
                found = self.records.query(index, partition).records
                assert [record.key for record in found] == [key for _, key in places]

    def teardown(self) -> None:
        if hasattr(self, "records"):
            self.records.close()


ROOT = Path()


@pytest.fixture(autouse=True)
def _model_folder(tmp_path: Path) -> None:
    global ROOT  # noqa: PLW0603
    ROOT = tmp_path


TestRecordsAgainstModel = RecordsAgainstModel.TestCase
TestRecordsAgainstModel.settings = settings(max_examples=60, stateful_step_count=15)
