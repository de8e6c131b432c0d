"""Claims: once, for one key, by whoever holds the token; wrong ones neither slow the deployment nor tell anything."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import (
    add_key,
    audit_of,
    call,
    claim,
    claim_body,
    claim_raw,
    code_of,
    new_key,
    ok,
    secret_of,
    set_user,
    user_of,
    watch,
)

from runvoy_agent.core.model import Key
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.routes import Response
from runvoy_protocol import claims, codec, envelope, keys
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import ClaimRequest, ClaimTicket, Role

if TYPE_CHECKING:
    from tests.unit.conftest import World

WRONG_CLAIMS = 10_000
KEYS_TO_CLAIM_WITH = 50
MOST_CALLS = 7
"""What a claim asks of the records at most before it is refused: the token, its user, its key, who made it by which key, and
whether this minute's refusal is on record. One with a guessed token asks for the first and the last."""


def invite(world: World, name: str, role: Role = Role.DEVELOPER) -> bytes:
    return secret_of(ok(world, "POST", "/users", {"name": name, "role": role.value}))


def revoke_user(world: World, name: str) -> None:
    ok(world, "POST", f"/users/{name}/revoke", {"version": user_of(world, name)[1]})


def keys_of(world: World, user: str) -> list[Key]:
    return [key for key, _ in store.of_kind(world.records, store.keys_partition(user), Key)]


def worthless_tokens(world: World) -> dict[str, bytes]:
    """A token of every kind that is good for nothing."""
    tokens = {"wrong": b"w" * 32, "empty": b""}
    tokens["used"] = invite(world, "used")
    assert claim(world, tokens["used"], new_key(world)).status == 200
    tokens["expired"] = invite(world, "expired")
    world.clock.move(minutes=15)
    tokens["of a revoked user"] = invite(world, "revoked")
    revoke_user(world, "revoked")
    tokens["of an earlier life"] = invite(world, "returned")
    revoke_user(world, "returned")
    invite(world, "returned")
    issuer = world.add_user("issuer", Role.ADMIN)
    made = ok(world, "POST", "/users", {"name": "invited", "role": "viewer"}, issuer)
    tokens["of a revoked admin's key"] = secret_of(made)
    world.revoke(issuer)
    return tokens


def test_all_worthless_tokens_have_one_answer(world: World) -> None:
    answers: dict[str, Response] = {
        what: claim(world, secret, new_key(world)) for what, secret in worthless_tokens(world).items()
    }
    assert len(set(answers.values())) == 1, answers
    assert code_of(answers["wrong"]) is ErrorCode.NOT_FOUND


@pytest.mark.slow
def test_ten_thousand_wrong_claims_neither_slow_nor_reveal_anything(world: World) -> None:
    tokens = list(worthless_tokens(world).values())  # the first two are guesses
    # Signing is the attacker's work, and most of this test's.
    bodies = [
        json.dumps(claim_body(key, secret)).encode()
        for key in (new_key(world) for _ in range(KEYS_TO_CLAIM_WITH))
        for secret in tokens
    ]
    watched = watch(world)
    answers = set()
    before = audit_of(world)
    for number in range(WRONG_CLAIMS):
        called = len(watched.calls)
        answers.add(claim_raw(world, bodies[number % len(bodies)]))
        asked = watched.calls[called:]
        assert len(asked) <= (3 if number % len(tokens) < 2 else MOST_CALLS), asked
        assert not any(what.startswith("query") for what in asked)
        if number % 50 == 0:
            world.clock.move(seconds=1)
    assert len(answers) == 1
    minutes = WRONG_CLAIMS // 50 / 60 + 2
    # Two for each minute: the record, and that it was made. Nothing else grew.
    assert len(watched.puts()) <= 2 * minutes
    assert len(audit_of(world)) - len(before) <= minutes
    # And a good one is taken as ever.
    assert claim(world, invite(world, "dave"), new_key(world)).status == 200


