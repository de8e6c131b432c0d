"""The routes about keys: a member's own, and those of others for who may see or revoke them."""

from __future__ import annotations

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Key, KeyUse, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.members import admins, claims, users
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Records
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import CreateClaim, CreateKey, KeyAnswer, KeysAnswer, KeyTerms, RotateKey, check_terms


def list_keys(call: Call) -> Response:
    """The keys of `?user` (the caller's own without it), oldest first."""
    name = call.request.query.get("user", call.user.name)
    call.concerns(name)
    if name != call.user.name:
        call.check_others()
    _, user = users.find(call, name)
    found = store.of_kind(call.ports.records, store.keys_partition(name), Key)
    return answer(KeysAnswer(keys=tuple(_shown(call.ports.records, key, user) for key, _ in found)))


def create_key(call: Call) -> Response:
    """A further key of the caller's. One that expires makes none that lives longer: its user was not given more."""
    asked = call.body(CreateKey)
    check_terms(asked.terms)
    _check_lifetime(call.key.lifetime_seconds, asked.terms.lifetime_seconds)
    opened = claims.open_own(call, asked.claim)
    key = claims.new_key(opened.public_key, call.user, asked.terms, call.ports.clock.now(), made_by=call.key.key_id)
    return claims.register(call, key, "create-key")


def create_own_claim(call: Call) -> Response:
    """A claim token for a further key of the caller's, made elsewhere: in a browser, say. It may be what `create_key` could
    make, no more, and the token lives for two minutes."""
    asked = call.body(CreateClaim)
    check_terms(asked.terms)
    _check_lifetime(call.key.lifetime_seconds, asked.terms.lifetime_seconds)
    ticket, write = claims.issue_own(call, asked.terms)
    call.commit(write, call.audit("create-own-claim", message=asked.terms.name))
    return answer(ticket, audited=True)


def _check_lifetime(most: int | None, asked: int | None) -> None:
    if most is not None and (asked is None or asked > most):
        raise RunvoyError(
            ErrorCode.FORBIDDEN,
            f"a key that was made for {most:,} s makes none that lives longer",
            "Give --expires with that or less, or use a key that does not expire. An admin can give you one.",
        )


def rotate_key(call: Call) -> Response:
    """A new key in place of the calling one, with its name, limits and lifetime. The old one is good until the new one
    revokes it: whoever loses the answer is not locked out."""
    opened = claims.open_own(call, call.body(RotateKey).claim)
    old = call.key
    terms = KeyTerms(name=old.name, lifetime_seconds=old.lifetime_seconds, limits=old.limits)
    key = claims.new_key(
        opened.public_key, call.user, terms, call.ports.clock.now(), made_by=old.key_id, replaces=old.key_id
    )
    return claims.register(call, key, "rotate-key")


def revoke_key(call: Call) -> Response:
    """Revoke a key; one that was revoked before stays as it is."""
    key_id = call.groups["key_id"]
    current = store.load(call.ports.records, store.key_key(key_id), Key)
    key = current.document
    if key is not None and key.user != call.user.name and call.member.may(Action.READ_USERS):
        call.check_others()  # who may see it is told what it takes
    elif key is None or key.user != call.user.name:
        raise _no_such_key(call, key_id)
    if call.key.limits is not None and key_id not in (call.key.key_id, call.key.replaces):
        raise RunvoyError(ErrorCode.FORBIDDEN, "a limited key may revoke itself and the one it replaced, and no other")
    owner = store.load(call.ports.records, store.user_key(key.user), User)
    if owner.document is None:
        raise _no_such_key(call, key_id)
    if key.revoked_at is not None:
        return answer(_shown(call.ports.records, key, owner.document))
    others = admins.another(call, but_key=key_id) if admins.is_lasting(key, owner.document) else ()
    # The owner's as well: a key that is made an admin's at this moment would be judged otherwise.
    checks = {check.key: check for check in (owner.check, *others)}
    revoked = msgspec.structs.replace(key, revoked_at=call.ports.clock.now())
    call.commit(store.put(current, revoked), *checks.values(), call.audit("revoke-key", message=f"of {key.user}"))
    return answer(_shown(call.ports.records, revoked, owner.document), audited=True)


def _no_such_key(call: Call, key_id: str) -> RunvoyError:
    return RunvoyError(
        ErrorCode.NOT_FOUND,
        f"there is no key {key_id[:64]!r} that {call.user.name} may see",
        "See `runvoy keys list`; it takes a whole id.",
    )


def _shown(records: Records, key: Key, user: User) -> KeyAnswer:
    use = store.load(records, store.key_use_key(key.key_id), KeyUse).document
    return claims.shown_key(key, user, use.used_at if use is not None else None)


ROUTES: tuple[Route, ...] = (
    route("GET", "/keys", Action.OWN_KEYS, list_keys, other=Action.READ_USERS),
    route("POST", "/keys", Action.OWN_KEYS, create_key, single_use=True),
    route("POST", "/keys/claims", Action.OWN_KEYS, create_own_claim, single_use=True),
    route("POST", "/keys/rotate", Action.ROTATE_KEY, rotate_key, single_use=True),
    route("DELETE", "/keys/{key_id}", Action.ROTATE_KEY, revoke_key, other=Action.MANAGE_USERS, single_use=True),
)
