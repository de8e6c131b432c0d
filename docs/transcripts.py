"""Fill the README's transcripts by running the program, in a home of its own.

`python docs/transcripts.py` needs `runvoy` on the PATH or beside this Python. It fails, and changes nothing, if a command
does not exit as it should. Ids and times differ from run to run and are left as they were: a transcript is what happened.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).parent.parent / "README.md"
_SECONDS = 120


class Transcript(NamedTuple):
    """A shell session, line by line. `$?` must be asked for in the line of its command."""

    name: str
    lines: tuple[str, ...]


TRANSCRIPTS = (
    Transcript(
        "run",
        ("runvoy run 'echo hello; echo oops >&2; exit 3'; echo $?",),
    ),
    Transcript(
        "submit",
        (
            "ID=$(runvoy submit -- sh -c 'sleep 1; echo done; exit 7')",
            "echo $ID",
            "runvoy wait $ID; echo $?",
            "runvoy logs $ID",
        ),
    ),
    Transcript(
        "locks",
        (
            "FIRST=$(runvoy submit --lock prod-db 'sleep 2; echo migrated under fence $RUNVOY_LOCK_FENCE')",
            "SECOND=$(runvoy submit --lock prod-db 'echo migrated under fence $RUNVOY_LOCK_FENCE')",
            "runvoy locks show prod-db",
            "runvoy run --lock prod-db --if-locked fail 'echo never'; echo $?",
            "runvoy wait $FIRST $SECOND; runvoy logs $SECOND",
        ),
    ),
    Transcript(
        "timeout",
        ("runvoy run --timeout 1s 'echo working; sleep 60'; echo $?",),
    ),
    Transcript(
        "kill",
        (
            "ID=$(runvoy submit 'echo working; sleep 60'); sleep 1",
            "runvoy kill --wait $ID",
            "runvoy wait $ID; echo $?",
        ),
    ),
    Transcript(
        "team",
        (
            "TOKEN=$(runvoy users create bob@example.com --role developer)",
            "RUNVOY_HOME=~/bob runvoy claim $TOKEN",
            "printf 'correct horse battery' | runvoy secrets create db-password DB_PASSWORD --share bob@example.com",
            "RUNVOY_HOME=~/bob runvoy run --secret db-password 'echo \"the password is $DB_PASSWORD\"'",
            "RUNVOY_HOME=~/bob runvoy users list; echo $?",
            "runvoy users revoke bob@example.com --stop-all --yes",
            "runvoy audit --user bob@example.com --limit 4",
        ),
    ),
    Transcript(
        "refusal",
        (
            "runvoy submit --id release-42 'echo once' >/dev/null",
            "runvoy submit --id release-42 'echo something else'; echo $?",
        ),
    ),
)
EXPECTED = {
    "run": ("hello", "oops", "3"),
    "submit": ("7", "done"),
    "locks": ("122", "migrated under fence 2"),
    "timeout": ("working", "124"),
    "kill": ("123",),
    "team": ("the password is ***", "1"),
    "refusal": ("121",),
}


def run(transcript: Transcript, environment: dict[str, str]) -> str:
    """The session as a terminal would show it. stdout and stderr share a pipe, so their order is the real one."""
    script = "\n".join(f"printf '%s\\n' {_quoted('$ ' + line)}\n{line}" for line in transcript.lines)
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    printed = done.stdout.splitlines()
    missing = [line for line in EXPECTED[transcript.name] if line not in printed]
    if missing:
        raise SystemExit(f"the transcript {transcript.name!r} lacks {missing}:\n{done.stdout}")
    return done.stdout.rstrip("\n")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fill(page: str, name: str, session: str) -> str:
    """`page` with the transcript between its marks replaced."""
    block = "\n".join(f"    {line}".rstrip() for line in session.splitlines())
    marks = re.compile(rf"(<!-- transcript:{name} -->\n).*?(<!-- /transcript -->)", re.DOTALL)
    if len(marks.findall(page)) != 1:
        raise SystemExit(f"the README has no single place for the transcript {name!r}")
    return marks.sub(lambda match: f"{match[1]}\n{block}\n\n{match[2]}", page)


def main() -> int:
    page = README.read_text()
    with tempfile.TemporaryDirectory(prefix="runvoy-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNVOY_")}
        environment |= {"HOME": home, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            for transcript in TRANSCRIPTS:
                session = run(transcript, environment).replace(home, "~")
                page = fill(page, transcript.name, session)
        finally:
            subprocess.run(["runvoy", "local", "down"], env=environment, check=False, capture_output=True)
    README.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
