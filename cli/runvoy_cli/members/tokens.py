"""Handing out claim tokens."""

from __future__ import annotations

from runvoy_cli.deployment.session import Session, endpoint_for_others
from runvoy_cli.terminal.render import moment, print_json, print_line
from runvoy_protocol.claims import Token
from runvoy_protocol.members import ClaimTicket


def hand_out(session: Session, ticket: ClaimTicket, as_json: bool) -> None:
    """Print a token, alone on stdout, and tell what to do with it."""
    target = session.client.target
    text = Token(ticket.secret, endpoint_for_others(target), target.deployment_id).to_text()
    if as_json:
        print_json(
            {"user": ticket.user, "role": ticket.role.value, "token": text, "expires_at": ticket.expires_at.isoformat()}
        )
        return
    print_line(text)
    session.console.say(
        f"for {ticket.user} ({ticket.role.value}), to be used once before {moment(ticket.expires_at)}: runvoy claim TOKEN"
    )
