"""`runvoy run`: submit, follow, exit with the command's code."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from runvoy_cli import request, submitting
from runvoy_cli.follow import Follower
from runvoy_cli.options import new_app
from runvoy_cli.output import AsJson, Split
from runvoy_cli.problems import EXIT_INTERRUPTED
from runvoy_cli.render import Console, print_json, ran_for, result_json
from runvoy_cli.session import Session, open_session
from runvoy_cli.submitting import Prepared
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.states import Reason, State
from runvoy_protocol.status import ExecutionStatus, exit_code_of

TIMEOUT_HELP = request.TIMEOUT_HELP
prepare = request.prepare
app = new_app()

_ENDINGS = {
    State.TIMED_OUT: "the command timed out",
    State.STOPPED: "the command was killed",
    State.UNKNOWN: "nobody knows how the command ended",
    State.FAILED: "the command was not run to its end",
}
_REASONS = {
    Reason.DEADLINE: "its deadline passed",
    Reason.QUEUE: "it waited for longer than its queue timeout",
    Reason.START: "it did not begin in time",
    Reason.REVOKED: "its key or user was revoked before it started",
    Reason.LAUNCH_FAILED: "the platform would not run it",
    Reason.SETUP_FAILED: "its surroundings could not be made",
    Reason.LOST: "its task vanished without a result",
    Reason.EXEC_FAILED: "it could not be executed",
}


@app.command(
    cls=request.LiteralCommand,
    context_settings={"allow_interspersed_args": False},
    epilog="Example: runvoy run --env STAGE=test -- sh -c 'make test'",
)
def run(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="CMD...", show_default=False)] = None,
) -> int:
    """Run a command, follow its output, and exit with its exit code.

    Options stand before CMD; after its first word everything is the command's own. One word is a line for /bin/sh,
    several are an argv and are kept exactly. RUNVOY_USER_X=... in the environment becomes X for the command.

    What is not the command's exit code: 121 refused, 122 a lock was held, 123 killed, 124 timed out, 125 runvoy or the
    platform failed. Ctrl-C leaves with 130; the command goes on.
    """
    command = request.command_of(context, words)
    following = _Following()
    try:
        return following.through(context, command)
    except KeyboardInterrupt:
        submitting.say_where_it_stands(following.sending_id, following.durable_id)
        return EXIT_INTERRUPTED


class _Following:
    """One run, and how far it got: Ctrl-C may come at any moment."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self.sending_id = ""
        self.durable_id = ""
        self._last_state = ""

    def through(self, context: typer.Context, command: tuple[str, ...] | str) -> int:
        self._session = session = open_session(context.obj, calls_are_limited=False)
        prepared = submitting.prepare(context, command, session)
        sink = AsJson() if context.obj.json else Split()
        try:
            status = self._attempt(session, prepared, sink)
        except RunvoyError as refusal:
            if not session.client.learn_time(refusal):
                raise
            status = self._attempt(session, prepared, sink)  # once more, by the deployment's clock
        code = exit_code_of(status)
        if isinstance(sink, AsJson):
            sink.finish()
            print_json(result_json(status))
        told = sink.told.decode(errors="replace") if isinstance(sink, Split) else ""
        self._close(session.console, status, code, told)
        return code

    def _attempt(self, session: Session, prepared: Prepared, sink: AsJson | Split) -> ExecutionStatus:
        self.sending_id = prepared.request.request_id
        submitted = submitting.send(session, prepared.request)
        self.durable_id = submitted.execution_id
        session.console.remark(f"submitted {submitted.execution_id}")
        follower = Follower(
            session.client,
            submitted.execution_id,
            object_sha256=submitted.object_sha256,
            on_status=self._tell,
        )
        status = follower.follow(sink)
        if not follower.log_is_whole:
            session.console.say("the end of the output is missing; `runvoy logs` may have it later")
        return status

    def _tell(self, status: ExecutionStatus) -> None:
        """A line about what a run waits for: to people, and once."""
        if self._session is None or status.state is not State.QUEUED or status.reason is None:
            return
        locks = ", ".join(lock.name for lock in status.locks)
        text = f"waits for its locks: {locks}" if status.reason is Reason.LOCK else f"waits: {status.reason.value}"
        text += f" ({status.message})" if status.message else ""
        if text != self._last_state:
            self._last_state = text
            self._session.console.remark(text)

    def _close(self, console: Console, status: ExecutionStatus, code: int, told: str) -> None:
        """Say how it ended where the command did not end it, unless the log has `told` so."""
        ended_itself = status.reason in (None, Reason.EXIT, Reason.SIGNAL) and status.exit_code is not None
        if not ended_itself and not (status.message and status.message in told):
            console.say(ending(status))
        duration = ran_for(status, datetime.now(UTC))
        console.remark(f"{status.state.value}, exit code {code}" + (f", {duration}" if duration else ""))


def ending(status: ExecutionStatus) -> str:
    """How a run ended that the command itself did not end."""
    text = _ENDINGS.get(status.state, status.state.value)
    if status.reason is Reason.QUEUE:
        return f"the command was never started: {status.message or _REASONS[Reason.QUEUE]}"
    if status.reason is Reason.DEADLINE:
        return f"{text} after {status.timeout_seconds} s"
    if status.reason in _REASONS:
        text += f": {_REASONS[status.reason]}"
    return text + (f" ({status.message})" if status.message else "")
