"""Getting the public half of a key into the deployment: by a claim token, or by a signed call of its user.

A token is 256 random bits that are shown once; the deployment keeps their HMAC, as the key of the record that says what
the token is good for. A wrong token is one lookup that finds nothing.
"""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

import msgspec

from runvoy_agent.core import access
from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Claim, Key, User
from runvoy_agent.handlers.audit import notes
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import commits, store
from runvoy_agent.handlers.routes import Call, Request, Response, answer, parse_body
from runvoy_agent.ports import Check, Ports, Put
from runvoy_protocol import claims, keys
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import ClaimAnswer, ClaimRequest, ClaimTicket, KeyAnswer, KeyTerms

CLAIM_ACTION = "claim-key"
TOKEN_LIFETIME = timedelta(minutes=15)
HAND_OVER_LIFETIME = timedelta(minutes=2)
"""Of a token for a key of one's own: it goes from one program of a machine to another."""

_REPEATABLE_FOR = timedelta(days=1)
"""How long after its expiry a token's record is kept, so that the key that used it can ask for the answer again."""


def issue(call: Call, user: User, terms: KeyTerms) -> tuple[ClaimTicket, Put]:
    """A new token for a key of the user, and the write that makes it good."""
    return _issue(call.ports, call.deployment, user, terms, created_by=call.user.name, created_by_key=call.key.key_id)


def issue_own(call: Call, terms: KeyTerms) -> tuple[ClaimTicket, Put]:
    """A token for a further key of the caller's."""
    return _issue(
        call.ports,
        call.deployment,
        call.user,
        terms,
        created_by=call.user.name,
        created_by_key=call.key.key_id,
        lifetime=HAND_OVER_LIFETIME,
    )


def issue_of_platform(ports: Ports, deployment: Deployment, user: User, actor: str) -> tuple[ClaimTicket, Put]:
    """A token made by whoever administers the platform. No key made it, so no revocation of a key ends it."""
    return _issue(ports, deployment, user, KeyTerms(), created_by=actor)


def _issue(
    ports: Ports,
    deployment: Deployment,
    user: User,
    terms: KeyTerms,
    *,
    created_by: str,
    created_by_key: str = "",
    lifetime: timedelta = TOKEN_LIFETIME,
) -> tuple[ClaimTicket, Put]:
    now = ports.clock.now()
    secret = ports.clock.random(claims.SECRET_BYTES)
    claim = Claim(
        user=user.name,
        created_by=created_by,
        created_by_key=created_by_key,
        created_at=now,
        expires_at=now + lifetime,
        life=user.life,
        key_name=terms.name,
        key_lifetime_seconds=terms.lifetime_seconds,
        limits=terms.limits,
    )
    write = store.put_new(_record_key(deployment, secret), claim, expires_at=claim.expires_at + _REPEATABLE_FOR)
    return ClaimTicket(user=user.name, role=user.role, secret=secret, expires_at=claim.expires_at), write


def serve_claim(ports: Ports, deployment: Deployment, request: Request) -> Response:
    """POST claim: register a key with a token. Wrong, used and expired tokens have one answer.

    Public, so what can be checked without looking anything up comes first, and says nothing of the token.
    """
    opened = claims.open_sealed(parse_body(request, ClaimRequest).claim, deployment.deployment_id)
    return commits.with_retries(ports.clock, lambda: _redeem(ports, deployment, request, opened))


def _redeem(ports: Ports, deployment: Deployment, request: Request, opened: claims.Claim) -> Response:
    now = ports.clock.now()
    current = store.load(ports.records, _record_key(deployment, opened.secret), Claim)
    claim = current.document
    key_id = keys.key_id_of(opened.public_key)
    if claim is None or not _is_good(claim, key_id, now):
        raise _no_such_token()
    user = store.load(ports.records, store.user_key(claim.user), User)
    if user.document is None or user.document.revoked_at is not None or user.document.life != claim.life:
        raise _no_such_token()
    known = store.load(ports.records, store.key_key(key_id), Key).document
    if claim.used_by is not None:
        if known is None or known.revoked_at is not None:
            raise _no_such_token()
        # The holder of a used token can ask as often as they like.
        notes.note_once_a_minute(
            ports, request, CLAIM_ACTION, "ok", what=f"repeat#{key_id}", key=known, message="answered again"
        )
        return _answer(user.document, known, deployment)
    issuer = _issuer_checks(ports, claim)
    if known is not None:
        raise _registered_before()
    terms = KeyTerms(name=claim.key_name, lifetime_seconds=claim.key_lifetime_seconds, limits=claim.limits)
    key = new_key(opened.public_key, user.document, terms, now, made_by=claim.created_by_key)
    audit = store.audit(
        ports.clock, claim.user, CLAIM_ACTION, "ok", key_id=key_id, subject=key_id, source=request.source
    )
    used = msgspec.structs.replace(claim, used_by=key_id)
    ports.records.commit(
        [
            store.put(current, used, expires_at=claim.expires_at + _REPEATABLE_FOR),
            store.put_new(store.key_key(key_id), key),
            *{check.key: check for check in (user.check, *issuer)}.values(),
            audit,
        ]
    )
    return _answer(user.document, key, deployment)


