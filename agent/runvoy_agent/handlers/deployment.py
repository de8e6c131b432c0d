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
    """What a deployment is: fixed when it starts."""

    deployment_id: str
    version: str
    created_at: datetime
    secret: bytes  # 32 bytes, of which runners' keys and the records' names of claim tokens are derived
    capabilities: Capabilities
    instance: str = ""
    look_for_containers: Callable[[], Capabilities] | None = None  # what it can do just now, for who wants a container
    runner_endpoint: str = ""  # the control API as runners reach it; empty where they spool on its own disk
    task_definitions: TaskDefinitions | None = None  # to be told of every image
    queues: QueueCare | None = None  # to look at
    range_size: int = RANGE_SIZE  # how many requests of a batch one delivery admits
    pricing: Pricing = OWN_MACHINE
    inline_log_bytes: int = 0  # logs up to this size are handed out within a grant, where reads of them cost more
    disk: Callable[[], DiskHealth] | None = None  # looks at the one that its state is on, if that can be full

    def __repr__(self) -> str:
        return f"Deployment({self.deployment_id}, {self.version})"  # all that it derives keys from is its secret

    @property
    def has_room(self) -> bool:
        """Whether there is room on its disk to take something in."""
        return self.disk is None or not self.disk().is_short

    def capabilities_for(self, request: RunRequest, has_default_image: bool = False) -> Capabilities:
        """What it can do with this request: looked up anew only where that is a container, for an engine comes and goes."""
        look = self.look_for_containers
        has_image = request.image is not None or has_default_image
        if look is None or admission.wanted_isolation(request, self.capabilities, has_image) == "process":
            return self.capabilities
        return look()
