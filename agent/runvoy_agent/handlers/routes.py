"""The control API's routes, declared once: for Lambda, for the embedded gateway, and for the test of who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from runvoy_agent.core import access
from runvoy_agent.core.access import Action, Member
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers import store
from runvoy_agent.handlers.inbox import Deployment
from runvoy_agent.ports import Check, Conflict, Ports, Put, Write
from runvoy_protocol.control import API_PREFIX
from runvoy_protocol.errors import ErrorCode, RunvoyError

D = TypeVar("D", bound=msgspec.Struct)


class Request(NamedTuple):
    """One HTTP request as the front (gateway or function URL) hands it over. `target` is path and query as sent; header
    names are lower-case; `source` is the network address it came from."""

    method: str
    path: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    source: str = ""

    def __repr__(self) -> str:
        return f"Request({self.method} {self.target}, {len(self.body)} bytes)"  # a body may hold a secret's value


class Response(NamedTuple):
    """`audited`: the commit that changed what was asked for holds its audit record already."""

    status: int
    body: bytes
    content_type: str = "application/json"
    audited: bool = False


def answer(document: msgspec.Struct, *, audited: bool = False) -> Response:
    """A document as JSON."""
    return Response(200, msgspec.json.encode(document), audited=audited)


class Call(NamedTuple):
    """A request whose caller is known and may do what the route does with what is theirs. `groups` are the parts of its
    path, decoded; `other` is what it takes with what is somebody else's; `checks` hold a commit to the caller's key and
    user as they were when they were judged."""

    ports: Ports
    deployment: Deployment
    request: Request
    member: Member
    groups: Mapping[str, str]
    other: Action | None
    checks: tuple[Check, ...] = ()

    @property
    def user(self) -> User:
        return self.member.user

    @property
    def key(self) -> Key:
        return self.member.key

    def may_with_others(self) -> bool:
        return self.other is not None and self.member.may(self.other)

    def check_others(self) -> None:
        """FORBIDDEN unless the caller may do this with what is somebody else's."""
        if self.other is not None:
            access.check_allowed(self.member, self.other)

    def commit(self, *writes: Write) -> None:
        """Commit, if the caller is still who was judged: a revocation that committed first wins. CONFLICT if that, or
        anything the writes depend on, changed meanwhile."""
        written = {write.key for write in writes}
        try:
            self.ports.records.commit([*writes, *(check for check in self.checks if check.key not in written)])
        except Conflict as error:
            raise RunvoyError(ErrorCode.CONFLICT, "somebody else changed this at the same moment") from error

    def body(self, schema: type[D]) -> D:
        """The request's JSON body; INVALID_REQUEST if it is no such document."""
        try:
            return msgspec.json.decode(self.request.body, type=schema)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the body is malformed: {error}") from error

    def audit(
        self,
        action: str,
        outcome: str = "ok",
        *,
        subject: str = "",
        execution_id: str | None = None,
        message: str = "",
    ) -> Put:
        """The record of what this call does, for the commit that does it."""
        return store.audit(
            self.ports.clock,
            self.user.name,
            action,
            outcome,
            execution_id=execution_id,
            key_id=self.key.key_id,
            subject=subject,
            source=self.request.source,
            message=message,
        )


class Route(NamedTuple):
    """`path` holds `{name}` for one segment. `action` is what the caller's role must allow; `other`, where things have
    owners, what it must allow to do the same with somebody else's. `single_use` calls cannot be replayed within their
    lifetime."""

    method: str
    path: str
    pattern: re.Pattern[str]
    action: Action
    other: Action | None
    single_use: bool
    serve: Callable[[Call], Response]


def route(
    method: str,
    path: str,
    action: Action,
    serve: Callable[[Call], Response],
    *,
    other: Action | None = None,
    single_use: bool = False,
) -> Route:
    """A route at a path under /api/v1, in which `{name}` stands for one segment."""
    full = API_PREFIX + path
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", full)
    return Route(method, full, re.compile(pattern + r"\Z"), action, other, single_use, serve)
