"""FolderObjects beyond the contract: links, adoption, crashes and several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import PreconditionFailed

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def put(objects: FolderObjects, key: str, data: bytes = b"x", **conditions: object) -> str:
    return objects.put(key, data, content_type="text/plain", **conditions)  # type: ignore[arg-type]


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_object_is_a_file_at_its_key_for_its_owner_only(tmp_path: Path) -> None:
    put(FolderObjects(tmp_path / "outbox"), "a/b.json", b"{}")
    assert (tmp_path / "outbox/a/b.json").read_bytes() == b"{}"
    assert (tmp_path / "outbox/a/b.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "outbox/a").stat().st_mode & 0o777 == 0o700


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o", versioned=True)
    put(objects, "a")
    with pytest.raises(PreconditionFailed):
        put(objects, "a", if_absent=True)
    with pytest.raises(PreconditionFailed):
        put(objects, "a", if_match='""')
    assert files_under(tmp_path / "o/.tmp") == []


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    FolderObjects(tmp_path / "o")
    for name, age in (("old", 7200), ("young", 60)):
        path = tmp_path / "o/.tmp" / name
        path.write_bytes(b"")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    FolderObjects(tmp_path / "o")
    assert files_under(tmp_path / "o/.tmp") == ["young"]


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "o/folder").symlink_to(outside)
    (tmp_path / "o/file").symlink_to(outside / "secret")
    assert objects.get("folder/secret") is None
    assert objects.get("file") is None
    assert objects.list("") == objects.list("folder/") == []
    objects.delete("folder/secret")
    with pytest.raises(ValueError):
        put(objects, "folder/secret", b"overwritten")
    put(objects, "file", b"mine")  # replaces the link, not what it leads to
    assert (outside / "secret").read_bytes() == b"secret"
    assert not (tmp_path / "o/file").is_symlink()


def test_a_key_is_an_object_or_a_folder(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o", versioned=True)
    put(objects, "a/b")
    for conditions in ({}, {"if_match": '"0"'}, {"if_absent": True}):
        with pytest.raises((ValueError, PreconditionFailed)):
            put(objects, "a", **conditions)
    with pytest.raises(ValueError):
        put(objects, "a/b/c")
    assert objects.get("a") is None
    assert objects.get("a/b/c") is None
    objects.delete("a")
    objects.delete("a/b/c")
    assert objects.get("a/b") is not None


def test_what_is_no_regular_file_is_no_object(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o")
    os.mkfifo(tmp_path / "o/fifo")
    assert objects.get("fifo") is None
    assert objects.list("") == []


def test_adopt_moves_the_file(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o")
    spooled = tmp_path / "spool"
    for data in (b"1", b"2"):
        spooled.write_bytes(data)
        number = spooled.stat().st_ino
        objects.adopt("e/run/logs/1", spooled)
        assert not spooled.exists()
        stored = objects.get("e/run/logs/1")
        assert stored is not None
        assert stored.data == data
        assert (tmp_path / "o/e/run/logs/1").stat().st_ino == number
    with pytest.raises(FileNotFoundError):
        objects.adopt("e/run/logs/2", spooled)
    (tmp_path / "link").symlink_to(tmp_path / "o/e/run/logs/1")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(ValueError):
            objects.adopt("e/run/logs/2", path)


def test_adopt_keeps_versions(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o", versioned=True)
    (tmp_path / "spool").write_bytes(b"1")
    objects.adopt("a", tmp_path / "spool")
    put(objects, "a", b"2")
    kept = objects.get("a", FolderObjects.version_of(b"1"))
    assert kept is not None
    assert kept.data == b"1"


def test_changes_are_told_once_they_are_there(tmp_path: Path) -> None:
    told: list[tuple[str, bytes | None]] = []

    def on_change(key: str) -> None:
        stored = objects.get(key)
        told.append((key, None if stored is None else stored.data))

    objects = FolderObjects(tmp_path / "o", on_change=on_change)
    put(objects, "a", b"1")
    (tmp_path / "spool").write_bytes(b"2")
    objects.adopt("b", tmp_path / "spool")
    with pytest.raises(PreconditionFailed):
        put(objects, "a", if_absent=True)
    objects.delete("a")
    objects.delete("a")
    assert told == [("a", b"1"), ("b", b"2"), ("a", None)]


def test_a_folder_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o")
    put(objects, "a/b/c")
    objects.delete("a/b/c")
    (tmp_path / "o/a/b").rmdir()
    put(objects, "a/b/c")
    assert objects.get("a/b/c") is not None


def test_grants_name_the_bucket(tmp_path: Path) -> None:
    grants = Grants(bytes(32))
    objects = FolderObjects(tmp_path / "folder", grants=grants, bucket="inbox")
    grants.base_url = "http://127.0.0.1:1"
    policy = objects.presign_post("r/", content_type="a", max_bytes=5, expires_at=LATER)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    grants.verify_post("inbox", [("key", "r/1"), ("content-type", "a"), *policy.fields.items()], 5, now)
    assert policy.url == "http://127.0.0.1:1/inbox"
    url = objects.presign_get("a/b", expires_at=LATER)
    assert url.startswith("http://127.0.0.1:1/inbox/a/b?")
    grants.verify_get("inbox", "a/b", url.partition("?")[2], now)
    with pytest.raises(ValueError):
        FolderObjects(tmp_path / "x").presign_get("a", expires_at=LATER)


INCREMENT = """
import sys
from pathlib import Path
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import PreconditionFailed
objects = FolderObjects(Path(sys.argv[1]), versioned=True)
def put(data, **conditions):
    objects.put("deep/down/counter", data, content_type="", **conditions)
for _ in range(30):
    while True:
        found = objects.get("deep/down/counter")
        try:
            if found is None:
                put(b"1", if_absent=True)
            else:
                put(b"%d" % (int(found.data) + 1), if_match=found.etag)
            break
        except PreconditionFailed:
            pass
"""


def test_no_conditional_update_is_lost_between_processes(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", INCREMENT, str(tmp_path / "o")]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    objects = FolderObjects(tmp_path / "o", versioned=True)
    for count in (120, 119, 1):
        stored = objects.get("deep/down/counter", FolderObjects.version_of(b"%d" % count))
        assert stored is not None
        assert stored.data == b"%d" % count


PUT_FOREVER = """
import sys
from pathlib import Path
from runvoy_agent.local.objects import FolderObjects
objects = FolderObjects(Path(sys.argv[1]))
start = int(sys.argv[2])
for number in range(start, start + 100_000):
    data = b"%d" % number * 5000
    objects.put("same", data, content_type="")
    objects.put(f"each/{number % 7}/{number:09d}", data, content_type="", if_absent=True)
    print(number, flush=True)
"""


def test_kill_leaves_whole_objects(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "o")
    for round_number in range(5):
        start = round_number * 1000
        with subprocess.Popen(
            [sys.executable, "-c", PUT_FOREVER, str(tmp_path / "o"), str(start)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3 + 17 * round_number):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        same = objects.get("same")
        assert same is not None
        number = int(same.data[: len(same.data) // 5000])
        assert number >= start + 2 + 17 * round_number
        assert same.data == b"%d" % number * 5000
        for info in objects.list("each/"):
            number = int(info.key.rpartition("/")[2])
            stored = objects.get(info.key)
            assert stored is not None
            assert stored.data == b"%d" % number * 5000
