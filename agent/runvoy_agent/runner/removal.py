"""Removing a tree whose owner may have made parts of it read-only, as package caches do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def remove_tree(path: str) -> list[str]:
    """Remove what can be removed, following no link; what went wrong with the rest."""
    failures: list[str] = []

    def open_up(remove: Callable[..., object], name: str, _info: object) -> None:
        try:
            Path(name).parent.chmod(0o700)
            if not Path(name).is_symlink() and Path(name).is_dir():
                Path(name).chmod(0o700)
                shutil.rmtree(name)
            elif remove is not os.scandir:
                Path(name).unlink()
        except OSError as error:
            failures.append(str(error))

    shutil.rmtree(path, onerror=open_up)
    return failures
