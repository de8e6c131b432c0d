"""The grant by which a runner uploads: to its own execution's `run/` alone, and renewed while the execution lives."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import datetime
from urllib.parse import urlsplit

from runvoy_agent.runner.http_calls import Connections, NoAnswer
from runvoy_agent.runner.payload import Payload, PayloadError
from runvoy_agent.runner.remarks import remark

SCHEME = "Runvoy-Runner"
_OK = 200
_FORBIDDEN = 403
_RENEW_BEFORE_SECONDS = 600.0
_TRY_AGAIN_SECONDS = 5.0
_ANSWER_SECONDS = 20.0


class Policy:
    """A presigned upload of one kind of object."""

    def __init__(self, fields: object) -> None:
        given = _object(fields)
        self.url = _text(given["url"])
        self.content_type = _text(given["content_type"])
        self.fields = {name: _text(value) for name, value in _object(given["fields"]).items()}


class RunGrant:
    """A payload's grant, and the newer ones that the deployment gives for it."""

    def __init__(self, payload: Payload, connections: Connections) -> None:
        """Raises PayloadError."""
        self._payload = payload
        self._connections = connections
        self._skew_ms = 0
        self._next_try = 0.0  # monotonic
        self.refusal = ""
        """Why the deployment gives no grant any more."""
        try:
            self._take(payload.grant)
        except (KeyError, ValueError, OverflowError, RecursionError) as error:
            raise PayloadError(f"the payload's grant is malformed: {error!r}") from error

    def policy_for(self, name: str) -> tuple[Policy, str]:
        """The policy for an object, and its whole key."""
        if time.time() > self._expires_at - _RENEW_BEFORE_SECONDS:
            self.renew()
        return self._policies["logs" if name.startswith("logs/") else "reports"], self._key_prefix + name

    def renew(self) -> None:
        """Ask for a new grant, unless that was tried just now; the old one stays if there is none."""
        if self.refusal or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _TRY_AGAIN_SECONDS
        try:
            status, body = self._call()
            if status != _OK and self._learn_time(body):
                status, body = self._call()
            if status == _OK:
                self._take(_object(json.loads(body)))
            elif status == _FORBIDDEN:
                self.refusal = f"the deployment gives no grant any more: {body[:200].decode(errors='replace')}"
            else:
                remark(f"no new grant: HTTP {status}")
        except NoAnswer as error:
            remark(f"no new grant: {error}")
        except (KeyError, ValueError, OverflowError, RecursionError) as error:
            remark(f"no new grant: what came is none: {error!r}")

    def _take(self, grant: dict[str, object]) -> None:
        policies = {kind: Policy(grant[kind]) for kind in ("logs", "reports")}
        self._key_prefix, self._renew_url = _text(grant["key_prefix"]), _text(grant["renew_url"])
        self._expires_at = datetime.fromisoformat(_text(grant["expires_at"])).timestamp()
        self._policies = policies

    def _call(self) -> tuple[int, bytes]:
        header = authorization(self._payload, "POST", self._renew_url, time.time_ns() // 1_000_000 + self._skew_ms)
        return self._connections.exchange("POST", self._renew_url, {"Authorization": header}, b"", _ANSWER_SECONDS)

    def _learn_time(self, body: bytes) -> bool:
        """Whether an answer says that this machine's clock is off; the deployment's counts."""
        try:
            details = _object(_object(_object(json.loads(body))["error"])["details"])
            there = datetime.fromisoformat(_text(details["server_time"])).timestamp()
        except (KeyError, ValueError, OverflowError, RecursionError):
            return False
        self._skew_ms = round((there - time.time()) * 1000)
        return True


def authorization(payload: Payload, method: str, url: str, issued_at_ms: int) -> str:
    """The Authorization header of a runner's call with an empty body."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    signed = f"call\n{method}\n{target}\n{issued_at_ms}\n{hashlib.sha256(b'').hexdigest()}"
    mac = hmac.digest(payload.execution_key, signed.encode(), "sha256").hex()
    return f"{SCHEME} {payload.execution_id}.{payload.attempt}.{issued_at_ms}.{mac}"


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("an object was expected")  # noqa: TRY004 - one kind of error for all that is malformed
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text was expected")  # noqa: TRY004
    return value
