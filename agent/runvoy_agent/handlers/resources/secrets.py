"""The routes about secrets. Whoever changes one says which version of it they saw, so that of two at once one is told.

A value goes in with a request and out with one answer, whose audit record is written before. Nothing else here holds it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import DiscardedValue, Secret, User
from runvoy_agent.core.secrets import may_change, may_use, not_found
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.resources import secret_values
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Write
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.secret_messages import (
    EVERYONE,
    CreateSecret,
    SecretAnswer,
    SecretsAnswer,
    SecretValue,
    UpdateSecret,
    check_secret,
    check_value,
)


def list_secrets(call: Call) -> Response:
    found = store.of_kind(call.ports.records, store.KIND_SECRET, Secret)
    visible = (_shown(secret, version) for secret, version in found if may_use(call.user, secret))
    return answer(SecretsAnswer(secrets=tuple(visible)))


def show_secret(call: Call) -> Response:
    current, secret = _load(call)
    return answer(_shown(secret, current.version))


def create_secret(call: Call) -> Response:
    asked = call.body(CreateSecret)
    check_secret(asked.name, asked.env_name, asked.description, asked.shared_with)
    call.concerns(asked.name)
    check_value(asked.value)
    _check_users(call, asked.shared_with)
    current = store.load_secret(call.ports.records, asked.name)
    if current.document is not None:
        raise RunvoyError(
            ErrorCode.SECRET_EXISTS,
            f"a secret named {asked.name!r} exists",
            "Choose another name, or change it with `runvoy secrets update`.",
        )
    now = call.ports.clock.now()
    stored = secret_values.put(call.ports, asked.name, asked.value)
    secret = Secret(
        name=asked.name,
        env_name=asked.env_name,
        owner=call.user.name,
        value_ref=stored.ref,
        created_at=now,
        updated_at=now,
        updated_by=call.user.name,
        description=asked.description,
        shared_with=asked.shared_with,
    )
    message = _told(f"sets {secret.env_name}", secret.shared_with)
    audit = call.audit("create-secret", message=message)
    _commit_with_value(call, stored, store.put(current, secret), audit)
    # Where one of this name was deleted before, its versions go on.
    after = store.load_secret(call.ports.records, secret.name)
    return answer(_shown(secret, after.version), audited=True)


def update_secret(call: Call) -> Response:
    asked = call.body(UpdateSecret)
    current, secret = _load(call, for_change=True)
    _check_version(current, secret, asked.version)
    changes = {
        field: value
        for field in ("env_name", "description", "shared_with")
        if (value := getattr(asked, field)) is not None
    }
    if not changes and asked.value is None:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "nothing is to be changed", "Say what: see --help.")
    changed = msgspec.structs.replace(secret, **changes, updated_at=call.ports.clock.now(), updated_by=call.user.name)
    check_secret(changed.name, changed.env_name, changed.description, changed.shared_with)
    _check_users(call, set(changed.shared_with) - set(secret.shared_with))
    what = [*changes, *(["value"] if asked.value is not None else [])]
    message = _told(f"changed {', '.join(what)}", changed.shared_with if "shared_with" in changes else ())
    audit = call.audit("update-secret", message=message)
    if asked.value is None:
        call.commit(store.put(current, changed), audit)
    else:
        check_value(asked.value)
        stored = secret_values.put(call.ports, secret.name, asked.value)
        _, replaced = secret_values.no_longer_referred_to(call.ports, secret, replaced=True)
        changed = msgspec.structs.replace(changed, value_ref=stored.ref)
        _commit_with_value(call, stored, store.put(current, changed), replaced, audit)
    return answer(_shown(changed, current.version + 1), audited=True)


def delete_secret(call: Call) -> Response:
    """Delete the secret that was at `?version`, its value at once. A run that is being launched with it just then fails."""
    current, secret = _load(call, for_change=True)
    version = call.request.query.get("version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 19):
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "?version has to say which version of the secret was seen")
    _check_version(current, secret, int(version))
    old, discarded = secret_values.no_longer_referred_to(call.ports, secret, replaced=False)
    call.commit(current.delete, discarded, call.audit("delete-secret"))
    secret_values.discard(call.ports, old)
    return answer(_shown(secret, current.version), audited=True)


def reveal_secret(call: Call) -> Response:
    """The value. That it was read, and by whom, is on record before it is told."""
    current, secret = _load(call, for_change=True)
    value = call.ports.secrets.get(secret.value_ref)
    call.commit(current.check, call.audit("reveal-secret"))
    if value is None:
        # The commit held, so the record did not change meanwhile: the store has lost it.
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"the value of the secret {secret.name!r} is lost",
            "Set it anew with `runvoy secrets update`.",
        )
    found = SecretValue(name=secret.name, env_name=secret.env_name, version=current.version, value=value)
    return answer(found, audited=True)


def _load(call: Call, *, for_change: bool = False) -> tuple[Loaded[Secret], Secret]:
    """The secret that the path names: NOT_FOUND unless the caller may use it; `for_change`, FORBIDDEN unless it is theirs
    or their role manages everybody's."""
    current = store.load_secret(call.ports.records, call.groups["name"])
    secret = current.document
    if secret is None or not may_use(call.user, secret):
        unknown = not_found([call.groups["name"]], call.user, ())
        raise RunvoyError(ErrorCode.NOT_FOUND, unknown.message, "See `runvoy secrets list`.")
    if for_change and not may_change(call.user, secret):
        call.check_others()
    return current, secret