def test_a_claim_whose_answer_was_lost_is_answered_again_to_that_key_alone(world: World) -> None:
    secret, dave, thief = invite(world, "dave"), new_key(world), new_key(world)
    first = claim(world, secret, dave)
    assert first.status == 200
    world.clock.move(hours=2)
    assert claim(world, secret, dave) == first
    assert claim(world, secret, dave) == first
    assert code_of(claim(world, secret, thief)) is ErrorCode.NOT_FOUND
    assert [key.key_id for key in keys_of(world, "dave")] == [dave.key_id]
    claimed = [event.message for event in audit_of(world) if event.action == "claim-key"]
    assert claimed == ["", "answered again"]


def test_a_used_token_is_not_answered_again_once_its_key_is_revoked(world: World) -> None:
    secret, dave = invite(world, "dave"), new_key(world)
    assert claim(world, secret, dave).status == 200
    ok(world, "DELETE", f"/keys/{dave.key_id}")
    assert code_of(claim(world, secret, dave)) is ErrorCode.NOT_FOUND


def test_a_token_is_good_until_its_time_and_not_longer(world: World) -> None:
    early, late = invite(world, "early"), invite(world, "late")
    world.clock.move(minutes=14, seconds=59)
    assert claim(world, early, new_key(world)).status == 200
    world.clock.move(seconds=1)
    assert code_of(claim(world, late, new_key(world))) is ErrorCode.NOT_FOUND


