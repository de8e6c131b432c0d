"""The control API's routes, declared once: for Lambda, for the embedded gateway, and for the test of who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from runvoy_agent.core import access
from runvoy_agent.core.access import Action, Member
from runvoy_agent.core.model import Key, User
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Add, Check, Conflict, Ports, Put, Write
from runvoy_protocol.control import API_PREFIX
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.ids import is_execution_id

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

    def __repr__(self) -> str:
        shown = f"{len(self.body)} bytes" if self.status == 200 else repr(self.body)  # a value, or a token's secret
        return f"Response({self.status}, {shown})"


def answer(document: msgspec.Struct, *, audited: bool = False) -> Response:
    """A document as JSON."""
    return Response(200, msgspec.json.encode(document), audited=audited)


def parse_body(request: Request, schema: type[D]) -> D:
    """The request's JSON body; INVALID_REQUEST if it is no such document."""
    try:
        return msgspec.json.decode(request.body, type=schema)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, f"the body is malformed: {error}") from error


class About:
    """What a call is about, for its audit record: what its path says, and what its body said once that was read."""

    __slots__ = ("execution_id", "subject")

    def __init__(self, groups: Mapping[str, str]) -> None:
        execution_id = groups.get("execution_id", "")
        self.execution_id = execution_id if is_execution_id(execution_id) else None
        self.subject = " ".join(part for name, part in groups.items() if name != "execution_id")


class Call(NamedTuple):
    """A request whose caller is known, and may do what the route does with what is their own. `groups` are the named parts of
    its path, decoded; `other` is the right that it takes to do it with what is somebody else's; `checks` hold a commit to the
    caller's key and user as they were when they were judged."""

    ports: Ports
    deployment: Deployment
    request: Request
    member: Member
    groups: Mapping[str, str]
    other: Action | None
    checks: tuple[Check, ...]
    about: About

    @property
    def user(self) -> User:
        return self.member.user

    @property
    def key(self) -> Key:
        return self.member.key

    def may_with_others(self) -> bool:
        """Whether the caller may do this with what is somebody else's."""
        return self.other is not None and self.member.may(self.other)

    def check_others(self) -> None:
        """FORBIDDEN unless the caller may do this with what is somebody else's."""
        if self.other is None:
            raise RunvoyError(ErrorCode.FORBIDDEN, "nobody may do this with what is somebody else's")
        access.check_allowed(self.member, self.other)

    def concerns(self, subject: str | None = None, execution_id: str | None = None) -> None:
        """Say what the call is about beyond what its path says, before anything is done or refused: its audit record is to
        name it."""
        if subject is not None:
            self.about.subject = subject
        if execution_id is not None and is_execution_id(execution_id):
            self.about.execution_id = execution_id

    def commit(self, *writes: Write) -> None:
        """Commit, if the caller is still who was judged: a revocation that committed first wins. CONFLICT if that, or
        anything the writes depend on, changed meanwhile."""
        versions = {write.key: write.version for write in writes if not isinstance(write, Add)}
        # Who writes their own record writes the one that was judged, not one that was read later.
        if any(versions.get(check.key, check.version) != check.version for check in self.checks):
            raise _caller_changed()
        try:
            self.ports.records.commit([*writes, *(check for check in self.checks if check.key not in versions)])
        except Conflict as error:
            raise RunvoyError(ErrorCode.CONFLICT, "somebody else changed this at the same moment") from error

    def hold(self) -> tuple[Check, ...]:
        """The checks of the caller, for a commit that is tried again on a conflict: CONFLICT if the caller's own key or user
        changed, for then trying again is of no use."""
        for check in self.checks:
            found = self.ports.records.get(check.key)
            if (0 if found is None else found.version) != check.version:
                raise _caller_changed()
        return self.checks

    def body(self, schema: type[D]) -> D:
        """The request's JSON body; INVALID_REQUEST if it is no such document."""
        return parse_body(self.request, schema)

    def audit(
        self,
        action: str,
        outcome: str = "ok",
        *,
        subject: str = "",
        execution_id: str | None = None,
        message: str = "",
    ) -> Put:
        """The record of what this call does, for the commit that does it. What is not said here is taken from what the call is
        about (`concerns`)."""
        return store.audit(
            self.ports.clock,
            self.user.name,
            action,
            outcome,
            execution_id=execution_id or self.about.execution_id,
            key_id=self.key.key_id,
            subject=subject or self.about.subject,
            source=self.request.source,
            message=message,
        )


def _caller_changed() -> RunvoyError:
    return RunvoyError(ErrorCode.CONFLICT, "your key or your user was changed at the same moment")


class Route(NamedTuple):
    """`name` is what the audit calls it, done or refused. `path` holds `{name}` for one segment, `pattern` is what matches it.
    `action` is what the caller's role must allow; `other`, where things have owners, what it must allow to do the same with
    somebody else's. `single_use` calls cannot be replayed within their lifetime."""

    name: str
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
    name: str = "",
) -> Route:
    """A route at a path under /api/v1, in which `{name}` stands for one segment. Without a `name` it is called as the
    function that serves it: create_user is `create-user`."""
    full = API_PREFIX + path
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", full)
    name = name or serve.__name__.strip("_").replace("_", "-")
    return Route(name, method, full, re.compile(pattern + r"\Z"), action, other, single_use, serve)
