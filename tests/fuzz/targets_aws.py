"""Targets of the functions on AWS: what strangers choose in the events that AWS makes of it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

from tests.fuzz.mutators import JSON, TEXT, as_fields, as_text
from tests.fuzz.targets import ID, KEY, Target, coded

from runvoy_agent.aws import events, queue
from runvoy_protocol import object_keys

_MAX_KEY_BYTES = 1024  # S3's own bound
CALL = {
    "method": "GET",
    "rawPath": "/api/v1/locks/a%20b",
    "rawQueryString": "limit=2&after=x",
    "headers": {"Authorization": "Runvoy AAAA", "host": "x"},
    "body": "e30=",
    "isBase64Encoded": True,
}


def run_function_url(raw: bytes) -> str:
    """Method, path, query, headers and body are the caller's; Lambda sees to it that they are texts."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(document, dict):
        return "no call"
    event: dict[str, Any] = {name: as_text(document.get(name, "")) for name in ("rawPath", "rawQueryString", "body")}
    event["headers"] = as_fields(document.get("headers"))
    event["isBase64Encoded"] = bool(document.get("isBase64Encoded"))
    event["requestContext"] = {"http": {"method": as_text(document.get("method", "")), "sourceIp": "::1"}}
    request = events.http_request(event)
    assert request.target.partition("?")[0] == request.path
    # Not that it is ASCII: a path may have been decoded on its way, and then it is compared with what was signed.
    return "decoded"


def run_notification(raw: bytes) -> str:
    """The object's key is the uploader's, as far as its grant lets it; S3 quotes it."""
    object_key = raw[:_MAX_KEY_BYTES].decode("utf-8", "replace")
    record = {"eventName": "ObjectCreated:Post", "s3": {"object": {"key": quote_plus(object_key), "versionId": "1"}}}
    found = events.arrivals({"Records": [record]})
    assert found is not None
    (arrival,) = found
    assert arrival.object_key == object_key
    report = events.run_report(object_key)
    if report is not None:
        name = object_keys.result if report.event == "result" else object_keys.started
        assert name(report.execution_id) == object_key
    return "decoded"


def run_message(raw: bytes) -> str:
    assert queue.decode(queue.encode(raw)) == raw
    return "decoded"


AWS_TARGETS = [
    Target("function-url", JSON, (json.dumps(CALL).encode(),), coded(run_function_url)),
    Target(
        "notification",
        TEXT,
        (object_keys.request(KEY.key_id, ID).encode(), object_keys.result(ID).encode()),
        coded(run_notification),
    ),
    Target("message", TEXT, (b'{"execution_id": "x"}', b"base64:AAAA"), coded(run_message)),
]