def test_a_token_is_kept_nowhere(world: World) -> None:
    secret = invite(world, "dave")
    watched = watch(world)
    claim(world, secret, new_key(world))
    kept = b"".join(put.item.body + put.key.encode() for put in watched.puts())
    for form in (secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert form not in kept


def test_a_key_that_is_registered_cannot_be_claimed_again(world: World) -> None:
    secret, dave = invite(world, "dave"), new_key(world)
    assert claim(world, secret, dave).status == 200
    assert code_of(claim(world, invite(world, "eve"), dave)) is ErrorCode.CONFLICT
    assert keys_of(world, "eve") == []
    # The token was not used up by that.
    assert {key.user for key in keys_of(world, "dave")} == {"dave"}


def test_a_token_dies_with_its_admin_s_rights(world: World) -> None:
    ann = world.add_user("ann", Role.ADMIN)
    secret = secret_of(ok(world, "POST", "/users/ada/claims", {}, ann))
    set_user(world, "ann", role=Role.OPERATOR)
    assert code_of(claim(world, secret, new_key(world))) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("who", ["issuer", "user"])
def test_a_revocation_in_the_middle_of_a_claim_wins(world: World, who: str) -> None:
    """Before every single operation that the claim asks of the records."""
    whole = world.ports
    at = 0
    while True:
        at += 1
        world.ports = whole
        issuer = world.add_user(f"issuer{at}", Role.ADMIN)
        secret = secret_of(ok(world, "POST", "/users", {"name": f"dave{at}", "role": "viewer"}, issuer))
        watched = watch(world)
        commits_before: list[int] = []

        def on_call(number: int, at: int = at, seen: list[int] = commits_before, watched: Any = watched) -> None:
            if number == at:
                set_user(world, f"issuer{at}" if who == "issuer" else f"dave{at}", revoked_at=world.clock.now())
                seen.append(len(watched.commits))

        watched.on_call = on_call
        claim(world, secret, new_key(world))
        if not commits_before:
            break
        assert not [put.key for put in watched.puts(commits_before[0]) if put.key.startswith(("key#", "claim#"))], at
    assert at > 5


def test_a_token_outlives_a_key_that_merely_expired(world: World) -> None:
    world.add_user("ann", Role.ADMIN)
    brief = add_key(world, "ann", expires_in=timedelta(minutes=1))
    secret = secret_of(ok(world, "POST", "/users", {"name": "dave", "role": "viewer"}, brief))
    world.clock.move(minutes=2)
    assert claim(world, secret, new_key(world)).status == 200


# -- proof of possession, before anything is looked up

# Of order 4 and 2, and no point at all (y = 2).
WEAK_KEYS = [bytes(32), b"\x01" + bytes(31), b"\x02" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"short", b"x" * 33]


def sealed_by(payload: bytes, signing_key: SigningKey, key_id: str | None = None, **changes: Any) -> dict[str, str]:
    kind = changes.get("kind", PayloadType.CLAIM)
    signature = envelope.Signature(key_id or signing_key.key_id, signing_key.sign(envelope.pae(kind, payload)))
    raw = codec.encode(envelope.Envelope(1, kind, payload, (signature,)))
    return {"claim": base64.b64encode(raw).decode()}


def bad_claims(world: World, secret: bytes) -> list[dict[str, str]]:
    mine, other = new_key(world), new_key(world)

    def payload(public_key: bytes, **fields: Any) -> bytes:
        values: dict[str, Any] = {
            "version": 1,
            "deployment_id": "here",
            "secret": secret,
            "public_key": public_key,
        } | fields
        return codec.encode(claims.Claim(**values))

    own = payload(mine.public_key)
    return [
        *(sealed_by(payload(weak), mine, keys.key_id_of(weak)) for weak in WEAK_KEYS),
        sealed_by(payload(other.public_key), mine),  # somebody else's key, signed by one's own
        sealed_by(payload(other.public_key), mine, other.key_id),
        sealed_by(own, mine, kind=PayloadType.CONTROL),  # a signature made for something else
        sealed_by(own + b"\x00", mine),
        sealed_by(payload(mine.public_key, secret=b"short"), mine),
        sealed_by(payload(mine.public_key, version=2), mine),
        claim_body(mine, secret, "elsewhere"),
        {"claim": base64.b64encode(b"\x91" * 5000).decode()},
    ]


def test_weak_keys_and_bad_proofs_are_refused_before_any_look_up(world: World) -> None:
    secret = invite(world, "dave")
    watched = watch(world)
    for body in bad_claims(world, secret):
        response = claim_raw(world, json.dumps(body).encode())
        assert code_of(response) in {
            ErrorCode.INVALID_REQUEST,
            ErrorCode.SIGNATURE_INVALID,
            ErrorCode.WRONG_DEPLOYMENT,
            ErrorCode.TOO_LARGE,
        }
    looked_up = {what.partition("#")[0] for what in watched.calls}
    assert looked_up == {"get minute", "commit"}, "only whether the refusal is on record"
    assert keys_of(world, "dave") == []
    assert claim(world, secret, new_key(world)).status == 200


@pytest.mark.parametrize("path", ["/keys", "/keys/rotate"])
def test_a_further_key_needs_the_same_proof(world: World, path: str) -> None:
    for body in bad_claims(world, b""):
        assert call(world, "POST", path, body).status in (400, 401, 413)
    with_token = claim_body(new_key(world), invite(world, "dave"))
    assert code_of(call(world, "POST", path, with_token)) is ErrorCode.INVALID_REQUEST
    assert len(keys_of(world, "ada")) == 1


def test_a_key_that_expires_makes_none_that_lives_longer(world: World) -> None:
    ann = world.add_user("ann", Role.DEVELOPER)
    brief = add_key(world, "ann", expires_in=timedelta(hours=1))
    for terms in ({}, {"lifetime_seconds": 3601}, {"limits": {"locks": ["db"]}}):
        refused = call(world, "POST", "/keys", {**claim_body(new_key(world)), "terms": terms}, brief)
        assert code_of(refused) is ErrorCode.FORBIDDEN, terms
    for lifetime in (3600, 60):
        ok(world, "POST", "/keys", {**claim_body(new_key(world)), "terms": {"lifetime_seconds": lifetime}}, brief)
    ok(world, "POST", "/keys", claim_body(new_key(world)), ann)


def test_no_repr_shows_a_token_or_the_deployment_s_secret(world: World) -> None:
    """Nor one of what holds them: whatever is logged while a claim is made or served."""
    response = call(world, "POST", "/users", {"name": "dave", "role": "developer"})
    secret = secret_of(json.loads(response.body))
    sealed = base64.b64decode(claim_body(new_key(world), secret)["claim"])
    told = claims.open_sealed(sealed, "here")
    ticket = msgspec.json.decode(response.body, type=ClaimTicket)
    shown = repr((response, told, ticket, ClaimRequest(claim=sealed), world.deployment))
    assert "dave" in shown
    for hidden in (secret, world.deployment.secret):
        for form in (repr(hidden)[2:-1], hidden.hex(), base64.b64encode(hidden).decode().rstrip("=")):
            assert form not in shown


# -- who comes back


def test_who_comes_back_cannot_use_old_keys_or_old_tokens(world: World) -> None:
    old_token, spare_token = invite(world, "dave"), secret_of(ok(world, "POST", "/users/dave/claims", {}))
    old, second = new_key(world), new_key(world)
    assert claim(world, old_token, old).status == 200
    ok(world, "POST", "/keys", claim_body(second), old)
    revoke_user(world, "dave")
    # All of it in one instant: no clock tells the lives apart.
    new_token = invite(world, "dave", Role.VIEWER)
    for key in (old, second):
        assert code_of(call(world, "GET", "/whoami", None, key)) is ErrorCode.KEY_REVOKED
        receipt = world.submit(world.request(), key)
        assert (receipt.outcome, receipt.code) == ("refused", ErrorCode.KEY_REVOKED)
    for token in (old_token, spare_token):
        assert code_of(claim(world, token, new_key(world))) is ErrorCode.NOT_FOUND
    assert code_of(claim(world, old_token, old)) is ErrorCode.NOT_FOUND
    back = new_key(world)
    assert claim(world, new_token, back).status == 200
    assert ok(world, "GET", "/whoami", None, back)["role"] == "viewer"
    # Nor can an old key be made good again by registering it anew.
    assert code_of(call(world, "POST", "/keys", claim_body(old), back)) is ErrorCode.CONFLICT
    assert code_of(call(world, "GET", "/whoami", None, old)) is ErrorCode.KEY_REVOKED


def test_what_a_user_s_revocation_made_worthless_is_listed_as_revoked(world: World) -> None:
    """Whoever looks for keys that may still be used must not be shown dead ones as good, nor the other way round."""

    def revoked() -> dict[str, str | None]:
        return {key["key_id"]: key.get("revoked_at") for key in ok(world, "GET", "/keys?user=dave")["keys"]}

    keys, times = [], []
    token = invite(world, "dave")
    for _ in range(3):
        keys.append(new_key(world))
        assert claim(world, token, keys[-1]).status == 200
        assert revoked() == dict(zip((key.key_id for key in keys), (*times, None), strict=True))
        revoke_user(world, "dave")
        times.append(ok(world, "GET", "/users/dave")["revoked_at"])
        world.clock.time += timedelta(minutes=1)
        assert revoked() == dict(zip((key.key_id for key in keys), times, strict=True))
        token = invite(world, "dave")
    assert len(set(times)) == 3


def test_a_token_of_one_s_own_makes_a_key_like_those_one_may_make(world: World) -> None:
    key = world.add_user("dev", Role.DEVELOPER)
    terms = {"name": "browser", "lifetime_seconds": 3600}
    secret = secret_of(ok(world, "POST", "/keys/claims", {"terms": terms}, key))
    new = new_key(world)
    assert claim(world, secret, new).status == 200
    made = next(one for one in keys_of(world, "dev") if one.key_id == new.key_id)
    assert (made.name, made.lifetime_seconds) == ("browser", 3600)
    assert code_of(claim(world, secret, new_key(world))) is ErrorCode.NOT_FOUND


def test_a_token_of_one_s_own_is_good_for_two_minutes_and_dies_with_the_key_that_made_it(world: World) -> None:
    key = world.add_user("dev", Role.DEVELOPER)
    late = secret_of(ok(world, "POST", "/keys/claims", {}, key))
    world.clock.move(minutes=2)
    assert code_of(claim(world, late, new_key(world))) is ErrorCode.NOT_FOUND
    orphaned = secret_of(ok(world, "POST", "/keys/claims", {}, key))
    world.revoke(key)
    assert code_of(claim(world, orphaned, new_key(world))) is ErrorCode.NOT_FOUND


def test_a_key_that_expires_makes_no_token_for_one_that_lives_longer(world: World) -> None:
    world.add_user("dev", Role.DEVELOPER)
    brief = add_key(world, "dev", expires_in=timedelta(seconds=600))
    for terms in ({}, {"lifetime_seconds": 601}):
        assert code_of(call(world, "POST", "/keys/claims", {"terms": terms}, brief)) is ErrorCode.FORBIDDEN
