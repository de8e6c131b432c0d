"""Which executions are copied, how often, and by which clock: the mirror and the listing on a deployment that a test scripts."""

import gzip
import json
import random
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from typing import cast

import msgspec
import pytest
from tests.unit.sync_cases import NOW, ended

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.http.transport import Answer
from runvoy_cli.input.options import Settings
from runvoy_cli.terminal.render import Console
from runvoy_protocol.control import ExecutionAnswer, ExecutionsPage, Health, LogGrant, LogGrantsAnswer, OutboxGrant
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_sync.copies import Copy
from runvoy_sync.ended import copy_ended
from runvoy_sync.listing import Listing
from runvoy_sync.mirror import HANDED_OVER, MOST_BYTES_AT_HAND, Mirror
from runvoy_sync.tell import Teller
from runvoy_sync.tree import Tree

CHUNK = gzip.compress(b'{"n":1,"t":5,"s":"out","m":"one\\ntwo\\n"}\n{"n":3,"t":5,"s":"sys","end":true}\n')


class Deployment:
    """What a daemon asks of a deployment, and counts of it; also the client."""

    def __init__(self, *executions):
        self.target = Target("http://h", "here", SigningKey(bytes(32)))
        self.executions = list(executions)
        self.time = NOW
        self.since = []
        self.asked = {"logs": 0, "outbox": 0, "read": 0}
        self.grants_many = True
        self.is_inline = True
        self.away = 0  # so many calls find nobody
        self.refuses = 0  # so many reads

    def sibling(self):
        return self

    def now(self):
        return self.time

    def health(self):
        if self.away > 0:
            self.away -= 1
            raise RunvoyError(ErrorCode.UNAVAILABLE, "no answer")
        return Health(status="ok", version="0", deployment_id="here", time=self.time), 0.0, 0.0

    def ask(self, kind, method, path, body=b"", query=None):
        assert (kind, method, path) == (ExecutionsPage, "GET", "/executions")
        if "updated_since" in query or "after" not in query:
            self.since.append(query.get("updated_since"))
        start = int(query.get("after", "0"))
        end = start + int(query["limit"])
        after = str(end) if end < len(self.executions) else None
        return ExecutionsPage(executions=tuple(self.executions[start:end]), after=after)

    def show(self, execution_id):
        (status,) = (one for one in self.executions if one.execution_id == execution_id)
        return ExecutionAnswer(state="admitted", status=status)

    def log_grants(self, execution_ids):
        self.asked["logs"] += 1
        if not self.grants_many:
            raise RunvoyError(ErrorCode.NOT_FOUND, "POST /grants/logs does not exist")
        ids = execution_ids[:150]  # as many as it likes
        grants = (
            LogGrant(execution_id=one, chunks=(CHUNK,))
            if self.is_inline
            else LogGrant(execution_id=one, chunk_urls=("u",))
            for one in ids
        )
        return LogGrantsAnswer(expires_at=NOW, executions=tuple(grants))

    def outbox_grant(self, execution_id, from_chunk=1, object_sha256=None):
        self.asked["outbox"] += 1
        return OutboxGrant(state="admitted", expires_at=NOW, status_url="s", chunk_urls=("u",))

    def read(self, url, etag="", wait_seconds=0.0):
        self.asked["read"] += 1
        self.refuses -= 1
        if self.refuses >= 0:
            return Answer(403, {}, b"")
        return Answer(200, {}, CHUNK)


