"""Every end but the deadline: nothing of a run outlives it, and what came first is what it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runvoy_agent

NewRun = Callable[[], Any]
Until = Callable[..., None]


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


DAEMON = (
    "import os,time\n"
    "if os.fork() == 0:\n"
    "  os.setsid()\n"
    "  if os.fork() == 0:\n"
    "    open('daemon','w').write(str(os.getpid())); print('daemon', flush=True); time.sleep(1000)\n"
    "  os._exit(0)\n"
    "while not os.path.exists('daemon'): time.sleep(.01)\n"
    "os._exit(5)\n"
)


def test_a_daemon_that_holds_the_pipe_is_ended(new_run: NewRun) -> None:
    run = new_run().start(python(DAEMON))
    assert run.wait()["exit_code"] == 5
    assert run.output() == b"daemon\n"
    assert run.output("sys") == b"", "a pipe that was waited for in vain would be told of"
    assert run.pids() == []


def test_a_fork_tree_is_ended(new_run: NewRun) -> None:
    tree = "f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; trap '' TERM; sleep 1000; }; f 3 & f 3 & sleep 0.4; exit 6"
    run = new_run().start(tree)
    assert run.wait()["exit_code"] == 6
    assert run.pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kill(new_run: NewRun, until: Until, number: signal.Signals) -> None:
    run = new_run().start("sleep 1000")
    until((run.folder / "spool/started.json").exists)
    run.runners[0].send_signal(number)
    result = run.wait()
    assert (result["outcome"], result["exit_code"], result["signal"]) == ("killed", 143, 15)


def test_a_kill_that_the_command_answers_with_0(new_run: NewRun, until: Until) -> None:
    run = new_run().start("trap 'exit 0' TERM; touch ready; while :; do sleep 0.05; done", grace_seconds=20)
    until((run.folder / "work/ready").exists)
    run.runners[0].terminate()
    result = run.wait()
    assert (result["outcome"], result["exit_code"]) == ("killed", 0)


def test_a_kill_before_the_start(new_run: NewRun) -> None:
    run = new_run()
    (run.folder / "kill").touch()
    result = run.start("echo no > ../../ran").wait()
    assert (result["outcome"], result["exit_code"], result["chunks"], result["lines"]) == ("killed", None, 1, 0)
    assert not (run.folder.parent / "ran").exists()
    assert not (run.folder / "spool/started.json").exists()


def test_hangup_and_a_broken_pipe_do_not_end_the_runner(new_run: NewRun, until: Until) -> None:
    run = new_run().start("while [ ! -e go ]; do sleep 0.02; done; exit 3")
    until((run.folder / "spool/started.json").exists)
    run.runners[0].send_signal(signal.SIGHUP)
    run.runners[0].send_signal(signal.SIGPIPE)
    (run.folder / "work/go").touch()
    result = run.wait()
    assert (result["outcome"], result["exit_code"]) == ("exited", 3)


def test_of_20_runners_one_runs(new_run: NewRun) -> None:
    run = new_run()
    payload = run.payload("echo $$ >> ../ran; sleep 0.3; exit 7")
    for _ in range(20):
        run.start_with(payload)
    assert [runner.wait(60) for runner in run.runners] == [0] * 20
    assert len((run.folder / "ran").read_text().splitlines()) == 1
    assert run.result()["exit_code"] == 7
    assert json.loads((run.folder / "started").read_text())["pid"] in [runner.pid for runner in run.runners]
    assert [path.name for path in run.folder.glob("started*")] == ["started"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda payload: payload[:-1],
        lambda payload: payload[: len(payload) // 2],
        lambda payload: b"",
        lambda payload: b"[]",
        lambda payload: b"[" * 100_000,
        lambda payload: payload.replace(b'"attempt": 1', b'"attempt": null'),
        lambda payload: payload.replace(b'"true"', b'"a\\u0000b"'),
        lambda payload: payload.replace(b'"true"', b"[]"),
        lambda payload: payload.replace(b'"env": {}', b'"env": {"A=B": "x"}'),
        lambda payload: payload.replace(b'"execution_id": "', b'"execution_id": "0'),
    ],
)
def test_a_bad_payload_claims_nothing(new_run: NewRun, spoil: Callable[[bytes], bytes]) -> None:
    run = new_run()
    assert run.start_with(spoil(run.payload("true"))).wait(60) == 64
    assert not run.is_claimed()
    assert (run.folder / "runner.log").read_text()


def test_a_working_directory_that_cannot_be_made(new_run: NewRun) -> None:
    run = new_run()
    (run.folder / "work").touch()
    result = run.start("true").wait()
    assert (result["outcome"], result["exit_code"]) == ("setup_failed", None)
    assert "set up" in run.output("sys").decode()


def test_the_runner_runs_from_a_zip(new_run: NewRun, tmp_path: Any) -> None:
    package = Path(next(iter(runvoy_agent.__path__))) / "runner"
    archive = tmp_path / "runner.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("runvoy_agent/__init__.py", "")
        for module in package.glob("*.py"):
            bundle.write(module, f"runvoy_agent/runner/{module.name}")
        bundle.writestr(
            "__main__.py", "import sys\nfrom runvoy_agent.runner.main import main\nsys.exit(main(sys.argv))\n"
        )
    run = new_run()
    command = [sys.executable, "-I", "-S", str(archive), str(run.folder)]
    assert subprocess.run(command, input=run.payload("exit 8"), stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert run.result()["exit_code"] == 8
