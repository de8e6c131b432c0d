"""`runvoy web`: the viewer in a browser, set up with a key of its own."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.session import Session, endpoint_for_others, open_session
from runvoy_cli.following.announce import web_link
from runvoy_cli.home import config
from runvoy_cli.home.files import private_folder, told_about, write_private
from runvoy_cli.input.options import new_app
from runvoy_cli.terminal.render import moment, print_json, print_line
from runvoy_protocol.claims import Token
from runvoy_protocol.control import Whoami
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import (
    MAX_KEY_NAME_LENGTH,
    MIN_KEY_LIFETIME_SECONDS,
    ClaimTicket,
    CreateClaim,
    KeyTerms,
    Role,
)

BROWSER_KEY_SECONDS = 30 * 24 * 3600
_NOT_HANDED_OVER = frozenset({ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND})
app = new_app()


class _Link(NamedTuple):
    """`url` is where the page is; `opening` has the token besides, if there is one."""

    url: str
    opening: str
    expires_at: datetime | None


@app.command(epilog="Example: runvoy web 01890a5d-ac96-774b-bcce-b302099a8057")
def web(
    context: typer.Context,
    one: Annotated[
        str | None, typer.Argument(metavar="[ID]", help=f"The page of this execution: {short_ids.HELP}.")
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the link, and open nothing: for a browser elsewhere.")
    ] = False,
    no_playbooks: Annotated[
        bool, typer.Option("--no-playbooks", help="Leave the published playbooks as they are.")
    ] = False,
) -> None:
    """Open the viewer in this machine's browser, which then needs no API key: the link holds a token that is good once, for
    two minutes, and makes a key of yours in the browser that lives for 30 days at most.

    The token stands in no command line: the browser is given a private file that leads to the page. With --no-open, or
    where there is no browser to open, the link is printed with the token in it.

    Before that, the playbooks that are found here are published to your browsers, as by `runvoy playbook publish`. What goes
    wrong there is told, and the viewer is opened all the same.
    """
    written = [] if one is None else [short_ids.read(one)]
    session = open_session(context.obj)
    wanted = next(iter(short_ids.resolve(written, session.client)), None)
    me = session.client.ask(Whoami, "GET", "/whoami")
    if not no_playbooks and me.limits is None and me.role != Role.VIEWER.value:  # who else cannot publish, nor run any
        _publish_playbooks(session)
    link = _link(session, wanted, me)
    is_open = not no_open and _open(link)
    shown = link.url if is_open else link.opening
    if context.obj.json:
        expires_at = link.expires_at.isoformat() if link.expires_at and not is_open else None
        print_json({"url": shown, "opened": is_open, "expires_at": expires_at})
        return
    print_line(shown)
    if is_open:
        session.console.say("opened in the browser")
    elif link.expires_at is not None:
        session.console.say(f"whoever opens it first, before {moment(link.expires_at)}, acts as you")


def _publish_playbooks(session: Session) -> None:
    from runvoy_cli.playbooks import publishing, view

    try:
        here = publishing.compile_here()
        for one in here.not_right:
            session.console.warn(view.not_published(one.problem))
        changes = publishing.publish(session.client, publishing.found_here(here))
    except RunvoyError as error:
        session.console.warn(f"playbooks are not published: {error.message}")
        if error.hint:
            session.console.hint(error.hint)
        return
    for becomes, words in (("added", "published"), ("changed", "published anew"), ("removed", "no longer published")):
        names = [one.published.playbook.name for one in changes if one.becomes == becomes]
        if names:
            session.console.say(f"playbooks {words}: {', '.join(names)}")


def _link(session: Session, wanted: str | None, me: Whoami) -> _Link:
    base = session.web_url or f"{endpoint_for_others(session.client.target)}/"
    url = base if wanted is None else web_link(base, wanted)
    try:
        ticket = _ticket(session, me)
    except RunvoyError as error:
        if error.code not in _NOT_HANDED_OVER:
            raise
        session.console.say(f"the browser will ask for an API key: {error.message}")
        return _Link(url, url, None)
    target = session.client.target
    token = Token(ticket.secret, endpoint_for_others(target), target.deployment_id).to_text()
    # A fragment stays in the browser: no server's log and no Referer has it.
    return _Link(url, f"{url.partition('#')[0]}#claim={token}", ticket.expires_at)


def _ticket(session: Session, me: Whoami) -> ClaimTicket:
    """A token for a key of the caller's own, which lives no longer than the calling one."""
    lifetime = BROWSER_KEY_SECONDS
    if me.key_expires_at is not None:
        left = int((me.key_expires_at - session.client.now()).total_seconds())
        lifetime = max(MIN_KEY_LIFETIME_SECONDS, min(lifetime, left))
    terms = KeyTerms(name=_name(), lifetime_seconds=lifetime)
    return session.client.ask(ClaimTicket, "POST", "/keys/claims", msgspec.json.encode(CreateClaim(terms=terms)))


def _name() -> str:
    import socket

    host = "".join(character for character in socket.gethostname() if character.isprintable())
    return f"browser on {host}"[:MAX_KEY_NAME_LENGTH]


def _open(link: _Link) -> bool:
    """Whether a browser took the page. Without a screen there is none: what is found then would take over the terminal."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    home = config.home()
    path = home / "web" / "open.html"
    with told_about(home):
        private_folder(path.parent)
        # Arguments of a process can be read by every user of a machine; a file of ours by none.
        write_private(path, _leading_to(link.opening).encode())
    return _taken(path)


def _taken(path: Path) -> bool:
    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False


def _leading_to(url: str) -> str:
    address = html.escape(url)
    return (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>runvoy</title>'
        f'<meta http-equiv="refresh" content="0;url={address}"><a href="{address}">runvoy</a>\n'
    )
