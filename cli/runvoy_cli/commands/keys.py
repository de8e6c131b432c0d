"""`runvoy keys`: a member's keys, and keys for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from runvoy_cli.commands.users import key_row
from runvoy_cli.deployment.session import Session, endpoint_for_others, open_session
from runvoy_cli.home import config
from runvoy_cli.home.files import told_about
from runvoy_cli.input import values
from runvoy_cli.input.options import Settings, new_app
from runvoy_cli.input.problems import UsageProblem, called_wrongly
from runvoy_cli.members import new_keys
from runvoy_cli.members.made_keys import MadeKeys
from runvoy_cli.members.tokens import hand_out
from runvoy_cli.members.words import by_name, limits_text, until
from runvoy_cli.terminal.render import columns, print_json, print_line, show_error, whole
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol import claims
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.images import ImageAnswer
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import (
    ClaimAnswer,
    ClaimTicket,
    CreateClaim,
    CreateKey,
    KeyAnswer,
    KeyLimits,
    KeysAnswer,
    KeyTerms,
    PlaybookPin,
    RotateKey,
    check_terms,
)

_OF_ONE = frozenset({ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.CONFLICT})  # the others may still be revoked
_HEADER = ("KEY", "STATE", "LAST USED", "EXPIRES", "NAME")
app = new_app()


@app.callback(epilog="Example: runvoy keys create --name ci --expires 90d --only-lock prod-db")
def keys() -> None:
    """Keys: yours, and those you make for machines. A key may be narrower than you, and may expire."""


@app.command(name="list", epilog="Example: runvoy keys list")
def list_keys(
    context: typer.Context,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Another user's (operators and admins).", show_default=False)
    ] = None,
) -> None:
    """List your keys, oldest first, revoked ones included."""
    session = open_session(context.obj)

    def ask(name: str | None) -> KeysAnswer:
        return session.client.ask(KeysAnswer, "GET", "/keys", query=None if name is None else {"user": name})

    found = (ask(None) if user is None else by_name(user, ask)).keys
    if context.obj.json:
        print_json(whole(found))
        return
    now = session.client.now()
    for line in columns(_HEADER, [key_row(key, now) for key in found]):
        print_line(line)


@app.command(epilog="Example: runvoy keys create --name ci --expires 90d --only-image terraform --only-label env=prod")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What to know it by.", show_default=False)] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it lives, e.g. 90d.  [default: for ever]")
    ] = None,
    only_image: Annotated[
        list[str] | None, typer.Option(metavar="IMAGE", help="It may use only this registered image (repeatable).")
    ] = None,
    only_lock: Annotated[
        list[str] | None, typer.Option(metavar="LOCK", help="It may take only this lock (repeatable).")
    ] = None,
    only_playbook: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLAYBOOK",
            help="It may run only this playbook, as it is now, with what its parameters leave open (repeatable).",
        ),
    ] = None,
    only_label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What it runs must carry this label (repeatable).")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="USER", help="A key for this user: prints a claim token (admins).", show_default=False),
    ] = None,
) -> None:
    """Make a further key of yours and print it, once: for a CI system, say, as RUNVOY_API_KEY.

    A key with limits can run what they allow, read and kill what it ran itself, and nothing else, whatever you may do.
    With --user a claim token is printed, for that user makes the key on their own machine.
    """
    limits = KeyLimits(
        images=tuple(only_image) if only_image else None,
        locks=tuple(only_lock) if only_lock else None,
        playbooks=_pins(only_playbook) if only_playbook else None,
        labels=values.pairs("--only-label", only_label) if only_label else None,
    )
    lifetime = values.duration(expires) if expires is not None else None
    terms = KeyTerms(name=name, lifetime_seconds=lifetime, limits=None if limits == KeyLimits() else limits)
    with called_wrongly():
        check_terms(terms)
    session = open_session(context.obj)
    terms = _with_registered_images(session, terms)
    if user is not None:
        body = msgspec.json.encode(CreateClaim(terms=terms))

        def ask(name: str) -> ClaimTicket:
            return session.client.ask(ClaimTicket, "POST", f"/users/{quote(name, safe='')}/claims", body)

        hand_out(session, by_name(user, ask), context.obj.json)
        return
    _make(session, terms, context.obj.json)


def _make(session: Session, terms: KeyTerms, as_json: bool) -> None:
    key = new_keys.make()
    body = msgspec.json.encode(CreateKey(claim=_claim(session, key), terms=terms))
    answer = session.client.ask(ClaimAnswer, "POST", "/keys", body)
    if as_json:
        print_json({"api_key": key.to_api_key(), "key": whole(answer.key)})
        return
    print_line(key.to_api_key())
    target = session.client.target
    _tell_of(session, answer.key)
    session.console.say(
        f"it is shown this once; use it with RUNVOY_ENDPOINT={endpoint_for_others(target)} RUNVOY_DEPLOYMENT={target.deployment_id}"
    )


@app.command(epilog="Example: runvoy keys rotate")
def rotate(context: typer.Context) -> None:
    """Replace the key that this configuration uses by a new one, with the same name, limits and lifetime, and revoke the
    old one.

    Whatever cuts this off, one of the two works: run it again. A key from RUNVOY_API_KEY is not replaced, for nobody would
    learn the new one: make one with `runvoy keys create` instead.
    """
    settings: Settings = context.obj
    session = open_session(settings)
    if config.key_is_of_environment():
        raise UsageProblem(
            "the key comes from RUNVOY_API_KEY, where a new one cannot be written",
            "Make a new one with `runvoy keys create`, put it there, then `runvoy keys revoke` the old one.",
        )
    home, client = config.home(), session.client
    old_id = client.key_id
    replaced_id = new_keys.unfinished_purpose(home, client.target.signing_key)
    if replaced_id is not None:
        # An earlier rotation was cut off after the new key had taken its place.
        client.ask(KeyAnswer, "DELETE", f"/keys/{replaced_id}")
        new_keys.forget(home, replaced_id)
    with new_keys.pending(home, old_id) as key:
        body = msgspec.json.encode(RotateKey(claim=_claim(session, key)))
        answer = client.ask(ClaimAnswer, "POST", "/keys/rotate", body)
        _keep(session, settings.profile, key)
        revoked = client.with_key(key).ask(KeyAnswer, "DELETE", f"/keys/{old_id}")
    if settings.json:
        print_json({"key": whole(answer.key), "replaced": whole(revoked)})
        return
    print_line(key.key_id)
    _tell_of(session, answer.key)
    session.console.say(f"the old key {old_id} is revoked")


@app.command(epilog="Example: runvoy keys revoke abcdefghijklmnopqrstuvwxyz234567")
def revoke(
    context: typer.Context,
    key_ids: Annotated[
        list[str], typer.Argument(metavar="KEY…", help="Ids of keys, as `runvoy keys list` shows them.")
    ],
    and_made: Annotated[
        bool, typer.Option("--and-made", help="And all keys of the same user that they made, by rotation or otherwise.")
    ] = False,
) -> int:
    """Revoke keys: from now on nothing signed by them is accepted, and nothing of theirs that waits is started.

    Keys that were made by a revoked one stay good, and are told of: where it was stolen, revoke them as well.
    Exit code 1 if one of them could not be revoked; the others are revoked all the same.
    """
    session = open_session(context.obj)
    code = 0
    wanted = list(key_ids)
    own_id = session.client.key_id
    made = MadeKeys(session.client, of_own_first=own_id in wanted)
    if and_made and own_id in wanted:
        wanted += [one for one in made.by_own(own_id) if one not in wanted]
    for key_id in _own_last(wanted, own_id):  # while it grows
        try:
            answer = session.client.ask(KeyAnswer, "DELETE", f"/keys/{quote(key_id, safe='')}")
        except RunvoyError as error:
            if error.code not in _OF_ONE:
                raise
            error.details.setdefault("key_id", key_id)
            show_error(error, context.obj.json)
            code = 1
            continue
        if context.obj.json:
            print_json(whole(answer))
        else:
            print_line(one_line(f"{answer.key_id} of {answer.user} is revoked"))
        left = [one for one in made.by(answer) if one not in wanted]
        if and_made:
            wanted += [one for one in left if one != own_id]
            if own_id in left:
                session.console.say(
                    f"{own_id}, the key in use, was made by it as well, and stays; name it to revoke it"
                )
        elif left:
            session.console.say(
                f"{answer.key_id} made keys that stay good: {' '.join(left)};"
                f" `runvoy keys revoke --and-made {answer.key_id}` ends them too"
            )
    return code


def _own_last(wanted: Iterable[str], own_id: str) -> Iterator[str]:
    """The key in use comes last, for what it signs afterwards is not accepted."""
    is_named = False
    for key_id in wanted:
        if key_id == own_id:
            is_named = True
        else:
            yield key_id
    if is_named:
        yield own_id


def _with_registered_images(session: Session, terms: KeyTerms) -> KeyTerms:
    """The terms with images by the names they are registered under: only those does the deployment compare with."""
    limits = terms.limits
    if limits is None or limits.images is None:
        return terms
    paths = (f"/images/{quote(name, safe='')}" for name in limits.images)
    names = dict.fromkeys(session.client.ask(ImageAnswer, "GET", path).name for path in paths)
    return msgspec.structs.replace(terms, limits=msgspec.structs.replace(limits, images=tuple(names)))


def _pins(names: Iterable[str]) -> tuple[PlaybookPin, ...]:
    from runvoy_cli.playbooks.finding import pin_of

    return tuple(pin_of(name) for name in names)


def _claim(session: Session, key: SigningKey) -> bytes:
    return claims.seal(session.client.target.deployment_id, b"", key)


def _keep(session: Session, profile: str | None, key: SigningKey) -> None:
    """Put the new key where the old one is: in the config file, or where the embedded stack's clients find theirs."""
    home = config.home()
    with told_about(home):
        if session.is_embedded:
            from runvoy_cli.deployment.embedded import keep_api_key

            keep_api_key(home, key)
            return
        from runvoy_cli.home import config_file

        config_file.save(home / config.CONFIG_NAME, config.chosen_profile(profile), {"api_key": key.to_api_key()})


def _tell_of(session: Session, key: KeyAnswer) -> None:
    limits = limits_text(key.limits)
    session.console.say(
        f"key {key.key_id} of {key.user}"
        + (f" ({key.name})" if key.name else "")
        + f", expires {until(key.expires_at)}"
        + (f", limited to {limits}" if limits else "")
    )
