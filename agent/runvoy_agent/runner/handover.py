"""The script by which a command is handed to the shell that waits for it in its container.

It goes through a FIFO that the shell reads with `.`, so argv and environment are never written to a disk and stand in no
process's arguments. It must mean the same in dash, bash, busybox ash and mksh, whatever bytes are quoted in it.
"""

from __future__ import annotations

import re

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*\Z")
# Variables that mean something to one of the shells: read-only ones would end it, others change its ways or its value.
_SHELLS_OWN = re.compile(
    rb"(?:BASH\w*|COMP_\w+|EPOCH\w+|KSH\w*|HIST\w*|OPT\w+|PS[0-9]|_|COLUMNS|COPROC|DIRSTACK|ENV|ERRNO|EUID|EXECSHELL|FCEDIT"
    rb"|FIGNORE|FUNCNAME|FUNCNEST|GLOBIGNORE|GROUPS|IFS|INSIDE_EMACS|LINENO|LINES|MAIL\w*|MAPFILE|OLDPWD|PATHSEP|PGRP"
    rb"|PIPESTATUS|POSIXLY_CORRECT|PPID|PROMPT\w*|PWD|RANDOM|READLINE\w*|REPLY|SECONDS|SHELLOPTS|SHLVL|SRANDOM|TIMEFORMAT"
    rb"|TMOUT|UID|USER_ID)\Z"
)


class Unquotable(Exception):
    """The command cannot be put in a way that every shell understands."""


def script(argv: list[bytes], env: dict[bytes, bytes], folder: str, work_dir: str = "") -> bytes:
    """The script that runs `argv` with `env` beside what its container has. Raises Unquotable.

    `folder` holds the FIFOs `report`, `start`, `out` and `err`; `work_dir` is where the command begins, if not where its
    image says. What is reported: `wrapper PID`, when `start` was answered `run` right before the command is executed, then
    `exit CODE`.
    """
    exported = [(name, value) for name, value in env.items() if _NAME.match(name) and not _SHELLS_OWN.match(name)]
    passed = [name + b"=" + value for name, value in env.items() if not _NAME.match(name) or _SHELLS_OWN.match(name)]
    report, start, out, err = (quote(f"{folder}/{name}".encode()) for name in ("report", "start", "out", "err"))
    lines = [
        # One compound command: a shell that reads as it goes runs nothing of a script that was cut off.
        b"{ set +euvx",
        # A shell may tell, with its text, of a job that was killed; and its stderr is the container's log.
        b"exec 2>/dev/null",
        b"trap '' HUP INT QUIT TERM",
        b'echo "wrapper $$" >' + report,
        # Until the runner has found this process: what it starts is known by it.
        b"read -r answer <" + start + b" || exit 1",
        b"set -- " + b" ".join(quote(word) for word in argv),
        b"( trap - HUP INT QUIT TERM",
        # Where memory is short the kernel shall end the command and not the runner, which tells of it.
        b"{ echo 500 >/proc/self/oom_score_adj; } 2>/dev/null",
        *([b"cd " + quote(work_dir.encode()) + b" || exit"] if work_dir else []),
        # Only bash has something to say here: that the image lacks a locale.
        *(b"export " + name + b"=" + quote(value) + b" 2>/dev/null" for name, value in exported),
        b"echo run >" + report,
        *_execution(argv[0], passed),
        b") </dev/null >" + out + b" 2>" + err,
        b"code=$?",
        b'echo "exit $code" >' + report,
        b'exit "$code"',
        b"}\n",
    ]
    return b"\n".join(lines)


def quote(raw: bytes) -> bytes:
    """One word of a shell's, whatever is in it but NUL."""
    return b"'" + raw.replace(b"'", b"'\\''") + b"'"


def _execution(word: bytes, passed: list[bytes]) -> list[bytes]:
    """`exec` runs programs only, but in mksh builtins too. Words and variables it would take for its own go by env."""
    by_env = b"exec env -- " + b"".join(quote(assignment) + b" " for assignment in passed) + b'"$@"'
    if not passed and not word.startswith(b"-"):
        return (
            [b'exec "$@"'] if b"/" in word or b"=" in word else [b'[ -z "${KSH_VERSION-}" ] || ' + by_env, b'exec "$@"']
        )
    if b"=" in word:
        raise Unquotable(f"a program named {word.decode('utf-8', 'replace')!a} cannot be run with these variables")
    return [by_env]