def _is_good(claim: Claim, key_id: str, now: datetime) -> bool:
    """Whether a token can register this key: unused and not expired, or used by this very key, whose answer may have been
    lost."""
    return claim.expires_at > now if claim.used_by is None else claim.used_by == key_id


def _issuer_checks(ports: Ports, claim: Claim) -> tuple[Check, ...]:
    """That whoever made the token was not revoked since, nor demoted: what a stolen admin's key made dies with it."""
    if not claim.created_by_key:
        return ()
    user = store.load(ports.records, store.user_key(claim.created_by), User)
    key = store.load(ports.records, store.key_key(claim.created_by_key), Key)
    try:
        # As of then: a key that merely expired made it rightly.
        needed = Action.OWN_KEYS if claim.created_by == claim.user else Action.MANAGE_USERS
        access.check_allowed(access.check_key(key.document, user.document, claim.created_at), needed)
    except RunvoyError as error:
        raise _no_such_token() from error
    return (user.check, key.check)


def open_own(call: Call, raw: bytes) -> claims.Claim:
    """The claim of a further key inside a signed call: it needs no token."""
    opened = claims.open_sealed(raw, call.deployment.deployment_id)
    call.concerns(keys.key_id_of(opened.public_key))
    if opened.secret:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "a signed call registers its key without a token")
    return opened


def register(call: Call, key: Key, action: str) -> Response:
    """Commit a further key of the caller's. The same key again, as after a lost answer, is the same key."""
    known = store.load(call.ports.records, store.key_key(key.key_id), Key).document
    if known is None:
        call.commit(store.put_new(store.key_key(key.key_id), key), call.audit(action, message=key.name))
    elif (known.user, known.life, known.replaces) != (key.user, key.life, key.replaces) or known.revoked_at is not None:
        raise _registered_before()
    return _answer(call.user, known or key, call.deployment, audited=known is None)


def new_key(
    public_key: bytes, user: User, terms: KeyTerms, now: datetime, *, made_by: str, replaces: str | None = None
) -> Key:
    """The record of a key under its terms, which count from `now`."""
    lifetime = terms.lifetime_seconds
    expires_at = None if lifetime is None else now + timedelta(seconds=lifetime)
    return Key(
        key_id=keys.key_id_of(public_key),
        public_key=public_key,
        user=user.name,
        created_at=now,
        life=user.life,
        name=terms.name,
        limits=terms.limits,
        expires_at=expires_at,
        replaces=replaces,
        made_by=made_by,
    )


def shown_key(key: Key, user: User, last_used_at: datetime | None = None) -> KeyAnswer:
    """A user's key as it stands: revoked also by its user's revocation."""
    return KeyAnswer(
        key_id=key.key_id,
        user=key.user,
        created_at=key.created_at,
        name=key.name,
        limits=key.limits,
        expires_at=key.expires_at,
        revoked_at=access.revoked_at(key, user),
        last_used_at=last_used_at,
        made_by=key.made_by,
    )


def _answer(user: User, key: Key, deployment: Deployment, *, audited: bool = True) -> Response:
    shown = ClaimAnswer(key=shown_key(key, user), role=user.role, deployment_id=deployment.deployment_id)
    return answer(shown, audited=audited)


def _record_key(deployment: Deployment, secret: bytes) -> str:
    mac_key = hmac.digest(deployment.secret, b"runvoy claim tokens v1", "sha256")
    return store.claim_key(hmac.digest(mac_key, secret, "sha256").hex())


def _registered_before() -> RunvoyError:
    return RunvoyError(ErrorCode.CONFLICT, "this key was registered before", "Make a new one.")


def _no_such_token() -> RunvoyError:
    return RunvoyError(
        ErrorCode.NOT_FOUND,
        "the claim token is wrong, was used, or has expired",
        "Ask an admin for a new one: `runvoy users create`, or `runvoy keys create --user`.",
    )
