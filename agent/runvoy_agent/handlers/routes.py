"""The control API's routes, declared once: for Lambda, for the embedded gateway, and for the test of who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers.inbox import Deployment
from runvoy_agent.ports import Ports
from runvoy_protocol.control import API_PREFIX


class Request(NamedTuple):
    """One HTTP request as the front (gateway or function URL) hands it over. `target` is path and query as sent; header
    names are lower-case."""

    method: str
    path: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json"


def answer(document: msgspec.Struct) -> Response:
    """A document as JSON."""
    return Response(200, msgspec.json.encode(document))


class Call(NamedTuple):
    """A request whose caller is known and may do what the route does. `groups` are the parts of its path, decoded."""

    ports: Ports
    deployment: Deployment
    request: Request
    key: Key
    user: User
    groups: Mapping[str, str]


class Route(NamedTuple):
    """`path` holds `{name}` for one segment. `action` is what the caller's role must allow. `single_use` calls cannot be replayed within their lifetime."""

    method: str
    path: str
    pattern: re.Pattern[str]
    action: Action
    single_use: bool
    serve: Callable[[Call], Response]


def route(
    method: str, path: str, action: Action, serve: Callable[[Call], Response], *, single_use: bool = False
) -> Route:
    """A route at a path under /api/v1, in which `{name}` stands for one segment."""
    full = API_PREFIX + path
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", full)
    return Route(method, full, re.compile(pattern + r"\Z"), action, single_use, serve)
