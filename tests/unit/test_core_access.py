"""What each role may do, and whose key is good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from runvoy_agent.core.access import Action, Member, check_allowed, check_key, revoked_at
from runvoy_agent.core.model import Key, User
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyLimits, Role

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
USER = User(name="ada", role=Role.DEVELOPER, created_at=NOW)
KEY = Key(key_id="k1", public_key=bytes(32), user="ada", created_at=NOW)
LIMITED = msgspec.structs.replace(KEY, limits=KeyLimits(locks=("db",)))

DEVELOPER = (
    "know-self own-cost run read-own kill-own read-locks read-images own-secrets own-keys rotate-key "
    "read-playbooks publish-playbooks"
)
OPERATOR = (
    f"{DEVELOPER} any-cost read-any read-requests kill-any release-locks manage-images any-secrets"
    " read-users reconcile see-stack"
)
ACTIONS = {
    Role.VIEWER: "know-self own-cost read-own read-any read-locks own-keys rotate-key",
    Role.DEVELOPER: DEVELOPER,
    Role.OPERATOR: OPERATOR,
    Role.ADMIN: f"{OPERATOR} manage-users read-audit forget",
}
OF_LIMITED_KEYS = {"know-self", "run", "read-own", "kill-own", "rotate-key", "read-playbooks"}


def member(role: Role, key: Key = KEY) -> Member:
    return Member(msgspec.structs.replace(USER, role=role), key)


@pytest.mark.parametrize("role", Role)
def test_what_a_role_may_do(role: Role) -> None:
    allowed = set(ACTIONS[role].split())
    for key, expected in ((KEY, allowed), (LIMITED, allowed & OF_LIMITED_KEYS)):
        acting = member(role, key)
        assert set(acting.actions) == expected
        for action in Action:
            assert acting.may(action) is (action in expected)
            if action in expected:
                check_allowed(acting, action)
            else:
                with pytest.raises(RunvoyError) as refused:
                    check_allowed(acting, action)
                assert refused.value.code is ErrorCode.FORBIDDEN


def refusal(acting: Member, action: Action) -> tuple[str, str]:
    with pytest.raises(RunvoyError) as refused:
        check_allowed(acting, action)
    return refused.value.message, refused.value.hint


def test_a_refusal_says_whether_it_is_the_role_or_the_key() -> None:
    message, hint = refusal(member(Role.DEVELOPER), Action.KILL_ANY)
    assert message == "the role developer of ada does not allow this (kill-any)"
    assert hint.startswith("It takes one of these roles: admin, operator. ")
    message, hint = refusal(member(Role.OPERATOR, LIMITED), Action.KILL_ANY)
    assert message == "the key k1 is limited and does not allow this (kill-any)"
    assert hint == "Use a key without limits."
    # Another key would not help this one.
    assert "the role" in refusal(member(Role.DEVELOPER, LIMITED), Action.KILL_ANY)[0]


def test_to_a_limited_key_belongs_what_it_submitted_itself() -> None:
    whole, limited = member(Role.DEVELOPER), member(Role.DEVELOPER, LIMITED)
    assert whole.owns("ada", "k1")
    assert whole.owns("ada", "k2")
    assert not whole.owns("bob", "k1")
    assert limited.owns("ada", "k1")
    assert not limited.owns("ada", "k2")
    assert not limited.owns("bob", "k1")


def test_a_good_key_is_its_user_s() -> None:
    assert check_key(KEY, USER, NOW) == (USER, KEY)
    assert check_key(msgspec.structs.replace(KEY, expires_at=NOW + MOMENT), USER, NOW).key.key_id == "k1"


@pytest.mark.parametrize(
    ("key", "user", "code", "told"),
    [
        (None, None, ErrorCode.KEY_UNKNOWN, "no such key"),
        (None, USER, ErrorCode.KEY_UNKNOWN, "no such key"),
        (KEY, None, ErrorCode.KEY_UNKNOWN, "no such key"),
        (KEY, msgspec.structs.replace(USER, revoked_at=NOW), ErrorCode.KEY_REVOKED, "the user ada was revoked"),
        (msgspec.structs.replace(KEY, revoked_at=NOW), USER, ErrorCode.KEY_REVOKED, "the key was revoked"),
        (
            KEY,
            msgspec.structs.replace(USER, life=1, lives_ended_at=(NOW,)),
            ErrorCode.KEY_REVOKED,
            "the key was revoked",
        ),
        (
            msgspec.structs.replace(KEY, expires_at=NOW),
            USER,
            ErrorCode.KEY_EXPIRED,
            "the key expired at 2026-05-04 12:00:00 UTC",
        ),
        (msgspec.structs.replace(KEY, expires_at=NOW - MOMENT), USER, ErrorCode.KEY_EXPIRED, "the key expired"),
    ],
)
def test_a_key_that_is_not_good(key: Key | None, user: User | None, code: ErrorCode, told: str) -> None:
    with pytest.raises(RunvoyError, match=told) as refused:
        check_key(key, user, NOW)
    assert refused.value.code is code


def test_since_when_a_key_is_worthless() -> None:
    own, first, second = (NOW + timedelta(days=days) for days in (1, 2, 3))
    back = msgspec.structs.replace(USER, life=1, lives_ended_at=(first,))
    gone_again = msgspec.structs.replace(back, revoked_at=second)
    of_the_second_life = msgspec.structs.replace(KEY, life=1)
    assert revoked_at(KEY, USER) is None
    assert revoked_at(msgspec.structs.replace(KEY, revoked_at=own), gone_again) == own
    assert revoked_at(KEY, msgspec.structs.replace(USER, revoked_at=second)) == second
    assert revoked_at(KEY, back) == first
    assert revoked_at(KEY, gone_again) == first
    assert revoked_at(of_the_second_life, back) is None
    assert revoked_at(of_the_second_life, gone_again) == second
    check_key(of_the_second_life, back, NOW)