def _check_version(current: Loaded[Secret], secret: Secret, seen: int) -> None:
    if current.version != seen:
        raise RunvoyError(ErrorCode.CONFLICT, f"the secret {secret.name!r} was changed since you looked")


def _check_users(call: Call, names: Iterable[str]) -> None:
    """A slip in a name would share the secret with whoever gets that name later."""
    for name in sorted(names):
        if name == EVERYONE:
            continue
        user = store.load(call.ports.records, store.user_key(name), User).document
        if user is None or user.revoked_at is not None:
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST,
                f"there is no user {name!r} to share a secret with",
                "Check how the user is written: an e-mail address, or a machine's name. An admin can make one.",
            )


def _commit_with_value(call: Call, stored: DiscardedValue, *writes: Write) -> None:
    """Commit what makes a secret refer to a value that was just put; if somebody else was first, the value goes."""
    try:
        call.commit(*writes, secret_values.referred_to(stored))
    except RunvoyError:
        # A conflict, so nothing was committed. Of any other failure nobody knows: that is the reconciler's.
        secret_values.discard(call.ports, stored)
        raise


def _told(what: str, shared_with: tuple[str, ...]) -> str:
    return f"{what}; shared with {', '.join(shared_with)}" if shared_with else what


def _shown(secret: Secret, version: int) -> SecretAnswer:
    return SecretAnswer(
        name=secret.name,
        env_name=secret.env_name,
        owner=secret.owner,
        created_at=secret.created_at,
        updated_at=secret.updated_at,
        updated_by=secret.updated_by,
        version=version,
        description=secret.description,
        shared_with=secret.shared_with,
    )


ROUTES: tuple[Route, ...] = (
    route("GET", "/secrets", Action.OWN_SECRETS, list_secrets, other=Action.ANY_SECRETS),
    route("POST", "/secrets", Action.OWN_SECRETS, create_secret, single_use=True),
    route("GET", "/secrets/{name}", Action.OWN_SECRETS, show_secret, other=Action.ANY_SECRETS),
    route("PUT", "/secrets/{name}", Action.OWN_SECRETS, update_secret, other=Action.ANY_SECRETS, single_use=True),
    route("DELETE", "/secrets/{name}", Action.OWN_SECRETS, delete_secret, other=Action.ANY_SECRETS, single_use=True),
    route(
        "POST",
        "/secrets/{name}/value",
        Action.OWN_SECRETS,
        reveal_secret,
        other=Action.ANY_SECRETS,
        single_use=True,
    ),
)
