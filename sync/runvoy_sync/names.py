"""File names made of what others chose: ids that were checked, labels and file names in which nothing is left that could
lead elsewhere or hide."""

from __future__ import annotations

import hashlib

MAX_REQUEST_BYTES = 256 * 1024
REQUEST_SUFFIXES = (".yml", ".yaml", ".json")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+@:=-")
_MOST_BYTES = 120


def of_text(text: str) -> str:
    """A file name for any text: other characters than letters, digits and ._+@:=- as %XX, and no dot at its beginning.

    Two texts never have the same name; a long one ends in its digest.
    """
    raw = text.encode("utf-8", "surrogateescape")  # bytes of a file's name that are no text arrive as surrogates
    name = "".join(
        chr(byte) if byte in _PLAIN and not (byte == ord(".") and index == 0) else f"%{byte:02X}"
        for index, byte in enumerate(raw)
    )
    if not name:
        return "%"
    if len(name) <= _MOST_BYTES:
        return name
    return f"{name[: _MOST_BYTES - 17]}~{hashlib.sha256(raw).hexdigest()[:16]}"  # no name has a ~ otherwise


def is_request(name: str) -> bool:
    """Whether a file of the inbox is meant as a request: editors and copying programs hide what is not finished."""
    return not name.startswith(".") and name.endswith(REQUEST_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether it is a file that an editor keeps beside the one that it edits, and nobody's request that was named wrongly."""
    return name.startswith((".", "#")) or name.endswith(("~", ".swp", ".bak", ".orig", ".tmp", ".part"))


def kept(name: str, tag: str) -> str:
    """Where a request's file is kept: its own name, and what makes it the only one of that name before the ending."""
    stem, dot, suffix = name.rpartition(".")
    return f"{of_text(stem)}.{tag}{dot}{suffix}"


def beside(kept_name: str, ending: str) -> str:
    """The name of what is told of a kept request, in a file beside it: its ending in place of the request's."""
    return f"{kept_name.rpartition('.')[0]}.{ending}"
