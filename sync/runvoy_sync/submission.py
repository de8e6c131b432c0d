"""Sending a request whose id is on disk, as often as it takes, and learning what was decided."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.session import Session
from runvoy_cli.following.follow import Follower
from runvoy_cli.input import values
from runvoy_cli.input.problems import GaveUp, UsageProblem
from runvoy_cli.submission import submitting
from runvoy_protocol import ids, requests
from runvoy_protocol.errors import OF_CLOCKS, ErrorCode, RunvoyError
from runvoy_protocol.playbooks import VARIABLE_PREFIX
from runvoy_protocol.receipts import Receipt, Resolved
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.signed_requests import to_signed_request
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync.copies import FOLDER, write_request
from runvoy_sync.names import MAX_REQUEST_BYTES
from runvoy_sync.outgoing import Entry, Outgoing
from runvoy_sync.tree import Tree

if TYPE_CHECKING:
    from runvoy_sync.request_file import Wanted

_DECISION_SECONDS = 20.0
_MOST_RESENT = 2  # because of a clock that was wrong
_OF_THE_REQUEST = (ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE)


class NotDecided(Exception):
    """It is durable, and nothing is known of it yet. To be tried again: the same id, the same request."""


class Submission:
    """`on_accepted` is told of every execution that came of a request here, before its file is moved away."""

    def __init__(self, tree: Tree, on_accepted: Callable[[str], object]) -> None:
        self._tree = tree
        self._outgoing = Outgoing(tree)
        self._on_accepted = on_accepted

    def begin(
        self, tag: str, name: str, content: bytes, wanted: Wanted, session: Session, committed_id: str | None = None
    ) -> Entry:
        """Give a request its id, and put both on disk."""
        client = session.client
        own_id = values.chosen_id(wanted.chosen_id, client.target.signing_key) if wanted.chosen_id is not None else None
        request = msgspec.structs.replace(
            wanted.request,
            deployment_id=client.target.deployment_id,
            request_id=own_id or committed_id or ids.uuid7(client.now(), os.urandom(10)),
        )
        try:
            requests.check(request)
        except RunvoyError as error:
            raise UsageProblem(error.message, error.hint, error.code) from error
        entry = Entry(
            name=os.fsencode(name),
            content=content,
            request=requests.encode(request),
            committed=name if committed_id is not None else None,
        )
        self._outgoing.put(tag, entry)
        return entry

    def decide(self, tag: str, entry: Entry, session: Session) -> Entry:
        """Send it, and wait for the receipt, which is on disk then. UsageProblem for what no deployment takes, NotDecided
        when there is no answer for long; trouble on the way is raised as it is."""
        request = entry.run_request()
        receipt = self._sent(request, session)
        for _ in range(_MOST_RESENT):
            error = receipt.error()
            if error is None or error.code not in OF_CLOCKS:
                break
            receipt = self._sent(request, session)  # with new times
        return self._decided(tag, entry, receipt)

    def ask(self, tag: str, entry: Entry, session: Session) -> Entry | None:
        """What was decided of a request that may have been sent; None if it never was. Sends nothing."""
        request = entry.run_request()
        try:
            receipt = self._receipt(request, session.client, None)
        except RunvoyError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return None
            raise
        return self._decided(tag, entry, receipt)

    def accepted(self, entry: Entry, execution_id: str) -> None:
        """Make the execution's folder, so that it is mirrored whatever else is."""
        if not self._tree.exists(FOLDER, execution_id, "request.json"):
            write_request(self._tree, execution_id, _document(entry))
        self._on_accepted(execution_id)

    def keep_receipt(self, path: tuple[str, ...], receipt: Receipt) -> None:
        text = msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"
        self._tree.write(*path, content=text)

    def _decided(self, tag: str, entry: Entry, receipt: Receipt) -> Entry:
        entry = msgspec.structs.replace(entry, receipt=receipt)
        self._outgoing.put(tag, entry)
        return entry

    def _sent(self, request: RunRequest, session: Session) -> Receipt:
        try:
            sent = submitting.send(session, request)
        except RunvoyError as error:
            if error.code in _OF_THE_REQUEST:
                raise UsageProblem(error.message, error.hint, error.code) from error
            raise
        return self._receipt(request, session.client, sent.object_sha256, partial(submitting.send_again, session, sent))

    def _receipt(
        self,
        request: RunRequest,
        client: Client,
        object_sha256: str | None,
        send_again: Callable[[], None] | None = None,
    ) -> Receipt:
        follower = Follower(
            client,
            request.request_id,
            deadline=time.monotonic() + _DECISION_SECONDS,
            object_sha256=object_sha256,
            send_again=send_again,
        )
        try:
            seen = follower.receipt()
        except GaveUp as error:
            raise NotDecided from error
        except RunvoyError as error:
            if error is not follower.refusal:
                raise
            return _refusal(request, client, object_sha256 or "", error)
        if seen is not None:
            return seen
        status = client.show(request.request_id).status
        if status is None:
            raise NotDecided
        return _acceptance(status, object_sha256 or "")


def check_size(path: str, content: bytes) -> None:
    """UsageProblem for a file of the inbox that is too large for a request."""
    if len(content) > MAX_REQUEST_BYTES:
        raise UsageProblem(
            f"{path} has over {MAX_REQUEST_BYTES:,} bytes; that is no request",
            "Fetch large inputs in the command, instead of carrying them in the request.",
            ErrorCode.TOO_LARGE,
        )


def _refusal(request: RunRequest, client: Client, object_sha256: str, error: RunvoyError) -> Receipt:
    return Receipt(
        outcome="refused",
        execution_id=request.request_id,
        key_id=client.key_id,
        object_sha256=object_sha256,
        at=client.now(),
        code=error.code,
        message=error.message,
        hint=error.hint,
        details={name: str(value) for name, value in error.details.items()},
    )


def _acceptance(status: ExecutionStatus, object_sha256: str) -> Receipt:
    """The receipt of a request that was admitted before we asked: the deployment tells then how it stands."""
    return Receipt(
        outcome="accepted",
        execution_id=status.execution_id,
        key_id=status.key_id,
        object_sha256=object_sha256,
        at=status.admitted_at,
        resolved=Resolved(
            owner=status.owner,
            isolation=status.isolation,
            timeout_seconds=status.timeout_seconds,
            image=status.image,
            image_name=status.image_name,
            cpu=status.cpu,
            memory_mib=status.memory_mib,
            platform=status.platform,
            task_role=status.task_role,
            locks=tuple(lock.name for lock in status.locks),
        ),
    )


def _document(entry: Entry) -> dict[str, object]:
    """The request as its file has it, by the names that `runvoy status --request` has. Values of a playbook's parameters are left
    out: some may be secret."""
    request = entry.run_request()
    fields = msgspec.structs.asdict(to_signed_request(request))
    for of_a_sending in ("version", "request_id", "issued_at", "expires_at"):
        del fields[of_a_sending]
    is_call = request.playbook is not None
    fields["env"] = {
        name: None if is_call and name.startswith(VARIABLE_PREFIX) else value for name, value in request.env.items()
    }
    source = entry.file_name.encode(errors="replace").decode()
    return {"execution_id": request.request_id, "source": source, **fields}
