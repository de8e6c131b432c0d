"""Requests that were committed to Git: each content at each path of a repository runs once, whoever's daemon sends it.

They are read from HEAD and not from the working tree, and stay where they are. The execution's id is made of the repository
(its root commits, which every clone has), the path and the content: another clone's daemon sends the same id, and gets the same
execution, or a conflict if it signs with another key.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from runvoy_cli.deployment.session import Session
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import ids
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_sync import names, request_file
from runvoy_sync.inbox import FOLDER, REJECTED, OnDecided, reason_of
from runvoy_sync.outgoing import Outgoing
from runvoy_sync.submission import NotDecided, Submission, check_size
from runvoy_sync.tell import Teller, fault
from runvoy_sync.tree import STATE, Tree

_STATE = (*STATE, "committed")
_GIT_SECONDS = 60
_RETRY_SECONDS = 5.0
_FILE_MODES = ("100644", "100755")
_MOST_FILES_NAMED = 3


class _Committed(NamedTuple):
    """A request in HEAD's inbox: its file's name, and the object in Git that has its content."""

    name: str
    blob: str


class Commits(threading.Thread):
    """Pulls the checkout and submits what is new in it, until it is stopped."""

    def __init__(
        self, tree: Tree, session: Session, submission: Submission, teller: Teller, on_decided: OnDecided, seconds: int
    ) -> None:
        super().__init__(name="git", daemon=True)
        self._tree = tree
        self._session = session._replace(client=session.client.sibling())
        self._submission = submission
        self._outgoing = Outgoing(tree)
        self._teller = teller
        self._on_decided = on_decided
        self._seconds = seconds
        self._is_stopping = threading.Event()
        self._roots = ""
        self.tracked: frozenset[str] = frozenset()
        self.trouble: RunvoyError | OSError | None = None
        self.is_clear = threading.Event()  # everything that is committed has been decided

    def stop(self) -> None:
        self._is_stopping.set()

    def prepare(self) -> None:
        """Pull once, and see what is tracked; UsageProblem if the folder is in no checkout that can be used."""
        if not self._is_in_a_checkout():
            raise UsageProblem(f"{self._tree.root} is in no Git checkout", "Leave --git-pull away, or clone one there.")
        if self._git("rev-parse", "--is-shallow-repository").strip() == b"true":
            raise UsageProblem(
                f"the checkout of {self._tree.root} is shallow, so nobody can tell which repository it is of",
                "Get the rest of it: git fetch --unshallow",
            )
        try:
            self._git("rev-parse", "--verify", "--quiet", "HEAD")
        except UsageProblem as problem:
            raise UsageProblem(
                f"the checkout of {self._tree.root} has no commit yet", "Commit the requests first."
            ) from problem
        self._pull()
        self.tracked = frozenset(one.name for one in self._list())

    def run(self) -> None:
        is_pulled = True  # by `prepare`
        while not self._is_stopping.is_set():
            try:
                if not is_pulled:
                    self._pull()
                is_pulled = False
                pulled_at = time.monotonic()
                if not self._submit_all():
                    return
                self.trouble = None
                self.is_clear.set()
                self._teller.fine("committed requests")
                pause = max(0.0, self._seconds - (time.monotonic() - pulled_at))
            except NotDecided:
                self._teller.trouble("committed requests", "not decided yet")
                pause = _RETRY_SECONDS
            except Exception as error:  # noqa: BLE001 - told about, whatever it is: a thread that ends is not seen
                self.trouble = error if isinstance(error, (RunvoyError, OSError)) else fault(error)
                self._teller.trouble("committed requests", self.trouble)
                pause = _RETRY_SECONDS
            self._is_stopping.wait(pause)

    def _submit_all(self) -> bool:
        """Submit what is new in HEAD's inbox; False if it was stopped before the last one."""
        found = self._list()
        self.tracked = frozenset(one.name for one in found)
        for one in found:
            if self._is_stopping.is_set():
                return False
            self._submit(one)
        return True

    def _pull(self) -> None:
        try:
            self._git("pull", "--ff-only", "--quiet")
            self._teller.fine("git pull")
        except UsageProblem as problem:
            self._teller.trouble("git pull", problem.message.removeprefix("git pull failed: "))

    def _is_in_a_checkout(self) -> bool:
        try:
            return self._git("rev-parse", "--is-inside-work-tree").strip() == b"true"
        except UsageProblem as problem:
            if "not a git repository" in problem.message:
                return False
            raise

    def _list(self) -> list[_Committed]:
        """The requests of HEAD's inbox."""
        found = []
        for line in self._git("ls-tree", "-z", "HEAD", f"{FOLDER}/").split(b"\0"):
            head, _, path = line.partition(b"\t")
            name = os.fsdecode(path).removeprefix(f"{FOLDER}/")
            parts = head.decode("ascii", "replace").split()
            if len(parts) == 3 and parts[0] in _FILE_MODES and "/" not in name and names.is_request(name):
                found.append(_Committed(name, parts[2]))
        return found

    def _submit(self, one: _Committed) -> None:
        content = self._git("cat-file", "blob", one.blob)
        own_id = self._id_of(one.name, content)
        if self._tree.exists(*_STATE, f"{own_id}.json"):
            return
        try:
            check_size(f"{FOLDER}/{one.name}", content)
            entry = self._outgoing.get(own_id)
            if entry is None:
                wanted = request_file.read(Path(FOLDER, one.name), content)
                entry = self._submission.begin(own_id, one.name, content, wanted, self._session, committed_id=own_id)
            if entry.receipt is None:
                entry = self._submission.decide(own_id, entry, self._session)
        except UsageProblem as problem:
            self._reject(one, own_id, problem)
            return
        receipt = entry.receipt
        error = receipt.error() if receipt is not None else None
        if receipt is None or error is not None:
            self._reject(one, own_id, error or RunvoyError(ErrorCode.INTERNAL, "it was not decided"))
            return
        self._submission.accepted(entry, receipt.execution_id)
        self._submission.keep_receipt((*_STATE, f"{own_id}.json"), receipt)
        self._outgoing.remove(own_id)
        self._teller.submitted(f"{FOLDER}/{one.name}", receipt.execution_id, is_committed=True)
        self._on_decided(one.name, receipt.execution_id, 0)

    def _reject(self, one: _Committed, own_id: str, error: RunvoyError) -> None:
        is_known = error.code is ErrorCode.ID_CONFLICT
        if not is_known:
            kept = names.kept(one.name, own_id)
            self._tree.write(*REJECTED, names.beside(kept, "reason.txt"), content=reason_of(error))
            self._on_decided(one.name, None, error.exit_code)
        document = {"outcome": "refused", "code": error.code.value, "message": error.message, "hint": error.hint}
        self._tree.write(*_STATE, f"{own_id}.json", content=msgspec.json.encode(document) + b"\n")
        self._outgoing.remove(own_id)
        if is_known:
            self._teller.known(f"{FOLDER}/{one.name}", own_id)
        else:
            self._teller.rejected(f"{FOLDER}/{one.name}", error, is_committed=True)

    def _id_of(self, name: str, content: bytes) -> str:
        if not self._roots:
            roots = sorted(self._git("rev-list", "--max-parents=0", "HEAD").decode("ascii", "replace").split())
            prefix = os.fsdecode(self._git("rev-parse", "--show-prefix").strip(b"\n"))
            self._roots = f"{' '.join(roots)}\0{prefix}{FOLDER}/"
        text = os.fsencode(f"runvoy committed request v1\0{self._roots}{name}\0") + content
        return ids.uuid8(hashlib.sha256(text).digest()[:16])

    def _git(self, *words: str) -> bytes:
        """What a git command prints; UsageProblem with what it says on stderr if it fails."""
        # No prompt: nobody is there to answer it. No translation: what it says is looked through for its errors.
        env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": _ssh(), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                ["git", "-C", str(self._tree.root), *words],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GIT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise UsageProblem("there is no git on this machine", "Install git, or leave --git-pull away.") from error
        except subprocess.TimeoutExpired as error:
            raise UsageProblem(f"git {words[0]} took longer than {_GIT_SECONDS} s") from error
        if done.returncode != 0:
            said = _in_a_line(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
            raise UsageProblem(f"git {words[0]} failed: {said}")
        return done.stdout


def _in_a_line(said: str) -> str:
    """What git says of a failure, in a line: its first error with the files that it names, or how it begins. What comes after is
    advice for somebody at the keyboard."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith(("error:", "fatal:"))]
    if not errors:
        return lines[0].strip() if lines else ""
    first = errors[0]
    named = list(itertools.takewhile(lambda line: line.startswith("\t"), lines[first + 1 :]))
    shown = ", ".join(line.strip() for line in named[:_MOST_FILES_NAMED])
    more = f" and {len(named) - _MOST_FILES_NAMED} more" if len(named) > _MOST_FILES_NAMED else ""
    return lines[first].partition(":")[2].strip() + (f" {shown}{more}" if shown else "")


def _ssh() -> str:
    return os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
