"""`runvoy submit`: make a request durable, print its id, leave."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Annotated

import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.following.announce import say_where_to_watch
from runvoy_cli.following.follow import Follower
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import EXIT_INTERRUPTED, GaveUp, Refused, UsageProblem
from runvoy_cli.submission import request, submitting
from runvoy_cli.terminal.render import print_json, print_line
from runvoy_protocol.errors import OF_CLOCKS, RunvoyError

RECEIPT_SECONDS = 5.0
TIMEOUT_HELP = request.TIMEOUT_HELP
prepare = request.prepare
app = new_app()


@app.command(
    cls=request.LiteralCommand,
    context_settings={"allow_interspersed_args": False},
    epilog="Example: id=$(runvoy submit --lock prod --timeout 30m -- terraform apply -auto-approve)",
)
def submit(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="CMD...", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=request.DRY_RUN_HELP)] = False,
    bulk: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Submit all runs of a file: JSON lines, or YAML documents. No CMD then."),
    ] = None,
    no_batch: Annotated[
        bool, typer.Option("--no-batch", help="With --bulk: sign and send each run as an object of its own.")
    ] = False,
) -> int:
    """Submit a command and print its execution id, once the request is durable.

    Options stand before CMD; after its first word everything is the command's own. One word is a line for /bin/sh,
    several are an argv and are kept exactly. RUNVOY_USER_X=... in the environment becomes X for the command.

    With --id the decision is waited for, 5 s at most: a refusal, a conflicting id above all, exits 121 (122 for a held
    lock). Without it the exit code is 0, 1, or 2 for a mistake on the command line.

    With --bulk each line or document of a file is a run: `command`, and fields named like the options. The options given
    here are their defaults. All are checked before any is sent; the ids are printed in order.
    """
    if bulk is not None:
        if words:
            raise UsageProblem("with --bulk the commands stand in the file", "Leave CMD out, or --bulk.")
        if dry_run:
            raise UsageProblem("--dry-run tries one run out, not a file of them", "Give the command itself.")
        from runvoy_cli.bulk import sending  # YAML and more, which no other submit needs

        return sending.submit(context, bulk, as_batch=not no_batch)
    if no_batch:
        raise UsageProblem("--no-batch says how a file is sent", "Give --bulk FILE as well, or leave it out.")
    with submitting.nothing_is_sent_yet():
        made = request.build(context, request.command_of(context, words), os.environ)
    if dry_run:
        return submitting.try_out(context, made)
    sending_id = durable_id = ""
    try:
        session = open_session(context.obj, calls_are_limited=False)
        prepared = submitting.prepare(context, submitting.with_default_timeout(context, made, session), session)
        sending_id = prepared.request.request_id
        with submitting.not_to_be_repeated(session, prepared):
            submitted = submitting.send(session, prepared.request)
        durable_id = submitted.execution_id
        session.client.cache.last_submitted = durable_id
        if prepared.has_chosen_id:
            _see_the_decision(session, prepared, submitted)
    except KeyboardInterrupt:
        submitting.say_where_it_stands(sending_id, durable_id)
        return EXIT_INTERRUPTED
    try:
        if context.obj.json:
            print_json({"execution_id": submitted.execution_id})
        else:
            print_line(submitted.execution_id)
            say_where_to_watch(session, submitted.execution_id)
    except RunvoyError as error:
        own_id = submitted.execution_id
        hint = f"`runvoy wait {own_id}` goes on from here."
        told = RunvoyError(error.code, f"{own_id} is submitted, but {error.message}", hint, {"execution_id": own_id})
        told.retryable = False
        raise told from error
    return 0


def _see_the_decision(session: Session, prepared: submitting.Prepared, submitted: submitting.Submitted) -> None:
    """Raise the refusal of a request whose id another may have, if it is told in time."""
    refusal = _refusal(session, submitted)
    if refusal is not None and refusal.code in OF_CLOCKS:  # the calls that told of it have learned the time
        refusal = _refusal(session, submitting.send(session, prepared.request))
    if refusal is not None:
        refusal.details.setdefault("execution_id", submitted.execution_id)
        raise Refused(refusal)


def _refusal(session: Session, submitted: submitting.Submitted) -> RunvoyError | None:
    """The refusal of a request, if one is told within 5 s; None if it was accepted or nothing is known yet."""
    follower = Follower(
        session.client,
        submitted.execution_id,
        deadline=time.monotonic() + RECEIPT_SECONDS,
        object_sha256=submitted.object_sha256,
        send_again=partial(submitting.send_again, session, submitted),
    )
    try:
        follower.receipt()
    except GaveUp:
        session.console.remark("not decided yet; `runvoy wait` tells what becomes of it")
    except RunvoyError as error:
        if error is follower.refusal:
            return error
        # Durable all the same: that nobody answered now is no reason to call it failed.
        session.console.remark(f"the decision could not be seen: {error.message}")
    return None
