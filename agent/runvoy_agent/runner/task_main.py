"""The runner in a task: its program and its payload are one zip file, which the task's bootstrap fetched.

Exit status: 0 the result is uploaded; 64 the payload was no good, and nothing was started; 69 not all could be uploaded:
what the platform knows of the end counts. (The bootstrap itself exits with 66 if it cannot fetch the payload.)

Its environment: RUNVOY_EXECUTION_ID and RUNVOY_PAYLOAD_URL from RunTask, ECS_CONTAINER_METADATA_URI_V4 from the platform,
and RUNVOY_FOLDER where the shared folder is not /runvoy, as where both containers are processes of one machine.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

from runvoy_agent.runner.http_calls import Connections, NoAnswer
from runvoy_agent.runner.payload import PayloadError, parse
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.signals import Signals
from runvoy_agent.runner.task_run import TaskRun

EXIT_BAD_PAYLOAD = 64
EXIT_NOT_SHIPPED = 69
FOLDER = "/runvoy"
_DELETE_TRIES = 4
_ANSWER_SECONDS = 10.0
_GONE = (200, 204, 404)


def main(read: Callable[[str], bytes]) -> int:
    """Run the execution whose zip file `read` reads."""
    signals = Signals()
    _delete(read("delete-url").decode())
    try:
        payload = parse(read("payload.json"))
        if payload.execution_id != os.environ.get("RUNVOY_EXECUTION_ID"):
            raise PayloadError("the payload is another execution's")
        run = TaskRun(os.environ.get("RUNVOY_FOLDER", FOLDER), payload, signals)
    except PayloadError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_PAYLOAD
    return 0 if run.run() else EXIT_NOT_SHIPPED


def _delete(url: str) -> None:
    """Delete the payload from where it was fetched. What cannot be deleted expires there, with its address."""
    for tried in range(_DELETE_TRIES):
        try:
            status, _ = Connections().exchange("DELETE", url, {}, b"", _ANSWER_SECONDS)
        except NoAnswer as error:
            remark(f"the payload was not deleted: {error}")
        else:
            if status in _GONE:
                return
            remark(f"the payload was not deleted: HTTP {status}")
        time.sleep(random.random() * 2**tried / 4)  # noqa: S311
