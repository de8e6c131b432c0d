"""The repr of messages that hold secrets, which nobody may read in a log."""

from __future__ import annotations

import msgspec


def repr_without(message: msgspec.Struct, *hidden: str) -> str:
    """The repr of a message, with `…` in place of the hidden fields that are set."""
    shown = []
    for field in message.__struct_fields__:
        value = getattr(message, field)
        shown.append(f"{field}=…" if field in hidden and value else f"{field}={value!r}")
    return f"{type(message).__name__}({', '.join(shown)})"
