"""The checkout of a repository before the command: git as supervised steps, each of which can be killed.

Everything git needs beside the checkout is in a private folder that is removed at the end, whatever it is. Secrets are
handed over in memory, by a descriptor that one step inherits.
"""

from __future__ import annotations

import copy
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable

from runvoy_agent.runner import git_commands, git_tools, process
from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.output import Output
from runvoy_agent.runner.payload import Checkout, Payload
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.removal import remove_tree
from runvoy_agent.runner.shipping import Shipper
from runvoy_agent.runner.signals import Signals
from runvoy_agent.runner.supervise import Supervisor

_GRACE_SECONDS = 5.0
_LINE_BYTES = 1000
_KEPT_LINES = 200
_ANSWER_BYTES = 64 * 1024
_MAX_SOCKET_PATH = 90  # of 104 or 108 bytes, with what ssh-agent adds while it makes one


class CloneFailed(Exception):
    """There is no checkout: its text says why, in words for the status."""


class Heard:
    """What a step of git's says: stderr goes to the log as runvoy's own lines, stdout is kept as the `answer`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rest = b""
        self.said: list[str] = []
        self.answer = b""

    @property
    def due(self) -> float | None:
        return self._output.due

    def tick(self, now: float) -> None:
        self._output.tick(now)

    def note(self, text: str) -> None:
        self._output.note(text)

    def feed(self, stream: str, data: bytes) -> None:
        if stream == "out":
            self.answer = (self.answer + data)[:_ANSWER_BYTES]
            return
        *lines, rest = (self._rest + (data or b"\n")).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[:_LINE_BYTES]
        for line in lines:
            if text := line.decode("utf-8", "replace").strip()[:_LINE_BYTES]:
                self.said = [*self.said, text][-_KEPT_LINES:]
                self.note(f"git: {text}")


class Place:
    """Where a checkout is made: in `work_dir`, which must not exist. `is_shared`: another user than this one will work in it.
    `tools_folder`: where git may be installed if there is none."""

    def __init__(self, work_dir: str, *, is_shared: bool = False, tools_folder: str | None = None) -> None:
        self.work_dir = work_dir
        self.is_shared = is_shared
        self.tools_folder = tools_folder


class Clone:
    """One checkout. `is_killed` says whether the run is to end, beside by signals."""

    def __init__(
        self,
        payload: Payload,
        checkout: Checkout,
        place: Place,
        signals: Signals,
        output: Output,
        shipper: Shipper,
        *,
        is_killed: Callable[[], bool],
    ) -> None:
        self._payload = payload
        self._checkout = checkout
        self._place = place
        self._work_dir = place.work_dir
        self._signals = signals
        self._output = output
        self._shipper = shipper
        self._is_killed = is_killed
        self._give_up_at = time.monotonic() + checkout.timeout_seconds
        self._key = payload.git_credentials.get(git_commands.SSH_KEY)
        self._token = payload.git_credentials.get(git_commands.TOKEN)
        self._env: dict[bytes, bytes] = {}
        self._heard = Heard(output)

    def run(self, ending: Ending) -> str | None:
        """Where in the checkout the command begins; None if there is no checkout, and `ending` says why."""
        private = ""
        try:
            self._output.note(f"cloning {self._checkout.repo}")
            private = _private_folder(self._work_dir)
            self._clone(private)
            begins = self._begins()
            if self._place.is_shared:
                _open_up(self._work_dir)
            return begins
        except _Killed:
            ending.settle("killed", "killed before the command started")
        except CloneFailed as error:
            ending.settle("setup_failed", f"the repository was not cloned: {error}")
        except (OSError, process.ExecError) as error:
            ending.settle("setup_failed", f"the repository was not cloned: {error}")
        finally:
            for failure in remove_tree(private) if private else ():
                remark(f"git's own folder was not removed: {failure}")
        return None

    def _clone(self, private: str) -> None:
        self._prepare(private)
        ref, repo = self._checkout.ref, self._checkout.repo
        os.mkdir(self._work_dir, 0o700)  # noqa: PTH102
        self._must(git_commands.init(ref))
        self._must(git_commands.add_remote(repo))
        what = self._fetch(ref)
        if self._step(git_commands.checkout(what)) != 0:
            if git_commands.is_sha(ref):
                raise CloneFailed(f"there is no commit {ref} in it, or no branch or tag that leads to it")
            raise CloneFailed(self._why("the checkout failed"))
        self._must(git_commands.head())
        commit = self._heard.answer.decode("ascii", "replace").strip()
        if not git_commands.is_sha(commit):
            raise CloneFailed("git did not say which commit it checked out")
        self._payload.git_commit = commit
        self._output.note(f"checked out {commit}")
        if os.path.lexists(f"{self._work_dir}/.gitmodules"):
            self._output.note("it has submodules, which are not fetched; the command can do so itself")

    def _prepare(self, private: str) -> None:
        """git's environment, and git itself where it has to be installed."""
        repo, is_ssh = self._checkout.repo, git_commands.is_ssh(self._checkout.repo)
        given = self._payload.git_credentials
        for variable, name in git_commands.PUBLIC.items():
            if variable in given:
                with open(f"{private}/{name}", "wb") as file:  # noqa: PTH123
                    file.write(given[variable].strip() + b"\n")
        machine = dict(os.environb) | {b"RUNVOY_EXECUTION_ID": self._payload.execution_id.encode()}
        self._env = git_commands.environment(repo, private, machine, self._payload.env, given)
        missing = git_tools.missing(self._env, is_ssh=is_ssh, has_key=is_ssh and self._key is not None)
        if not missing:
            return
        folder = self._place.tools_folder
        if folder is None or not git_tools.can_install(self._env):
            raise CloneFailed(f"{missing} is not installed where runvoy clones")
        self._output.note(f"installing {missing}, which the runner's image lacks")
        if self._call(git_tools.install(folder, is_ssh=is_ssh), 0) != 0:
            raise CloneFailed(self._why(f"{missing} could not be installed"))
        self._env = git_tools.environment(self._env, folder)

    def _fetch(self, ref: str) -> str:
        """Fetch what the ref stands for; what is to be checked out."""
        depth = self._checkout.depth
        if git_commands.is_sha(ref):
            if self._step(git_commands.fetch(ref, depth)) == 0:
                return "FETCH_HEAD"
            if not git_commands.is_refused_sha(self._heard.said):
                raise CloneFailed(self._why("the commit could not be fetched"))
            self._output.note("the server does not hand out that commit by its SHA; fetching all branches and tags")
            self._must(git_commands.fetch_all())
            return ref
        found: str | None = "HEAD"
        if ref not in ("", "HEAD"):
            self._must(git_commands.ask(ref))
            found = git_commands.chosen(ref, self._heard.answer)
        if found is None:
            hint = " (a SHA must be given in full)" if _looks_like_sha(ref) else ""
            raise CloneFailed(f"it has no branch or tag {ref!r}{hint}")
        if self._step(git_commands.fetch(found, depth)) != 0:
            is_empty = not ref and any("remote ref HEAD" in line for line in self._heard.said)
            raise CloneFailed("it has no commit yet" if is_empty else self._why("it could not be fetched"))
        return "FETCH_HEAD"

    def _begins(self) -> str:
        path = self._checkout.path
        begins = os.path.realpath(f"{self._work_dir}/{path}" if path else self._work_dir)
        top = os.path.realpath(self._work_dir)
        inside = begins == top or begins.startswith(f"{top}/")
        if not inside or f"{begins}/".startswith(f"{top}/.git/"):
            raise CloneFailed(f"the folder {path!r} leads out of the repository")
        if not os.path.isdir(begins):  # noqa: PTH112
            raise CloneFailed(f"it has no folder {path!r}")
        return begins

    # --- steps

    def _must(self, words: list[str]) -> None:
        if self._step(words) != 0:
            raise CloneFailed(self._why(f"git {words[0]} failed"))

    def _step(self, words: list[str]) -> int:
        """Run git to its end; its exit code. Secrets go to those steps alone that talk to the server."""
        repo = self._checkout.repo
        is_remote = words[0] in ("fetch", "ls-remote")
        if is_remote and git_commands.is_ssh(repo) and self._key is not None:
            key = self._key.replace(b"\r\n", b"\n").strip() + b"\n"
            return self._with_secret(key, lambda fd: git_commands.with_key(fd, self._git(None, words)))
        if is_remote and self._token is not None:
            try:
                answer = git_commands.credential(self._token)
            except ValueError as error:
                raise CloneFailed(f"the secret that sets {git_commands.TOKEN.decode()} is no token: {error}") from error
            return self._with_secret(answer, lambda fd: self._git(fd, words))
        return self._call(self._git(None, words), 0)

    def _git(self, token_fd: int | None, words: list[str]) -> list[str]:
        return git_commands.git(self._work_dir, self._checkout.repo, token_fd, *words)

    def _with_secret(self, secret: bytes, argv_with: Callable[[int], list[str]]) -> int:
        fd = _memory(secret)
        try:
            code = self._call(argv_with(fd), fd)
        finally:
            os.close(fd)
        if code == git_commands.BAD_KEY:
            raise CloneFailed(
                f"the secret that sets {git_commands.SSH_KEY.decode()} is no private key that can be read without a passphrase"
            )
        if code == git_commands.NO_AGENT:
            raise CloneFailed("ssh-agent, which is to hold the key, did not start")
        return code

    def _call(self, argv: list[str], keep: int) -> int:
        if self._signals.kill_wanted or self._is_killed():
            raise _Killed
        limits = copy.copy(self._payload)
        limits.timeout_seconds = max(0.0, self._give_up_at - time.monotonic())
        limits.grace_seconds = _GRACE_SECONDS
        ending = Ending()
        self._heard = Heard(self._output)
        out, err = _pipe(), _pipe()
        words = [os.fsencode(word) for word in argv]
        try:
            command = process.start(words, self._env, "/", out[1], err[1], keep)
        finally:
            for written in (out[1], err[1]):
                os.close(written)
        streams = {out[0]: "out", err[0]: "err"}
        Supervisor(
            command, limits, self._signals, streams, self._heard, self._shipper, ending, Clock()
        ).supervise()  # fmt: skip
        if ending.outcome == "killed":
            raise _Killed
        if ending.outcome == "timed_out":
            raise CloneFailed(f"it took longer than {self._checkout.timeout_seconds:g} seconds")
        return ending.exit_code if ending.exit_code is not None else 1

    def _why(self, what: str) -> str:
        said = self._heard.said
        is_ssh = git_commands.is_ssh(self._checkout.repo)
        has_credential = (self._key if is_ssh else self._token) is not None
        words = git_commands.reason(said, is_ssh=is_ssh, has_credential=has_credential)
        fatal = [line for line in said if line.startswith(("fatal:", "error:", "ERROR:"))] or said
        return f"{words or what}: {fatal[0]}" if fatal else words or what


class _Killed(Exception):
    pass


def _looks_like_sha(ref: str) -> bool:
    return len(ref) >= 4 and all(character in "0123456789abcdef" for character in ref.lower())


def _private_folder(work_dir: str) -> str:
    """A folder for this user alone, beside the checkout; where that path is too long for a socket, among temporary files."""
    beside = os.path.dirname(work_dir)  # noqa: PTH120
    return tempfile.mkdtemp(prefix="git-", dir=beside if len(os.fsencode(beside)) < _MAX_SOCKET_PATH - 20 else None)


def _memory(secret: bytes) -> int:
    """A descriptor of a file without a name that holds the secret, at its beginning; in memory where there is such a thing."""
    if sys.platform == "linux":
        fd = os.memfd_create("git")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    rest = memoryview(secret)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _open_up(work_dir: str) -> None:
    """Let everybody write: the command's user is its image's choice. Links are left alone."""
    for folder, _, files in os.walk(work_dir):
        os.chmod(folder, 0o777)  # noqa: PTH101, S103
        for name in files:
            path = f"{folder}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                os.chmod(path, 0o777 if mode & 0o100 else 0o666)  # noqa: PTH101


def _pipe() -> tuple[int, int]:
    read, written = os.pipe()
    os.set_blocking(read, False)
    return read, written
