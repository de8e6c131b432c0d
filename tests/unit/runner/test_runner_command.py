"""The command gets exactly what was asked for, and its end is told exactly."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

NewRun = Callable[[], Any]


def test_exit_codes(new_run: NewRun) -> None:
    """Those that mean something to somebody, and some between: a code is passed on and never looked at."""
    codes = [0, 1, 2, 77, 119, *range(120, 132), 137, 139, 143, 159, 192, 254, 255]
    for some in (codes[:12], codes[12:]):
        runs = {code: new_run().start(f"exit {code}") for code in some}
        results = {code: run.wait() for code, run in runs.items()}
        assert {code: result["exit_code"] for code, result in results.items()} == {code: code for code in runs}
        assert {result["outcome"] for result in results.values()} == {"exited"}


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 13, 15])
def test_signals(new_run: NewRun, number: int) -> None:
    # 1, 13: what the runner ignores must not be ignored by the command.
    result = new_run().start(f"kill -{number} $$").wait()
    assert (result["outcome"], result["exit_code"], result["signal"]) == ("signalled", 128 + number, number)


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        (["no-such-program"], 127, "not found"),
        (["/no/such/program"], 127, "not found"),
        ([""], 127, "not found"),
        (["/etc"], 126, "Permission denied"),
        (["/etc/hostname/x"], 127, "not found"),
        (["./ü"], 127, "not found"),
    ],
)
def test_what_cannot_be_executed(new_run: NewRun, command: list[str], exit_code: int, said: str) -> None:
    run = new_run().start(command)
    result = run.wait()
    assert (result["outcome"], result["exit_code"], result["chunks"]) == ("exec_failed", exit_code, 1)
    assert said in result["message"]
    assert said in run.output("sys").decode()


def test_a_file_without_an_interpreter_line(new_run: NewRun, tmp_path: Any) -> None:
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    assert new_run().start([str(script)]).wait()["exit_code"] == 126, "it may not be executed"
    script.chmod(0o755)
    result = new_run().start([str(script)]).wait()
    assert result["exit_code"] == 126
    assert "#!" in result["message"]


ARGUMENTS = [
    "", " ", "a b", "'", '"', "$(touch /tmp/no)", "`id`", "a\nb", "\n", "é", "\U0001f600", "--help", "-c", "\\", "\\n",
    "*", "~", ";", "&&", "#", "%s", "\x01\x7f", "a\\", "!x", "{a,b}", "x" * 100_000, "\udcff",
]  # fmt: skip


def test_arguments_arrive_byte_for_byte(new_run: NewRun) -> None:
    script = "import os,sys,json; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"
    run = new_run().start([sys.executable, "-X", "utf8", "-c", script, *ARGUMENTS])
    assert run.wait()["exit_code"] == 0
    assert json.loads(run.output()) == [word.encode("utf-8", "surrogateescape").hex() for word in ARGUMENTS]


def test_a_shell_line_is_one_argument(new_run: NewRun) -> None:
    run = new_run().start('printf \'%s|\' "$0" "$#" \'a  b\' "$(echo x)"')
    assert run.wait()["exit_code"] == 0
    assert run.output() == b"/bin/sh|0|a  b|x|"


def test_the_environment(new_run: NewRun) -> None:
    secret = base64.b64encode(b"s3\xff=\n").decode()
    run = new_run().start(["env", "-0"], env={"A": "é =\n", "HOME": "/h"}, secrets={"S": secret})
    run.wait()
    seen = dict(line.split(b"=", 1) for line in run.output().split(b"\0") if line)
    kept = {
        name.encode(): os.environb[name.encode()]
        for name in ("PATH", "USER", "LANG", "TZ", "TMPDIR")
        if name in os.environ
    }
    own = {b"RUNVOY_EXECUTION_ID": run.id.encode(), b"HOME": b"/h"}
    assert seen == kept | own | {b"A": "é =\n".encode(), b"S": b"s3\xff=\n"}


def test_the_surroundings(new_run: NewRun) -> None:
    script = (
        "import os,sys,signal;"
        "fds={f: os.readlink(f'/proc/self/fd/{f}') for f in sorted(os.listdir('/proc/self/fd'), key=int) if os.path.lexists(f'/proc/self/fd/{f}')};"
        "print(os.getcwd(), os.listdir(), oct(os.stat('.').st_mode & 0o777), oct(os.umask(0)), os.getsid(0)==os.getpid(), sys.stdin.read()=='');"
        "print(fds['0'], [os.path.basename(t) for f,t in fds.items() if int(f) > 2]);"
        "print(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], open('/proc/self/status').read().split('SigBlk:')[1].split()[0])"
    )
    run = new_run().start(["/usr/bin/env", "-u", "LANG", sys.executable, "-S", "-c", script])
    run.wait()
    place, fds, signals = run.output().decode().splitlines()
    assert place == f"{run.folder}/work [] 0o700 0o22 True True"
    assert re.fullmatch(r"/dev/null \['claim\.[0-9a-f]{16} \(deleted\)'\]", fds), "the lock, and nothing else"
    ignored, blocked = signals.split()
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ~((1 << 12) | (1 << 24)) == 0, "only what that Python itself ignores: PIPE and XFSZ"
    assert not (run.folder / "work").exists()


def test_a_working_directory_that_was_made_read_only_is_removed(new_run: NewRun) -> None:
    run = new_run().start("mkdir -p a/b && touch a/b/c && ln -s / a/root && chmod 500 a/b a")
    assert run.wait()["exit_code"] == 0
    assert not (run.folder / "work").exists()
    assert (run.folder / "runner.log").read_text() == ""


def test_modes_and_reports(new_run: NewRun) -> None:
    run = new_run().start("true")
    result = run.wait()
    started = run.report("started")
    assert started["pid"] > 1
    assert started["started_at_ms"] == result["started_at_ms"] <= result["ended_at_ms"]
    assert (result["lines"], result["chunks"], result["lost_bytes"], result["message"]) == (0, 1, 0, "")
    for path in run.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_command_cannot_read_its_runner(new_run: NewRun) -> None:
    run = new_run().start(
        'stat -c "%u" /proc/$PPID/environ; grep -c . /proc/$PPID/environ || true; grep Dumpable /proc/self/status || true'
    )
    run.wait()
    # A process that is not dumpable belongs to root in /proc. (Root itself may read everything, always.)
    assert run.output().split()[0] == b"0"
