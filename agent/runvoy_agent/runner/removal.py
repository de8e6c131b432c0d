"""Removing a tree whose owner may have made parts of it read-only, as package caches do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def remove_tree(path: str) -> list[str]:
    """Remove what can be removed, following no link; what went wrong with the rest."""
    failures: list[str] = []
    try:
        Path(path).chmod(0o700)
        for folder, below, _ in os.walk(path):
            for name in below:
                if not (Path(folder) / name).is_symlink():
                    (Path(folder) / name).chmod(0o700)  # before the walk goes down there
    except OSError as error:
        failures.append(str(error))
    try:
        shutil.rmtree(path)
    except OSError as error:
        failures.append(str(error))
        shutil.rmtree(path, ignore_errors=True)  # all the rest
    return failures
