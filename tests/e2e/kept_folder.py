"""A folder that `runvoy sync` keeps, and what a test wants to know of it."""

import json
import signal
import subprocess
from pathlib import Path

from tests.e2e.conftest import Machine

SYNC_FILES = {"log.jsonl", "log.txt", "request.json", "result.json", "status.json"}


class KeptFolder:
    def __init__(self, machine: Machine, path: Path):
        self.machine = machine
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.path = path
        self.inbox = path / "inbox"
        self.inbox.mkdir(parents=True, exist_ok=True)

    def drop(self, name, text):
        hidden = self.inbox / f".{name}.part"
        hidden.write_text(text)
        hidden.rename(self.inbox / name)

    def once(self, *options, **popen):
        return self.machine("sync", str(self.path), "--once", *options, **popen)

    def daemon(self, *options, **popen):
        popen.setdefault("stderr", subprocess.DEVNULL)  # a pipe that nobody reads would stop it when it is full
        process = self.machine.popen("sync", str(self.path), *options, **popen)
        self.daemons.append(process)
        return process

    def end(self):
        """End what a failed test left."""
        for process in self.daemons:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def is_kept_by(self, process):
        """Whether the daemon has begun: from here on a signal ends it in good order."""
        lock = self.path / ".runvoy" / "sync" / "lock"
        return lock.exists() and lock.read_text() == f"{process.pid}\n"

    def done(self):
        return sorted((self.inbox / ".done").glob("*.receipt.json"))

    def rejected(self):
        return sorted((self.inbox / ".rejected").glob("*.reason.txt"))

    def ids(self):
        return sorted(path.name for path in (self.path / "executions").iterdir())

    def results(self):
        return [json.loads(path.read_text()) for path in (self.path / "executions").glob("*/result.json")]

    def lines(self):
        return [json.loads(line) for line in (self.path / "executions.jsonl").read_text().splitlines()]

    def of(self, stem):
        """The folder of the execution that came of a file."""
        (receipt,) = (self.inbox / ".done").glob(f"{stem}.*.receipt.json")
        return self.path / "executions" / json.loads(receipt.read_text())["execution_id"]

    def is_idle(self):
        """Whether nothing is on its way: an execution may be copied before its request's file has moved."""
        return not list((self.path / ".runvoy" / "sync").glob("outgoing/*"))

    def check_whole(self):
        """Every execution's folder is complete, and is in the index once."""
        for one in self.ids():
            names = {path.name for path in (self.path / "executions" / one).iterdir()}
            assert names == SYNC_FILES, one
        assert sorted(line["execution_id"] for line in self.lines()) == self.ids()
        assert self.is_idle()
        assert not list(self.path.rglob("*.tmp"))


def stop(process, number=signal.SIGTERM):
    """End a daemon by a signal; its exit code."""
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode
