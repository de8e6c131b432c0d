"""The command as a process: started exactly, reaped, and ended with everything it left behind.

On Linux the runner is its subreaper: a daemonized grandchild, session and all, becomes the runner's child, so nothing
leaves the tree. Elsewhere only the command's process group is known, and what left it is not found.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
_SETUP_FAILED = 255  # what the child reports instead of an errno when it never came to execve
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


class ExecError(Exception):
    """The command could not be executed: `exit_code` is 126 or 127, as a shell would have it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def guard() -> None:
    """Make this process unreadable to the command: memory, descriptors, /proc."""
    _prctl((_PR_SET_DUMPABLE, 0))


def guard_and_adopt() -> None:
    """Also make this process the reaper of the command's orphans."""
    _prctl((_PR_SET_DUMPABLE, 0), (_PR_SET_CHILD_SUBREAPER, 1))


def _prctl(*options: tuple[int, int]) -> None:
    if not _LINUX:
        return
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for option, value in options:
        if prctl(option, value, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({option}): {os.strerror(code)}")


class Command:
    """A started command. `status` is its wait status once it ended; when one of `wake_fds` is readable, `reap` has
    something to do."""

    wake_fds: tuple[int, ...] = ()

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def reap(self) -> bool:
        """Collect every child that ended; whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """A child ended; the command itself, or what it left to its runner."""
        if pid == self.pid:
            self.status = status

    def signal_all(self, number: int) -> int:
        """Signal every process of the run; how many there were."""
        if not _LINUX:
            return self._signal_group(number)
        found = _descendants()
        for pid in found:
            send_signal(pid, number)
        return len(found)

    def end_group(self) -> None:
        """Where orphans do not become ours, end what is left in the command's group, as soon as it was reaped."""
        if not _LINUX:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> int:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return 0
        return 1


def start(argv: list[bytes], env: dict[bytes, bytes], work_dir: str, out: int, err: int, keep: int) -> Command:
    """Execute `argv` in a new session with stdin empty; it inherits `keep` and no other descriptor.

    Raises ExecError when execve refuses, OSError when it never came to that.
    """
    candidates = _candidates(argv[0], env.get(b"PATH", _DEFAULT_PATH))
    report, reported = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(candidates, argv, env, work_dir, (out, err, keep), reported)
        finally:
            os._exit(NOT_FOUND)
    os.close(reported)
    failure = b""
    while part := os.read(report, 64):
        failure += part
    os.close(report)
    if not failure:
        return Command(pid)
    os.waitpid(pid, 0)
    code = int(failure.partition(b" ")[2])
    if failure.startswith(b"setup "):
        raise OSError(code, f"the command's process could not be prepared: {os.strerror(code)}")
    raise _exec_error(argv[0], code)


def _become(
    candidates: list[bytes],
    argv: list[bytes],
    env: dict[bytes, bytes],
    work_dir: str,
    fds: tuple[int, int, int],
    reported: int,
) -> None:
    """In the child: turn into the command. Returns only if that failed, after reporting why."""
    stage = b"setup"
    code = errno.ENOENT
    try:
        out, err, keep = fds
        os.setsid()
        os.umask(0o022)  # the launcher's is private; commands expect the usual one, in a working directory that is 0700
        os.chdir(work_dir)
        os.dup2(out, 1)  # stdin is /dev/null already
        os.dup2(err, 2)
        os.set_inheritable(keep, True)
        # What is ignored stays ignored across execve; handlers do not.
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        stage = b"exec"
        for path in candidates:
            try:
                os.execve(path, argv, env)  # noqa: S606 - argv is executed as it was signed, without a shell
            except OSError as error:
                # As execvp does: look further, but remember that there was one that may not be executed.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    code = error.errno or errno.ENOENT
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                    break
    except OSError as error:
        code = error.errno or errno.EIO
    os.write(reported, b"%s %d" % (stage, code))


def _candidates(word: bytes, path: bytes) -> list[bytes]:
    """The files to try for a command's first word, as execvp does."""
    if b"/" in word:
        return [word]
    return [(folder or b".") + b"/" + word for folder in path.split(b":")] if word else []


def _exec_error(word: bytes, code: int) -> ExecError:
    name = ascii(word.decode("utf-8", "replace")) if not word.isascii() else repr(word.decode())
    if code == errno.ENOENT:
        return ExecError(f"cannot run {name}: not found", NOT_FOUND)
    why = "no program for this machine, and no #! line" if code == errno.ENOEXEC else os.strerror(code)
    return ExecError(f"cannot run {name}: {why}", NOT_EXECUTABLE)


def _descendants() -> list[int]:
    """Every living process below this one, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib costs start-up time
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if state not in (b"Z", b"X"):
            children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    below = children.get(os.getpid(), [])
    while below:
        found += below
        below = [child for pid in below for child in children.get(pid, [])]
    return found


def send_signal(pid: int, number: int) -> None:
    """Signal a process. One that is gone, or is not ours to signal (a set-uid program), is left: whoever signals looks again, with
    a bound."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
