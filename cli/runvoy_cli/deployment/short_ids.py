"""What people write for an execution in place of its 32 digits, and which execution it is.

The first digits of an id are its time: runs of one minute share eight of them, and it is the last four that tell them apart. So
either end is taken, and what runvoy itself shows of an id in little room: `01890a5d…8057`. `@last` is what was submitted from here
last. A whole id is taken as it is, and nobody is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from runvoy_cli.deployment.client import Client
from runvoy_cli.input import values
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.terminal.render import age
from runvoy_cli.terminal.words import what_ran_in_short
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.requests import NO_ID
from runvoy_protocol.status import ExecutionStatus

LAST = "@last"
HELP = "its id, four or more of its first or last digits, or @last"
MOST_SEARCHED = 1_000
_PAGE = 200
_FEWEST_DIGITS = 4
_MOST_SHOWN = 8
_SHORT = re.compile(r"([0-9a-f]*)(?:(?:…|\.{2,3})([0-9a-f]*))?\Z")


class Written(NamedTuple):
    """One execution as it was written. `ends` is None where no … stands: then `begins` may be its end as well."""

    text: str
    begins: str
    ends: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.ends is None and is_execution_id(self.begins)

    def fits(self, execution_id: str) -> bool:
        if self.ends is None:
            return execution_id.startswith(self.begins) or execution_id.endswith(self.begins)
        return execution_id.startswith(self.begins) and execution_id.endswith(self.ends)


def read(text: str) -> Written:
    """What a word of the command line says; UsageProblem if it can be no execution."""
    text = values.exact_text(text, "the id")  # the … is no ASCII, and the locale may be
    plain = text.strip().lower().replace("-", "")
    if plain == LAST or is_execution_id(plain):
        return Written(plain, plain)
    short = _SHORT.match(plain)
    if short is None or not _FEWEST_DIGITS <= len(short[1]) + len(short[2] or "") < len(NO_ID):
        raise UsageProblem(
            f"{text[:80]!r} is no execution id",
            f"An id is the 32 hex digits that `runvoy submit` prints; four or more of the first or the last are enough, or {LAST}. "
            "See `runvoy list`.",
        )
    return Written(text.strip(), short[1], short[2])


def read_all(texts: Iterable[str]) -> list[Written]:
    """The same of several, in the order given; `-` stands for the ids on standard input, which are whole."""
    found: list[Written] = []
    for text in texts:
        found += [Written(one, one) for one in values.ids_on_stdin()] if text == "-" else [read(text)]
    return found


def resolve(written: Sequence[Written], client: Client, most: int = MOST_SEARCHED) -> list[str]:
    """The ids, in that order.

    Short ones are looked for among the newest `most` executions that the caller may read, and as many of the caller's own.
    NOT_FOUND if none of these fits, or if nothing was submitted from here last; UsageProblem, which names them, if several fit.
    """
    newest: dict[str, ExecutionStatus] = {}
    if any(not one.is_whole and one.text != LAST for one in written):
        newest = _newest(client, {}, most)
        if len(newest) == most:  # somebody's batch may be all of them
            newest |= _newest(client, {"owner": "me"}, most)
    return [_resolved(one, client, list(newest.values())) for one in written]


def _newest(client: Client, query: dict[str, str], most: int) -> dict[str, ExecutionStatus]:
    found = islice(client.executions(query, min(_PAGE, most)), most)
    return {status.execution_id: status for status in found}


def _resolved(one: Written, client: Client, newest: Sequence[ExecutionStatus]) -> str:
    if one.is_whole:
        return one.begins
    if one.text == LAST:
        return _last(client)
    fitting = [status for status in newest if one.fits(status.execution_id)]
    if len(fitting) == 1:
        return fitting[0].execution_id
    if fitting:
        raise _ambiguous(one, fitting, client)
    is_so = f"begins or ends with {one.text}" if one.ends is None else f"is {one.text} in short"
    raise RunvoyError(
        ErrorCode.NOT_FOUND,
        f"no execution has an id that {is_so}, among the newest {len(newest):,} that you may see",
        "See `runvoy list`; older executions, and requests that were refused, take the whole id.",
    )


def _last(client: Client) -> str:
    found = client.cache.last_submitted
    if found is None:
        raise RunvoyError(
            ErrorCode.NOT_FOUND,
            f"there is no {LAST}: nothing was submitted from here with this key lately",
            "It is what `run`, `submit` or `playbook run` submitted last with this RUNVOY_HOME and this key; "
            "`runvoy list --owner me` shows what else you submitted.",
        )
    return found


def _ambiguous(one: Written, fitting: Sequence[ExecutionStatus], client: Client) -> UsageProblem:
    now = client.now()
    shown = fitting[:_MOST_SHOWN]
    lines = [
        f"  {status.execution_id}  {status.state.value}, {age(status.admitted_at, now)} old: "
        f"{what_ran_in_short(status)}"
        for status in shown
    ]
    if len(fitting) > len(shown):
        lines.append(f"  and {len(fitting) - len(shown):,} more")
    problem = UsageProblem(
        "\n".join([f"{one.text} is short for {len(fitting):,} executions:", *lines]), "Write more of its digits."
    )
    problem.details["executions"] = [status.execution_id for status in shown]
    return problem
