"""A new key for a claim token: made here, its public half registered, its secret half told to nobody."""

from __future__ import annotations

import os
import time

import msgspec

from runvoy_cli import config
from runvoy_cli.transport import NoAnswer, Transport
from runvoy_protocol import claims, control, keys
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import ClaimAnswer, ClaimRequest

_TRIES = 5
_PAUSE_SECONDS = 2.0


def redeem(token: claims.Token, transport: Transport, timeout: float) -> tuple[SigningKey, ClaimAnswer]:
    """Register a new key with the token.

    The same claim may be sent again: a token that was used answers to the key that it was used for.
    """
    signing_key = SigningKey(os.urandom(keys.SEED_BYTES))
    endpoint = config.endpoint(token.endpoint, "the claim token's endpoint")
    claim = claims.seal(token.deployment_id, token.secret, signing_key)
    body = msgspec.json.encode(ClaimRequest(claim=claim))
    url = f"{endpoint}{control.API_PREFIX}/claim"
    for tried in range(_TRIES):
        try:
            answer = transport.send(
                "POST", url, headers={"Content-Type": "application/json"}, body=body, timeout=timeout
            )
        except NoAnswer as lost:
            # A function's URL that was made a moment ago may not be known to DNS yet.
            if tried == _TRIES - 1:
                raise RunvoyError(
                    ErrorCode.UNAVAILABLE, f"no answer from {lost}", "Check the network, then use the token again."
                ) from lost
            time.sleep(_PAUSE_SECONDS)
            continue
        if answer.status == 200:
            return signing_key, _decoded(answer.body, endpoint)
        raise control.parse_error(answer.body) or RunvoyError(
            ErrorCode.UNAVAILABLE, f"{endpoint} answered {answer.status}, and not as a runvoy deployment does"
        )
    raise AssertionError("unreachable")


def _decoded(body: bytes, endpoint: str) -> ClaimAnswer:
    try:
        return msgspec.json.decode(body, type=ClaimAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE, f"{endpoint} gave an answer that is no claim's: {error}", "Check the endpoint."
        ) from error
