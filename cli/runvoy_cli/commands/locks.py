"""`runvoy locks`: who holds a lock, who waits for it, and taking it from its holder."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.input.options import Yes, new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import execution_id
from runvoy_cli.terminal.render import age, columns, facts, print_json, print_line, whole, whole_fields
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol.control import LockAnswer, LockEntry, LocksAnswer, ReleaseRequest
from runvoy_protocol.errors import ErrorCode, RunvoyError

_LIST_HEADER = ("LOCK", "HOLDER", "OWNER", "STATE", "HELD FOR", "WAITING")
_QUEUE_HEADER = ("PLACE", "ID", "STATE", "WAITED", "HELD FOR", "OWNER")
app = new_app()


@app.callback(epilog="Example: runvoy locks show prod")
def locks() -> None:
    """Locks: who holds them and who waits. An execution takes them with `--lock NAME` of `runvoy run`."""


@app.command(name="list", epilog="Example: runvoy --json locks list")
def list_locks(context: typer.Context) -> None:
    """List the locks that somebody holds or waits for, each with the execution at the head of its queue."""
    session = open_session(context.obj)
    found = session.client.ask(LocksAnswer, "GET", "/locks").locks
    if context.obj.json:
        print_json(whole(found))
        return
    if not found:
        session.console.remark("no lock is held")
        return
    now = session.client.now()
    rows = [_list_row(lock, now) for lock in found]
    for line in columns(_LIST_HEADER, rows):
        print_line(line)


@app.command(epilog="Example: runvoy locks show prod")
def show(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="The lock's name.")]) -> None:
    """Show a lock's queue from its holder on, at most the first 100."""
    session = open_session(context.obj)
    lock = _ask(session, name)
    if context.obj.json:
        print_json(whole(lock))
        return
    now = session.client.now()
    holder = lock.queue[0].execution_id if lock.queue else "nobody"
    pairs = [
        ("lock", lock.name),
        ("holder", holder),
        ("in its queue", str(lock.length)),
        ("last fence", str(lock.fence)),
    ]
    for line in facts(pairs):
        print_line(line)
    if lock.queue:
        print_line("")
        for line in columns(_QUEUE_HEADER, [_queue_row(entry, now) for entry in lock.queue]):
            print_line(line)


@app.command(epilog="Example: runvoy locks release prod --holder 01890a5d-ac96-774b-bcce-b302099a8057")
def release(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The lock's name.")],
    holder: Annotated[
        str | None, typer.Option(metavar="ID", help="Only if this execution holds it.", show_default=False)
    ] = None,
    yes: Yes = False,
) -> int:
    """Take a lock from its holder. Its command goes on, and the next in line starts beside it, with a higher fence.

    For operators and admins, and kept in the audit. The holder is shown, and on a terminal it is asked; without a terminal
    --yes is needed. Nobody else's lock is released, should the holder change meanwhile. With --json the lock afterwards.
    """
    wanted = execution_id(holder) if holder is not None else None
    if not yes and not sys.stdin.isatty():
        raise UsageProblem("there is no terminal to ask on", "Give --yes to release the lock without being asked.")
    session = open_session(context.obj)
    lock = _ask(session, name)
    if not lock.queue:
        raise RunvoyError(ErrorCode.CONFLICT, f"nobody holds the lock {name!r}", "There is nothing to release.")
    head = lock.queue[0]
    if wanted is not None and head.execution_id != wanted:
        raise RunvoyError(ErrorCode.CONFLICT, f"the lock {name!r} is held by {head.execution_id}, not by {wanted}")
    now = session.client.now()
    waiting = lock.length - 1
    session.console.say(
        f"the lock {name} is held by {head.execution_id} ({head.owner}, {head.state.value})"
        + (f" for {age(head.granted_at, now)}" if head.granted_at else "")
        + f"; {waiting} wait{'s' if waiting == 1 else ''} for it"
    )
    if not yes and not typer.confirm("Its command goes on beside the next one's. Release the lock?", err=True):
        session.console.say("nothing was released")
        return 1
    body = msgspec.json.encode(ReleaseRequest(execution_id=head.execution_id))
    after = session.client.ask(LockAnswer, "POST", f"/locks/{quote(name, safe='')}/release", body)
    _tell_released(after, head, context.obj.json)
    return 0


def _tell_released(after: LockAnswer, head: LockEntry, as_json: bool) -> None:
    if as_json:
        print_json({**whole_fields(after), "released": head.execution_id})
        return
    heir = f"{after.queue[0].execution_id} is at its head now" if after.queue else "nobody waits for it"
    print_line(one_line(f"released {after.name} from {head.execution_id}; {heir}"))


def _ask(session: Session, name: str) -> LockAnswer:
    return session.client.ask(LockAnswer, "GET", f"/locks/{quote(name, safe='')}")


def _list_row(lock: LockAnswer, now: datetime) -> tuple[str, ...]:
    waiting = str(max(lock.length - 1, 0))
    if not lock.queue:
        return (lock.name, "", "", "", "", waiting)
    head = lock.queue[0]
    held = age(head.granted_at, now) if head.granted_at else "waits itself"
    return (lock.name, head.execution_id, head.owner, head.state.value, held, waiting)


def _queue_row(entry: LockEntry, now: datetime) -> tuple[str, ...]:
    held = age(entry.granted_at, now) if entry.granted_at else ""
    waited = age(entry.admitted_at, entry.granted_at or now)
    return (str(entry.position), entry.execution_id, entry.state.value, waited, held, entry.owner)
