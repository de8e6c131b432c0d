"""Nothing is started while a deployment is taken away: the queues of starts are left unread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from runvoy_infra.deploy.aws import Aws, calling, code_of
from runvoy_protocol.errors import ErrorCode, RunvoyError

SOURCES = ("StartsSource", "BulkSource")
"""The template's event source mappings that feed the function which starts tasks."""

MAPPING = "AWS::Lambda::EventSourceMapping"
_SECONDS = 300
_GONE = "ResourceNotFoundException"
_CHANGING = "ResourceInUseException"


@contextmanager
def starts(
    aws: Aws, resources: Sequence[Mapping[str, Any]], pause: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Inside, no start is taken from a queue: what waits for a lock or for room stays waiting when those before it are stopped,
    instead of being started and stopped in its turn. `resources` are the stack's; `pause` is in seconds.

    If the body raises, the queues are read again, for the deployment stays. UNAVAILABLE if Lambda goes on reading them.
    Whoever is killed in here leaves them unread: `unread` finds them later.
    """
    mappings = _mappings(resources)
    try:
        for mapping in mappings:
            _let(aws, mapping, pause, be_read=False)
        for mapping in mappings:
            _wait(aws, mapping, pause)
        yield
    except BaseException:
        for mapping in mappings:
            _read_again(aws, mapping, pause, say)
        raise


class Unread(NamedTuple):
    """A queue of starts that is left unread: the event source mapping's name in the template, and its UUID."""

    resource: str
    mapping: str


def unread(aws: Aws, resources: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> list[Unread]:
    """The queues of starts that are left unread, by a `destroy` that was cut off or by hand. Where it cannot be found out that is
    said, and nothing raised."""
    names = {str(one.get("PhysicalResourceId")): str(one["LogicalResourceId"]) for one in resources}
    found = []
    for mapping in _mappings(resources):
        try:
            state = _state(aws, mapping)
        except RunvoyError as error:
            say(error.message)
            break
        if state in ("Disabling", "Disabled"):
            found.append(Unread(names[mapping], mapping))
    return found


def read_again(aws: Aws, found: Sequence[Unread], pause: float) -> None:
    """Have these queues read, as the template says."""
    for one in found:
        _let(aws, one.mapping, pause, be_read=True)


def _mappings(resources: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        str(one["PhysicalResourceId"])
        for one in resources
        if one["ResourceType"] == MAPPING and one["LogicalResourceId"] in SOURCES and one.get("PhysicalResourceId")
    ]


def _until(mapping: str) -> str:
    return f"until somebody runs `aws lambda update-event-source-mapping --uuid {mapping} --enabled`, nothing of it is started"


def _read_again(aws: Aws, mapping: str, pause: float, say: Callable[[str], None]) -> None:
    """What went wrong before counts for more than this, which is told beside it."""
    try:
        _let(aws, mapping, pause, be_read=True)
    except RunvoyError as error:
        say(f"{error.message}: {_until(mapping)}")


def _let(aws: Aws, mapping: str, pause: float, *, be_read: bool) -> None:
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + _SECONDS
    with calling("letting a queue of starts be read again" if be_read else "leaving a queue of starts unread"):
        while True:
            try:
                aws.client("lambda").update_event_source_mapping(UUID=mapping, Enabled=be_read)
            except ClientError as error:
                if code_of(error) == _GONE:  # it reads nothing
                    return
                if code_of(error) != _CHANGING or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(pause)


def _wait(aws: Aws, mapping: str, pause: float) -> None:
    deadline = time.monotonic() + _SECONDS
    while (state := _state(aws, mapping)) not in ("Disabled", None):
        if time.monotonic() > deadline:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"Lambda still reads a queue of starts ({state}), {_SECONDS} s after it was told not to",
                "Look at the event source mappings in Lambda; then destroy the deployment again.",
            )
        time.sleep(pause)


def _state(aws: Aws, mapping: str) -> str | None:
    from botocore.exceptions import ClientError

    with calling("looking whether a queue of starts is read"):
        try:
            return str(aws.client("lambda").get_event_source_mapping(UUID=mapping)["State"])
        except ClientError as error:
            if code_of(error) == _GONE:
                return None
            raise
