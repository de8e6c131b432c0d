"""`runvoy status ID --request` for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runvoy_cli.submission import signed_view
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.receipts import Receipt, Resolved
from runvoy_protocol.requests import GitSource, RunRequest
from runvoy_protocol.signed_requests import SignedRequestAnswer, to_signed_request

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ID = "019ab1c2d3e47f0089abcdef01234567"


def request(**fields: Any) -> RunRequest:
    values: dict[str, Any] = {"version": 1, "deployment_id": "here", "request_id": ID, "command": "make\nmake check"}
    return RunRequest(**(values | {"issued_at": AT, "expires_at": AT} | fields))


def receipt(**fields: Any) -> Receipt:
    values: dict[str, Any] = {"outcome": "accepted", "execution_id": ID, "key_id": "k", "object_sha256": "ab", "at": AT}
    return Receipt(**(values | fields))


def shown(**fields: Any) -> str:
    values: dict[str, Any] = {"execution_id": ID, "state": "admitted", "key_id": "k", "object_sha256": "ab"}
    return "\n".join(signed_view.lines(SignedRequestAnswer(**(values | fields))))


def test_all_that_was_signed_and_what_was_made_of_it() -> None:
    made = Resolved(
        owner="ann", isolation="container", timeout_seconds=5, image="r/alpine:3", image_name="alpine", cpu=256
    )
    signed = request(
        env={"A": "one\ttwo\x1b[31m"},
        secrets=("db",),
        locks=("prod",),
        git=GitSource("https://example.com/x", "main", "sub"),
        queue_timeout_seconds=9,
    )
    text = shown(request=to_signed_request(signed), content_digest="cd", receipt=receipt(resolved=made), batch_id="b1")
    for part in ("signed by      k", "batch          b1", "db", "prod", "https://example.com/x main sub", "9.0s", "cd"):
        assert part in text, part
    assert "for ann, isolation container, image alpine (r/alpine:3)" in text
    assert "  make\n  make check" in text
    assert "\x1b" not in text


def test_a_playbook_s_parameters_are_named_without_their_values() -> None:
    signed = request(playbook="deploy", env={"PARAM_PIN": "1234-5678", "STAGE": "prod"})
    text = shown(request=to_signed_request(signed), receipt=receipt())
    assert "1234-5678" not in text
    assert "PARAM_PIN=(a parameter; --json has it)" in text
    assert "STAGE=prod" in text
    assert "PARAM_PIN=1234-5678" in shown(
        request=to_signed_request(request(env={"PARAM_PIN": "1234-5678"})), receipt=receipt()
    )


def test_what_there_is_none_of_is_said() -> None:
    refusal = receipt(outcome="refused", code=ErrorCode.LOCK_HELD, message="it is held", hint="Wait.")
    text = shown(state="refused", missing="the object is gone", receipt=refusal)
    for part in ("cannot be shown: the object is gone", "refused", "LOCK_HELD", "it is held", "Wait."):
        assert part in text, part
    assert "not decided yet" in shown(state="pending", request=to_signed_request(request()))


def test_no_line_of_a_command_or_a_variable_commands_a_ci_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    signed = request(command="true\n::add-path::/tmp/theirs\n  ##[set-output]x", env={"NOTE": "##[add-mask]e"})
    lines = shown(request=to_signed_request(signed), receipt=receipt()).splitlines()
    assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    assert "  : :add-path::/tmp/theirs" in lines
    assert "NOTE=## [add-mask]e" in lines
