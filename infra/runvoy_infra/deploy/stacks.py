"""A CloudFormation stack as it is, and what happens to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from runvoy_infra.deploy.aws import Aws, calling, code_of, message_of
from runvoy_protocol.errors import ErrorCode, RunvoyError

PAUSE_SECONDS = 2.0
IN_REVIEW = "REVIEW_IN_PROGRESS"
_STACK = "AWS::CloudFormation::Stack"
_BEGINNINGS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")
_FAILED_VALIDATION = "alidation fail"
_CANCELLED = ("Resource creation cancelled", "Resource update cancelled")


class StackState(NamedTuple):
    """`reason` is CloudFormation's own, for the status it is in."""

    stack_id: str
    status: str
    reason: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    changed_at: datetime

    @property
    def is_moving(self) -> bool:
        return self.status.endswith("_IN_PROGRESS") and self.status != IN_REVIEW

    @property
    def is_good(self) -> bool:
        return self.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")


class Event(NamedTuple):
    """What CloudFormation tells of one resource, `at` an aware UTC time; `kind` is its type, such as AWS::SQS::Queue."""

    event_id: str
    at: datetime
    resource: str
    kind: str
    status: str
    reason: str

    @property
    def is_failure(self) -> bool:
        """A failure of its own; one that was cancelled for another's is none."""
        return self.status.endswith("_FAILED") and not self.reason.startswith(_CANCELLED)


class Stack:
    """One stack by its name; by its id once it is known, so that a deleted one can still be read."""

    def __init__(self, aws: Aws, name: str, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._aws = aws
        self.name = name
        self.pause_seconds = pause_seconds

    @property
    def client(self) -> Any:
        return self._aws.client("cloudformation")

    def state(self, stack_id: str | None = None) -> StackState | None:
        """None if there is no such stack."""
        from botocore.exceptions import ClientError

        with calling(f"reading the stack {self.name}"):
            try:
                found = self.client.describe_stacks(StackName=stack_id or self.name)["Stacks"][0]
            except ClientError as error:
                if code_of(error) == "ValidationError" and "does not exist" in message_of(error):
                    return None
                raise
        return StackState(
            stack_id=found["StackId"],
            status=found["StackStatus"],
            reason=found.get("StackStatusReason", ""),
            outputs={output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())},
            parameters={one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", ())},
            changed_at=found.get("LastUpdatedTime", found["CreationTime"]),
        )

    def existing(self) -> StackState:
        """NOT_FOUND if there is no such stack."""
        state = self.state()
        if state is None or state.status == IN_REVIEW:
            raise RunvoyError(
                ErrorCode.NOT_FOUND,
                f"there is no stack {self.name} in {self._aws.region}",
                "Check --stack-name and --region; `runvoy infra apply` makes one.",
            )
        return state

    def check_is_at_rest(self, state: StackState) -> None:
        """CONFLICT while CloudFormation changes the stack."""
        if state.is_moving:
            raise RunvoyError(
                ErrorCode.CONFLICT,
                f"the stack {self.name} is being changed ({state.status})",
                "Wait for it: `runvoy infra status` shows where it is.",
            )

    def resources(self) -> list[dict[str, Any]]:
        with calling(f"listing what the stack {self.name} is made of"):
            pages = self.client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [resource for page in pages for resource in page["StackResourceSummaries"]]

    def last_event(self, stack_id: str) -> str | None:
        """Where `follow` begins."""
        with calling(f"reading the events of the stack {self.name}"):
            events = self.client.describe_stack_events(StackName=stack_id)["StackEvents"]
        return str(events[0]["EventId"]) if events else None

    def follow(self, stack_id: str, since: str | None, tell: Callable[[Event], None]) -> StackState:
        """Tell of each event after `since` until the stack stands still; where it stands then."""
        while True:
            # State first: an event that comes between the two reads is told in this round.
            state = self.state(stack_id)
            for event in self._events_after(stack_id, since):
                since = event.event_id
                tell(event)
            if state is None:
                raise RunvoyError(ErrorCode.NOT_FOUND, f"the stack {self.name} is gone", "Somebody else deleted it.")
            if not state.is_moving:
                return state
            time.sleep(self.pause_seconds)

    def reasons(self, state: StackState) -> list[str]:
        """Why the stack's last operation failed: what failed by itself, oldest first; else CloudFormation's own word."""
        failed: list[Event] = []
        of_stack: list[Event] = []
        for event in self._newest_first(state.stack_id):
            is_of_stack = event.kind == _STACK
            if event.is_failure and event.reason:
                (of_stack if is_of_stack else failed).append(event)
            if is_of_stack and event.status in _BEGINNINGS:
                break
        lines = [f"{event.resource} ({event.kind}): {event.reason}" for event in reversed(failed)]
        if not lines and any(_FAILED_VALIDATION in event.reason for event in of_stack):
            lines = self._validation_errors(state.stack_id)
        return lines or [event.reason for event in reversed(of_stack)] or [state.reason or state.status]

    def _validation_errors(self, stack_id: str) -> list[str]:
        """What CloudFormation found wrong before it began, of the newest operation; it tells that in another place."""
        lines: list[str] = []
        newest = None
        with calling(f"reading what is invalid in the stack {self.name}"):
            pages = self.client.get_paginator("describe_events").paginate(
                StackName=stack_id, Filters={"FailedEvents": True}
            )
            for event in (event for page in pages for event in page["OperationEvents"]):
                newest = newest or event["OperationId"]
                if event["EventType"] == "VALIDATION_ERROR" and event["OperationId"] == newest:
                    where = f"{event.get('LogicalResourceId', '')} ({event.get('ResourceType', '')})"
                    lines.append(f"{where}: {event.get('ValidationStatusReason', '')}")
        return lines[::-1]

    def delete_review(self, stack_id: str) -> None:
        """Remove what a declined change set of a new stack leaves: a stack of nothing."""
        with calling(f"deleting the empty stack {self.name}"):
            self.client.delete_stack(StackName=stack_id)

    def _events_after(self, stack_id: str, since: str | None) -> list[Event]:
        found: list[Event] = []
        for event in self._newest_first(stack_id):
            if event.event_id == since:
                break
            found.append(event)
        return found[::-1]

    def _newest_first(self, stack_id: str) -> Iterator[Event]:
        with calling(f"reading the events of the stack {self.name}"):
            for page in self.client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                for event in page["StackEvents"]:
                    yield Event(
                        event_id=event["EventId"],
                        at=event["Timestamp"],
                        resource=event["LogicalResourceId"],
                        kind=event["ResourceType"],
                        status=event["ResourceStatus"],
                        reason=event.get("ResourceStatusReason", ""),
                    )
