"""How a run in a task ends: by itself, by its deadline, by a kill, or without ever having begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NewTask = Callable[[], Any]
Until = Callable[..., None]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


FORKS = "trap '' TERM; f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; sleep 1000; }; f 3 & echo ready; wait"


def test_what_is_shown_is_whole_and_in_order(new_task: NewTask) -> None:
    task = new_task().start("for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf 'no end'; exit 3")
    result = task.wait()
    assert (result.outcome, result.exit_code, result.lost_bytes) == ("exited", 3, 0)
    assert task.output() == b"out 1\nout 2\nout 3\nno end"
    assert task.output("err") == b"err 1\nerr 2\nerr 3\n"
    records = task.records()
    assert [record.end for record in records] == [False] * (len(records) - 1) + [True]
    assert records[-1].n == result.lines + 1 == 8
    assert result.chunks == len(task.chunks())
    assert task.started().started_at_ms == result.started_at_ms
    assert task.server.uploads[-1].endswith("/result.json")
    assert (task.folder / "runner.out").read_bytes() == task.output(), "the same goes to the platform's log"


def test_the_steps_of_a_playbook_keep_their_place(new_task: NewTask) -> None:
    head = "# playbook x\nmark=${RUNVOY_MARK-}; unset RUNVOY_MARK\n"
    step = "printf '%s' \"$mark\"; printf '%s%s\\n' \"$mark\" 'step N' >&2; /bin/sh -c 'echo printed N; env | grep -c RUNVOY_MARK'\n"
    task = new_task().start(head + "".join(step.replace("N", str(number)) for number in (1, 2, 3)))
    task.wait()
    text = b"".join(record.data for record in task.records()).decode()
    assert text == "".join(f"step {number}\nprinted {number}\n0\n" for number in (1, 2, 3))


def test_the_payload_is_fetched_once_and_deleted_before_the_command_runs(new_task: NewTask) -> None:
    task = new_task().start("true")
    task.wait()
    staging = [method for method, path in task.server.calls if path.startswith("/staging/")]
    assert staging == ["GET", "DELETE"]
    assert task.server.calls.index(("DELETE", f"/staging/{task.id}")) < task.server.calls.index(("POST", "/outbox"))
    assert task.server.staging == {}


def test_output_of_a_child_that_outlives_the_command(new_task: NewTask) -> None:
    task = new_task().start("(trap '' HUP TERM; while echo tick; do sleep 0.05; done) & sleep 0.3; echo bye; exit 4")
    result = task.wait()
    assert result.exit_code == 4
    assert b"tick\n" in task.output()
    assert b"bye\n" in task.output()
    assert task.living() == []


def test_a_daemon_that_holds_the_pipe_is_ended(new_task: NewTask, own_cgroup: Path, everybodys_python: str) -> None:
    """By its cgroup: nothing else tells that it belongs here."""
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  if os.fork() == 0:\n"
        "    os.setsid(); print('daemon', os.getpid(), flush=True); open('up', 'w').close(); time.sleep(1000)\n"
        "  os._exit(0)\n"
        "while not os.path.exists('up'): time.sleep(.01)\n"
        "os._exit(5)\n"
    )
    task = new_task()
    task.start_main()
    (own_cgroup / "cgroup.procs").write_text(f"{task.main.pid}\n")
    task.start_runner([everybodys_python, "-S", "-c", daemon])
    result = task.wait()
    assert result.exit_code == 5
    assert task.output().startswith(b"daemon ")
    assert not is_alive(int(task.output().split()[1]))
    assert "still open" not in task.output("sys").decode()


def test_a_pipe_that_somebody_else_holds_is_not_waited_for(new_task: NewTask, until: Until) -> None:
    task = new_task().start("echo hello; touch up; while [ -e up ]; do sleep 0.05; done")
    until((task.folder / "home/up").exists)
    held = os.open(task.folder / "out", os.O_WRONLY | os.O_NONBLOCK)
    (task.folder / "home/up").unlink()
    result = task.wait()
    os.close(held)
    assert (result.outcome, result.exit_code) == ("exited", 0)
    assert b"stdout was still open 5 seconds after" in task.output("sys")


@pytest.mark.parametrize(
    ("command", "code", "number"),
    [
        ("echo ready; exec sleep 1000", 143, 15),
        ("trap '' TERM; echo ready; while :; do sleep 1000; done", 137, 9),
        ("trap 'echo bye; exit 0' TERM; echo ready; sleep 1000 & wait", 0, None),
        (FORKS, 137, 9),
        ("echo ready; kill -STOP $PPID; sleep 1000", 143, 15),
    ],
)
def test_a_deadline(new_task: NewTask, command: str, code: int, number: int | None) -> None:
    # Who obeys has all the time that a busy machine takes for it; where nobody is there to tell, the grace is what is waited for.
    is_waited_for = number == 9 or "STOP" in command
    task = new_task().start(command, timeout_seconds=2, grace_seconds=1 if is_waited_for else 20)
    result = task.wait()
    assert (result.outcome, result.exit_code, result.signal) == ("timed_out", code, number)
    assert result.message == "timed out after 2 s"
    assert result.ended_at_ms - result.started_at_ms >= 2000
    assert b"ready\n" in task.output()
    assert task.living() == []
    assert b"bye" in task.output() or number is not None


def test_a_kill_is_a_deadline_that_comes_now(new_task: NewTask, until: Until) -> None:
    task = new_task().start("trap 'echo bye; exit 9' TERM; touch up; sleep 1000 & wait", grace_seconds=20)
    until((task.folder / "home/up").exists)
    task.main.terminate()  # StopTask tells both containers
    task.runner.terminate()
    result = task.wait()
    assert (result.outcome, result.exit_code, result.message) == ("killed", 9, "killed")
    assert task.output() == b"bye\n"
    assert task.living() == []


def test_a_kill_before_the_wrapper_came(new_task: NewTask, until: Until) -> None:
    task = new_task()
    task.start_runner("touch ran")
    until((task.folder / "go").exists)
    task.runner.terminate()
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("killed", None)
    assert not (task.folder / "home/ran").exists()


def test_a_wrapper_that_never_comes(new_task: NewTask) -> None:
    task = new_task()
    task.server.metadata = {"Containers": [{"Name": "runner"}, {"Name": "main", "KnownStatus": "PULLED"}]}
    task.start_runner("true", start_seconds=1)
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("setup_failed", None)
    assert "did not come within 1 s: its container is PULLED" in result.message
    assert result.message in task.output("sys").decode()


def test_a_container_that_ended_is_not_waited_for(new_task: NewTask) -> None:
    """An image without a shell: the platform says that its container stopped."""
    task = new_task()
    task.server.metadata = {"Containers": [{"Name": "main", "KnownStatus": "STOPPED", "ExitCode": 127}]}
    task.start_runner("true", start_seconds=600)
    result = task.wait()
    assert result.outcome == "setup_failed"
    assert "STOPPED with exit code 127" in result.message


@pytest.mark.parametrize("answer", [[], {"Containers": 3}, {"Containers": [{"Name": "main"}]}, {"Containers": [7]}])
def test_metadata_that_says_nothing(new_task: NewTask, answer: Any) -> None:
    task = new_task()
    task.server.metadata = answer
    task.start_runner("true", start_seconds=1)
    assert "nothing is known of its container" in task.wait().message


def test_a_wrapper_that_is_killed_with_all_its_processes(new_task: NewTask) -> None:
    task = new_task().start("echo before; kill -9 0; sleep 5")
    result = task.wait()
    assert (result.outcome, result.exit_code, result.signal) == ("signalled", 137, 9)
    assert "its exit code is lost" in result.message
    assert task.output() == b"before\n"


def test_a_shell_that_is_none(new_task: NewTask, until: Until) -> None:
    task = new_task()
    task.start_runner("true")
    until((task.folder / "go").exists)
    with (task.folder / "go").open("rb") as go:
        go.read()
    with (task.folder / "report").open("wb") as report:
        report.write(b"hello\n")
    result = task.wait()
    assert result.outcome == "setup_failed"
    assert "does not work as a shell: it said 'hello'" in result.message


def test_the_command_cannot_look_into_the_runner(new_task: NewTask, until: Until) -> None:
    task = new_task().start("touch up; while [ -e up ]; do sleep 0.05; done")
    until((task.folder / "home/up").exists)
    status = Path(f"/proc/{task.runner.pid}/environ").stat()
    assert (status.st_uid, status.st_mode & 0o077) == (0, 0), "a process that may not be looked into is root's"
    (task.folder / "home/up").unlink()
    task.wait()


def test_a_reader_of_a_cut_off_script_runs_nothing(new_task: NewTask, until: Until) -> None:
    """A runner that dies while it hands over: what was read so far is no whole command."""
    for shell in ("dash", "bash", "busybox ash", "mksh"):
        task = new_task()
        task.start_main(shell)
        os.mkfifo(task.folder / "go.new")
        (task.folder / "go.new").chmod(0o666)
        (task.folder / "go.new").rename(task.folder / "go")
        with (task.folder / "go").open("wb") as go:
            go.write(b"{ set +euvx\ntouch ran\nset -- 'x\n")
        assert task.main.wait(60) != 0
        assert not (task.folder / "home/ran").exists()


@pytest.mark.parametrize("name", ["payload of another", "no payload", "malformed", "no grant"])
def test_a_payload_that_is_no_good(new_task: NewTask, name: str) -> None:
    task = new_task()
    if name == "payload of another":
        task.payload["execution_id"] = "0" * 32
    elif name == "malformed":
        task.payload["execution_key"] = "00"
    elif name == "no grant":
        del task.payload["grant"]
    task.start_main()
    task.start_runner("touch ran") if name != "no payload" else start_without_payload(task)
    assert task.runner.wait(60) == (66 if name == "no payload" else 64), task.remarks()
    assert not (task.folder / "home/ran").exists()
    assert task.server.uploads == []


def start_without_payload(task: Any) -> None:
    task.server.get = lambda _path: (403, b"")
    task.start_runner("touch ran")


def test_a_payload_that_comes_at_the_third_try(new_task: NewTask) -> None:
    task = new_task()
    answers = [(-1, b""), (503, b"SlowDown")]
    get = task.server.get
    task.server.get = lambda path: answers.pop() if path.startswith("/staging") and answers else get(path)
    task.start("echo hello")
    task.wait()
    assert task.output() == b"hello\n"


def test_a_payload_that_cannot_be_deleted_is_said(new_task: NewTask) -> None:
    task = new_task()
    task.server.delete_status = 500
    task.start("echo hello")
    task.wait()
    assert task.output() == b"hello\n", "it expires there"
    assert "the payload was not deleted: HTTP 500" in task.remarks()


def test_the_signal_reaches_every_session(new_task: NewTask, until: Until, everybodys_python: str) -> None:
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(15, lambda *_: (os.write(1, b'child bye\\n'), os._exit(0)))\n"
        "os.setsid(); open('up', 'w').close(); time.sleep(1000)\n"
    )
    command = ["/bin/sh", "-c", 'trap "" TERM; "$0" -S -c "$1" & wait; exit 3', everybodys_python, script]
    task = new_task().start(command, grace_seconds=5)
    until((task.folder / "home/up").exists)
    task.runner.send_signal(signal.SIGTERM)
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("killed", 3)
    assert task.output() == b"child bye\n"
