"""`runvoy health`: whether the deployment answers, and having it repaired."""

from __future__ import annotations

import typer

from runvoy_cli import __version__
from runvoy_cli.options import new_app
from runvoy_cli.render import columns, facts, moment, print_json, print_line
from runvoy_cli.session import open_session
from runvoy_protocol.control import CALL_LIFETIME, ReconcileAnswer

_HEADER = ("SUBJECT", "PROBLEM", "ACTION")
app = new_app()


@app.callback(invoke_without_command=True, epilog="Example: runvoy --json health")
def health(context: typer.Context) -> None:
    """Show whether the deployment answers, its version, and how far its clock is from this machine's.

    Exit code 1 if it does not answer.
    """
    if context.invoked_subcommand is not None:
        return
    session = open_session(context.obj)
    found, skew, duration = session.client.health()
    endpoint = session.client.target.endpoint
    if context.obj.json:
        print_json(
            {
                "status": found.status,
                "version": found.version,
                "client_version": __version__,
                "deployment_id": found.deployment_id,
                "endpoint": endpoint,
                "time": found.time,
                "clock_skew_seconds": round(skew, 3) + 0.0,  # no -0.0
                "answered_in_seconds": round(duration, 3),
            }
        )
        return
    pairs = [
        ("status", found.status),
        ("version", found.version + ("" if found.version == __version__ else f" (this client: {__version__})")),
        ("deployment", found.deployment_id),
        ("endpoint", endpoint + (" (this machine)" if session.is_embedded else "")),
        ("time", moment(found.time)),
        ("clock", _clock(skew, duration)),
        ("answered in", f"{duration * 1000:.0f} ms"),
    ]
    for line in facts(pairs):
        print_line(line)


@app.command(epilog="Example: runvoy health reconcile")
def reconcile(context: typer.Context) -> None:
    """Have the deployment look for what was lost and mend it, now; print what was wrong and what was done.

    It does so by itself every minute. For operators and admins.
    """
    repairs = open_session(context.obj).client.ask(ReconcileAnswer, "POST", "/health/reconcile").repairs
    if context.obj.json:
        print_json({"repairs": repairs})
        return
    if not repairs:
        print_line("nothing was wrong")
        return
    for line in columns(_HEADER, [(one.subject, one.problem, one.action) for one in repairs]):
        print_line(line)


def _clock(skew: float, duration: float) -> str:
    # An answer's time is from somewhere between question and answer: less than half of that is no difference.
    if abs(skew) <= duration / 2 + 0.1:
        return "as this machine's"
    text = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) > CALL_LIFETIME.total_seconds():
        text += (
            "; a signed call is good for 60 s, so each first one is refused and sent again by the deployment's clock"
        )
    return text
