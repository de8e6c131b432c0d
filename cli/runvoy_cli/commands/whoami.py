"""`runvoy whoami`: who the deployment takes the caller for."""

from __future__ import annotations

import msgspec
import typer

from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.members.words import limits_text, quota_text
from runvoy_cli.terminal.render import facts, moment, print_json, print_line
from runvoy_protocol.control import Whoami

app = new_app()


@app.command(epilog="Example: runvoy --profile prod whoami")
def whoami(context: typer.Context) -> None:
    """Show who the deployment takes you for: user, role and key."""
    session = open_session(context.obj)
    answer = session.client.ask(Whoami, "GET", "/whoami")
    if context.obj.json:
        print_json({**msgspec.to_builtins(answer), "endpoint": session.client.target.endpoint})
        return
    pairs = [
        ("user", answer.user),
        ("role", answer.role),
        ("key id", answer.key_id),
        ("key expires", moment(answer.key_expires_at)),
        ("key limits", limits_text(answer.limits)),
        ("unfinished", quota_text(answer.quota)),
        ("deployment", answer.deployment_id),
        ("endpoint", session.client.target.endpoint + (" (this machine)" if session.is_embedded else "")),
        ("version", answer.version),
    ]
    for line in facts(pairs):
        print_line(line)
