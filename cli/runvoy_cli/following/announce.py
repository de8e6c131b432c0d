"""Around the output of a run on a terminal: what runs, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from runvoy_cli.deployment.session import Session
from runvoy_cli.terminal import github
from runvoy_cli.terminal.render import Console, command_text, ran_for
from runvoy_cli.terminal.screen import Row, Screen, cells
from runvoy_cli.terminal.words import code_text, summary
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import State
from runvoy_protocol.status import ExecutionStatus, exit_code_of

_STYLES = {State.SUCCEEDED: "green", State.STOPPED: "yellow", State.TIMED_OUT: "yellow"}
_SEPARATOR = "  "


def show_beginning(session: Session, request: RunRequest) -> None:
    """What was submitted: the command in one row, its id, where it runs and which locks it takes."""
    screen = session.console.screen
    mark = "▸ " if screen.has_symbols else "> "
    command = f"playbook {request.playbook}" if request.playbook else " ".join(command_text(request.command).split())
    name = request.name if request.name != request.playbook else None
    head: Row = [(mark, "cyan"), (f"{name}: " if name else "", ""), (command, "bold")]
    facts = [request.request_id, _place(session, request)]
    if request.locks:
        facts.append(f"lock{'s' if len(request.locks) > 1 else ''} {', '.join(request.locks)}")
    _show(screen, head, facts, web_link(session.web_url, request.request_id) if session.web_url else "")


def show_end(screen: Screen, status: ExecutionStatus, now: datetime, hint: str) -> None:
    """What became of it, what to do about it, and how to see it again."""
    mark = (
        ("✓" if screen.has_symbols else "*") if status.state is State.SUCCEEDED else "✗" if screen.has_symbols else "x"
    )
    duration = ran_for(status, now)
    verdict = f"exit code {code_text(status)}" + (f", {duration}" if duration else "")
    head: Row = [(f"{mark} {status.state.value}", _STYLES.get(status.state, "red")), (f", {verdict}", "")]
    _show(screen, head, [f"again: runvoy logs {status.execution_id}"])
    if hint:
        screen.write(screen.text_of([("  ", ""), (f"hint: {hint}", "dim")]) + "\n")


def announce_to_ci(console: Console, statuses: Sequence[ExecutionStatus], others: Sequence[github.Row] = ()) -> None:
    """Tell a CI job what became of executions: an annotation of each failure, and a table. `others` have no status."""
    if not github.is_active():
        return
    now = datetime.now(UTC)
    failed = [(status.name or status.execution_id, summary(status, now)) for status in statuses if exit_code_of(status)]
    failed += [(row.execution_id, f"{row.execution_id} {row.state}, exit code {row.exit_code}") for row in others]
    for who, text in failed[: github.MAX_ANNOTATIONS]:
        github.annotate(f"runvoy {who}", text)
    rows = [
        github.Row(
            execution_id=status.execution_id,
            state=status.state.value,
            exit_code=exit_code_of(status),
            duration=ran_for(status, now),
            what=status.name or command_text(status.command),
        )
        for status in statuses
    ]
    problem = github.summarize([*rows, *others])
    if problem:
        console.warn(problem)


def say_where_to_watch(session: Session, execution_id: str) -> None:
    """Tell a person the execution's page in the viewer, where it is known."""
    if session.web_url:
        session.console.remark(f"in a browser: {web_link(session.web_url, execution_id)}")


def web_link(web_url: str, execution_id: str) -> str:
    return f"{web_url}{'&' if '?' in web_url else '?'}execution_id={execution_id}"


def _show(screen: Screen, head: Row, facts: list[str], link: str = "") -> None:
    """The head cut to the terminal's width; the facts whole, for they are copied: in one row, if they fit, and the link in one of its own."""
    columns = screen.columns() - 1
    joined = _SEPARATOR.join(facts)
    rows = [joined] if cells(joined) + 2 <= columns else facts
    rows = [*rows, link] if link else rows
    lines = [screen.text_of(head, columns), *(screen.text_of([("  ", ""), (row, "dim")]) for row in rows)]
    screen.write("".join(f"{line}\n" for line in lines))


def _place(session: Session, request: RunRequest) -> str:
    if request.isolation == "process":
        return "host process"
    if request.image:
        return f"image {request.image}"
    # A default image makes it a container here as well, which only the deployment knows.
    return "this machine" if session.is_embedded and not request.isolation else "default image"
