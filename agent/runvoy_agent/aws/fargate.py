"""The sizes that Fargate knows, and the smallest that holds what was asked for."""

from __future__ import annotations

from typing import NamedTuple

_GIB = 1024


class Size(NamedTuple):
    """`cpu` in units of 1/1024 of a processor."""

    cpu: int
    memory_mib: int


# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
_MEMORY_OF_CPU: dict[int, tuple[int, ...]] = {
    256: (512, _GIB, 2 * _GIB),
    512: tuple(range(_GIB, 4 * _GIB + 1, _GIB)),
    1024: tuple(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: tuple(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: tuple(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: tuple(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: tuple(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}


def size_for(cpu: int | None, memory_mib: int | None) -> Size | None:
    """The smallest size with at least so much of each; None if there is none so large."""
    for units, memories in _MEMORY_OF_CPU.items():
        if units < (cpu or 0):
            continue
        for memory in memories:
            if memory >= (memory_mib or 0):
                return Size(units, memory)
    return None
