"""`runvoy status`: what is known of one execution."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from runvoy_cli.options import new_app
from runvoy_cli.render import command_text, facts, moment, print_json, print_line, ran_for
from runvoy_cli.session import open_session
from runvoy_cli.values import execution_id
from runvoy_protocol.control import ExecutionAnswer
from runvoy_protocol.status import EXIT_CODES_OF_RUNVOY, ExecutionStatus, decided_by, exit_code_of

app = new_app()


@app.command(epilog="Example: runvoy status 01890a5d-ac96-774b-bcce-b302099a8057")
def status(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")],
) -> None:
    """Show what is known of an execution.

    With --json: the status as the deployment publishes it and, once it has ended, the exit code that `runvoy wait` has
    for it and whose that is. Of a refused request it is the refusal that is shown, with exit code 1.
    """
    wanted = execution_id(one)
    answer = open_session(context.obj).client.ask(ExecutionAnswer, "GET", f"/executions/{wanted}")
    if answer.receipt is not None:
        refusal = answer.receipt.error()
        if refusal is not None:
            raise refusal
    if context.obj.json:
        print_json(as_json(wanted, answer))
        return
    if answer.status is None:
        print_line(f"{wanted} is submitted and not yet decided")
        return
    for line in facts(block(answer.status)):
        print_line(line)


def as_json(wanted: str, answer: ExecutionAnswer) -> dict[str, object]:
    if answer.status is None:
        return {"execution_id": wanted, "state": None}
    found: dict[str, object] = msgspec.to_builtins(answer.status)
    if answer.status.is_terminal:
        found["exit_code_of"] = exit_code_of(answer.status)
        found["decided_by"] = decided_by(answer.status)
    return found


def block(found: ExecutionStatus) -> list[tuple[str, str]]:
    """The status as names and values for people; an empty value is not shown."""
    now = datetime.now(UTC)
    state = found.state.value + (f" ({found.reason.value})" if found.reason else "")
    return [
        ("id", found.execution_id),
        ("name", found.name or ""),
        ("state", state),
        ("message", found.message),
        ("exit code", _exit_code(found)),
        ("command", command_text(found.command)),
        ("owner", found.owner),
        ("isolation", found.isolation + (f", image {found.image}" if found.image else "")),
        ("locks", ", ".join(f"{lock.name}#{lock.fence}" if lock.fence else lock.name for lock in found.locks)),
        ("labels", ", ".join(f"{name}={value}" for name, value in found.labels.items())),
        ("submitted", moment(found.issued_at)),
        ("started", moment(found.started_at)),
        ("ended", moment(found.ended_at)),
        ("ran for", ran_for(found, now)),
        ("timeout", f"{found.timeout_seconds} s"),
        ("lines", "" if found.lines is None else str(found.lines)),
        ("lost output", f"{found.lost_bytes:,} bytes" if found.lost_bytes else ""),
    ]


def _exit_code(found: ExecutionStatus) -> str:
    if not found.is_terminal:
        return ""
    code = exit_code_of(found)
    if decided_by(found) == "command":
        return f"{code} (signal {found.signal})" if found.signal else str(code)
    return f"{code} ({EXIT_CODES_OF_RUNVOY.get(code, 'runvoy')})"
