"""Who may use and change a secret, and what a run gets of those it names."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runvoy_agent.core.model import FixedSecret, Secret, User
from runvoy_agent.core.secrets import fix, may_change, may_use, select
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import Role

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ADA = User(name="ada", role=Role.DEVELOPER, created_at=NOW)
BOB = User(name="bob", role=Role.DEVELOPER, created_at=NOW)


def secret(name: str, env_name: str = "TOKEN", owner: str = "ada", shared_with: tuple[str, ...] = ()) -> Secret:
    return Secret(
        name=name,
        env_name=env_name,
        owner=owner,
        value_ref=f"ref-{name}",
        created_at=NOW,
        updated_at=NOW,
        updated_by=owner,
        shared_with=shared_with,
    )


@pytest.mark.parametrize(
    ("user", "shared_with", "uses", "changes"),
    [
        (ADA, (), True, True),
        (BOB, (), False, False),
        (BOB, ("carol",), False, False),
        (BOB, ("carol", "bob"), True, False),
        (BOB, ("*",), True, False),
        (User(name="eve", role=Role.VIEWER, created_at=NOW), (), False, False),
        (User(name="eve", role=Role.OPERATOR, created_at=NOW), (), True, True),
        (User(name="eve", role=Role.ADMIN, created_at=NOW), (), True, True),
    ],
)
def test_who_may_use_and_who_may_change(user: User, shared_with: tuple[str, ...], uses: bool, changes: bool) -> None:
    kept = secret("s", shared_with=shared_with)
    assert (may_use(user, kept), may_change(user, kept)) == (uses, changes)


KNOWN = {made.name: made for made in (secret("token"), secret("hidden", owner="carol"), secret("other", "OTHER"))}


def refusal(names: tuple[str, ...]) -> RunvoyError:
    with pytest.raises(RunvoyError) as caught:
        select(names, ADA, KNOWN)
    assert caught.value.code is ErrorCode.SECRET_NOT_FOUND
    return caught.value


def test_the_named_ones_are_had_in_their_order() -> None:
    assert select((), ADA, KNOWN) == ()
    assert select(("other", "token"), ADA, KNOWN) == (KNOWN["other"], KNOWN["token"])


def test_all_that_are_missing_are_named_and_a_near_one_is_a_hint() -> None:
    error = refusal(("tokn", "token", "hidden"))
    assert error.message == "there is no secret 'tokn', 'hidden' that ada may use"
    assert error.hint == "Did you mean 'token'? See `runvoy secrets list`."
    assert "Did you mean" not in refusal(("zzzz",)).hint
    # Somebody else's is no hint, however near.
    assert "hidden" not in refusal(("hiddem",)).hint


def test_five_missing_ones_are_named_and_not_a_sixth() -> None:
    assert refusal(tuple("uvwxyz")).message == "there is no secret 'u', 'v', 'w', 'x', 'y' that ada may use"


def test_a_run_gets_the_values_as_they_are_now() -> None:
    found = fix((KNOWN["token"], KNOWN["other"]), ("TOKEN2",))
    assert found == (FixedSecret("token", "TOKEN", "ref-token"), FixedSecret("other", "OTHER", "ref-other"))


def clash(secrets: tuple[Secret, ...], env: tuple[str, ...]) -> str:
    with pytest.raises(RunvoyError) as caught:
        fix(secrets, env)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.hint.startswith("Leave a name out")
    return caught.value.message


def test_two_that_set_one_variable_are_both_named() -> None:
    one, two = secret("one"), secret("two")
    assert clash((one, two), ()) == "the secrets 'one' and 'two' both set the variable TOKEN"
    assert clash((one,), ("TOKEN",)) == "the secret 'one' and the request itself both set the variable TOKEN"
    assert clash((one, two), ("TOKEN",)).count(";") == 1


def test_five_clashes_are_told_and_not_a_sixth() -> None:
    assert clash(tuple(secret(f"s{number}") for number in range(7)), ()).count(";") == 4
