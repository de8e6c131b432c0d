"""`infra status`: what stands, whether it is well, and whether somebody changed it by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from runvoy_infra.deploy import holding
from runvoy_infra.deploy.aws import Aws, calling
from runvoy_infra.deploy.stacks import Stack, StackState
from runvoy_protocol.errors import ErrorCode, RunvoyError

_DRIFT_SECONDS = 600
_AT_ONCE = 100


class Drift(NamedTuple):
    """A resource that is not as the template says; `differences` name properties."""

    resource: str
    kind: str
    status: str
    differences: tuple[str, ...]


class Status(NamedTuple):
    """`alarms` are those that ring now. `unread`: the event source mappings of starts that are disabled, so that nothing is started.
    `drift` is None where it was not looked for."""

    state: StackState
    resources: int
    failures: tuple[str, ...]
    alarms: tuple[str, ...]
    unread: tuple[str, ...]
    drift: tuple[Drift, ...] | None


def look(aws: Aws, stack: Stack, say: Callable[[str], None], *, with_drift: bool) -> Status:
    """NOT_FOUND if there is no such stack. `say` is told what could not be looked at. Looking for drift takes CloudFormation a minute or so."""
    state = stack.existing()
    resources = stack.resources()
    failures = () if state.is_good else tuple(stack.reasons(state))
    return Status(
        state=state,
        resources=len(resources),
        failures=failures,
        alarms=tuple(_ringing(aws, resources)),
        unread=tuple(one.resource for one in holding.unread(aws, resources, say)),
        drift=tuple(_drift(stack)) if with_drift else None,
    )


def _ringing(aws: Aws, resources: list[dict[str, Any]]) -> list[str]:
    names = {
        one["PhysicalResourceId"]: one["LogicalResourceId"]
        for one in resources
        if one["ResourceType"] == "AWS::CloudWatch::Alarm" and one.get("PhysicalResourceId")
    }
    ordered = sorted(names)
    found: list[str] = []
    for at in range(0, len(ordered), _AT_ONCE):
        with calling("asking which alarms ring"):
            answer = aws.client("cloudwatch").describe_alarms(
                AlarmNames=ordered[at : at + _AT_ONCE], StateValue="ALARM", MaxRecords=_AT_ONCE
            )
        for alarm in answer["MetricAlarms"]:
            found.append(f"{names[alarm['AlarmName']]}: {alarm.get('AlarmDescription', '')}")
    return found


def _drift(stack: Stack) -> list[Drift]:
    deadline = time.monotonic() + _DRIFT_SECONDS
    with calling(f"looking for drift of the stack {stack.name}"):
        detection = stack.client.detect_stack_drift(StackName=stack.name)["StackDriftDetectionId"]
        while True:
            found = stack.client.describe_stack_drift_detection_status(StackDriftDetectionId=detection)
            if found["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                break
            if time.monotonic() > deadline:
                raise RunvoyError(
                    ErrorCode.UNAVAILABLE,
                    f"CloudFormation looks for drift since {_DRIFT_SECONDS} s",
                    "Try again later.",
                )
            time.sleep(stack.pause_seconds)
        if found["DetectionStatus"] == "DETECTION_FAILED":
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"drift could not be looked for everywhere: {found.get('DetectionStatusReason', '')}",
                "See the reason; most often a right to read a resource is missing.",
            )
        drifted: list[Drift] = []
        request: dict[str, Any] = {
            "StackName": stack.name,
            "StackResourceDriftStatusFilters": ["MODIFIED", "DELETED"],
        }
        while True:
            page = stack.client.describe_stack_resource_drifts(**request)
            drifted += [_told(one) for one in page["StackResourceDrifts"]]
            if not page.get("NextToken"):
                return drifted
            request["NextToken"] = page["NextToken"]


def _told(one: dict[str, Any]) -> Drift:
    differences = tuple(
        f"{part['PropertyPath']}: {part['ExpectedValue']} → {part['ActualValue']}"
        for part in one.get("PropertyDifferences", ())
    )
    return Drift(one["LogicalResourceId"], one["ResourceType"], one["StackResourceDriftStatus"], differences)
