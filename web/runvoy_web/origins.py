"""Pages of other origins: none may call a deployment, unless its owner named their origin."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A scheme, a host and perhaps a port, as browsers write an Origin header: in lower case, without a path.
_ORIGIN = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?\Z|http://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?\Z"
)


def parse(texts: Iterable[str]) -> frozenset[str]:
    """The origins that `texts` name; ValueError for what is none. `*` is none: it would be everybody."""
    found = frozenset(text.strip().rstrip("/") for text in texts if text.strip())
    for origin in sorted(found):
        if not _ORIGIN.match(origin):
            raise ValueError(f"{origin[:100]!r} is no origin: https://host, or https://host:port, in lower case")
    return found


def headers(origin: str | None, named: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """What an answer tells the browser of a page of `origin`. Cookies are never meant: calls are signed."""
    if not named:
        return ()
    vary = ("Vary", "Origin")
    if origin is None or origin not in named:
        return (vary,)
    return (vary, ("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "ETag, Date"))


PREFLIGHT_HEADERS = (
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, Prefer"),
    ("Access-Control-Max-Age", "600"),
)
"""Beside `headers`: the answer to a browser that asks (OPTIONS) whether a page of a named origin may call."""
