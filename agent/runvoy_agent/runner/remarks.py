"""The runner's own words, for runner.log."""

import os


def remark(text: str) -> None:
    """Write a line to stderr, which is runner.log on one machine.

    That may lie on the very disk that is full, or be gone: then the line is lost, for the runner must not die of it.
    """
    try:
        os.write(2, f"{text}\n".encode(errors="replace"))
    except OSError:
        return
