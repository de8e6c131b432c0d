"""`runvoy run`: submit, follow, exit with the command's code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from runvoy_cli.deployment.session import Session, open_session
from runvoy_cli.following.announce import announce_to_ci, say_where_to_watch, show_beginning, show_end
from runvoy_cli.following.follow import Follower
from runvoy_cli.following.interrupts import Interrupted, Interrupts
from runvoy_cli.following.output import AsJson, Split
from runvoy_cli.following.progress import Progress, progress_of
from runvoy_cli.following.readers import StdoutReader
from runvoy_cli.input.options import Settings, new_app
from runvoy_cli.input.problems import EXIT_INTERRUPTED, GaveUp, ReaderGone
from runvoy_cli.submission import request, submitting
from runvoy_cli.submission.submitting import Prepared
from runvoy_cli.terminal import github
from runvoy_cli.terminal.render import Console, NotWritten, command_text, print_json, ran_for
from runvoy_cli.terminal.screen import is_capable
from runvoy_cli.terminal.words import code_text, explanation_of, result_json
from runvoy_protocol.errors import OF_CLOCKS, RunvoyError
from runvoy_protocol.explanations import ended_itself
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, exit_code_of

TIMEOUT_HELP = request.TIMEOUT_HELP
prepare = request.prepare
app = new_app()

LEAVE_SECONDS = 3.0


class _Left(Exception):
    """Ctrl-C was pressed once: the command goes on, we do not."""


@app.command(
    cls=request.LiteralCommand,
    context_settings={"allow_interspersed_args": False},
    epilog="Example: runvoy run --env STAGE=test -- sh -c 'make test'",
)
def run(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="CMD...", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=request.DRY_RUN_HELP)] = False,
) -> int:
    """Run a command, follow its output, and exit with its exit code.

    Options stand before CMD; after its first word everything is the command's own. One word is a line for /bin/sh,
    several are an argv and are kept exactly. RUNVOY_USER_X=... in the environment becomes X for the command.

    What is not the command's exit code: 121 refused, 122 a lock was held, 123 killed, 124 timed out, 125 runvoy or the
    platform failed. Ctrl-C leaves after 3 s with 130, and the command goes on; Ctrl-C twice kills it.
    """
    with submitting.nothing_is_sent_yet():
        made = request.build(context, request.command_of(context, words), os.environ)
    if dry_run:
        return submitting.try_out(context, made)

    def prepared(session: Session) -> Prepared:
        return submitting.prepare(context, submitting.with_default_timeout(context, made, session), session)

    return run_through(context.obj, prepared)


def run_through(settings: Settings, prepare_request: Callable[[Session], Prepared]) -> int:
    """Submit what is prepared, follow it to its end, and tell of it as `run` does; the exit code."""
    following = _Following()
    try:
        return following.through(settings, prepare_request)
    except (KeyboardInterrupt, _Left):
        submitting.say_where_it_stands(following.sending_id, following.durable_id, following.becomes)
        return EXIT_INTERRUPTED
    except (BrokenPipeError, ReaderGone):
        if following.durable_id and is_capable(sys.stderr):  # a script has what it wanted
            submitting.say_where_it_stands(following.sending_id, following.durable_id)
        raise
    except NotWritten as error:
        own_id = following.durable_id
        hint = f"`runvoy wait {own_id}` tells what becomes of it, `runvoy logs {own_id}` has its output."
        told = RunvoyError(error.code, f"{own_id} is submitted, but {error.message}", hint, {"execution_id": own_id})
        told.retryable = False
        raise told from error
    except RunvoyError as error:
        if following.durable_id:
            error.details.setdefault("execution_id", following.durable_id)
        if following.may_run and error is not following.refusal:
            error.retryable = False
        raise


class _Following:
    """One run, and how far it got: Ctrl-C may come at any moment."""

    def __init__(self) -> None:
        self.sending_id = ""
        self.durable_id = ""
        self.becomes = "goes on"
        self.refusal: RunvoyError | None = None
        self.may_run = False
        """Whether to repeat the command line, with a new id, could run the command twice."""
        self._last_said = ""

    def through(self, settings: Settings, prepare_request: Callable[[Session], Prepared]) -> int:
        session = open_session(settings, calls_are_limited=False)
        prepared = prepare_request(session)
        sink = AsJson() if settings.json else Split(session.console.screen)
        progress, live = progress_of(session)
        with live, github.output_of_others(f"runvoy {self._title(prepared)}"):
            try:
                status = self._attempts(session, prepared, sink, progress)
            finally:
                sink.finish()
        code = exit_code_of(status)
        if isinstance(sink, AsJson):
            print_json(result_json(status))
        told = sink.told.decode(errors="replace") if isinstance(sink, Split) else ""
        _close(session.console, status, told)
        announce_to_ci(session.console, [status])
        return code

    @staticmethod
    def _title(prepared: Prepared) -> str:
        request = prepared.request
        return request.name or request.playbook or " ".join(command_text(request.command).split())[:80]

    def _attempts(
        self, session: Session, prepared: Prepared, sink: AsJson | Split, progress: Progress
    ) -> ExecutionStatus:
        try:
            return self._attempt(session, prepared, sink, progress)
        except RunvoyError as refusal:
            if refusal is not self.refusal or refusal.code not in OF_CLOCKS:
                raise
            # Once more, by the deployment's clock: the calls that told of the refusal have learned it.
            return self._attempt(session, prepared, sink, progress)

    def _attempt(
        self, session: Session, prepared: Prepared, sink: AsJson | Split, progress: Progress
    ) -> ExecutionStatus:
        self.sending_id = prepared.request.request_id
        with submitting.not_to_be_repeated(session, prepared):
            submitted = submitting.send(session, prepared.request)
        self.may_run = not prepared.has_chosen_id
        self.durable_id = submitted.execution_id
        session.client.cache.last_submitted = submitted.execution_id
        console = session.console
        if console.screen.is_rich:
            show_beginning(session, prepared.request)
        else:
            console.remark(f"submitted {submitted.execution_id}")
            say_where_to_watch(session, submitted.execution_id)

        def tell(status: ExecutionStatus) -> None:
            progress.on_status(status)
            if not console.screen.is_rich:
                self._say_what_it_waits_for(console, status)

        with StdoutReader(), Interrupts() as interrupts:
            follower = Follower(
                session.client,
                submitted.execution_id,
                object_sha256=submitted.object_sha256,
                send_again=partial(submitting.send_again, session, submitted),
                on_status=tell,
                interruptible=interrupts.interruptible,
            )
            try:
                status = self._follow(session, follower, sink, interrupts)
            finally:
                self.refusal = follower.refusal
        if not follower.log_is_whole:
            console.say("the end of the output is missing; `runvoy logs` may have it later")
        return status

    def _follow(
        self, session: Session, follower: Follower, sink: AsJson | Split, interrupts: Interrupts
    ) -> ExecutionStatus:
        """Follow to the end. Ctrl-C once leaves after a while, in which the output goes on; twice kills."""
        try:
            return follower.follow(sink)
        except Interrupted:
            interrupts.heard()
            session.console.say(f"Ctrl-C again within {LEAVE_SECONDS:.0f} s kills it; without that it goes on")
        follower.leave_at(time.monotonic() + LEAVE_SECONDS)
        try:
            return follower.follow(sink)
        except GaveUp:
            raise _Left from None
        except Interrupted:
            interrupts.heard()
            self.becomes = "may be killed, or go on"  # from what is said now until it is answered
            session.console.say("killing it")
        follower.leave_at(None)
        try:
            session.client.kill(follower.execution_id)
        except RunvoyError as error:
            error.hint = f"It may go on: `runvoy kill {follower.execution_id}` has it end. {error.hint}"
            raise
        self.becomes = "is being killed"
        return follower.follow(sink)

    def _say_what_it_waits_for(self, console: Console, status: ExecutionStatus) -> None:
        """A line about what a run waits for, once."""
        if status.state is not State.QUEUED or status.reason is None:
            return
        locks = ", ".join(lock.name for lock in status.locks)
        text = f"waits for its locks: {locks}" if status.reason is Reason.LOCK else f"waits: {status.reason.value}"
        text += f" ({status.message})" if status.message else ""
        if text != self._last_said:
            self._last_said = text
            console.remark(text)


def _close(console: Console, status: ExecutionStatus, told: str) -> None:
    """Say how it ended; where the command did not end it, how that came, unless the log has `told` so."""
    why = explanation_of(status)
    if why is not None and not ended_itself(status) and not (status.message and status.message in told):
        console.say(why.words)
    now = datetime.now(UTC)
    hint = console.spelled(why.hint) if why is not None else ""
    if console.screen.is_rich:
        show_end(console.screen, status, now, hint)
        return
    duration = ran_for(status, now)
    console.remark(f"{status.state.value}, exit code {code_text(status)}" + (f", {duration}" if duration else ""))
    if hint:
        console.advise(hint)
