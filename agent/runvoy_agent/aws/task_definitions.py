"""The TaskDefinitions port on ECS: one family for each image and platform, whose newest revision tasks are started of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling, code_of, message_of
from runvoy_protocol.errors import ErrorCode, RunvoyError

# What ECS answers to a family, or a revision, that it does not have (any more).
_NONE = frozenset({"ClientException", "InvalidParameterException"})


class EcsTaskDefinitions:
    """`request_of` makes RegisterTaskDefinition's request of an image and its platform."""

    def __init__(self, clients: Clients, request_of: Callable[[str, str | None], dict[str, Any]]) -> None:
        self._clients = clients
        self._request_of = request_of

    def register(self, reference: str, platform: str | None) -> None:
        """As the port says: a new revision only where the newest is not as it would be made now."""
        request = self._request_of(reference, platform)
        with calling("registering the task definition of an image"):
            known = self._newest(request["family"])
            if known is not None and _holds(known, {name: value for name, value in request.items() if name != "tags"}):
                return
            try:
                self._ecs.register_task_definition(**request)
            except ClientError as error:
                if code_of(error) not in _NONE:
                    raise
                raise RunvoyError(
                    ErrorCode.INVALID_REQUEST, f"ECS does not take the image {reference}: {message_of(error)}"
                ) from error

    def deregister(self, reference: str, platform: str | None) -> None:
        """All revisions, the newest first: a family is started by its newest that is left. One that is told of again lags
        behind, and ends this; what may be left of the family starts nothing that is not admitted."""
        family = self._request_of(reference, platform)["family"]
        with calling("deregistering the task definition of an image"):
            last = ""
            while (known := self._newest(family)) is not None and known["taskDefinitionArn"] != last:
                last = known["taskDefinitionArn"]
                self._ecs.deregister_task_definition(taskDefinition=last)

    def _newest(self, family: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
        except ClientError as error:
            if code_of(error) in _NONE:
                return None
            raise
        return found if found.get("status", "ACTIVE") == "ACTIVE" else None

    @property
    def _ecs(self) -> Any:
        return self._clients.get("ecs")


def _holds(known: Any, wanted: Any) -> bool:
    """Whether what ECS tells has all that is wanted. It tells more than it was told: its own defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(known, Mapping) and all(_holds(known.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(known, list)
            and len(known) == len(wanted)
            and all(_holds(one, other) for one, other in zip(known, wanted, strict=True))
        )
    return bool(known == wanted) or (not wanted and known is None)
