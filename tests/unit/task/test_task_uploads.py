"""What a task says reaches the outbox: whole where that is possible, and visibly short where it is not."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.core import lifecycle
from runvoy_agent.handlers.documents import store
from runvoy_agent.runner.http_calls import Connections
from runvoy_agent.runner.output import CHUNK_BYTES, Output
from runvoy_agent.runner.payload import parse
from runvoy_agent.runner.run_grant import RunGrant
from runvoy_agent.runner.shipping import FIRST_DELAY_SECONDS
from runvoy_agent.runner.uploads import Uploader
from runvoy_protocol.states import State

NewTask = Callable[[], Any]
Until = Callable[..., None]
MIB = 1024 * 1024


def granted(task: Any) -> RunGrant:
    payload = parse(json.dumps(task.payload | {"command": "true"}).encode())
    return RunGrant(payload, Connections())


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_50_mb_arrive_to_the_byte(new_task: NewTask, everybodys_python: str) -> None:
    script = (
        "import os, random, sys\n"
        "r = random.Random(7); block = r.randbytes(1 << 20)\n"
        "for n in range(50): sys.stdout.buffer.write(b'%d:' % n + block + b'\\n')\n"
    )
    task = new_task().start([everybodys_python, "-S", "-c", script])
    result = task.wait(timeout=170)
    block = random.Random(7).randbytes(1 << 20)
    whole = b"".join(b"%d:" % n + block + b"\n" for n in range(50))
    assert task.output() == whole, "to the byte"
    assert result.lost_bytes == 0
    assert result.lines == whole.count(b"\n")
    assert task.server.max_upload <= 9 * MIB, (
        "4 MiB of output; base64 in JSON, for it is no text, before it is compressed"
    )


def test_a_store_that_is_down_for_a_while_loses_nothing(new_task: NewTask, until: Until) -> None:
    task = new_task()
    task.server.status = 503
    task.start("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done")
    until(lambda: "HTTP 503" in task.remarks())
    task.server.status = -1  # and then it does not even answer
    until(lambda: len([path for _, path in task.server.calls if path == "/outbox"]) > 4)
    task.server.status = 0
    result = task.wait()
    assert task.output() == b"1\n2\n3\n4\n5\n"
    assert (result.exit_code, result.lost_bytes) == (0, 0)
    assert task.server.uploads[0].endswith("/started.json"), "in the order in which they were made"


@pytest.mark.slow
def test_a_command_waits_for_a_store_that_is_down_for_a_short_while(
    new_task: NewTask, everybodys_python: str, until: Until
) -> None:
    """As it waits for any pipe; the runner's memory does not grow with what the command has to say."""
    script = (
        "import random, sys\n"
        "r = random.Random(7); block = r.randbytes(1 << 20)\n"
        "for n in range(80): sys.stdout.buffer.write(b'%d:' % n + block)\n"
    )
    task = new_task()
    task.server.status = 503
    task.start([everybodys_python, "-S", "-c", script])
    until(lambda: (task.folder / "runner.out").stat().st_size > 30 * MIB, timeout=60)
    said = -1
    while said != (said := (task.folder / "runner.out").stat().st_size):
        time.sleep(1)
    assert said < 60 * MIB, "the command waits"
    with contextlib.suppress(PermissionError):
        status = Path(f"/proc/{task.runner.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 150 * 1024
    assert task.runner.poll() is None
    task.server.status = 0
    result = task.wait(timeout=170)
    block = random.Random(7).randbytes(1 << 20)
    assert task.output() == b"".join(b"%d:" % n + block for n in range(80))
    assert result.lost_bytes == 0


def test_a_store_that_stays_down_leaves_the_platforms_word(new_task: NewTask) -> None:
    task = new_task()
    task.server.status = 503
    task.start("echo hello; exit 5", ship_seconds=1)
    assert task.runner.wait(60) == 69
    assert "the log and the result were not uploaded: HTTP 503" in task.remarks()
    assert task.server.uploads == []
    assert task.main.wait(60) == 5, "what the platform will say"


def test_secrets_are_masked_everywhere(new_task: NewTask) -> None:
    secret = "hunter2-hunter2"
    command = "echo $S; echo $S | base64; printf 'hunter2-'; sleep 0.3; echo hunter2; echo x$S >&2; exec ./$S"
    task = new_task().start(command, secrets={"S": base64.b64encode(secret.encode()).decode()})
    task.wait()
    seen = b"".join(task.chunks()) + task.output() + task.output("err") + task.output("sys")
    seen += b"".join((task.folder / name).read_bytes() for name in ("runner.out", "runner.err", "main.log"))
    assert secret.encode() not in seen
    assert base64.b64encode(secret.encode())[:12] not in seen
    assert task.output() == b"***\n***\n***\n"
    assert task.output("err").startswith(b"x***\n")


def test_an_expired_grant_is_renewed(new_task: NewTask, world: Any) -> None:
    task = new_task()
    world.clock.move(hours=2)  # the store's and the deployment's time; the runner's own is behind by that much
    task.start("echo hello")
    task.wait()
    assert task.output() == b"hello\n"
    calls = [path for method, path in task.server.calls if method == "POST" and path.startswith("/api/")]
    assert calls == [f"/api/v1/runs/{task.id}/grant"] * 2, "once to be told the time, and once more"


def test_a_grant_is_renewed_before_it_expires(new_task: NewTask, world: Any) -> None:
    world.clock.move(minutes=-50)
    task = new_task()
    world.clock.move(minutes=50)
    task.start("echo hello")
    task.wait()
    posts = [path for method, path in task.server.calls if method == "POST"]
    assert posts[:2] == [f"/api/v1/runs/{task.id}/grant", "/outbox"]
    assert posts.count("/outbox") == len(task.server.uploads), "no upload was refused"


def test_a_run_that_was_settled_may_write_no_more(new_task: NewTask, world: Any, until: Until) -> None:
    task = new_task().start("touch up; while [ -e up ]; do sleep 0.05; done; echo late")
    until((task.folder / "home/up").exists)
    until(lambda: len(task.server.uploads) == 1)
    current = store.load_execution(world.records, task.id)
    assert current.document is not None
    settled = lifecycle.settle_lost(current.document, world.clock.now(), "for the test")
    assert settled is not None
    world.records.commit([store.put(current, settled)])
    assert world.execution(task.id).state is State.UNKNOWN
    world.clock.move(hours=1)
    (task.folder / "home/up").unlink()
    assert task.runner.wait(60) == 69
    assert "the execution is not under way" in task.remarks() or task.server.uploads[1:] == []
    assert [key.rpartition("/")[2] for key in task.server.uploads] == ["started.json"]


def test_quiet_output_comes_soon_and_steady_output_in_larger_chunks(new_task: NewTask) -> None:
    task = new_task().start("i=0; while [ $i -lt 60 ]; do echo $i; sleep 0.05; i=$((i+1)); done")
    task.wait()
    assert task.output() == b"".join(b"%d\n" % number for number in range(60))
    times = [record.t for record in task.records() if record.s == "out"]
    seconds = (times[-1] - times[0]) / 1000  # 3, and more on a busy machine
    assert len(task.chunks()) < 12 + seconds, "one a second once it is steady"


# --- the uploader alone ----------------------------------------------------------------------------------------------


def in_seconds(seconds: float) -> Callable[[], float]:
    at = time.monotonic() + seconds
    return lambda: at


def test_delays_grow_while_output_goes_on(new_task: NewTask) -> None:
    uploader = Uploader(granted(new_task()))
    delays = []
    for number in range(9):
        delays.append(uploader.delay_seconds())
        uploader.put(f"logs/{number + 1:08d}", b"x")
    assert delays[0] == FIRST_DELAY_SECONDS
    assert delays == sorted(delays)
    assert delays[-1] == 1.0
    assert uploader.finish(in_seconds(60))


def test_memory_is_bounded_by_waiting_and_then_by_losing(new_task: NewTask, until: Until) -> None:
    task = new_task()
    task.server.status = 503
    uploader = Uploader(granted(task), pending_bytes=1000, patience_seconds=0.5)
    uploader.put("logs/00000001", bytes(999))
    assert (uploader.is_busy, uploader.is_full) == (False, False)
    uploader.put("logs/00000002", b"x")
    assert uploader.is_behind
    until(lambda: uploader.is_full)
    assert not uploader.is_busy
    task.server.status = 0
    until(lambda: not uploader.is_full)
    assert uploader.finish(in_seconds(60))
    assert [key[-8:] for key in task.server.uploads] == ["00000001", "00000002"]
    assert uploader.failure.startswith("HTTP 503"), "kept, for the line that tells of what was lost"


def test_output_that_could_not_be_shipped_in_time_is_told_of(new_task: NewTask, until: Until) -> None:
    task = new_task()
    task.server.status = 503
    uploader = Uploader(granted(task), pending_bytes=100_000, patience_seconds=0.2)
    output = Output(uploader)
    block = random.Random(3).randbytes(2 * CHUNK_BYTES)
    output.feed("out", block)
    until(lambda: uploader.is_full)
    for _ in range(3):
        output.feed("out", b"lost\n")
    task.server.status = 0
    until(
        lambda: len(task.server.uploads) == output.chunks and not uploader.is_full
    )  # of one left it may be full again
    output.feed("out", b"end\n")
    output.end()
    assert uploader.finish(in_seconds(60))
    assert task.output() == block + b"end\n"
    assert output.lost_bytes == 15
    assert b"runvoy: 15 bytes of output were lost: HTTP 503" in task.output("sys")


def test_finish_ends_when_there_is_no_more_time(new_task: NewTask) -> None:
    task = new_task()
    task.server.status = 503
    uploader = Uploader(granted(task))
    uploader.put("result.json", b"{}")
    assert not uploader.finish(in_seconds(0))


def test_what_is_under_the_grant_and_nothing_else_can_be_written(new_task: NewTask) -> None:
    task = new_task()
    grant = granted(task)
    grant._key_prefix = grant._key_prefix.removesuffix("run/")
    uploader = Uploader(grant)
    uploader.put("status.json", b"{}")
    assert uploader.finish(in_seconds(60)), "by the grant that was asked for then"
    assert "HTTP 403" in uploader.failure
    assert [key.endswith("/run/status.json") for key in task.server.uploads] == [True]


@pytest.mark.parametrize("grant", [None, {}, {"key_prefix": "x"}, {"logs": 7, "reports": {}}])
def test_a_grant_that_is_none(new_task: NewTask, grant: Any) -> None:
    task = new_task()
    task.payload["grant"] = grant
    with pytest.raises(Exception, match="the payload's grant is malformed"):
        granted(task)
