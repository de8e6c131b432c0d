"""Run what the pages show, and hold the pages to it.

A page's commands are in fenced blocks that begin with ```console: `$ ` and a command, `> ` and its next line if it has more
than one, then what it printed. All blocks of a page are one shell session, in the folder `~/project` of a home of its own, with
an embedded stack of its own. A command must exit with 0, unless the page shows its exit code (`; echo $?`). What differs from
run to run (ids, times, durations, addresses, the order of lines) is compared by its kind, ids also by which is which. A line `…`
stands for any lines.

A comment before a block says what else it is:

    <!-- file: PATH -->        the session finds the block as this file
    <!-- not run: REASON -->   cannot run here; tests hold its commands against the program's options

`python docs/transcripts.py [PAGE…]` writes what was printed into the pages where it is not what they show; with `--check` it
writes nothing and exits 1. It needs bash, and `runvoy` beside this Python.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# Small programs in the place of those that need a cloud or a database server, first on the sessions' PATH.
STAND_INS = ROOT / "tests" / "stand_ins"
PAGE_SECONDS = 300
# Who reads the page has told git who they are.
_READER = {"NAME": "Ann", "EMAIL": "ann@example.com"}
_ANY_LINES = "…"
_SEPARATOR = "\x1e"
_MARK = re.compile(r"<!-- (file|not run): (.+) -->")
_KINDS = (
    (re.compile(r"\brv([kc])1_[A-Za-z0-9_-]+"), r"<rv\g<1>1>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?( \+0000| UTC|Z)?"), "<time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<day>"),
    (re.compile(r"\b(\d+m)?\d+(\.\d+)?s\b"), "<duration>"),
    (re.compile(r", <duration>"), ""),  # how long it ran is not there where it never began, as may be on a busy machine
    (re.compile(r"\b127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"^(pid\s+)\d+$"), r"\1<pid>"),
    (re.compile(r"^(<time> +\S+ +)[a-z2-7]{8}(?= )"), r"\1<key>"),  # the beginning of a key's id, in the audit
    (re.compile(r"\b(STARTING|RUNNING)\b"), "<under way>"),
    (re.compile(r" {2,}"), "  "),
)
# Hex ids of executions, keys' ids, deployments: which is which matters.
_IDS = re.compile(r"\b(local-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[a-z2-7]{32})\b")


class Block(NamedTuple):
    """A code block. `lines` begin at line `first` (from 0) of the page; `word` is its mark's path or reason."""

    kind: str  # "console", "file", "not run", or "other"
    word: str
    first: int
    lines: tuple[str, ...]


class Step(NamedTuple):
    """A command of a console block, and the lines that it printed or should print."""

    command: str
    output: tuple[str, ...]


class Mismatch(Exception):
    """A page does not show what its commands print; the text says where and what."""


def blocks(page: str) -> Iterator[Block]:
    """All code blocks of a page: fenced ones, and those that are indented."""
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        opening = re.fullmatch(r"(`{3,})(\S*).*", lines[number])
        if opening is not None:
            end = lines.index(opening[1], number + 1)
            kind, word = _marked(lines, number, "console" if opening[2] == "console" else "other")
            yield Block(kind, word, number + 1, tuple(lines[number + 1 : end]))
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            kind, word = _marked(lines, number, "other")
            yield Block(kind, word, number, tuple(line[4:] for line in lines[number:end]))
            number = end
        else:
            number += 1


def _marked(lines: Sequence[str], number: int, otherwise: str) -> tuple[str, str]:
    before = number - 1
    while before >= 0 and not lines[before].strip():
        before -= 1
    mark = _MARK.fullmatch(lines[before].strip()) if before >= 0 else None
    return (mark[1], mark[2]) if mark is not None else (otherwise, "")


def steps(block: Block) -> list[Step]:
    """The commands of a console block, each with its output."""
    found: list[tuple[list[str], list[str]]] = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            raise Mismatch(f"line {block.first + 1}: a console block begins with a command")
        elif line.startswith("> ") and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            found[-1][1].append(line.rstrip())
    return [Step("\n".join(command), tuple(output)) for command, output in found]


def sessions(page: str) -> list[Block]:
    """The blocks that a session of the page needs, in their order; none if nothing of the page runs."""
    needed = [block for block in blocks(page) if block.kind in ("console", "file")]
    return needed if any(block.kind == "console" for block in needed) else []


