"""The first admin: asked of the control function by who may invoke it (docs/aws-table.md)."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any, NamedTuple

from runvoy_infra.deploy.aws import Aws, calling
from runvoy_infra.deploy.stacks import StackState
from runvoy_protocol import aws_layout
from runvoy_protocol.claims import Token
from runvoy_protocol.errors import ErrorCode, RunvoyError


class Seeded(NamedTuple):
    """`token` is None where the user has a key already."""

    user: str
    token: Token | None
    expires_at: datetime | None


def seed(aws: Aws, state: StackState, user: str, *, further_key: bool) -> Seeded:
    """See that the user is there as an admin, with a key or with a token for one. Safe to repeat.

    `further_key` asks for a token even if the user has a key. The deployment's own refusals are raised as they are.
    """
    event = {aws_layout.SEED_ADMIN: {"user": user, "further_key": further_key}}
    with calling("invoking the control function"):
        answer = aws.client("lambda").invoke(
            FunctionName=state.outputs["ControlFunctionName"],
            InvocationType="RequestResponse",
            Payload=json.dumps(event).encode(),
        )
        payload = answer["Payload"].read()
    try:
        return _read(json.loads(payload), "FunctionError" in answer, state)
    except (ValueError, KeyError, TypeError) as error:
        raise RunvoyError(
            ErrorCode.INTERNAL, f"the control function answered {payload[:300]!r}", "See its log in CloudWatch."
        ) from error


def _read(answer: dict[str, Any], failed: bool, state: StackState) -> Seeded:
    if failed:
        raise RunvoyError(
            ErrorCode.INTERNAL,
            f"the control function failed: {answer.get('errorType', '')}: {answer.get('errorMessage', '')}",
            "See its log in CloudWatch.",
        )
    if "error" in answer:
        refused = answer["error"]
        raise RunvoyError(ErrorCode(refused["code"]), str(refused["message"]), str(refused.get("hint", "")))
    token = None
    if answer["secret"] is not None:
        secret = base64.b64decode(answer["secret"], validate=True)
        token = Token(secret, state.outputs["Endpoint"].rstrip("/"), state.outputs["DeploymentId"])
    expires_at = datetime.fromisoformat(answer["expires_at"]) if answer["expires_at"] else None
    return Seeded(str(answer["user"]), token, expires_at)
