"""A full disk, a read-only one, and a limit on file sizes: Unavailable, nothing torn, and well again afterwards."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.launching import Machine

from runvoy_agent.local.disk import Disk
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.queue import SqliteQueue
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import Item, Put, Unavailable
from runvoy_protocol.logs import decode_chunk

PATIENCE = 30.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def until_unavailable(action: Callable[[int], object]) -> int:
    """How often it worked."""
    for number in range(10_000):
        try:
            action(number)
        except Unavailable:
            return number
    raise AssertionError("the disk never filled")


def read_only(disk: Path, yes: bool) -> None:
    subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(disk)], check=True)


def test_a_disk_tells_when_its_room_runs_out_and_when_there_is_some_again(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looked_at = Disk(disk)
    caplog.set_level("INFO", "runvoy.disk")  # tests that expect refusals silence `runvoy`
    assert looked_at.shortage() is None
    found = looked_at.look()
    assert found.free_bytes > found.needed_bytes == found.total_bytes // 20
    filler = fill(disk)
    for _ in range(2):
        assert looked_at.shortage() == f"the disk of {disk} has 0.0 MiB left, and the last 0.1 MiB are for what runs"
    filler.unlink()
    assert looked_at.shortage() is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_disk_that_cannot_be_written_is_told(disk: Path) -> None:
    looked_at = Disk(disk)
    read_only(disk, True)
    assert looked_at.shortage() == f"the disk of {disk} is read-only"
    assert looked_at.look().free_bytes == 0
    read_only(disk, False)
    assert looked_at.shortage() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_to_write_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert Disk(tmp_path).shortage() == f"{tmp_path} cannot be written to: permission denied"
    tmp_path.chmod(0o700)
    assert Disk(tmp_path).shortage() is None


def test_a_disk_that_takes_no_further_files_is_full(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=8", str(disk)], check=True)
    for number in range(8):
        try:
            (disk / str(number)).touch()
        except OSError:
            break
    assert Disk(disk).look().free_bytes == 0


def test_a_command_that_fills_the_disk_of_its_own_folder_ends_with_its_log(disk: Path) -> None:
    """What it left is removed before its end is on that disk, and not after."""
    machine = Machine(disk)
    try:
        launch = machine.launch("dd if=/dev/zero of=big bs=4k 2> /dev/null; echo dd ended with $?")
        machine.launcher().start(launch)
        machine.await_stopped(launch)
        assert machine.result(launch)["exit_code"] == 0
        (chunk,) = (machine.runs / launch.execution_id / "spool/logs").iterdir()
        assert b"".join(record.data for record in decode_chunk(chunk.read_bytes())) == b"dd ended with 1\n"
    finally:
        machine.close()


def test_records_on_a_full_disk(disk: Path) -> None:
    records = SqliteRecords(disk / "r")
    records.commit([Put("before", Item(b"b"), 0)])
    filler = fill(disk)
    written = until_unavailable(lambda number: records.commit([Put(f"k{number}", Item(bytes(10_000)), 0)]))
    assert records.get(f"k{written}") is None
    assert records.get("before") is not None
    filler.unlink()
    records.commit([Put(f"k{written}", Item(b"after"), 0)])
    records.close()
    records = SqliteRecords(disk / "r")
    assert [records.get(f"k{number}") is not None for number in range(written + 2)] == [True] * (written + 1) + [False]


def test_queue_on_a_full_disk(disk: Path) -> None:
    queue = SqliteQueue(disk / "q")
    queue.send("inbox", b"0")
    filler = fill(disk)
    sent = until_unavailable(lambda _: queue.send("inbox", bytes(10_000)))
    filler.unlink()
    queue.send("inbox", b"after")
    bodies = []
    while (message := queue.receive("inbox", 0)) is not None:
        queue.acknowledge(message.message_id)
        bodies.append(message.body)
    assert bodies == [b"0", *[bytes(10_000)] * sent, b"after"]


def test_receiving_on_a_read_only_disk(disk: Path) -> None:
    queue = SqliteQueue(disk / "q")
    queue.send("inbox", b"a")
    queue.close()
    records = SqliteRecords(disk / "r")
    records.commit([Put("a", Item(b"a"), 0)])
    records.close()
    read_only(disk, True)
    with pytest.raises(Unavailable):
        SqliteQueue(disk / "q")
    with pytest.raises(Unavailable):
        SqliteRecords(disk / "r")
    read_only(disk, False)
    message = SqliteQueue(disk / "q").receive("inbox", PATIENCE)
    assert message is not None
    assert SqliteRecords(disk / "r").get("a") is not None


def test_objects_on_a_full_disk(disk: Path) -> None:
    objects = FolderObjects(disk / "o", versioned=True)
    objects.put("same", b"before", content_type="")
    filler = fill(disk)
    with pytest.raises(Unavailable, match="space"):
        objects.put("same", bytes(100_000), content_type="")
    with pytest.raises(Unavailable, match="space"):
        objects.put("new/deep/one", bytes(100_000), content_type="", if_absent=True)
    stored = objects.get("same")
    assert stored is not None
    assert stored.data == b"before"
    assert [info.key for info in objects.list("")] == ["same"]
    assert list((disk / "o/.tmp").iterdir()) == []
    filler.unlink()
    objects.put("new/deep/one", bytes(100_000), content_type="", if_absent=True)


def test_objects_and_secrets_on_a_read_only_disk(disk: Path) -> None:
    objects, secrets = FolderObjects(disk / "o"), FolderSecrets(disk / "s")
    objects.put("a", b"a", content_type="")
    secrets.put("a", b"a")
    read_only(disk, True)
    for call in (
        lambda: objects.put("b", b"", content_type=""),
        lambda: objects.delete("a"),
        lambda: secrets.put("a", b""),
        lambda: secrets.delete("a"),
        lambda: FolderObjects(disk / "new"),
        lambda: FolderSecrets(disk / "new"),
    ):
        with pytest.raises(Unavailable):
            call()
    assert objects.get("a") is not None
    assert secrets.get("a") == b"a"
    read_only(disk, False)
    objects.put("b", b"", content_type="")


LIMITED = """
import resource, sys
from pathlib import Path
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.records import SqliteRecords
from runvoy_agent.local.secrets import FolderSecrets
from runvoy_agent.ports import Item, Put, Unavailable
folder = Path(sys.argv[1])
records, objects, secrets = SqliteRecords(folder / "r"), FolderObjects(folder / "o"), FolderSecrets(folder / "s")
records.commit([Put("a", Item(b"a"), 0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for call in (
    lambda: [records.commit([Put(f"k{number}", Item(bytes(20_000)), 0)]) for number in range(100)],
    lambda: objects.put("a", bytes(500_000), content_type=""),
    lambda: secrets.put("a", bytes(500_000)),
):
    try:
        call()
    except Unavailable as error:
        print(error)
    else:
        sys.exit("it was stored")
assert objects.get("a") is None and secrets.get("a") is None and records.get("a").body == b"a"
"""


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """The same without root: writes that fail halfway."""
    ended = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    records = SqliteRecords(tmp_path / "r")
    kept = [records.get(f"k{number}") is not None for number in range(100)]
    assert kept == sorted(kept, reverse=True)
    records.commit([Put("b", Item(bytes(20_000)), 0)])