def run(page: str, home: Path) -> list[list[Step]]:
    """Run a page's session in `home`, an empty folder: each console block's steps as they went.

    Raises Mismatch for a command that fails unseen. Ends the stack, and what the session left running.
    """
    session = sessions(page)
    environment = _environment(home)
    project = home / "project"
    project.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", _script(session)],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PAGE_SECONDS,
            check=False,
        )
    finally:
        _end(environment)
    printed = done.stdout.decode(errors="backslashreplace").replace(str(home), "~")
    printed = printed.replace(f"{socket.gethostname()}:~", "laptop:~")
    return _as_steps(session, printed.split(_SEPARATOR))


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("TMPDIR", "SSL_CERT_FILE")}
    return kept | {
        "HOME": str(home),
        "USER": "ann",
        "LOGNAME": "ann",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        **{f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in _READER.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PATH": f"{STAND_INS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        # The pages are the same on a machine with a container engine and on one without.
        "RUNVOY_CONTAINER_ENGINE": "/nonexistent/engine",
    }


def _script(session: Sequence[Block]) -> str:
    """stdout and stderr share a pipe, so their order is the real one; a separator stands around each command's output."""
    parts = []
    for block in session:
        if block.kind == "file":
            text = "\n".join(block.lines) + "\n"
            path = _quoted(block.word).replace("'~/", "~/'", 1)
            parts.append(f'mkdir -p "$(dirname {path})"; printf %s {_quoted(text)} > {path}')
        else:
            for step in steps(block):
                parts.append(f"printf '{_SEPARATOR}'\n{step.command}\nprintf '{_SEPARATOR}%d' $?")
    return "\n".join(parts)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _as_steps(session: Sequence[Block], printed: Sequence[str]) -> list[list[Step]]:
    """`printed` is: nothing, then of each command its output and its exit code."""
    outputs, codes = iter(printed[1::2]), iter(printed[2::2])
    ran: list[list[Step]] = []
    for block in session:
        if block.kind == "file":
            continue
        ran.append([])
        for step in steps(block):
            output = next(outputs, "")
            code = next(codes, "the session ended")
            if code != "0":
                raise Mismatch(
                    f"line {block.first + 1}: exit code {code} of `{step.command}`, which printed:\n{output}\n"
                    "(A page that means it shows it: `; echo $?`.)"
                )
            ran[-1].append(Step(step.command, tuple(line.rstrip() for line in output.rstrip("\n").splitlines())))
    return ran


def _end(environment: dict[str, str]) -> None:
    """End the stack; first what the session left running, of which a good page leaves none."""

    def runvoy(*arguments: str) -> None:
        subprocess.run(["runvoy", *arguments], env=environment, check=False, capture_output=True, timeout=PAGE_SECONDS)

    if not (Path(environment["HOME"]) / ".runvoy" / "local" / "endpoint.json").exists():
        return
    under_way = [option for state in ("QUEUED", "STARTING", "RUNNING") for option in ("--status", state)]
    left = subprocess.run(
        ["runvoy", "--json", "list", *under_way],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=PAGE_SECONDS,
    )
    ids = re.findall(r'"execution_id":"([0-9a-f]{32})"', left.stdout)
    if ids:
        runvoy("kill", "--wait", *ids)
    runvoy("local", "down")


class _Kinds:
    """Lines with their ids and times replaced by what kind they are; ids are numbered as they come."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __call__(self, line: str) -> str:
        line = _IDS.sub(lambda match: f"<id {self._ids.setdefault(match[0], len(self._ids) + 1)}>", line)
        for pattern, kind in _KINDS:
            line = pattern.sub(kind, line)
        return line


def differences(page: str, ran: Sequence[Sequence[Step]]) -> dict[int, str]:
    """Where the page's console blocks do not show what was printed: the block's index, and what was expected and seen."""
    expected_kinds, seen_kinds = _Kinds(), _Kinds()
    found = {}
    console = [block for block in sessions(page) if block.kind == "console"]
    for index, (block, block_ran) in enumerate(zip(console, ran, strict=True)):
        for expected, seen in zip(steps(block), block_ran, strict=True):
            shown = [expected_kinds(line) for line in expected.output]
            printed = [seen_kinds(line) for line in seen.output]
            if not _matches(shown, printed):
                found[index] = "\n".join(
                    (
                        f"line {block.first + 1}: $ {expected.command}",
                        *(f"  shown:   {line}" for line in shown),
                        *(f"  printed: {line}" for line in printed),
                    )
                )
    return found


def _matches(shown: Sequence[str], printed: Sequence[str]) -> bool:
    if sorted(shown) == sorted(printed):
        return True  # a run's two streams are merged as they arrive
    pattern = "".join(r"(?:.*\n)*" if line == _ANY_LINES else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def fill(page: str, ran: Sequence[Sequence[Step]]) -> str:
    """The page with the blocks renewed that do not show what was printed."""
    lines = page.splitlines()
    console = [block for block in sessions(page) if block.kind == "console"]
    for index in sorted(differences(page, ran), reverse=True):
        block, renewed = console[index], []
        for step in ran[index]:
            first, *more = step.command.split("\n")
            renewed += [f"$ {first}", *(f"> {line}" for line in more), *step.output]
        lines[block.first : block.first + len(block.lines)] = renewed
    return "\n".join(lines) + "\n"


def pages() -> list[Path]:
    """The pages with commands that are run."""
    return [path for path in every_page() if sessions(path.read_text())]


def every_page() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="*", type=Path, help="only these pages")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a page does not show what is printed"
    )
    given = parser.parse_args(arguments)
    stale = 0
    for path in given.page or pages():
        page = path.read_text()
        with tempfile.TemporaryDirectory(prefix="runvoy-") as home:
            try:
                ran = run(page, Path(home).resolve())
            except Mismatch as mismatch:
                raise SystemExit(f"{path}, {mismatch}") from None
        found = differences(page, ran)
        for difference in found.values():
            print(f"{path}, {difference}", file=sys.stderr)
        stale += bool(found)
        if found and not given.check:
            path.write_text(fill(page, ran))
            print(f"wrote {path}")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
