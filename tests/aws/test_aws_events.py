"""Events as AWS documents them (tests/events), read into plain values."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.aws import events, queue
from runvoy_agent.aws.events import Arrival, RunReport, TaskStopped
from runvoy_agent.aws.task_looks import stopped_state
from runvoy_protocol import aws_layout
from runvoy_protocol.errors import RunvoyError

EXECUTION_ID = "01a20afa12ae75f4a60a79fca27b40d0"


def event(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "events" / f"{name}.json"
    return dict(json.loads(path.read_text()))


def test_a_notification_of_s3() -> None:
    assert events.arrivals(event("s3_object_created")) == [
        Arrival(f"requests/a b+c/{EXECUTION_ID}", "096fKKXTRTtl3on89fVO.nfljtsv6qko", "203.0.113.7")
    ]
    assert not events.is_test(event("s3_object_created"))


def test_what_was_not_created_is_no_arrival() -> None:
    removed = event("s3_object_created")
    removed["Records"][0]["eventName"] = "ObjectRemoved:Delete"
    assert events.arrivals(removed) == []


def test_an_unversioned_bucket_names_no_version() -> None:
    unversioned = event("s3_object_created")
    del unversioned["Records"][0]["s3"]["object"]["versionId"], unversioned["Records"][0]["requestParameters"]
    assert events.arrivals(unversioned) == [Arrival(f"requests/a b+c/{EXECUTION_ID}", None, "")]


def test_the_test_of_s3_and_other_messages_are_no_notification() -> None:
    assert events.is_test(event("s3_test_event"))
    assert events.arrivals(event("s3_test_event")) is None
    assert events.arrivals({"object_key": "requests/a/b"}) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"null"])
def test_a_body_that_is_no_object_is_an_error(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        events.decoded(body)


def test_a_stopped_task() -> None:
    stopped = event("ecs_task_stopped")
    assert events.is_task_change(stopped)
    assert events.task_stopped(stopped) == TaskStopped(
        EXECUTION_ID,
        1,
        3,
        "Essential container in task exited",
        never_began=False,
        pull_started_at=datetime(2026, 5, 4, 12, 0, 4, 300_000, tzinfo=UTC),
        task_stopped_at=datetime(2026, 5, 4, 12, 0, 9, 500_000, tzinfo=UTC),
    )


def test_a_task_whose_command_never_ran() -> None:
    stopped = event("ecs_task_stopped")
    main = stopped["detail"]["containers"][0]
    del main["exitCode"]
    main["reason"] = "CannotPullContainerError: pull access denied"
    found = events.task_stopped(stopped)
    assert found is not None
    assert found.exit_code is None
    assert "CannotPullContainerError" in found.message


@pytest.mark.parametrize(
    "change", [{"lastStatus": "RUNNING"}, {"startedBy": "ecs-svc/1"}, {"startedBy": ""}, {"startedBy": "x-y-"}]
)
def test_other_changes_of_tasks_ask_for_nothing(change: dict[str, str]) -> None:
    other = event("ecs_task_stopped")
    other["detail"] |= change
    assert events.task_stopped(other) is None


@pytest.mark.parametrize(
    ("object_key", "report"),
    [
        (f"executions/{EXECUTION_ID}/run/result.json", RunReport(EXECUTION_ID, "result")),
        (f"executions/{EXECUTION_ID}/run/started.json", RunReport(EXECUTION_ID, "started")),
        (f"executions/{EXECUTION_ID}/run/logs/00000001", None),
        (f"executions/{EXECUTION_ID}/status.json", None),
        (f"executions/{EXECUTION_ID}/run/x/result.json", None),
        ("executions//run/result.json", None),
        ("executions/x/run/result.json\n", None),
    ],
)
def test_what_a_runner_wrote(object_key: str, report: RunReport | None) -> None:
    assert events.run_report(object_key) == report


def test_a_call_of_the_function_url() -> None:
    request = events.http_request(event("function_url_get"))
    assert (request.method, request.path, request.source) == ("GET", "/api/v1/executions", "203.0.113.7")
    assert request.target == "/api/v1/executions?limit=2&label=team%3Dops&owner="
    assert request.query == {"limit": "2", "label": "team=ops", "owner": ""}
    assert request.headers["authorization"] == "Runvoy AAAA"
    assert request.body == b""


def test_a_body_in_base64() -> None:
    body = b"\0\xff{}"
    call = event("function_url_get") | {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    assert events.http_request(call).body == body
    assert events.http_request(event("function_url_get") | {"body": "ü"}).body == "ü".encode()


@pytest.mark.parametrize(
    "change",
    [
        {"rawPath": "/\ud800"},
        {"rawPath": "/api/v1/locks/a?b", "rawQueryString": "c=d"},
        {"rawQueryString": "&".join(f"a{number}=1" for number in range(65))},
        {"body": "\udfff"},
        {"body": "not base64", "isBase64Encoded": True},
    ],
)
def test_a_call_that_no_client_sends_is_the_callers_fault(change: dict[str, object]) -> None:
    with pytest.raises(RunvoyError, match="malformed"):
        events.http_request(event("function_url_get") | change)


@pytest.mark.parametrize("name", ["x-", "-1", "x-1a", "x-²", "x-99999999", ""])
def test_what_is_no_task_of_ours(name: str) -> None:
    assert aws_layout.parse_task_name(name) is None


def test_the_name_of_a_task() -> None:
    assert aws_layout.parse_task_name(aws_layout.task_name(EXECUTION_ID, 12)) == (EXECUTION_ID, 12)


@pytest.mark.parametrize(
    "body", [b"", b'{"a": "\xc3\xbc"}', b"\0", b"\xff\xfe", b"base64:", b"a\x0bb", "\uffff".encode(), "😀\t\n".encode()]
)
def test_a_message_carries_any_bytes(body: bytes) -> None:
    text = queue.encode(body)
    assert text
    assert queue.decode(text) == body


def test_a_readable_message_stays_readable() -> None:
    assert queue.encode(b'{"execution_id": "x"}') == '{"execution_id": "x"}'
    with pytest.raises(ValueError):
        queue.decode("base64:not base64")


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("2026-05-04T12:00:04.3Z", datetime(2026, 5, 4, 12, 0, 4, 300_000, tzinfo=UTC)),
        (datetime(2026, 5, 4, 14, 0, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 5, 4, 12, 0, tzinfo=UTC)),
        (datetime(2026, 5, 4, 14, 0), None),
        ("soon", None),
        ("2026-05-04T12:00:04", None),
        (None, None),
        (7, None),
    ],
)
def test_the_time_that_a_task_is_charged_for(told: object, read: datetime | None) -> None:
    """As text in an event, as a datetime from DescribeTasks; what is no time is not known."""
    state = stopped_state({"pullStartedAt": told, "stoppedAt": told})
    assert (state.pull_started_at, state.stopped_at) == (read, read)


NEVER_BEGAN = {
    "stopCode": "TaskFailedToStart",
    "containers": [{"name": "main", "lastStatus": "STOPPED"}, {"name": "runner", "lastStatus": "STOPPED"}],
}
NO_ROOM = [
    "Capacity is unavailable at this time. Please try again later or in a different availability zone",
    "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-1': InsufficientFreeAddressesInSubnet",
    "Unexpected EC2 error while attempting to Create Network Interface: NetworkInterfaceLimitExceeded",
    "Timeout waiting for network interface provisioning to complete.",
    "RESOURCE:ENI",
]


@pytest.mark.parametrize("reason", NO_ROOM)
def test_a_task_that_ended_before_anything_of_it_was_there_had_no_room(reason: str) -> None:
    state = stopped_state(NEVER_BEGAN | {"stoppedReason": reason})
    assert (state.no_room, state.never_began, state.exit_code) == (True, True, None)
    assert reason in state.message


@pytest.mark.parametrize(
    "more",
    [
        {"stoppedReason": "CannotPullContainerError: no such image"},
        {"stoppedReason": "Unexpected EC2 error while attempting to Create Network Interface: UnauthorizedOperation"},
        {"stoppedReason": "ResourceInitializationError: unable to pull secrets"},
        {"stoppedReason": ""},
        {"stopCode": "EssentialContainerExited"},
        {"stopCode": "SpotInterruption"},
        {"pullStartedAt": "2026-05-04T12:00:04.3Z"},
        {"startedAt": "2026-05-04T12:00:04.3Z"},
        {"containers": [{"name": "runner", "exitCode": 137}]},
        {"containers": [{"name": "main", "runtimeId": "1"}]},
    ],
    ids=str,
)
def test_what_may_have_begun_or_will_not_do_better_had_room(more: dict[str, object]) -> None:
    """The words are not enough: no image was pulled, and no container made."""
    assert not stopped_state(NEVER_BEGAN | {"stoppedReason": NO_ROOM[0]} | more).no_room
