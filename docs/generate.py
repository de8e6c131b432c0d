"""Make the pages that say what code says: docs/errors.md, from the table of error codes.

`python docs/generate.py` writes them; with `--check` it writes nothing and exits 1 if a page is not current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from runvoy_protocol.errors import ERRORS, ErrorCode
from runvoy_protocol.states import TRANSITIONS, State
from runvoy_protocol.status import EXIT_CODES_OF_RUNVOY

DOCS = Path(__file__).parent
_NOTICE = "<!-- Made by docs/generate.py from the code: change that, then run `just docs`. -->"


def errors_page() -> str:
    """docs/errors.md: every error code, and the exit codes they lead to."""
    lines = [
        "# Errors",
        "",
        _NOTICE,
        "",
        "Every refusal and failure carries one of these codes, in receipts, in the control API's answers and in the",
        "command line's `--json`. Match on the code: messages may be reworded. A code is never renamed or given another",
        "meaning.",
        "",
        "*Retry* says whether the very same call may succeed later. *Exit* is the exit code of `run` and `wait`; every other",
        "command exits 1, or 2 when it was called wrongly.",
        "",
        "| code | what happened | what to do | retry | exit |",
        "|---|---|---|---|---|",
    ]
    for code in ErrorCode:
        spec = ERRORS[code]
        retry = "yes" if spec.retryable else "no"
        lines.append(f"| `{code}` | {_cell(spec.meaning)} | {_cell(spec.hint)} | {retry} | {spec.exit_code} |")
    lines += [
        "",
        "## Exit codes of `run` and `wait`",
        "",
        "A command that ended by itself gives its own code: 0 to 255, 126 or 127 if it could not be executed, 128 + n if",
        "signal n ended it. For what is not the command's doing:",
        "",
        "| exit | why |",
        "|---|---|",
        *(f"| {code} | {_cell(meaning)} |" for code, meaning in sorted(EXIT_CODES_OF_RUNVOY.items())),
        "",
        "A command may exit with one of these by itself; `--json` always says which it was.",
        "",
        "## States of an execution",
        "",
        "| state | may become |",
        "|---|---|",
        *(f"| {state} | {_followers(state)} |" for state in State),
        "",
        "A state that may become nothing is final.",
    ]
    return "\n".join(lines) + "\n"


def _followers(state: State) -> str:
    return ", ".join(follower for follower in State if follower in TRANSITIONS[state]) or "nothing"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: Mapping[str, Callable[[], str]] = {"errors.md": errors_page}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, render in PAGES.items():
        path, page = DOCS / name, render()
        if path.exists() and path.read_text() == page:
            continue
        if check:
            print(f"docs/{name} is not current: run `just docs` (python docs/generate.py)", file=sys.stderr)
            stale += 1
        else:
            path.write_text(page)
            print(f"wrote docs/{name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
