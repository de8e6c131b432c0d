"""What a deployment is, as its wiring tells every handler."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from runvoy_agent.core import admission
from runvoy_agent.core.admission import Capabilities
from runvoy_agent.core.batches import RANGE_SIZE
from runvoy_agent.core.cost import OWN_MACHINE, Pricing
from runvoy_agent.ports import QueueCare, TaskDefinitions
from runvoy_protocol.control import DiskHealth
from runvoy_protocol.requests import RunRequest


class Deployment(NamedTuple):
    """What a deployment is: fixed when it starts. `secret` is 32 bytes; the runners' keys are derived from it.

    `runner_endpoint` is the control API as runners reach it, where they upload what they have; empty where they spool it.
    `task_definitions`, if there are any, are told of every image. `range_size`: how many requests of a batch one delivery
    admits. `look_for_containers`, if there is one, tells afresh what the deployment can do, for requests that want a
    container. `queues`, where there are some, can be looked at. `pricing`: by which prices the cost of runs is reckoned.
    `inline_log_bytes`: logs up to so many bytes are handed out within a grant, where reading them costs less than serving a read
    of each; 0 for none. `disk` looks at the one that its state is on, if that can be full.
    """

    deployment_id: str
    version: str
    created_at: datetime
    secret: bytes
    capabilities: Capabilities
    instance: str = ""
    look_for_containers: Callable[[], Capabilities] | None = None
    runner_endpoint: str = ""
    task_definitions: TaskDefinitions | None = None
    queues: QueueCare | None = None
    range_size: int = RANGE_SIZE
    pricing: Pricing = OWN_MACHINE
    inline_log_bytes: int = 0
    disk: Callable[[], DiskHealth] | None = None

    def __repr__(self) -> str:
        return f"Deployment({self.deployment_id}, {self.version})"  # all that it derives keys from is its secret

    @property
    def has_room(self) -> bool:
        """Whether there is room on its disk to take something in."""
        if self.disk is None:
            return True
        found = self.disk()
        return found.free_bytes >= found.needed_bytes

    def capabilities_for(self, request: RunRequest, has_default_image: bool = False) -> Capabilities:
        look = self.look_for_containers
        has_image = request.image is not None or has_default_image
        if look is None or admission.wanted_isolation(request, self.capabilities, has_image) == "process":
            return self.capabilities
        return look()