class Kept:
    """A mirror and a listing on a folder."""

    def __init__(self, folder, deployment):
        self.tree = Tree(folder)
        self.deployment = deployment
        self.codes = []
        self.left = []  # how many were still to be copied when each end was told
        self.has_ended = False
        self.swept = threading.Event()
        teller = Teller(Console(Settings()), deployment.now)
        self.mirror = Mirror(self.tree, deployment, teller, self.told)
        self.listing = Listing(self.tree, deployment, self.mirror, teller, {}, self.swept.set)

    def told(self, one, code):
        self.codes.append((one, code))
        self.left.append(self.mirror.pending())

    def start(self):
        self.mirror.start()
        self.listing.start()

    def wait(self, holds):
        limit = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < limit
            time.sleep(0.01)

    def sweep(self):
        mark = self.listing.sweep_now()
        self.wait(lambda: self.listing.has_swept_since(mark))

    def end(self):
        if self.has_ended:
            return
        self.has_ended = True
        self.listing.stop()
        self.mirror.stop()
        for thread in (self.listing, *self.mirror.threads):
            if thread.ident is not None:
                thread.join(60)
        self.tree.close()

    def lines(self):
        path = self.tree.root / "executions.jsonl"
        return [json.loads(line)["execution_id"] for line in path.read_text().splitlines()]

    def check(self, executions):
        ids = sorted(one.execution_id for one in executions)
        assert sorted(self.lines()) == ids
        for one in ids:
            folder = self.tree.root / "executions" / one
            assert (folder / "log.txt").read_text() == "one\ntwo\n"
            assert json.loads((folder / "result.json").read_text())["log_is_whole"]
        assert not list((self.tree.root / "executions").rglob("*.tmp"))


@pytest.fixture
def kept(tmp_path):
    made = []

    def make(deployment):
        made.append(Kept(tmp_path, deployment))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_who_is_looked_at_again_before_the_last_step_is_not_finished_twice(kept):
    (status,) = executions = [ended(1)]
    one = kept(Deployment(*executions))
    one.mirror.watch(status.execution_id, status, LogGrant(execution_id=status.execution_id, chunks=(CHUNK,)))
    watched = one.mirror._watched[status.execution_id]
    for _ in range(3):
        assert one.mirror.look(one.deployment, watched) == HANDED_OVER
    one.mirror.start()
    one.wait(lambda: one.mirror.count() == 0)
    one.check(executions)
    assert one.codes == [(status.execution_id, 0)]


def test_a_folder_of_executions_that_is_a_link_is_told_and_tried_again(kept, tmp_path):
    """The listing had died of it, unseen: nothing was copied any more, and `--once` waited for ever."""
    executions = [ended(1)]
    one = kept(Deployment(*executions))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "executions").symlink_to(tmp_path / "elsewhere")
    one.start()
    one.wait(lambda: one.listing.trouble is not None)
    assert "not followed" in str(one.listing.trouble)
    (tmp_path / "executions").unlink()
    one.wait(lambda: len(one.codes) == 1)
    one.check(executions)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_sweep_that_was_stopped_is_not_over(kept):
    """The daemon's last line would say of a part of the history that it is all there was."""

    class Stopping(Deployment):
        def ask(self, *args, **options):
            page = super().ask(*args, **options)
            one.listing.stop()
            return page

    one = kept(Stopping(*(ended(number) for number in range(1, 250))))
    one.start()
    one.listing.join(60)
    assert not one.listing.is_alive()
    assert not one.listing.has_swept_since(0)
    assert not one.swept.is_set()


def printed(number):
    """A log of many chunks' sizes: some are a few bytes, some are written in several pieces, and none ends where a piece does."""
    line = f"{number} {'x' * (number % 90)} é\n"
    return [line * (1 + 7 * number), line * (number % 5 * 8_000), line]


def test_logs_of_all_sizes_at_hand_are_copied_byte_for_byte(kept):
    executions = [ended(number, chunks=3) for number in range(1, 41)]
    one = kept(Deployment())
    texts = {}
    for number, status in enumerate(executions):
        blocks = printed(number)
        records = [{"n": 1, "t": 5, "s": "out", "m": block} for block in blocks]
        chunks = tuple(gzip.compress(msgspec.json.encode(record) + b"\n", 1) for record in records)
        texts[status.execution_id] = (blocks, records)
        one.mirror.watch(status.execution_id, status, LogGrant(execution_id=status.execution_id, chunks=chunks))
    one.mirror.start()
    one.wait(lambda: one.mirror.count() == 0)
    for status in executions:
        folder = one.tree.root / "executions" / status.execution_id
        blocks, records = texts[status.execution_id]
        assert (folder / "log.txt").read_text() == "".join(blocks)
        found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert found == [record for record in records if record["m"]]


