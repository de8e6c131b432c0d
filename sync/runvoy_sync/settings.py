"""What `runvoy sync` was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class SyncSettings(NamedTuple):
    """`query` chooses what is mirrored, as a list's query does. `give_up_seconds` bounds `once`. `as_json`: events on stdout."""

    folder: Path
    once: bool
    query: dict[str, str]
    git_pull_seconds: int | None = None
    give_up_seconds: float | None = None
    as_json: bool = False
