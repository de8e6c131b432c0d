"""What AWS hands to the functions, read into plain values. Events come late, twice and in any order; the handlers bear it.

Everything here is from AWS itself, but for object keys and what an HTTP caller sent, which anybody may have chosen.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

from runvoy_agent.aws.task_looks import stopped_state
from runvoy_protocol import aws_layout, object_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError

_RUN_OBJECT = re.compile(r"executions/([^/]+)/run/(started|result)\.json\Z")
_MAX_PARAMETERS = 64


class Arrival(NamedTuple):
    """An object was written: its key, its version, and the network address it came from."""

    object_key: str
    version: str | None
    source: str


class TaskStopped(NamedTuple):
    """An attempt's task was seen stopped: what it says is as in ports.TaskState."""

    execution_id: str
    attempt: int
    exit_code: int | None
    message: str
    never_began: bool
    pull_started_at: datetime | None = None
    task_stopped_at: datetime | None = None
    no_room: bool = False


class RunReport(NamedTuple):
    """The runner wrote one of its two objects."""

    execution_id: str
    event: Literal["started", "result"]


class HttpRequest(NamedTuple):
    """See handlers.routes.Request, whose fields these are."""

    method: str
    path: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    source: str


def decoded(body: bytes) -> dict[str, Any]:
    """A message's JSON object; ValueError for anything else."""
    document = json.loads(body)
    if not isinstance(document, dict):
        raise TypeError("the message is no JSON object")
    return document


def is_test(document: Mapping[str, Any]) -> bool:
    """Whether this is what S3 sends when notifications are set up, which asks for nothing."""
    return document.get("Event") == "s3:TestEvent"


def arrivals(document: Mapping[str, Any]) -> list[Arrival] | None:
    """The objects that a notification of S3 tells of; None if it is no such notification."""
    records = document.get("Records")
    if not isinstance(records, list):
        return None
    return [_arrival(record) for record in records if str(record["eventName"]).startswith("ObjectCreated:")]


def _arrival(record: Mapping[str, Any]) -> Arrival:
    written = record["s3"]["object"]
    return Arrival(
        object_key=unquote_plus(written["key"]),
        version=written.get("versionId"),
        source=str(record.get("requestParameters", {}).get("sourceIPAddress", "")),
    )


def run_report(object_key: str) -> RunReport | None:
    """What a written object says of a run; None for log chunks and all else."""
    match = _RUN_OBJECT.match(object_key)
    if match is None:
        return None
    execution_id = match.group(1)
    event: Literal["started", "result"] = "started" if match.group(2) == "started" else "result"
    own = object_keys.started(execution_id) if event == "started" else object_keys.result(execution_id)
    return RunReport(execution_id, event) if own == object_key else None


def is_task_change(document: Mapping[str, Any]) -> bool:
    return document.get("source") == "aws.ecs" and document.get("detail-type") == "ECS Task State Change"


def task_stopped(document: Mapping[str, Any]) -> TaskStopped | None:
    """What a task's change of state says; None if it has not stopped, or is no task of runvoy's."""
    task = document["detail"]
    name = aws_layout.parse_task_name(str(task.get("startedBy", "")))
    if task.get("lastStatus") != "STOPPED" or name is None:
        return None
    state = stopped_state(task)
    return TaskStopped(
        *name, state.exit_code, state.message, state.never_began, state.pull_started_at, state.stopped_at, state.no_room
    )


def http_request(event: Mapping[str, Any]) -> HttpRequest:
    """A call of a function URL (payload format 2.0). INVALID_REQUEST for what no client of ours sends."""
    try:
        return _http_request(event)
    except ValueError as error:  # characters that are none, too many parameters, a body that is no base64
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the call is malformed: {error}") from error


def _http_request(event: Mapping[str, Any]) -> HttpRequest:
    http = event["requestContext"]["http"]
    path = event.get("rawPath") or "/"  # raw by its name alone: it may have been decoded on its way
    path.encode()
    if "?" in path:  # once decoded: where the path ends in what was signed could not be told any more
        raise ValueError("its path holds a question mark")
    raw_query = event.get("rawQueryString") or ""
    body = event.get("body") or ""
    return HttpRequest(
        method=http["method"],
        path=path,
        target=f"{path}?{raw_query}" if raw_query else path,
        query=dict(parse_qsl(raw_query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)),
        headers={name.lower(): value for name, value in event.get("headers", {}).items()},
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
        source=str(http.get("sourceIp", "")),
    )


def called_at(event: Mapping[str, Any]) -> str:
    """The function URL that was called, without a path. AWS says it, not the caller."""
    return f"https://{event['requestContext']['domainName']}"


def http_answer(status: int, body: bytes, content_type: str, headers: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The answer of a function URL that nobody is to keep."""
    return {
        "statusCode": status,
        "headers": {
            "content-type": content_type,
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **{name.lower(): value for name, value in headers},
        },
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def http_file(status: int, body: bytes, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The same with a file, which may be compressed and says itself how long it is kept."""
    return {
        "statusCode": status,
        "headers": {name.lower(): value for name, value in headers},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