def test_who_lists_waits_while_much_of_logs_is_at_hand(kept):
    one = kept(Deployment())
    noise = random.Random(1).randbytes(1024 * 1024).hex()
    chunk = gzip.compress(msgspec.json.encode({"n": 1, "t": 5, "s": "out", "m": noise}) + b"\n", 1)
    executions = [ended(number) for number in range(1, 2 + MOST_BYTES_AT_HAND // len(chunk))]
    waits = threading.Thread(target=one.mirror.await_room)
    for status in executions:
        one.mirror.await_room()  # as long as there is little it goes on
        one.mirror.watch(status.execution_id, status, LogGrant(execution_id=status.execution_id, chunks=(chunk,)))
    waits.start()
    waits.join(0.2)
    assert waits.is_alive()
    one.mirror.start()
    waits.join(60)
    assert not waits.is_alive()
    one.wait(lambda: one.mirror.count() == 0)
    assert len(one.codes) == len(executions)


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_history_takes_a_few_calls(kept, is_inline):
    executions = [ended(number) for number in range(1, 451)]
    deployment = Deployment(*executions)
    deployment.is_inline = is_inline
    one = kept(deployment)
    one.start()
    one.wait(lambda: len(one.codes) == 450)
    one.check(executions)
    asked = deployment.asked
    assert (asked["outbox"], asked["read"]) == (0, 0 if is_inline else 450)
    assert 6 <= asked["logs"] <= 8, "150 at once at most, and a few first when nothing is at hand"


def test_a_deployment_that_grants_one_at_a_time_is_asked_so(kept):
    executions = [ended(number) for number in range(1, 21)]
    deployment = Deployment(*executions)
    deployment.grants_many = False
    one = kept(deployment)
    one.start()
    one.wait(lambda: len(one.codes) == 20)
    one.check(executions)
    assert deployment.asked == {"logs": 1, "outbox": 20, "read": 20}


def test_a_restart_finishes_what_is_there_and_copies_nothing_twice(kept):
    executions = [ended(number) for number in range(1, 31)]
    one = kept(Deployment(*executions))
    one.start()
    one.wait(lambda: len(one.codes) == 30)
    one.end()
    for status in executions[:5]:  # as a loss of power leaves them: without a result, and with torn files
        folder = one.tree.root / "executions" / status.execution_id
        (folder / "result.json").unlink()
        (folder / "request.json").write_bytes(b"")
        (folder / "status.json").write_bytes(b"")
        (folder / "log.jsonl").write_bytes(bytes(40))
    again = kept(Deployment(*executions))
    again.start()
    again.wait(lambda: len(again.codes) == 5)
    again.check(executions)
    for status in executions[:5]:
        folder = one.tree.root / "executions" / status.execution_id
        assert json.loads((folder / "request.json").read_text())["execution_id"] == status.execution_id
        assert json.loads((folder / "log.jsonl").read_text()) == {"n": 1, "t": 5, "s": "out", "m": "one\ntwo\n"}


def test_a_log_whose_read_is_refused_is_asked_for_again_and_copied_the_usual_way(kept):
    executions = [ended(number) for number in range(1, 21)]
    deployment = Deployment(*executions)
    deployment.is_inline = False
    deployment.refuses = 7  # the grant has expired, say
    one = kept(deployment)
    one.start()
    one.wait(lambda: len(one.codes) == 20)
    one.end()
    one.check(executions)
    assert deployment.asked["outbox"] == 7


@pytest.mark.parametrize(
    "chunks", [(CHUNK, b"no chunk"), (CHUNK[:-9],), (CHUNK, gzip.compress(b'{"n":3,"t":5,"s":"out","m":"x"}\n'))]
)
def test_a_log_is_the_same_whichever_way_it_is_copied(kept, tmp_path_factory, chunks):
    """At once into a new folder, or compared with what is there."""
    status = ended(1, chunks=len(chunks))
    client = cast("Client", Deployment(status))
    forms = []
    for is_new in (True, False):
        tree = Tree(tmp_path_factory.mktemp("tree"))
        log = LogGrant(execution_id=status.execution_id, chunks=chunks)
        with tree.folder("executions", status.execution_id):
            pass
        if is_new:
            assert copy_ended(tree, client, status, log)
        else:
            assert Copy(tree, client, status.execution_id, status, log).step().is_done
        folder = tree.root / "executions" / status.execution_id
        forms.append({path.name: path.read_bytes() for path in folder.iterdir()})
        tree.close()
    assert forms[0] == forms[1]
    assert set(forms[0]) == {"log.txt", "log.jsonl", "status.json", "request.json", ".result.json.tmp"}


def test_a_disk_that_becomes_full_leaves_no_torn_line(tmp_path):
    block = "x" * 99 + "\n"
    record = msgspec.json.encode({"n": 1, "t": 5, "s": "out", "m": block * 1_000})
    status = ended(1, chunks=3)
    log = LogGrant(execution_id=status.execution_id, chunks=(gzip.compress(record + b"\n"),) * 3)
    script = (
        "import resource, signal, sys, msgspec\n"
        "from pathlib import Path\n"
        "from runvoy_protocol.control import LogGrant\n"
        "from runvoy_protocol.status import ExecutionStatus\n"
        "from runvoy_sync.ended import copy_ended\n"
        "from runvoy_sync.tree import Tree\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, resource.RLIM_INFINITY))\n"
        "status, log = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[ExecutionStatus, LogGrant])\n"
        "copy_ended(Tree(Path(sys.argv[1])), None, status, log)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        input=msgspec.json.encode((status, log)),
        capture_output=True,
        check=False,
    )
    assert b"OSError: [Errno 27]" in ran.stderr
    folder = tmp_path / "executions" / status.execution_id
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {"log.txt": 0, "log.jsonl": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_chunks_that_take_much_memory_are_copied_one_after_the_other(tmp_path):
    """Of records of a byte each a chunk takes seven times its size while it is decoded."""
    record = msgspec.json.encode({"n": 1, "t": 5, "s": "out", "m": "\n"}) + b"\n"
    chunk = gzip.compress(record * (12 * 1024 * 1024 // len(record)), 1)
    copied = [
        (status, LogGrant(execution_id=status.execution_id, chunks=(chunk,)))
        for status in (ended(1), ended(2), ended(3))
    ]
    script = (
        "import re, sys, threading, msgspec\n"
        "from pathlib import Path\n"
        "from runvoy_protocol.control import LogGrant\n"
        "from runvoy_protocol.status import ExecutionStatus\n"
        "from runvoy_sync.ended import copy_ended\n"
        "from runvoy_sync.tree import Tree\n"
        "copied = msgspec.json.decode(sys.stdin.buffer.read(), type=list[tuple[ExecutionStatus, LogGrant]])\n"
        "tree = Tree(Path(sys.argv[1]))\n"
        "threads = [threading.Thread(target=copy_ended, args=(tree, None, *one)) for one in copied]\n"
        "[one.start() for one in threads]\n"
        "[one.join() for one in threads]\n"
        "print(re.search(r'VmHWM:\\s*([0-9]+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path], input=msgspec.json.encode(copied), capture_output=True, check=True
    )
    assert all(len(list((tmp_path / "executions" / one.execution_id).iterdir())) == 5 for one, _ in copied)
    assert int(ran.stdout) < 170 * 1024


def test_who_is_told_of_the_last_end_finds_nothing_left(kept):
    """A `--once` looks when it is told, and would sleep on if there were something."""
    one = kept(Deployment(*(ended(number) for number in range(1, 4))))
    one.start()
    one.wait(lambda: len(one.left) == 3)
    assert one.left[-1] == 0


def test_sweeps_go_by_the_deployments_clock_wherever_it_jumps(kept):
    deployment = Deployment(ended(1))
    one = kept(deployment)
    one.start()
    one.wait(lambda: one.listing.has_swept_since(0))
    assert deployment.since[0] is None
    jumps = [timedelta(days=400), timedelta(hours=-30), timedelta(seconds=1), timedelta(days=-3000)]
    last = NOW
    for jump in jumps:
        deployment.time = last + jump
        deployment.executions.insert(0, ended(len(deployment.executions) + 1))
        one.sweep()
        asked = datetime.fromisoformat([since for since in deployment.since if since is not None][-1])
        assert asked <= min(last, deployment.time) - timedelta(minutes=2), "nothing is passed over"
        last = deployment.time
    one.wait(lambda: len(one.codes) == 5)
    one.check(deployment.executions)


def test_a_deployment_that_was_away_is_found_again(kept):
    deployment = Deployment(*(ended(number) for number in range(1, 4)))
    deployment.away = 2
    one = kept(deployment)
    one.start()
    one.wait(lambda: len(one.codes) == 3)
    one.check(deployment.executions)
    assert one.listing.trouble is None
