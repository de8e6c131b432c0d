"""Output arrives whole, in order, in time; or its loss is told."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runvoy_cli.following.output import Lines

NewRun = Callable[[], Any]


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


def test_300_000_lines(new_run: NewRun) -> None:
    run = new_run().start("seq 1 300000")
    result = run.wait()
    assert run.output() == b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert result["lines"] == 300_000
    records = run.records()
    assert records[-1].end
    assert records[-1].n == 300_001


@pytest.mark.parametrize(("head", "first"), [("# playbook x\n", "err"), ("# a playbook\n", "out"), ("", "out")])
def test_an_announcement_stands_before_what_it_announces(new_run: NewRun, head: str, first: str) -> None:
    # While the runner is stopped both streams get something: which was first it cannot know.
    line = "kill -STOP $PPID; echo printed; echo announced >&2; kill -CONT $PPID"
    run = new_run().start(head + line)
    assert run.wait()["exit_code"] == 0
    assert [record.s for record in run.records() if record.data] == [first, "out" if first == "err" else "err"]


@pytest.mark.parametrize(("printed", "kept"), [(9_999, 9_999), (10_000, 10_000), (10_001, 10_000), (3_000_000, 10_000)])
def test_a_log_keeps_as_much_as_it_may_to_the_byte_and_tells_what_it_lost(
    new_run: NewRun, printed: int, kept: int
) -> None:
    script = f"import os\nleft = {printed}\nwhile left: left -= os.write(1, b'0123456789'[: left])"
    run = new_run().start(python(script), max_log_bytes=10_000)
    result = run.wait()
    cut = b"\n" if printed > kept else b""  # the line that is cut there ends
    assert run.output("out") == b"0123456789" * (kept // 10) + b"0123456789"[: kept % 10] + cut
    assert (result["exit_code"], result["lost_bytes"]) == (0, printed - kept)
    told = run.output("sys").decode()
    first = "runvoy: the log is full: it keeps 10,000 bytes of output here, and the rest is lost\n"
    last = f"runvoy: {printed - kept:,} bytes of output were lost: a log keeps 10,000 here\n"
    assert told == (first + last if printed > kept else "")


def test_a_log_that_is_full_is_told_of_at_once_and_masks_up_to_there(
    new_run: NewRun, until: Callable[..., None]
) -> None:
    run = new_run().start(
        "echo $TOKEN; echo $TOKEN; while [ ! -e go ]; do sleep 0.02; done; echo late >&2",
        secrets={"TOKEN": "c2VjcmV0LXZhbHVl"},
        max_log_bytes=6,
    )
    until((run.folder / "spool/logs/00000001").exists)
    until(lambda: b"the log is full" in run.output("sys"))
    (run.folder / "work/go").touch()
    result = run.wait()
    assert run.output("out") == b"***\n**\n"
    assert run.output("err") == b""
    assert result["lost_bytes"] == 7
    assert b"7 bytes of output were lost" in run.output("sys")


@pytest.mark.parametrize(
    "script", ["printf 'ab'; sleep 0.3; printf 'cd'", "printf 'a\\303'; sleep 0.3; printf '\\251d'"]
)
def test_what_a_full_log_cuts_stands_before_the_words_that_it_is_full(new_run: NewRun, script: str) -> None:
    # Readers put lines together: one that has no end would come behind everything.
    run = new_run().start(f"printf waiting >&2; sleep 0.3; {script}; echo; echo more", max_log_bytes=9)
    run.wait()
    lines = Lines()
    told = [(line.number, line.data) for record in run.records() for line in lines.feed(record)]
    assert [number for number, _ in told] == sorted(number for number, _ in told)
    assert [data for _, data in told][:2] == [b"waiting", run.output("out").removesuffix(b"\n")]
    assert [data[:15] for _, data in told][2:] == [b"runvoy: the log", b"runvoy: 8 bytes"]
    assert lines.rest() == []


def test_a_line_of_50_mb(new_run: NewRun) -> None:
    run = new_run().start(python("import os\nfor i in range(800): os.write(1, bytes([97 + i % 26]) * 65536)"))
    assert run.wait()["lines"] == 1
    assert run.output() == b"".join(bytes([97 + i % 26]) * 65536 for i in range(800))
    assert {record.n for record in run.records()[:-1]} == {1}


def test_bytes_that_are_no_text(new_run: NewRun) -> None:
    run = new_run().start(python("import os; os.write(1, bytes(range(256)) * 300); os.write(2, b'\\0\\0\\n\\0')"))
    run.wait()
    assert run.output("out") == bytes(range(256)) * 300
    assert run.output("err") == b"\0\0\n\0"


def test_a_character_in_two_writes_is_text(new_run: NewRun) -> None:
    run = new_run().start(
        python("import os,time; os.write(1, b'a\\xe2'); time.sleep(.3); os.write(1, b'\\x82\\xac\\n')")
    )
    run.wait()
    assert [(record.n, record.m) for record in run.records()] == [(1, "a"), (1, "€\n"), (2, "")]


def test_output_is_there_while_the_command_runs(new_run: NewRun, until: Callable[..., None]) -> None:
    run = new_run().start("printf early; while [ ! -e go ]; do sleep 0.02; done; echo late")
    until((run.folder / "spool/logs/00000001").exists)
    assert run.output() == b"early"
    assert run.runners[0].poll() is None
    (run.folder / "work/go").touch()
    run.wait()
    assert [(record.n, record.m) for record in run.records()] == [(1, "early"), (1, "late\n"), (2, "")]


def test_stdout_closed_early(new_run: NewRun) -> None:
    run = new_run().start("echo a; exec >&- 2>&-; sleep 0.5; exit 9")
    result = run.wait()
    assert result["exit_code"] == 9
    assert result["ended_at_ms"] - result["started_at_ms"] >= 500
    assert run.output() == b"a\n"


def test_the_bell_is_rung_for_each_file(new_run: NewRun) -> None:
    run = new_run()
    os.mkfifo(run.folder.parent / "bell")
    bell = os.open(run.folder.parent / "bell", os.O_RDWR | os.O_NONBLOCK)
    try:
        run.start("echo hi").wait()
        assert os.read(bell, 4096) == f"{run.id}\n".encode() * 3
    finally:
        os.close(bell)


def test_a_bell_that_nobody_hears_or_that_is_full(new_run: NewRun) -> None:
    run = new_run()
    os.mkfifo(run.folder.parent / "bell")
    assert run.start("echo hi").wait()["exit_code"] == 0
    bell = os.open(run.folder.parent / "bell", os.O_RDWR | os.O_NONBLOCK)
    try:
        while os.write(bell, bytes(4096)):
            pass
    except BlockingIOError:
        assert new_run().start("echo hi").wait()["exit_code"] == 0
    finally:
        os.close(bell)


def make_room(run: Any) -> None:
    resource.prlimit(run.runners[0].pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_disk_that_is_full_for_a_while_loses_nothing(new_run: NewRun, until: Callable[..., None]) -> None:
    run = new_run().start(python("import random; print(random.Random(1).randbytes(300_000).hex())"), file_size=4096)
    log = run.folder / "runner.log"
    until(lambda: "cannot be written" in log.read_text())
    assert run.runners[0].poll() is None, "the result waits until it can be written"
    make_room(run)
    result = run.wait()
    assert (result["exit_code"], result["lost_bytes"], result["lines"]) == (0, 0, 1)
    assert len(run.output()) == 600_001


def test_loss_is_told(new_run: NewRun, until: Callable[..., None]) -> None:
    script = (
        "import os,random\nr=random.Random(1)\n"
        "for i in range(1200): os.write(1, r.randbytes(65535) + b'\\n')\n"
        "open('written','w').close()\nimport time\nwhile not os.path.exists('go'): time.sleep(.02)\nos.write(1, b'after\\n')"
    )
    run = new_run().start(python(script), file_size=4096)
    until((run.folder / "work/written").exists, 60)
    make_room(run)
    until((run.folder / "spool/logs/00000001").exists)
    time.sleep(0.2)
    (run.folder / "work/go").touch()
    result = run.wait()
    assert result["exit_code"] == 0
    assert result["lost_bytes"] > 0
    shown = len(run.output())
    assert shown + result["lost_bytes"] == 1200 * 65536 + 6
    assert run.output().endswith(b"after\n")
    assert f"{result['lost_bytes']:,} bytes of output were lost: File too large" in run.output("sys").decode()


@pytest.mark.parametrize(
    "sabotage",
    [
        "rm -rf ../spool",
        "rm -rf ../spool; touch ../spool",
        "rm -rf ../spool; ln -s /nowhere ../spool",
        "rm -rf ../spool/logs; ln -s . ../spool/logs",
        "mkdir -p ../spool/logs/00000002/x ../spool/result.json",
        "mkfifo ../spool/draft ../spool/result.json",
        "chmod 0 ../spool/logs ../spool",
    ],
)
def test_a_command_that_spoils_its_spool(new_run: NewRun, sabotage: str) -> None:
    run = new_run().start(f"echo a; sleep 0.3; {sabotage}; echo b; exit 4")
    assert run.wait(60)["exit_code"] == 4


def test_a_run_folder_that_was_removed_ends_the_runner(new_run: NewRun) -> None:
    run = new_run().start('echo a; sleep 0.3; rm -rf "$(dirname "$PWD")"')
    run.runners[0].wait(60)
    assert not run.folder.exists()


def test_a_run_folder_that_was_closed_is_opened_for_the_result(new_run: NewRun) -> None:
    """By the command. Root, whom it does not keep out, tells only that it does no harm."""
    run = new_run().start('echo a; sleep 0.3; echo b; chmod 0 "$(dirname "$PWD")"; exit 3')
    run.runners[0].wait(60)
    run.folder.chmod(0o700)
    assert run.result()["exit_code"] == 3
    assert run.output() == b"a\nb\n"


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system takes root")
def test_a_small_file_system(new_run: NewRun, tmp_path: Path, until: Callable[..., None]) -> None:
    run = new_run()
    spool = run.folder / "spool"
    spool.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {spool} 2>/dev/null"):
        pytest.skip("tmpfs cannot be mounted here")
    try:
        run.start("head -c 1000000 /dev/urandom | base64; rm -f fill")
        until(lambda: "No space left" in (run.folder / "runner.log").read_text())
        until(lambda: not run.pids())
        taken = tmp_path / "taken"
        taken.mkdir()
        while run.runners[0].poll() is None:  # the stack takes files out, and there is room again
            for path in sorted((run.folder / "spool/logs").iterdir()):
                (taken / path.name).write_bytes(path.read_bytes())
                path.unlink()
            assert os.system(f"mount -o remount,size=8m {spool}") == 0
            time.sleep(0.05)
        result = run.result()
        assert (result["exit_code"], result["lost_bytes"]) == (0, 0)
        assert len(list(taken.iterdir())) + len(list((run.folder / "spool/logs").iterdir())) == result["chunks"]
    finally:
        run.end()
        assert os.system(f"umount -l {spool}") == 0
