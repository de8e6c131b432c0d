"""What the platform tells a task of itself: why the command's container does not come."""

from __future__ import annotations

import json

from runvoy_agent.runner.http_calls import Connections, NoAnswer

COMMAND_CONTAINER = "main"
_ANSWER_SECONDS = 2.0
_OK = 200
_ENDED = frozenset({"STOPPED", "DELETED"})


class Container:
    """The command's container as the metadata endpoint shows it; `status` is "" where it says nothing."""

    def __init__(self, status: str, exit_code: object) -> None:
        self.status = status
        self.has_ended = status in _ENDED
        self.exit_code = exit_code if isinstance(exit_code, int) else None

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        return f"its container is {self.status}{code}" if self.status else "nothing is known of its container"


def look(endpoint: str) -> Container:
    """Ask the task metadata endpoint, version 4. What cannot be asked is not known: this never fails."""
    if not endpoint:
        return Container("", None)
    try:
        status, raw = Connections().exchange("GET", f"{endpoint}/task", {}, b"", _ANSWER_SECONDS)
        if status != _OK:
            return Container("", None)
        for container in json.loads(raw)["Containers"]:
            if container["Name"] == COMMAND_CONTAINER:
                return Container(str(container["KnownStatus"]), container.get("ExitCode"))
    except (NoAnswer, ValueError, KeyError, TypeError, AttributeError):
        return Container("", None)
    return Container("", None)
