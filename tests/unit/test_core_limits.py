"""What a limited key may ask for. A key limited to playbooks may set what the playbook declares, and nothing else that is
run: each field of a request is either pinned or named here as free."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from runvoy_agent.core.limits import check_limits
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyLimits, PlaybookPin
from runvoy_protocol.requests import GitSource, RunRequest, playbook_digest

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
PLAYBOOK = RunRequest(
    version=1,
    deployment_id="here",
    request_id="019a0000000070008000000000000001",
    issued_at=NOW,
    expires_at=NOW + timedelta(minutes=5),
    command=("deploy", "--all"),
    image="tools",
    env={"REGION": "eu", "TARGET": "staging"},
    secrets=("token",),
    locks=("prod",),
    timeout_seconds=60,
    cpu=256,
    memory_mib=512,
    git=GitSource("https://example.com/infra.git", "main", "envs"),
    playbook="deploy",
    isolation="container",
)
PIN = PlaybookPin(name="deploy", digest=playbook_digest(PLAYBOOK, ("TARGET",)), parameters=("TARGET",))
LIMITS = KeyLimits(playbooks=(PIN,))

FREE: dict[str, Any] = {
    "deployment_id": "there",
    "request_id": "019a0000000070008000000000000002",
    "issued_at": NOW + timedelta(hours=1),
    "expires_at": NOW + timedelta(hours=2),
    "if_locked": "fail",
    "queue_timeout_seconds": 7,
    "labels": {"team": "core"},
    "name": "nightly",
}
PINNED: dict[str, list[Any]] = {
    "version": [2],
    "command": [("deploy", "--all", "--force"), ("deploy",), "deploy --all", ("deploy --all",)],
    "image": ["tools:2", None],
    "env": [
        {"REGION": "us", "TARGET": "staging"},
        {"TARGET": "staging"},
        {"REGION": "eu", "TARGET": "staging", "EXTRA": ""},
        {"REGION": "eu", "TARGET": "staging", "LD_PRELOAD": "x.so"},
        {"REGION": "eu", "target": "staging"},
    ],
    "secrets": [(), ("token", "other"), ("other",)],
    "locks": [(), ("prod", "dns"), ("dns",)],
    "timeout_seconds": [61],
    "cpu": [512, None],
    "memory_mib": [1024, None],
    "git": [None, GitSource("https://example.com/infra.git", "dev", "envs")],
    "playbook": [None, "other"],
    "isolation": ["process", ""],
}


def changed(**fields: Any) -> RunRequest:
    return msgspec.structs.replace(PLAYBOOK, **fields)


def is_allowed(request: RunRequest, limits: KeyLimits | None = LIMITS, image_name: str | None = None) -> bool:
    try:
        check_limits(limits, request, image_name)
    except RunvoyError as error:
        assert error.code is ErrorCode.FORBIDDEN
        assert error.message.startswith("the key is limited: ")
        return False
    return True


def test_every_field_of_a_request_is_pinned_or_free() -> None:
    assert set(RunRequest.__struct_fields__) == FREE.keys() | PINNED.keys()


def test_the_playbook_itself_is_allowed() -> None:
    assert is_allowed(PLAYBOOK)


@pytest.mark.parametrize("field", FREE)
def test_what_does_not_change_what_is_run_is_free(field: str) -> None:
    assert is_allowed(changed(**{field: FREE[field]}))
    assert playbook_digest(changed(**{field: FREE[field]}), ()) == playbook_digest(PLAYBOOK, ())


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in PINNED.items() for value in values])
def test_what_is_run_is_pinned(field: str, value: Any) -> None:
    assert not is_allowed(changed(**{field: value}))


@pytest.mark.parametrize("env", [{"REGION": "eu", "TARGET": "prod"}, {"REGION": "eu", "TARGET": ""}, {"REGION": "eu"}])
def test_what_the_playbook_declares_is_the_callers(env: dict[str, str]) -> None:
    assert is_allowed(changed(env=env))


def test_a_refusal_says_what_may_be_set() -> None:
    with pytest.raises(RunvoyError, match=r"only its parameters \(TARGET\), labels, name and how it waits are"):
        check_limits(LIMITS, changed(env={"REGION": "eu", "EXTRA": "1"}), None)
    bare = KeyLimits(playbooks=(PlaybookPin(name="deploy", digest=playbook_digest(PLAYBOOK, ())),))
    with pytest.raises(RunvoyError, match="only its labels, name and how"):
        check_limits(bare, changed(env={"REGION": "eu", "TARGET": "prod"}), None)
    with pytest.raises(RunvoyError, match="may run deploy as a playbook, not other commands"):
        check_limits(LIMITS, changed(playbook=None), None)


def test_a_value_cannot_pass_for_another_variable() -> None:
    """What a digest is made of tells names from values."""
    one = changed(env={"A": "1", "B": "2"})
    others = ({"A": "1\0B=2"}, {"A": "1", "B": "2", "C": ""}, {"A=1\0B": "2"}, {"A": "12", "B": ""})
    assert all(playbook_digest(one, ()) != playbook_digest(changed(env=env), ()) for env in others)


def test_several_playbooks_are_each_as_they_were_pinned() -> None:
    other = changed(playbook="other", command=("check",))
    limits = KeyLimits(playbooks=(PIN, PlaybookPin(name="other", digest=playbook_digest(other, ()))))
    assert is_allowed(PLAYBOOK, limits)
    assert is_allowed(other, limits)
    assert not is_allowed(changed(playbook="other"), limits), "the one under the other's name"
    assert not is_allowed(changed(command=("check",)), limits)


def test_the_other_limits() -> None:
    images, locks, labels = KeyLimits(images=("tools",)), KeyLimits(locks=("prod",)), KeyLimits(labels={"team": "core"})
    assert is_allowed(PLAYBOOK, images, "tools")
    assert not is_allowed(PLAYBOOK, images, "other")
    assert not is_allowed(PLAYBOOK, images, None), "the name that it resolved to counts, not the one that was asked for"
    assert is_allowed(PLAYBOOK, locks)
    assert is_allowed(changed(locks=()), locks)
    assert not is_allowed(changed(locks=("prod", "dns")), locks)
    assert is_allowed(changed(labels={"team": "core", "more": "x"}), labels)
    assert not is_allowed(changed(labels={"team": "other"}), labels)
    assert not is_allowed(PLAYBOOK, labels)
    assert is_allowed(PLAYBOOK, None)


def test_every_limit_that_is_passed_is_named() -> None:
    limits = KeyLimits(images=("tools",), locks=("dns",), playbooks=(PIN,), labels={"team": "core"})
    with pytest.raises(RunvoyError) as caught:
        check_limits(limits, changed(timeout_seconds=7), "other")
    told = caught.value.message
    assert [word for word in ("image", "lock", "playbook", "label") if word not in told] == []
