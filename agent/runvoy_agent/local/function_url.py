"""A function URL on loopback: a WSGI application that hands each request on as the event which Lambda would make of it.

As on AWS anybody may call it who can reach it: what may be done is decided behind it, by signatures.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from runvoy_agent.local.gateway import Environ, StartResponse, body_of, target_of
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError

log = logging.getLogger("runvoy.function_url")


class FunctionUrl:
    """`invoke` is the function: an event (payload format 2.0) → its answer. What it raises is 502, as on AWS."""

    def __init__(self, invoke: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._invoke = invoke

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._invoke(_event(environ))
        except RunvoyError as error:
            status = 413 if error.code is ErrorCode.TOO_LARGE else 400
            answer = {"statusCode": status, "headers": {}, "body": control.error_body(error).decode()}
        except Exception:
            log.exception("%s %s failed", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            answer = {"statusCode": 502, "headers": {}, "body": '{"Message":"Internal Server Error"}'}
        body = answer["body"].encode()
        status = HTTPStatus(answer["statusCode"])
        headers = [*answer["headers"].items(), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]


def _event(environ: Environ) -> dict[str, Any]:
    path, _, query = target_of(environ).partition("?")
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "domainName": environ.get("HTTP_HOST", ""),
            "http": {"method": environ["REQUEST_METHOD"], "path": path, "sourceIp": environ.get("REMOTE_ADDR", "")},
        },
        "body": base64.b64encode(body_of(environ, control.MAX_BODY_BYTES)).decode(),
        "isBase64Encoded": True,
    }
