"""`runvoy audit`: who did what, when, from where, and how it went; and whether the record of it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import check_moments
from runvoy_cli.input.values import moment as moment_of
from runvoy_cli.terminal.render import columns, facts, moment, print_json, print_line, whole_fields
from runvoy_protocol.audit import REFUSED, AuditEntry, AuditPage
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.seals import SealHead

if TYPE_CHECKING:
    from runvoy_cli.proofs.audit import DayProof
    from runvoy_cli.proofs.signed_request import RequestProof

DEFAULT_LIMIT = 50
_PAGE = 200
_KEY_SHOWN = 8
_HASH_CHARACTERS = 64
_HEADER = ("WHEN", "WHO", "KEY", "ACTION", "OUTCOME", "FROM", "EXECUTION", "ABOUT")
app = new_app()


User = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only what this user did, or `reconciler`, `runner`, `platform`; an empty name for nobody known.",
    ),
]
ActionName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only this action, e.g. create-user, admit or kill.")
]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only since then: 10m (ago), or 2030-01-31T09:00:00Z.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only before then, written like --since.")]
Execution = Annotated[
    str | None, typer.Option(metavar="ID", help="Only what was about this execution, from its admission on.")
]
Outcome = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help="Only this outcome: ok, accepted, a state, an error code; or refused, for every error code.",
    ),
]

Changes = Annotated[
    bool,
    typer.Option(
        "--changes",
        help="Only what was changed: no reads, no refusals, of runs that they were submitted and killed, not their steps.",
    ),
]


@app.callback(invoke_without_command=True, epilog="Example: runvoy audit --changes --user dave@example.com --since 2d")
def audit(  # noqa: PLR0913, PLR0917 - as many as there are filters
    context: typer.Context,
    user: User = None,
    action: ActionName = None,
    since: Since = None,
    until: Until = None,
    execution: Execution = None,
    outcome: Outcome = None,
    changes: Changes = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many to show at most.")] = DEFAULT_LIMIT,
) -> None:
    """Show the audit, newest first: every call and decision. For admins.

    With --json one record a line, with whole ids.
    """
    given = (user, action, since, until, execution, outcome, changes or None)
    if context.invoked_subcommand is not None:
        if any(value is not None for value in given):
            raise UsageProblem(
                f"the filters stand before {context.invoked_subcommand}",
                f"Put them behind it: runvoy audit {context.invoked_subcommand} …",
            )
        return
    query = _query(user, action, since, until, execution, outcome, changes)
    session = open_session(context.obj)
    found = list(islice(_entries(session.client, _asked(query, session.client), min(limit, _PAGE)), limit))
    if context.obj.json:
        for entry in found:
            print_json(_as_json(entry))
        return
    if not found:
        session.console.remark("there are no such records")
        return
    for line in columns(_HEADER, [_row(entry) for entry in found]):
        print_line(line)


@app.command(epilog="Example: runvoy audit export --since 2030-01-01T00:00:00Z > audit.jsonl")
def export(  # noqa: PLR0913, PLR0917 - as many as there are filters
    context: typer.Context,
    user: User = None,
    action: ActionName = None,
    since: Since = None,
    until: Until = None,
    execution: Execution = None,
    outcome: Outcome = None,
    changes: Changes = False,
    form: Annotated[
        str, typer.Option("--format", metavar="jsonl", help="How: one JSON object a line, which is all there is.")
    ] = "jsonl",
) -> None:
    """Print all of the audit, or all that the filters leave, newest first: one JSON object a line. For admins.

    It is asked for page by page and printed as it comes.
    """
    if form != "jsonl":
        raise UsageProblem(f"the format {form[:32]!r} is not known", "Write --format jsonl.")
    query = _query(user, action, since, until, execution, outcome, changes)
    session = open_session(context.obj)
    count = 0
    for entry in _entries(session.client, _asked(query, session.client), _PAGE):
        print_json(_as_json(entry))
        count += 1
    session.console.remark(f"{count} records")


@app.command(epilog="Example: runvoy audit head >> /somewhere/else/heads.txt")
def head(context: typer.Context) -> None:
    """Print the newest seal's number and hash, to be kept where the deployment's admins cannot write. For admins.

    What was sealed until then can be proven by it for ever: `runvoy audit verify --day DAY --head HASH`.
    """
    found = open_session(context.obj).client.ask(SealHead, "GET", "/audit/head")
    if context.obj.json:
        print_json(whole_fields(found))
        return
    print_line(f"{found.number} {found.hash} {found.sealed_until}Z")


@app.command(epilog="Example: runvoy audit verify --day 2030-01-31 --head $HASH")
def verify(
    context: typer.Context,
    execution: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The execution whose signed request is checked.", show_default=False),
    ] = None,
    day: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM-DD", help="The day (UTC) whose records are checked against their seals."),
    ] = None,
    kept_hash: Annotated[
        str | None,
        typer.Option("--head", metavar="HASH", help="A seal's hash of that day or later, which was kept elsewhere."),
    ] = None,
) -> int:
    """Check the audit, on this machine: a day's records by their seals, or an execution by its signed request. For admins.

    Exit code 1 if something is not as it was. Each record that was removed, changed, added or moved is named.
    """
    if (execution is None) == (day is None) or (kept_hash is not None and day is None):
        raise UsageProblem(
            "what is to be verified?", "Give an execution's ID, or --day YYYY-MM-DD, perhaps with --head."
        )
    if execution is not None:
        from runvoy_cli.proofs.signed_request import check_request

        written = short_ids.read(execution)
        client = open_session(context.obj).client
        proof = check_request(client, *short_ids.resolve([written], client))
        _show_request(proof, as_json=context.obj.json)
        return 0 if proof.holds else 1
    from runvoy_cli.proofs.audit import DayCheck

    first, kept = _first_of(day or ""), _hash(kept_hash)
    checked = DayCheck(open_session(context.obj).client, first, kept).run()
    _show_day(checked, kept_hash, as_json=context.obj.json)
    return 0 if checked.holds else 1


def _first_of(day: str) -> datetime:
    try:
        at = datetime.strptime(day.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageProblem(f"{day[:32]!r} is no day", "Write it like 2030-01-31.") from error
    if not 2020 <= at.year < 9000:
        raise RunvoyError(ErrorCode.NOT_FOUND, f"there is no audit of {day}")
    return at


def _hash(text: str | None) -> str | None:
    if text is None:
        return None
    plain = text.strip().lower()
    if len(plain) != _HASH_CHARACTERS or any(character not in "0123456789abcdef" for character in plain):
        raise UsageProblem(f"{text[:80]!r} is no hash of a seal", "It has 64 hex digits: see `runvoy audit head`.")
    return plain


def _show_day(proof: DayProof, kept_hash: str | None, *, as_json: bool) -> None:
    if as_json:
        findings = [finding._asdict() for finding in proof.findings]
        print_json(
            {**proof._asdict(), "head": whole_fields(proof.head), "findings": findings}
            | {"holds": proof.holds, "compared_with_head": kept_hash is not None}
        )
        return
    pairs = [
        ("day", f"{proof.day} (UTC)"),
        ("records", f"{proof.records}, {proof.sealed} of them sealed" + (f", {proof.late} late" if proof.late else "")),
        ("not sealed", str(proof.unproven) if proof.unproven else ""),
        ("seals", str(proof.seals)),
        ("sealed until", f"{proof.head.sealed_until}Z"),
        ("head", f"seal {proof.head.number}, {proof.head.hash}"),
        ("compared", "with the hash that was kept" if kept_hash else "with no hash kept elsewhere (--head)"),
        ("verdict", "as it was sealed" if proof.holds else f"NOT as it was sealed: {len(proof.findings)} findings"),
    ]
    for line in facts(pairs):
        print_line(line)
    if proof.findings:
        print_line("")
        for line in columns(("WHAT", "OF", "ABOUT"), proof.findings):
            print_line(line)


def _show_request(proof: RequestProof, *, as_json: bool) -> None:
    if as_json:
        checks = [check._asdict() for check in proof.checks]
        print_json({**proof._asdict(), "checks": checks, "holds": proof.holds})
        return
    rows = [(check.name, "ok" if check.holds else "WRONG", check.message) for check in proof.checks]
    for line in columns(("CHECK", "HOLDS", "ABOUT"), rows):
        print_line(line)
    print_line("")
    print_line("what ran is what was signed" if proof.holds else "this is NOT what was signed, or it cannot be proven")


def _query(
    user: str | None,
    action: str | None,
    since: str | None,
    until: str | None,
    execution: str | None,
    outcome: str | None,
    changes: bool,
) -> dict[str, str]:
    check_moments(since, until)
    if changes and outcome is not None and (outcome == REFUSED or outcome in list(ErrorCode)):
        raise UsageProblem(
            f"--changes leaves out what was refused, so --outcome {outcome} finds nothing", "Leave one out."
        )
    if execution is not None:
        short_ids.read(execution)
    query = {
        "user": user,
        "action": action,
        "since": since,
        "until": until,
        "execution": execution,
        "outcome": outcome,
        "changes": "yes" if changes else None,
    }
    return {name: value for name, value in query.items() if value is not None}


def _asked(query: Mapping[str, str], client: Client) -> dict[str, str]:
    """The query as the deployment takes it: with instants, and a whole id."""
    now = client.now()
    asked = {
        name: moment_of(value, now).isoformat() if name in ("since", "until") else value
        for name, value in query.items()
    }
    if "execution" in query:
        [asked["execution"]] = short_ids.resolve([short_ids.read(query["execution"])], client)
    return asked


def _entries(client: Client, query: dict[str, str], page_size: int) -> Iterator[AuditEntry]:
    """All that a query finds; a page is asked for when the one before it was taken."""
    after: str | None = None
    while True:
        paging = {"limit": str(page_size)} | ({"after": after} if after else {})
        page = client.ask(AuditPage, "GET", "/audit", query={**query, **paging})
        yield from page.entries
        after = page.after
        if after is None:
            return


def _as_json(entry: AuditEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _row(entry: AuditEntry) -> tuple[str, ...]:
    return (
        moment(entry.at),
        entry.actor or "(nobody known)",
        (entry.key_id or "")[:_KEY_SHOWN],
        entry.action,
        entry.outcome,
        entry.source,
        entry.execution_id or "",
        ": ".join(part for part in (entry.subject, entry.message) if part),
    )
