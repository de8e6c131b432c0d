"""The payload of a task: one zip file that is the runner's program, and what it is to run.

The task's bootstrap fetches it by a presigned URL and runs it from memory. `payload.json` is what a runner gets on its
standard input on one machine; `delete-url` is the presigned DELETE of the very object.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

_MAIN = """\
import sys
from runvoy_agent.runner.task_main import main
sys.exit(main(__loader__.get_data))
"""
_OF_ONE_MACHINE = {"__main__.py", "bundle.py", "claim.py", "container_command.py", "container_run.py", "engine.py"}
_OF_ONE_MACHINE |= {"main.py", "run.py", "spool.py"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal programs are equal bytes


def pack(payload: bytes, delete_url: str) -> bytes:
    """The object for a payload (JSON)."""
    packed = io.BytesIO(_program())
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "payload.json", payload)
        _add(archive, "delete-url", delete_url.encode())
    return packed.getvalue()


@functools.cache
def _program() -> bytes:
    runner = Path(__file__).parent
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        _add(archive, "runvoy_agent/__init__.py", (runner.parent / "__init__.py").read_bytes())
        for path in sorted(runner.glob("*.py")):
            if path.name not in _OF_ONE_MACHINE:
                _add(archive, f"runvoy_agent/runner/{path.name}", path.read_bytes())
    return made.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)
