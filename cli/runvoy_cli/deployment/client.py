"""The deployment as a client sees it: signed control calls, uploads to the inbox, reads of the outbox."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from runvoy_cli.deployment.target import Target
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import Answer, NoAnswer, Transport, check_led_to
from runvoy_cli.http.uploads import Form, Upload, Uploads, upload_error
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import claims, control, members, object_keys
from runvoy_protocol.errors import OF_CLOCKS, ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.status import ExecutionStatus

M = TypeVar("M", bound=msgspec.Struct)

READ_SECONDS = 30.0
EXECUTIONS_PAGE = 100
KILL_PATIENCE_SECONDS = 10.0
_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_PASSING = frozenset({429, 500, 502, 503, 504})  # where the answer is not ours, a proxy's or S3's
_FORBIDDEN = 403
_AS_AFTER_IT_WAS_DONE = frozenset(
    {ErrorCode.CONFLICT, ErrorCode.SECRET_EXISTS, ErrorCode.NOT_FOUND, ErrorCode.IMAGE_NOT_FOUND, ErrorCode.KEY_REVOKED}
)  # what repeating a change is answered with that went through the first time


class Client:
    """Calls one deployment with one key. Not for several threads.

    `limit_seconds` bounds each call with all its retries. `revive` is asked for the target anew after a call that found
    nobody: the embedded stack may have been restarted, on another port.
    """

    def __init__(
        self,
        target: Target,
        cache_of: Callable[[Target], Cache],
        transport: Transport,
        limit_seconds: float,
        revive: Callable[[], Target] | None = None,
    ) -> None:
        self.target = target
        self.transport = transport
        self._cache_of = cache_of
        self._cache = cache_of(target)
        self._limit_seconds = limit_seconds
        self._revive = revive
        self.may_be_uploaded = False
        """Whether an upload was sent, answered or not: without that nothing of a request can have arrived."""
        self._may_be_done = False  # a try of the last call got no answer, and may have come through

    @property
    def key_id(self) -> str:
        return self.target.signing_key.key_id

    def now(self) -> datetime:
        """The deployment's time, as well as this client knows it."""
        return self._cache.now()

    @property
    def cache(self) -> Cache:
        return self._cache

    def learn_time(self, error: RunvoyError) -> bool:
        """Keep the clock's offset from an error that was answered just now; whether it told the server's time. Never from a
        receipt: its time is that of the decision, which may be hours ago when it is read."""
        return error.code in OF_CLOCKS and self._cache.learn_time(str(error.details.get("server_time")))

    def call(self, method: str, path: str, body: bytes = b"", query: Mapping[str, str] | None = None) -> bytes:
        """One signed control call: the answer's body, or the error it carried. Repeated where no answer came."""
        return self._answered(method, path, body, query).body

    def _answered(
        self, method: str, path: str, body: bytes = b"", query: Mapping[str, str] | None = None, accept: str = ""
    ) -> Answer:
        if not all(path.split("/")[1:]):  # an empty name would ask for something else
            raise UsageProblem("a name is empty", "Perhaps a variable that was to hold it is not set.")
        target = control.API_PREFIX + path + (f"?{urlencode(query)}" if query else "")
        answer = self._persist(lambda: self._signed(method, target, body, accept))
        if _is_success(answer):
            return answer
        error = self._error_of(answer)
        if self.learn_time(error):
            answer = self._persist(lambda: self._signed(method, target, body, accept))
            if _is_success(answer):
                return answer
            error = self._error_of(answer)
            self.learn_time(error)  # for the next call: the machine may have slept over the first answer
        if self._may_be_done and method != "GET" and error.code in _AS_AFTER_IT_WAS_DONE:
            error.hint = f"An earlier try got no answer and may have done it: look before you repeat it. {error.hint}"
        raise error

    def ask(
        self, kind: type[M], method: str, path: str, body: bytes = b"", query: Mapping[str, str] | None = None
    ) -> M:
        """A call whose answer is a JSON message of a known kind."""
        return self.parse(self.call(method, path, body, query), kind)

    def parse(self, raw: bytes, kind: type[M], content_type: str = "") -> M:
        decode = msgspec.msgpack.decode if content_type == control.MSGPACK else msgspec.json.decode
        try:
            return decode(raw, type=kind)
        # OverflowError, ValueError: a timestamp of msgpack may lie in a year that there is not.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"{self.target.endpoint} gave an answer that is no {kind.__name__}: {error}",
                "Check the endpoint, and with `runvoy version` whether client and deployment fit together.",
            ) from error

    def health(self) -> tuple[control.Health, float, float]:
        """The deployment's health, its clock's time beyond ours, and the call's duration; both in seconds.

        Unsigned: it is answered to whose key or clock is wrong, too. The skew is known to half the duration.
        """
        began = ended = datetime.now(UTC)

        def ask() -> Answer:
            nonlocal began, ended
            began = datetime.now(UTC)
            answer = self.transport.send(
                "GET", f"{self.target.endpoint}{control.API_PREFIX}/health", timeout=self._read_seconds()
            )
            ended = datetime.now(UTC)
            return answer

        answer = self._persist(ask)
        if not _is_success(answer):
            raise self._error_of(answer)
        health = self.parse(answer.body, control.Health)
        duration = ended - began
        return health, (health.time - (began + duration / 2)).total_seconds(), duration.total_seconds()

    def claim(self, secret: bytes) -> members.ClaimAnswer:
        """Register this client's own key with a claim token. Unsigned: the claim is signed by the very key. Repeating it
        with the same key gives the same answer."""
        sealed = claims.seal(self.target.deployment_id, secret, self.target.signing_key)
        body = msgspec.json.encode(members.ClaimRequest(claim=sealed))
        url = f"{self.target.endpoint}{control.API_PREFIX}/claim"
        headers = {"Content-Type": "application/json"}
        answer = self._persist(
            lambda: self.transport.send("POST", url, headers=headers, body=body, timeout=self._read_seconds())
        )
        if not _is_success(answer):
            raise self._error_of(answer)
        return self.parse(answer.body, members.ClaimAnswer)

    def show(self, execution_id: str) -> control.ExecutionAnswer:
        """What the deployment knows of an execution now; of a waiting one, who stands before it too."""
        return self.ask(control.ExecutionAnswer, "GET", f"/executions/{execution_id}")

    def executions(self, query: Mapping[str, str], page_size: int = EXECUTIONS_PAGE) -> Iterator[ExecutionStatus]:
        """The executions that a query finds, newest first; a page is asked for when the one before it was taken."""
        after: str | None = None
        while True:
            paging = {"limit": str(page_size)} | ({"after": after} if after else {})
            page = self.ask(control.ExecutionsPage, "GET", "/executions", query={**query, **paging})
            yield from page.executions
            after = page.after
            if after is None:
                return

    def kill(self, execution_id: str, patience_seconds: float = KILL_PATIENCE_SECONDS) -> ExecutionStatus:
        """Have an execution end; as it stands then. One that has ended stays as it is.

        While the request is not decided it is asked again, for a while.
        """
        deadline = time.monotonic() + patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = self.ask(control.ExecutionAnswer, "DELETE", f"/executions/{execution_id}")
            except RunvoyError as error:
                if error.code is not ErrorCode.CONFLICT or time.monotonic() + pause > deadline:
                    raise
            else:
                if answer.status is not None:
                    return answer.status
                raise RunvoyError(ErrorCode.UNAVAILABLE, "the answer to the kill has no status")
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def twin(self, limit_seconds: float) -> Client:
        """A client of the same deployment for another thread, which starts nothing."""
        return Client(self.target, self._cache_of, Transport(), limit_seconds)

    def sibling(self) -> Client:
        """A client of the same deployment for another thread, which finds a restarted embedded stack as this one does."""
        return Client(self.target, self._cache_of, Transport(), self._limit_seconds, self._revive)

    def within(self, limit_seconds: float) -> Client:
        """A client of the same deployment for the same thread, whose calls take no longer than that; it starts nothing."""
        return Client(self.target, self._cache_of, self.transport, min(self._limit_seconds, limit_seconds))

    def with_key(self, signing_key: SigningKey) -> Client:
        """A client of the same deployment with another key of the same user."""
        target = self.target._replace(signing_key=signing_key)
        return Client(target, self._cache_of, self.transport, self._limit_seconds)

    def statuses(self, execution_ids: Sequence[str]) -> Sequence[control.KnownExecution]:
        """What is known of up to 500 executions, in that order. Perhaps of the first of them only, but of one at least."""
        body = msgspec.json.encode(control.StatusesRequest(execution_ids=tuple(execution_ids)))
        found = self.ask(control.StatusesAnswer, "POST", "/executions/statuses", body).executions
        if not found or [one.execution_id for one in found] != list(execution_ids[: len(found)]):
            raise _told_of_others()
        return found

    def ready_upload(self) -> None:
        """Have a grant for uploads: a call that learns the time, before anything is signed by a wrong one; unless one is kept."""
        self._inbox_grant()

    def upload(self, execution_id: str, sealed: bytes) -> None:
        """Put a signed request into the inbox; returns once it is durable. The same bytes are sent at every try."""
        self._upload(object_keys.request(self.key_id, execution_id), sealed)

    def upload_each(self, requests: Iterable[tuple[str, bytes]]) -> Iterator[str]:
        """The same for many (execution id, signed request), several at once; each id, in order, once its request is durable.

        Raises what `upload` raises; of up to 32 requests after the one that it is about nobody knows whether they arrived.
        """
        uploads = (Upload(one, object_keys.request(self.key_id, one), sealed) for one, sealed in requests)
        return Uploads(
            self.transport,
            self._inbox_grant,
            lambda upload: self._upload(upload.object_key, upload.content),
            self._read_seconds(),
        ).through(uploads)

    def upload_batch(self, batch_id: str, sealed: bytes) -> None:
        """The same for a signed batch."""
        self._upload(object_keys.batch(self.key_id, batch_id), sealed)

    def _upload(self, object_key: str, sealed: bytes) -> None:
        was_cached = self._cache.inbox_grant is not None
        answer = self._persist(lambda: self._post(self._inbox_grant(), object_key, sealed))
        if answer.status == _FORBIDDEN and was_cached:
            self._cache.inbox_grant = None
            answer = self._persist(lambda: self._post(self._inbox_grant(), object_key, sealed))
        if not _is_success(answer):
            raise upload_error(answer)

    def outbox_grant(
        self, execution_id: str, from_chunk: int = 1, object_sha256: str | None = None
    ) -> control.OutboxGrant:
        """Reads of one execution, its receipt while it is pending."""
        request = control.OutboxGrantRequest(
            execution_id=execution_id, from_chunk=from_chunk, object_sha256=object_sha256
        )
        return self.ask(control.OutboxGrant, "POST", "/grants/outbox", msgspec.json.encode(request))

    def log_grants(self, execution_ids: Sequence[str]) -> control.LogGrantsAnswer:
        """Reads of the logs of up to 200 ended executions, in that order. Perhaps of the first only, but of one at least."""
        body = msgspec.json.encode(control.LogGrantsRequest(execution_ids=tuple(execution_ids)))
        answer = self._answered("POST", "/grants/logs", body, accept=control.MSGPACK)
        found = self.parse(answer.body, control.LogGrantsAnswer, answer.headers.get("content-type", ""))
        told = [one.execution_id for one in found.executions]
        if not told or told != list(execution_ids[: len(told)]):
            raise _told_of_others()
        return found

    def read(self, url: str, etag: str = "", wait_seconds: float = 0.0) -> Answer:
        """One read of the outbox, one try; raises NoAnswer.

        With `wait_seconds` a gateway answers when there is news, or 304 or 404 after that time; S3 answers at once.
        """
        check_led_to(url, self.target.endpoint)
        headers = {"If-None-Match": etag} if etag else {}
        if wait_seconds >= 1:
            headers["Prefer"] = f"wait={int(wait_seconds)}"
        timeout = min(READ_SECONDS + wait_seconds, max(1.0, self._limit_seconds))
        return self.transport.send("GET", url, headers=headers, timeout=timeout)

    def _signed(self, method: str, target: str, body: bytes, accept: str = "") -> Answer:
        # Signed anew at every try: a nonce counts once, and the first try may have arrived.
        call = control.ControlCall(
            version=1,
            deployment_id=self.target.deployment_id,
            method=method,
            target=target,
            body_sha256=control.body_digest(body),
            issued_at=self.now(),
            nonce=os.urandom(16),
        )
        headers = {"Authorization": control.authorization(call, self.target.signing_key)}
        if body:
            headers["Content-Type"] = "application/json"
        if accept:
            headers["Accept"] = accept
        url = self.target.endpoint + target
        return self.transport.send(method, url, headers=headers, body=body or None, timeout=self._read_seconds())

    def _inbox_grant(self) -> control.InboxGrant:
        grant = self._cache.inbox_grant
        if grant is None:
            grant = self.ask(control.InboxGrant, "POST", "/grants/inbox")
            check_led_to(grant.url, self.target.endpoint)
            self._cache.inbox_grant = grant
        return grant

    def _post(self, grant: control.InboxGrant, object_key: str, sealed: bytes) -> Answer:
        form = Form(grant)
        began = datetime.now(UTC)
        try:
            answer = self.transport.send(
                "POST",
                grant.url,
                headers={"Content-Type": form.content_type},
                body=form.body(object_key, sealed),
                timeout=self._read_seconds(),
            )
        except NoAnswer as lost:
            self.may_be_uploaded |= lost.is_sent
            raise
        self.may_be_uploaded = True
        self._cache.hear_time(answer.headers.get("date", ""), began)
        return answer

    def _read_seconds(self) -> float:
        return max(1.0, min(READ_SECONDS, self._limit_seconds))

    def _persist(self, attempt: Callable[[], Answer]) -> Answer:
        """Try until an answer comes, a few times and within the limit; raises UNAVAILABLE."""
        deadline = time.monotonic() + self._limit_seconds
        pause = _FIRST_PAUSE_SECONDS
        tries = 0
        self._may_be_done = False
        while True:
            try:
                answer = attempt()
            except NoAnswer as lost:
                self._may_be_done |= lost.is_sent
                if lost.reused:
                    continue  # the transport has closed that connection: the next try opens one
                tries += 1
                if tries >= _TRIES or time.monotonic() + pause > deadline:
                    raise self._unreachable(lost) from lost
                self._look_again()
            else:
                is_passing = answer.status in _PASSING and control.parse_error(answer.body) is None
                tries += 1
                if not is_passing or tries >= _TRIES or time.monotonic() + pause > deadline:
                    return answer
                self._may_be_done = True
            time.sleep(pause)
            pause = min(pause * 4, _LONGEST_PAUSE_SECONDS)

    def _look_again(self) -> None:
        if self._revive is None:
            return
        target = self._revive()
        if target.endpoint != self.target.endpoint or target.signing_key.key_id != self.key_id:
            self._cache = self._cache_of(target)
        self.target = target

    def _unreachable(self, lost: NoAnswer) -> RunvoyError:
        return RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"no answer from {lost.host}: {lost.reason}",
            f"Check the network and the endpoint {self.target.endpoint}, then try again.",
        )

    def _error_of(self, answer: Answer) -> RunvoyError:
        return control.parse_error(answer.body) or RunvoyError(
            ErrorCode.UNAVAILABLE,
            f"{self.target.endpoint} answered {answer.status}, and not as a runvoy deployment does",
            "Check the endpoint; a proxy may stand before it.",
        )


def _told_of_others() -> RunvoyError:
    return RunvoyError(ErrorCode.UNAVAILABLE, "the deployment told of other executions than it was asked for")


def _is_success(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def digest(sealed: bytes) -> str:
    """The SHA-256 of an object, in hex, under which its receipt lies."""
    return hashlib.sha256(sealed).hexdigest()
