"""Change sets: what CloudFormation would do, before it does it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runvoy_infra import bundle_files
from runvoy_infra.deploy.aws import calling
from runvoy_infra.deploy.stacks import Stack, StackState
from runvoy_protocol.errors import ErrorCode, RunvoyError

_NO_CHANGE = ("didn't contain changes", "No updates are to be performed", "no updates")
_MARKS = {"Add": "+", "Modify": "~", "Remove": "-", "Import": ">", "Dynamic": "?"}
_SECONDS = 300


class Change(NamedTuple):
    """One resource; as text, a line for people. `action` and `replacement` are CloudFormation's words."""

    action: str
    resource: str
    kind: str
    replacement: str

    def __str__(self) -> str:
        text = f"{_MARKS.get(self.action, '?')} {self.kind} {self.resource}"
        if self.replacement in ("True", "Conditional"):
            text += "  (replaced)" if self.replacement == "True" else "  (may be replaced)"
        return text


class ChangeSet(NamedTuple):
    """`changes` is None where there is nothing to do."""

    change_set_id: str
    stack_id: str
    changes: Sequence[Change] | None
    is_new_stack: bool


def parameters(template: str, given: Mapping[str, str], before: StackState | None) -> list[dict[str, Any]]:
    """What is given; else what the stack has; else the template's default. INVALID_REQUEST for what nobody declared."""
    declared = bundle_files.parameters_of(template)
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"the template has no parameter {', '.join(unknown)}",
            f"Its parameters are: {', '.join(sorted(declared))}.",
        )
    chosen: list[dict[str, Any]] = []
    for name in sorted(declared):
        if name in given:
            chosen.append({"ParameterKey": name, "ParameterValue": given[name]})
        elif before is not None and name in before.parameters:
            chosen.append({"ParameterKey": name, "UsePreviousValue": True})
    return chosen


def create(stack: Stack, template_url: str, chosen: Sequence[dict[str, Any]], before: StackState | None) -> ChangeSet:
    """Have CloudFormation work out the changes."""
    is_new = before is None
    with calling(f"creating a change set for the stack {stack.name}"):
        made = stack.client.create_change_set(
            StackName=stack.name,
            ChangeSetName=f"runvoy-{secrets.token_hex(6)}",
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateURL=template_url,
            Parameters=list(chosen),
            Capabilities=["CAPABILITY_IAM"],
        )
    found = _wait(stack, made["Id"])
    reason = found.get("StatusReason", "")
    if found["Status"] == "FAILED" and any(words in reason for words in _NO_CHANGE):
        discard(stack, ChangeSet(made["Id"], made["StackId"], None, is_new))
        return ChangeSet(made["Id"], made["StackId"], None, is_new)
    if found["Status"] == "FAILED":
        discard(stack, ChangeSet(made["Id"], made["StackId"], None, is_new))
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"CloudFormation refuses the changes: {reason}", "See its reason.")
    return ChangeSet(made["Id"], made["StackId"], _changes(stack, made["Id"]), is_new)


def discard(stack: Stack, change_set: ChangeSet) -> None:
    """Leave nothing of it behind, not even the empty stack that a first change set makes."""
    with calling(f"deleting a change set of the stack {stack.name}"):
        stack.client.delete_change_set(ChangeSetName=change_set.change_set_id)
    if change_set.is_new_stack:
        stack.delete_review(change_set.stack_id)


def execute(stack: Stack, change_set: ChangeSet) -> None:
    """Have the changes made. Returns at once: the stack's events tell how it goes."""
    with calling(f"applying the changes to the stack {stack.name}"):
        stack.client.execute_change_set(ChangeSetName=change_set.change_set_id)


def _wait(stack: Stack, change_set_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _SECONDS
    while True:
        with calling(f"reading a change set of the stack {stack.name}"):
            found: dict[str, Any] = stack.client.describe_change_set(ChangeSetName=change_set_id)
        if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
            return found
        if time.monotonic() > deadline:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE, f"CloudFormation works on a change set since {_SECONDS} s", "Try again later."
            )
        time.sleep(min(stack.pause_seconds, 1.0))


def _changes(stack: Stack, change_set_id: str) -> list[Change]:
    with calling(f"reading a change set of the stack {stack.name}"):
        pages = stack.client.get_paginator("describe_change_set").paginate(ChangeSetName=change_set_id)
        found = [change["ResourceChange"] for page in pages for change in page["Changes"] if "ResourceChange" in change]
    return [
        Change(one["Action"], one["LogicalResourceId"], one["ResourceType"], one.get("Replacement", ""))
        for one in found
    ]
