"""Spools move into the outbox in order, once, whatever dies in between and whatever else lies there."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runvoy_agent.local import run_claims
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.ingest import Report, SpoolIngest
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import StoredObject, Unavailable
from runvoy_protocol import ids

NOBODY = 65534


class Dying:
    """An outbox whose process dies before or after one of its moves."""

    class Died(BaseException):
        pass

    def __init__(self, objects: FolderObjects, moves: int, *, after: bool) -> None:
        self.objects = objects
        self.moves = moves
        self.after = after

    def adopt(self, object_key: str, path: Path) -> None:
        self.moves -= 1
        if self.moves == 0 and not self.after:
            raise self.Died
        self.objects.adopt(object_key, path)
        if self.moves == 0:
            raise self.Died

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        return self.objects.get(object_key, version)


class Place:
    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.objects = FolderObjects(folder / "outbox", grants=Grants(bytes(32), "http://127.0.0.1:1"))
        self.events: list[tuple[str, Report]] = []
        self.runs.mkdir()
        self.ingest = SpoolIngest(self.runs, self.objects, self.on_event)

    def on_event(self, execution_id: str, report: Report) -> None:
        assert self.objects.get(f"executions/{execution_id}/run/{report}.json") is not None
        self.events.append((execution_id, report))

    def run(self, *files: str) -> str:
        execution_id = ids.uuid7(datetime.now(UTC), secrets.token_bytes(10))
        folder = self.runs / execution_id
        (folder / "spool/logs").mkdir(parents=True)
        (folder / "work/a").mkdir(parents=True)
        (folder / "work/a").chmod(0o500)
        for name in ("kill", "runner.log"):
            (folder / name).touch()
        self.claim(execution_id).touch()
        self.spool(execution_id, *files)
        return execution_id

    def claim(self, execution_id: str) -> Path:
        return run_claims.path_of(self.runs / execution_id)

    def of_an_older_version(self, *files: str) -> str:
        """Its claim and its lock are in its folder."""
        execution_id = self.run(*files)
        self.claim(execution_id).unlink()
        for name in ("started", "alive"):
            (self.runs / execution_id / name).touch()
        return execution_id

    def left(self) -> list[str]:
        """All that is left of runs, but for the folder of claims."""
        paths = (path.relative_to(self.runs) for path in self.runs.rglob("*"))
        return sorted(str(path) for path in paths if str(path) != "claims")

    def spool(self, execution_id: str, *files: str) -> None:
        for name in files:
            (self.runs / execution_id / "spool" / name).write_text(name)

    def taken(self, execution_id: str) -> list[str]:
        prefix = f"executions/{execution_id}/run/"
        return [info.key.removeprefix(prefix) for info in self.objects.list(prefix)]


ALL = ["logs/00000001", "logs/00000002", "result.json", "started.json"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_everything_is_taken_in(place: Place) -> None:
    run = place.run(*ALL)
    place.ingest.ingest(run)
    assert place.taken(run) == ALL
    assert place.events == [(run, "started"), (run, "result")]
    stored = place.objects.get(f"executions/{run}/run/logs/00000002")
    assert stored is not None
    assert stored.data == b"logs/00000002"
    place.ingest.ingest(run)
    assert len(place.events) == 2


def test_bit_by_bit(place: Place) -> None:
    run = place.run("started.json")
    place.ingest.ingest(run)
    assert place.events == [(run, "started")]
    place.spool(run, "logs/00000001")
    place.ingest.ingest(run)
    assert place.taken(run) == ["logs/00000001", "started.json"]
    place.spool(run, "logs/00000002", "result.json")
    place.ingest.ingest(run)
    assert place.taken(run) == ALL
    assert place.events == [(run, "started"), (run, "result")]


def test_the_result_comes_after_every_chunk(place: Place) -> None:
    run = place.run(*ALL, *(f"logs/{number:08d}" for number in range(3, 200)))
    order: list[str] = []

    class Ordered:
        def adopt(self, object_key: str, path: Path) -> None:
            order.append(object_key.rpartition("run/")[2])
            place.objects.adopt(object_key, path)

        def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
            return place.objects.get(object_key, version)

    SpoolIngest(place.runs, Ordered(), place.on_event).ingest(run)
    assert order == ["started.json", *(f"logs/{number:08d}" for number in range(1, 200)), "result.json"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moves", [1, 2, 3, 4])
def test_a_stack_that_dies_at_any_move(place: Place, moves: int, after: bool) -> None:
    run = place.run(*ALL)
    with pytest.raises(Dying.Died):
        SpoolIngest(place.runs, Dying(place.objects, moves, after=after), place.on_event).ingest(run)
    place.ingest.ingest_all()
    assert place.taken(run) == ALL
    assert set(place.events) == {(run, "started"), (run, "result")}


def test_a_restart_tells_again_until_the_run_is_removed(place: Place) -> None:
    run = place.run(*ALL)
    place.ingest.ingest(run)
    place.ingest.ingest_all()
    assert place.events == [(run, "started"), (run, "result")] * 2
    place.ingest.remove(run)
    place.ingest.ingest_all()
    assert len(place.events) == 4


def test_what_is_no_file_of_a_runner_is_left_out(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    run = place.run("started.json", "logs/00000001", "logs/00000000", "logs/1", "logs/00000009x", "draft", "more.json")
    logs = place.runs / run / "spool/logs"
    (logs / "00000002").symlink_to("/etc/passwd")
    (logs / "00000003").mkdir()
    os.mkfifo(logs / "00000004")
    (logs / "00000005").touch()
    with (logs / "00000006").open("wb") as huge:
        huge.truncate(1 << 40)
    with (place.runs / run / "spool/result.json").open("wb") as huge:
        huge.truncate(65537)
    place.spool(run, "logs/00000007")
    with caplog.at_level(logging.WARNING):
        place.ingest.ingest(run)
        place.ingest.ingest(run)
    assert place.taken(run) == ["logs/00000001", "logs/00000007", "started.json"]
    assert place.events == [(run, "started")]
    assert len(caplog.records) == 6, "each is warned of once"


@pytest.mark.parametrize("instead", ["nothing", "a file", "a link"])
def test_a_spool_that_is_none(place: Place, instead: str) -> None:
    run = place.run()
    spool = place.runs / run / "spool"
    (spool / "logs").rmdir()
    spool.rmdir()
    if instead == "a file":
        spool.touch()
    elif instead == "a link":
        spool.symlink_to("spool")
    place.ingest.ingest(run)
    place.ingest.ingest_all()
    assert place.events == []
    place.ingest.remove(run)
    assert place.left() == [f"claims/{run}"]


def test_a_full_disk_goes_to_the_caller_and_nothing_is_lost(place: Place) -> None:
    run = place.run(*ALL)

    class Full:
        def adopt(self, object_key: str, path: Path) -> None:
            raise OSError(28, "No space left on device")

        def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
            return None

    with pytest.raises(OSError, match="No space"):
        SpoolIngest(place.runs, Full(), place.on_event).ingest(run)
    assert place.events == []
    place.ingest.ingest(run)
    assert place.taken(run) == ALL


def test_many_threads(place: Place) -> None:
    runs = [place.run(*ALL) for _ in range(10)]
    threads = [threading.Thread(target=place.ingest.ingest, args=[run]) for run in runs * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place.events) == sorted((run, report) for run in runs for report in ("started", "result"))
    assert all(place.taken(run) == ALL for run in runs)


@pytest.mark.parametrize("version", ["this", "an older"])
def test_removing_keeps_the_claim_until_it_is_forgotten(place: Place, version: str) -> None:
    run = place.run(*ALL) if version == "this" else place.of_an_older_version(*ALL)
    claim = f"claims/{run}" if version == "this" else f"{run}/started"
    assert place.ingest.removed() == []
    place.ingest.remove(run)
    assert place.taken(run) == ALL, "the last look"
    assert [path for path in place.left() if path != run] == [claim]
    assert place.ingest.removed() == [run]
    place.ingest.remove(run)
    place.ingest.forget(run)
    assert place.ingest.removed() == []
    assert place.left() == []
    place.ingest.forget(run)
    place.ingest.remove(run)


@pytest.mark.parametrize("version", ["this", "an older"])
def test_a_run_that_lives_is_neither_removed_nor_forgotten(place: Place, version: str) -> None:
    run = place.run(*ALL) if version == "this" else place.of_an_older_version(*ALL)
    path = place.claim(run) if version == "this" else place.runs / run / "alive"
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.ingest.remove(run)
        place.ingest.forget(run)
    assert (place.runs / run / "work").is_dir()
    assert run_claims.read(place.runs / run) is not None


def test_a_run_whose_folder_was_closed_is_taken_in_and_removed(place: Place) -> None:
    """By its command. What root may read and remove anyway is told by the mode alone."""
    run = place.run(*ALL)
    (place.runs / run).chmod(0)
    place.ingest.ingest(run)
    assert place.taken(run) == ALL
    assert (place.runs / run).stat().st_mode & 0o777 == 0o700
    (place.runs / run).chmod(0)
    place.ingest.remove(run)
    assert place.left() == [f"claims/{run}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
@pytest.mark.parametrize("version", ["this", "an older"])
def test_a_folder_that_a_command_closed_keeps_no_stack_from_starting(place: Place, version: str) -> None:
    run = place.run(*ALL) if version == "this" else place.of_an_older_version(*ALL)
    (place.runs / run).chmod(0)
    assert place.ingest.removed() == ([] if version == "this" else [run])
    assert run_claims.claimed(place.runs) == ([run] if version == "this" else [])
    place.ingest.ingest_all()
    assert place.taken(run) == ALL
    assert run_claims.claimed(place.runs) == [run]


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder is given to another user by root alone")
def test_a_folder_that_is_another_users_by_now_stays_and_holds_up_nothing() -> None:
    """A command with other rights gave it away. It is no outage: whoever waited for its end would wait for ever."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            place = Place(Path(folder))
            run = place.run()
            os.seteuid(0)
            os.chown(place.runs / run, 0, -1)
            (place.runs / run).chmod(0o700)
            os.seteuid(NOBODY)
            place.ingest.ingest(run)
            place.ingest.remove(run)
            place.ingest.forget(run)
            assert not place.claim(run).exists()
        finally:
            os.seteuid(0)
        assert (place.runs / run / "work").is_dir()


def test_a_folder_that_became_a_link_leads_nowhere(place: Place) -> None:
    run = place.run()
    others = place.runs.parent / "others"
    (place.runs / run).rename(others)
    (place.runs / run).symlink_to(others)
    place.ingest.remove(run)
    assert (others / "work").is_dir()
    assert place.left() == [f"claims/{run}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_a_folder_that_cannot_be_removed_now_is_an_outage(place: Place) -> None:
    """And no dead letter: nothing is wrong with the run."""
    run = place.run(*ALL)
    place.runs.chmod(0o500)
    with pytest.raises(Unavailable, match="cannot be removed"):
        place.ingest.remove(run)
    place.runs.chmod(0o700)
    place.ingest.remove(run)
    assert place.left() == [f"claims/{run}"]


def test_a_run_that_was_never_claimed_is_removed_whole(place: Place) -> None:
    run = place.run()
    place.claim(run).unlink()
    place.ingest.remove(run)
    assert place.left() == []


def test_what_a_stop_before_the_start_left_is_forgotten(place: Place) -> None:
    run = place.run()
    place.claim(run).unlink()
    assert place.ingest.removed() == [run]
    place.ingest.forget(run)
    assert not (place.runs / run).exists()
