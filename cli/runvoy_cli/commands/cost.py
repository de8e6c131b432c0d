"""`runvoy cost`: what executions cost, by what they have in common."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import check_moments
from runvoy_cli.input.values import moment as moment_of
from runvoy_cli.terminal.render import columns, print_json, print_line, span, whole
from runvoy_cli.terminal.screen import STYLES, cells, has_colour
from runvoy_protocol.costs import CostGroup, CostPage, added, dollars

GROUPS = ("user", "image", "playbook", "label", "day")
_NONE = {"image": "(no image)", "playbook": "(no playbook)", "label": "(no label)"}
_BASES = {
    "billed": "prices of Fargate on demand",
    "at_most": "at most this: on Spot, whose price moves and is lower",
    "would_have_cost": "what it would have cost on Fargate: it ran on this machine",
}
_HEADS = {"billed": "COST", "at_most": "AT MOST", "would_have_cost": "WOULD HAVE COST"}
_PARTS = " ▏▎▍▌▋▊▉"
_BAR_CELLS = 24
app = new_app()


@app.command(epilog="Example: runvoy cost --since 7d --by playbook")
def cost(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="What was submitted since then: 7d (ago), or 2030-01-31T09:00:00Z.  [default: 30d]"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only what was before then, like --since.")] = None,
    by: Annotated[str, typer.Option(metavar=f"[{'|'.join(GROUPS)}]", help="What to add up by.")] = "user",
    owner: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's; `me` for your own.")] = None,
) -> None:
    """Show what executions cost, the dearest first.

    What runs counts as far as it has come. Operators and admins see everybody's, others their own. On one machine it is what
    the same would have cost on Fargate. By label an execution counts under each of its labels; the total has it once.
    """
    if by not in GROUPS:
        raise UsageProblem(f"{by!r} is none of {', '.join(GROUPS)}", "Choose one of them.")
    check_moments(since, until)
    session = open_session(context.obj)
    now = session.client.now()
    query = {"by": by, "since": _instant(since, now), "until": _instant(until, now), "owner": owner}
    found = added_up(session.client, {name: value for name, value in query.items() if value})
    if context.obj.json:
        print_json(whole(found))
        return
    if not found.total.executions:
        session.console.remark("there are no such executions")
        return
    _show(found)
    for note in notes(found):
        session.console.say(note)


def added_up(client: Client, query: dict[str, str]) -> CostPage:
    """The pages of a query as one, in the order of their sums; by day, of the days."""
    groups: dict[str, CostGroup] = {}
    total = CostGroup(key="")
    bases: dict[str, None] = {}
    prices: set[str] = set()
    after: str | None = None
    while True:
        page = client.ask(CostPage, "GET", "/cost", query=query | ({"after": after} if after else {}))
        for group in page.groups:
            groups[group.key] = added(groups[group.key], group) if group.key in groups else group
        total = added(total, page.total)
        bases |= dict.fromkeys(page.bases)
        prices |= set(page.prices_of)
        after = page.after
        if after is None:
            break
    is_by_day = page.by == "day"
    ordered = sorted(groups.values(), key=lambda one: one.key if is_by_day else (-one.nanodollars, one.key))
    known = tuple(basis for basis in ("billed", "at_most", "would_have_cost") if basis in bases)
    return CostPage(by=page.by, groups=tuple(ordered), total=total, bases=known, prices_of=tuple(sorted(prices)))


def _instant(text: str | None, now: datetime) -> str | None:
    return None if text is None else moment_of(text, now).astimezone(UTC).isoformat()


def _show(found: CostPage) -> None:
    is_drawn = sys.stdout.isatty() and _is_utf8()
    room = os.get_terminal_size(sys.stdout.fileno()).columns if is_drawn else 0
    has_colours = is_drawn and has_colour(sys.stdout)
    for line in lines_of(found, room):
        print_line(_coloured(line) if has_colours else line)


def lines_of(found: CostPage, room: int) -> list[str]:
    """The sums in columns, with bars behind them where a terminal of so many cells has room for them; 0: there is none."""
    with_bars = _table(found, has_bars=True)
    return with_bars if room and max(map(cells, with_bars)) <= room else _table(found, has_bars=False)


def _table(found: CostPage, *, has_bars: bool) -> list[str]:
    largest = max(group.nanodollars for group in found.groups)
    header = (found.by.upper(), _HEADS[found.bases[0]] if len(found.bases) == 1 else "COST", "RUNS", "TIME")
    rows = [(*_row(group, _NONE.get(found.by, "")), bar(group.nanodollars, largest)) for group in found.groups]
    rows.append((*_row(found.total, "total"), ""))
    if has_bars:
        return columns((*header, ""), rows, room=0)
    return columns(header, [row[:-1] for row in rows])


def _row(group: CostGroup, nameless: str) -> tuple[str, ...]:
    runs = f"{group.executions:,}" + (f" ({group.running:,} not over)" if group.running else "")
    return (group.key or nameless, dollars(group.nanodollars), runs, span(group.billed_seconds))


def notes(found: CostPage) -> list[str]:
    """What the sums are made of, and what is not in them."""
    told = [_BASES[basis] for basis in found.bases]
    if found.prices_of:
        told.append(f"prices of {' and '.join(found.prices_of)}")
    if found.total.unpriced:
        told.append(f"{found.total.unpriced:,} of {found.total.executions:,} have no known price and are in no sum")
    return told


def bar(part: int, largest: int) -> str:
    """A bar in eighths of a cell; at least one eighth for what is not nothing."""
    if part <= 0 or largest <= 0:
        return ""
    eighths = max(1, part * _BAR_CELLS * 8 // largest)
    return "█" * (eighths // 8) + _PARTS[eighths % 8].strip()


def _coloured(line: str) -> str:
    """The bar at a line's end in colour."""
    head = line.rstrip("█▏▎▍▌▋▊▉")
    tail = line[len(head) :]
    return f"{head}\x1b[{STYLES['cyan']}m{tail}\x1b[0m" if tail else line


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
