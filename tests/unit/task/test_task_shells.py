"""The command arrives exactly, under every shell an image may have, and its end comes back exactly."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATH = "/usr/local/bin:/usr/bin:/bin"
NewTask = Callable[[], Any]
SHELLS = ["dash", "bash", "busybox ash", "mksh"]
pytestmark = pytest.mark.parametrize("shell", SHELLS)

SHOW = (
    "import os, sys, json, base64, hashlib\n"
    "b64 = lambda raw: base64.b64encode(raw).decode()\n"
    "env = {b64(name): b64(value) for name, value in os.environb.items()}\n"
    "print(json.dumps({'argv': [b64(os.fsencode(word)) for word in sys.argv[1:]], 'env': env, 'cwd': os.getcwd(),\n"
    "  'uid': os.getuid(), 'stdin': os.read(0, 1).decode(), 'adj': open('/proc/self/oom_score_adj').read().strip(),\n"
    "  'ignored': [l.split()[1] for l in open('/proc/self/status') if l.startswith('SigIgn')][0],\n"
    "  'fds': len(os.listdir('/proc/self/fd')), 'secret': hashlib.sha256(os.environb.get(b'S', b'')).hexdigest()}))\n"
)
ALL_BYTES = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
WORDS = [
    "", " ", "plain", "two\nlines\n", "\n", "it's", "'", "''", '"', "\\", "\\'", "$(touch /tmp/never)", "`id`", "${HOME}", "$$",
    "*", "~", "-n", "--", "!x", "# no", "a;b&c|d>e<f", "\t\r\v\f", "ümläut", "\x7f\x01\x81".encode().decode(), ALL_BYTES,
    "\\n\\c\\0101", "]", "{", "}", "EOF\n}\n", "a" * 131_000, "'" * 30_000,
]  # fmt: skip


def show(task: Any, python: str, words: list[str], shell: str, **fields: Any) -> dict[str, Any]:
    task.start([python, "-S", "-c", SHOW, *words], shell=shell, **fields)
    result = task.wait()
    assert (result.outcome, result.exit_code) == ("exited", 0), task.output("err")
    return json.loads(task.output())


def decoded(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "surrogateescape")


def test_words_arrive_byte_for_byte(new_task: NewTask, everybodys_python: str, shell: str) -> None:
    argv = [decoded(word) for word in show(new_task(), everybodys_python, WORDS, shell)["argv"]]
    assert len(argv) == len(WORDS)
    assert [(number, word[:300], argv[number][:300]) for number, word in enumerate(WORDS) if argv[number] != word] == []


def test_variables_arrive_byte_for_byte(new_task: NewTask, everybodys_python: str, shell: str) -> None:
    values = {f"V{number}": value for number, value in enumerate(WORDS)}
    # Each of these means something to one of the shells.
    own = {
        "UID": "a", "EUID": "b", "PPID": "c", "IFS": "x", "OPTIND": "no number", "RANDOM": "r", "SECONDS": "s", "LINENO": "l",
        "SHELLOPTS": "xtrace", "BASH_ENV": "/nowhere", "ENV": "/nowhere", "PS4": "$(touch /tmp/never)", "TMOUT": "1",
        "HISTSIZE": "h", "KSH_VERSION": "k", "BASHOPTS": "o", "_": "u", "COLUMNS": "many", "PATH": PATH + ":/nowhere",
        "LC_ALL": "xx_XX.UTF-8", "PWD": "/nowhere", "CDPATH": "/", "HOME": "/h\n", "SHLVL": "9", "answer": "mine", "code": "3",
        "with.dot": "1", "USER_ID": "2", "EXECSHELL": "/bin/false", "POSIXLY_CORRECT": "1", "LANG": "C", "MAIL": "m",
    }  # fmt: skip
    secret = b"top \xff secret\n'"
    shown = show(
        new_task(), everybodys_python, [], shell, env=values | own, secrets={"S": base64.b64encode(secret).decode()}
    )
    env = {decoded(name): decoded(value) for name, value in shown["env"].items()}
    wanted = values | own
    assert {name: env.get(name) for name in wanted if env.get(name) != wanted[name]} == {}
    assert shown["secret"] == hashlib.sha256(secret).hexdigest(), "itself it would be masked"


def test_what_a_command_finds(new_task: NewTask, everybodys_python: str, shell: str) -> None:
    task = new_task()
    shown = show(task, everybodys_python, [], shell)
    assert shown["cwd"] == str(task.folder / "home"), "where its image begins"
    assert shown["uid"] == (65534 if os.geteuid() == 0 else os.geteuid())
    assert shown["stdin"] == ""
    assert shown["adj"] == "500"
    assert int(shown["ignored"], 16) & 0b100_0000_0000_0111 == 0, "HUP, INT, QUIT and TERM are the command's again"
    assert shown["fds"] <= 4, "stdin, stdout, stderr, and the one that lists them"
    assert decoded(shown["env"][base64.b64encode(b"RUNVOY_EXECUTION_ID").decode()]) == task.id


@pytest.mark.parametrize(
    ("command", "code", "outcome", "number"),
    [
        (["true"], 0, "exited", None),
        ("exit 7", 7, "exited", None),
        ("exit 255", 255, "exited", None),
        ("exit 200", 200, "exited", None),
        (["no-such-program"], 127, "exited", None),
        (["/etc/passwd"], 126, "exited", None),
        ([""], None, "exited", None),
        (["-n"], 127, "exited", None),
        (["cd", "/"], 127, "exited", None),
        ("kill -9 $$", 137, "signalled", 9),
        ("kill -TERM $$", 143, "signalled", 15),
        ("kill -INT $$", 130, "signalled", 2),
        ("kill -TERM 0; sleep 5", 143, "signalled", 15),
    ],
    ids=str,
)
def test_exit_codes(
    new_task: NewTask, shell: str, command: Any, code: int | None, outcome: str, number: int | None
) -> None:
    task = new_task().start(command, shell=shell)
    result = task.wait()
    assert (result.outcome, result.signal) == (outcome, number)
    assert result.exit_code == code or (code is None and result.exit_code in (126, 127))
    assert task.main.wait(60) == result.exit_code, "the platform is told the same"


def test_nothing_rests_of_what_was_handed_over(new_task: NewTask, shell: str, until: Callable[..., None]) -> None:
    task = new_task().start(
        ["sleep", "1000"], shell=shell, secrets={"S": base64.b64encode(b"top-secret-value").decode()}
    )
    until(task.has_started)
    left = {path.name for path in task.folder.iterdir()}
    assert left == {"home", "main.log", "runner.out", "runner.err", "out", "err", "report"}
    for pid in (task.main.pid, task.runner.pid):
        assert b"top-secret-value" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    task.runner.terminate()
    task.wait()
    assert (task.folder / "main.log").read_bytes() == b""


def test_a_shell_says_nothing_of_a_command_that_was_killed(new_task: NewTask, shell: str) -> None:
    """bash would print the text of the job, secrets and all."""
    task = new_task().start("kill -SEGV $$", shell=shell, secrets={"S": base64.b64encode(b"top-secret-value").decode()})
    assert task.wait().exit_code == 139
    assert task.main.wait(60) == 139
    assert (task.folder / "main.log").read_bytes() == b""
