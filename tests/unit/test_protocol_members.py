"""Names of users, and the terms of keys."""

import pytest

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyLimits, KeyTerms, PlaybookPin, check_terms, check_user_name

DIGEST = "0" * 64


@pytest.mark.parametrize("name", ["ada@example.com", "a", "ci-deploy", "a.b+c_d@x-y.example", "0@0", "a" * 128])
def test_names_of_users(name):
    check_user_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "Ada@example.com", "a b", "a@", "@b", "a@b@c", "a/b", "a#b", "ä", "-a", "a@b.", "a\n", "a" * 129, "a@-b"],
)
def test_what_is_no_name_of_a_user(name):
    with pytest.raises(RunvoyError) as caught:
        check_user_name(name)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "terms",
    [
        KeyTerms(),
        KeyTerms(name="CI of team ä", lifetime_seconds=60),
        KeyTerms(lifetime_seconds=3650 * 86400, limits=KeyLimits(images=("docker.io/a/b:1",))),
        KeyTerms(limits=KeyLimits(locks=("prod/db",), labels={"env": ""})),
        KeyTerms(limits=KeyLimits(playbooks=(PlaybookPin(name="deploy", digest=DIGEST, parameters=("X",)),))),
    ],
)
def test_terms_a_key_can_have(terms):
    check_terms(terms)


@pytest.mark.parametrize(
    "terms",
    [
        KeyTerms(name="x" * 129),
        KeyTerms(name="a\nb"),
        KeyTerms(lifetime_seconds=59),
        KeyTerms(lifetime_seconds=0),
        KeyTerms(lifetime_seconds=-(10**18)),
        KeyTerms(lifetime_seconds=10**18),
        KeyTerms(limits=KeyLimits()),
        KeyTerms(limits=KeyLimits(images=())),
        KeyTerms(limits=KeyLimits(images=("",))),
        KeyTerms(limits=KeyLimits(images=("a", "a"))),
        KeyTerms(limits=KeyLimits(locks=("a b",))),
        KeyTerms(limits=KeyLimits(locks=tuple(f"l{n}" for n in range(65)))),
        KeyTerms(limits=KeyLimits(playbooks=())),
        KeyTerms(limits=KeyLimits(playbooks=(PlaybookPin(name="deploy", digest="x"),))),
        KeyTerms(limits=KeyLimits(labels={})),
        KeyTerms(limits=KeyLimits(labels={"a b": "c"})),
        KeyTerms(limits=KeyLimits(labels={"a": "\0"})),
    ],
)
def test_terms_no_key_can_have(terms):
    with pytest.raises(RunvoyError) as caught:
        check_terms(terms)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def problem_of(**fields):
    with pytest.raises(RunvoyError) as caught:
        check_terms(KeyTerms(**fields))
    return caught.value.message


def pin(**fields):
    return KeyLimits(playbooks=(PlaybookPin(**({"name": "deploy", "digest": DIGEST} | fields)),))


def test_the_most_that_a_key_s_terms_can_be():
    variables = tuple(f"V{number}" for number in range(65))
    labels = {f"l{number}": "x" * 256 for number in range(33)}
    least = dict(list(labels.items())[:32])
    check_terms(KeyTerms(name="x" * 128, limits=KeyLimits(images=("i" * 512,), locks=variables[:64], labels=least)))
    check_terms(KeyTerms(limits=pin(parameters=variables[:64])))
    assert "65" not in problem_of(limits=pin(parameters=variables))
    assert "parameters" in problem_of(limits=pin(parameters=("A=",)))
    assert "pinned by no SHA-256" in problem_of(limits=pin(digest="A" * 64))
    assert "is no playbook's name" in problem_of(limits=pin(name="p" * 513))
    assert "1 to 32 labels" in problem_of(limits=KeyLimits(labels=labels))
    assert "'l'" in problem_of(limits=KeyLimits(labels={"l": "x" * 257}))
    assert "one minute" in problem_of(lifetime_seconds=3650 * 86400 + 1)
    assert "is no lock's name" in problem_of(limits=KeyLimits(locks=("a b",)))
    assert problem_of(limits=KeyLimits(images=("",) * 9)).count(";") == 4


def test_a_ticket_does_not_show_its_secret():
    from datetime import UTC, datetime

    from runvoy_protocol.members import ClaimTicket, Role

    ticket = ClaimTicket(
        user="ann", role=Role.VIEWER, secret=b"hunter22" * 4, expires_at=datetime(2030, 1, 1, tzinfo=UTC)
    )
    assert "hunter22" not in repr(ticket)
    assert "ann" in repr(ticket)
