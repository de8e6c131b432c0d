"""`runvoy wait`: wait for executions and exit with their code."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from runvoy_cli.bulk.waiting import BulkProgress, BulkWait, Ended, counted
from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.following.announce import announce_to_ci
from runvoy_cli.following.follow import Follower
from runvoy_cli.following.progress import Progress, progress_of
from runvoy_cli.following.readers import StdoutReader
from runvoy_cli.input.options import Settings, new_app
from runvoy_cli.input.problems import GaveUp
from runvoy_cli.terminal import github
from runvoy_cli.terminal.render import print_json, show_error
from runvoy_cli.terminal.screen import Live
from runvoy_cli.terminal.words import explanation_of, result_json, summary
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.exit_codes import EXIT_CODES_OF_RUNVOY, EXIT_GAVE_UP
from runvoy_protocol.status import ExecutionStatus, exit_code_of

TIMEOUT_HELP = "How long to wait for all of them, then give up with 120; 0 looks once.  [default: no limit]"
app = new_app()


@app.command(epilog="Example: runvoy wait --timeout 15m $(runvoy submit -- make test)")
def wait(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...|-", help=f"The executions, each by {short_ids.HELP}; - reads whole ids from stdin."
        ),
    ],
    any_: Annotated[bool, typer.Option("--any", help="Return when the first has ended, with its exit code.")] = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Return when the first has failed, with its exit code; the others go on."),
    ] = False,
) -> int:
    """Wait until executions have ended, and exit with the command's code.

    Several: 0 if all succeeded, else the code of the first, in the order given, that did not. One line for each goes to
    stderr; with --json one object for each goes to stdout.

    With -, --any or --fail-fast they are asked for together, thousands if need be, and told of as they end: on stderr those
    that did not succeed and the first of --any, all with --verbose, and at last how many ended how. Those that are not waited
    for go on.

    What is not the command's exit code: 120 gave up waiting, 121 refused or unknown, 122 a lock was held, 123 killed,
    124 timed out, 125 runvoy or the platform failed.
    """
    written = short_ids.read_all(ids)
    session = open_session(context.obj, calls_are_limited=False, begins=False)
    wanted = short_ids.resolve(written, session.client)
    limit = context.obj.timeout_seconds
    deadline = None if limit is None else time.monotonic() + limit
    if any_ or fail_fast or "-" in ids:
        return _Bulk(session, context.obj, wanted, deadline).wait(is_any=any_, is_fail_fast=fail_fast)
    first_failure = 0
    progress, live = progress_of(session)
    ended: list[ExecutionStatus] = []
    others: list[github.Row] = []
    with StdoutReader(is_wanted=context.obj.json), live, github.output_of_others():
        for number, one in enumerate(wanted, start=1):
            progress.begin(f"{number} of {len(wanted)}  " if len(wanted) > 1 else "")
            code, status = _wait_for(one, session, deadline, progress, context.obj.json)
            first_failure = first_failure or code
            if status is not None:
                ended.append(status)
            else:
                others.append(_row(one, code))
    announce_to_ci(session.console, ended, others)
    return first_failure


def _wait_for(
    one: str, session: Session, deadline: float | None, progress: Progress, as_json: bool
) -> tuple[int, ExecutionStatus | None]:
    follower = Follower(session.client, one, deadline=deadline, on_status=progress.on_status)
    try:
        status = follower.wait()
    except GaveUp:
        if as_json:
            print_json(_given_up(one, follower))
        session.console.say(f"{one} gave up waiting; it goes on")
        return EXIT_GAVE_UP, None
    except RunvoyError as error:
        if error is not follower.refusal and error.code is not ErrorCode.NOT_FOUND:
            raise  # trouble on the way: it would meet the others too
        error.details.setdefault("execution_id", one)
        show_error(error, as_json, session.console.screen)
        return error.exit_code, None
    if as_json:
        print_json(result_json(status))
    else:
        session.console.say(summary(status, datetime.now(UTC)))
        why = explanation_of(status)
        if why is not None and why.hint:
            session.console.advise(why.hint)
    return exit_code_of(status), status


def _given_up(one: str, follower: Follower) -> dict[str, object]:
    if follower.status is not None:
        return result_json(follower.status, EXIT_GAVE_UP)
    return _given_up_undecided(one)


def _given_up_undecided(one: str) -> dict[str, object]:
    verdict = {"exit_code": EXIT_GAVE_UP, "decided_by": "runvoy", "exit_meaning": EXIT_CODES_OF_RUNVOY[EXIT_GAVE_UP]}
    return {"execution_id": one, "state": None, **verdict, "explanation": None, "status": None}


def _row(one: str, code: int) -> github.Row:
    """What a CI job's summary says of one that has no end."""
    return github.Row(one, "given up" if code == EXIT_GAVE_UP else "refused", code)


class _Bulk:
    """Many at once."""

    def __init__(self, session: Session, settings: Settings, wanted: list[str], deadline: float | None) -> None:
        self._session = session
        self._settings = settings
        self._wanted = wanted
        self._waiting = BulkWait(session.client, wanted, deadline)
        self._codes: dict[str, int] = {}

    def wait(self, *, is_any: bool, is_fail_fast: bool) -> int:
        screen = self._session.console.screen
        with (
            StdoutReader(is_wanted=self._settings.json),
            github.output_of_others(),
            Live(screen, BulkProgress(screen, self._waiting, self._session.client.now).rows),
        ):
            for ended in self._waiting.ends():
                self._codes[ended.execution_id] = ended.exit_code
                self._tell(ended, is_asked_for=is_any)
                if is_any or (is_fail_fast and ended.exit_code):
                    decided = ended.exit_code
                    break
            else:
                self._give_up()
                decided = next((code for one in self._wanted if (code := self._codes[one])), 0)
        self._sum_up()
        return decided

    def _tell(self, ended: Ended, *, is_asked_for: bool) -> None:
        """What became of one. Of many that came to a good end none is told of by itself, unless it `is_asked_for`."""
        error = ended.error
        if error is not None:
            error.details.setdefault("execution_id", ended.execution_id)
            if not self._settings.json and ended.execution_id not in error.message:
                error.message = f"{ended.execution_id}: {error.message}"
            show_error(error, self._settings.json, self._session.console.screen)
        elif ended.status is not None and self._settings.json:
            print_json(result_json(ended.status))
        elif ended.status is not None and (ended.exit_code or self._settings.verbose or is_asked_for):
            self._session.console.say(summary(ended.status, datetime.now(UTC)))

    def _announce(self) -> None:
        """Tell a CI job what became of those that ended."""
        ended = [status for one, status in self._waiting.last.items() if one in self._codes and status.is_terminal]
        others = [
            _row(one, code)
            for one, code in self._codes.items()
            if code and (one not in self._waiting.last or not self._waiting.last[one].is_terminal)
        ]
        announce_to_ci(self._session.console, ended, others)

    def _give_up(self) -> None:
        for one in self._waiting.left:
            self._codes[one] = EXIT_GAVE_UP
            if self._settings.json:
                status = self._waiting.last.get(one)
                print_json(_given_up_undecided(one) if status is None else result_json(status, EXIT_GAVE_UP))
        if self._waiting.left:
            self._session.console.say(f"gave up waiting for {len(self._waiting.left):,}; they go on")

    def _sum_up(self) -> None:
        if not self._settings.json:
            self._session.console.say(f"{self._waiting.total:,} executions: {counted(self._waiting.counts())}")
        self._announce()
