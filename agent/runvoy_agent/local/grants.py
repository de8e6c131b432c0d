"""Presigned uploads and reads for the embedded stack, judged as strictly as S3 judges its own.

A POST policy is a base64 JSON document that the bearer sends with the form; every condition in it must hold, and every
form field must be under a condition. https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from runvoy_agent.ports import PostPolicy, Unavailable
from runvoy_protocol.errors import ErrorCode, RunvoyError

Bucket = str
POLICY_FIELD = "policy"
SIGNATURE_FIELD = "x-runvoy-signature"
_UNCONDITIONED_FIELDS = frozenset({POLICY_FIELD, SIGNATURE_FIELD, "file"})
_IGNORED_PREFIX = "x-ignore-"
_MAX_POLICY_LENGTH = 20 * 1024
_EXPIRATION = "%Y-%m-%dT%H:%M:%SZ"
_EXPIRATION_MILLISECONDS = "%Y-%m-%dT%H:%M:%S.%fZ"
_REACHED_AT: ContextVar[str] = ContextVar("reached_at", default="")


class Upload(NamedTuple):
    """What a form that was found right uploads. Take the values from here: field names have no case."""

    object_key: str
    content_type: str


class Grants:
    """Signs and checks grants under one secret. `base_url` (no slash at the end) is set once the gateway is bound. A grant does not
    say where it is used: who came by another way gets one that leads back that way (`reached_at`)."""

    def __init__(self, secret: bytes, base_url: str = "") -> None:
        if len(secret) != 32:
            raise ValueError("grants are signed under a secret of 32 bytes")
        self._secret = secret
        self.base_url = base_url

    @contextmanager
    def reached_at(self, base_url: str) -> Iterator[None]:
        """What this thread signs meanwhile leads to `base_url`, as the caller came; empty: to the gateway's own."""
        before = _REACHED_AT.set(base_url)
        try:
            yield
        finally:
            _REACHED_AT.reset(before)

    def sign_post(
        self, bucket: Bucket, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime
    ) -> PostPolicy:
        """A policy for uploads of 1 to `max_bytes` bytes of `content_type` under `key_prefix`."""
        document = {
            "expiration": expires_at.astimezone(UTC).strftime(_EXPIRATION),
            "conditions": [
                {"bucket": bucket},
                ["starts-with", "$key", key_prefix],
                ["content-length-range", 1, max_bytes],
                {"Content-Type": content_type},
            ],
        }
        policy = base64.b64encode(json.dumps(document).encode()).decode()
        return PostPolicy(f"{self._base()}/{bucket}", {POLICY_FIELD: policy, SIGNATURE_FIELD: self.sign_policy(policy)})

    def sign_policy(self, policy: str) -> str:
        """The signature of a policy as it stands in the form."""
        return self._signature("post-policy", policy)

    def sign_get(self, bucket: Bucket, object_key: str, *, expires_at: datetime) -> str:
        """A URL that reads one object until `expires_at`."""
        expires = str(int(expires_at.timestamp()))
        query = urlencode(
            {"expires": expires, "signature": self._signature("presigned-url", "GET", bucket, object_key, expires)}
        )
        return f"{self._base()}/{bucket}/{quote(object_key)}?{query}"

    def verify_post(self, bucket: Bucket, fields: Sequence[tuple[str, str]], size: int, now: datetime) -> Upload:
        """Judge an upload by the form's fields (all but the file, in any order) and the file's size.

        Raises RunvoyError: TOO_LARGE for too big a file, FORBIDDEN for every other broken condition.
        """
        form = _form(fields)
        for name in (POLICY_FIELD, SIGNATURE_FIELD, "key"):
            if name not in form:
                raise _refused(f"the upload form has no field {name!r}")
        if not hmac.compare_digest(form[SIGNATURE_FIELD].encode(), self.sign_policy(form[POLICY_FIELD]).encode()):
            raise _refused("the signature of the upload policy is wrong")
        policy = _Policy.parse(form[POLICY_FIELD])
        if now >= policy.expiration:
            raise _refused(f"the upload policy expired at {policy.expiration:{_EXPIRATION}}")
        if form.get("bucket", bucket) != bucket:
            raise _refused(f"the upload form names another bucket than {bucket!r}")
        policy.judge({**form, "bucket": bucket}, size)
        return Upload(form["key"], form.get("content-type", ""))

    def verify_get(self, bucket: Bucket, object_key: str, query: str, now: datetime) -> None:
        """Judge a presigned GET by its raw query string. Raises RunvoyError: FORBIDDEN."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=8, errors="strict")
        except ValueError as error:
            raise _refused("the URL is not presigned") from error
        values = dict(pairs)
        if len(pairs) != 2 or values.keys() != {"expires", "signature"}:
            raise _refused("a presigned URL has the parameters expires and signature, once each, and no others")
        expires = values["expires"]
        wanted = self._signature("presigned-url", "GET", bucket, object_key, expires)
        if not hmac.compare_digest(values["signature"].encode(), wanted.encode()):
            raise _refused("the signature of the URL is wrong")
        if now.timestamp() >= int(expires):  # digits: it is what was signed
            raise _refused("the URL has expired")

    def _base(self) -> str:
        base_url = _REACHED_AT.get() or self.base_url
        if not base_url:
            raise Unavailable("the gateway has no address yet")
        return base_url

    def _signature(self, *parts: str) -> str:
        """base64url HMAC-SHA256. The first part tells what is signed; lengths keep the parts apart."""
        message = b"".join(b"%d:%b" % (len(raw), raw) for raw in (part.encode() for part in parts))
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class _Condition(NamedTuple):
    operator: Literal["eq", "starts-with"]
    field: str  # lower case
    value: str

    def check(self, form: Mapping[str, str]) -> None:
        given = form.get(self.field)
        if given is None:
            raise _refused(f"the upload form has no field {self.field!r}, which its policy names")
        holds = given == self.value if self.operator == "eq" else given.startswith(self.value)
        if not holds:
            demand = "be" if self.operator == "eq" else "begin with"
            raise _refused(f"the field {self.field!r} of the upload form must {demand} {self.value!r}")


class _Policy(NamedTuple):
    expiration: datetime
    conditions: tuple[_Condition, ...]
    min_bytes: int
    max_bytes: int | None

    @classmethod
    def parse(cls, text: str) -> _Policy:
        """Read a policy whose signature was found right; FORBIDDEN for anything not understood."""
        try:
            if len(text) > _MAX_POLICY_LENGTH:
                raise ValueError("it is too long")
            document = json.loads(
                base64.b64decode(text.encode("ascii"), validate=True), object_pairs_hook=_without_duplicates
            )
            if not isinstance(document, dict) or document.keys() != {"expiration", "conditions"}:
                raise ValueError("it needs expiration and conditions, and nothing else")
            if not isinstance(document["conditions"], list):
                raise TypeError("its conditions are no list")
            least, most = 0, None
            conditions = []
            for form in document["conditions"]:
                match form:
                    case ["content-length-range", low, high] if type(low) is int and type(high) is int and low <= high:
                        least, most = max(least, low), high if most is None else min(most, high)
                    case _:
                        conditions.append(_parse_condition(form))
            return cls(_parse_expiration(document["expiration"]), tuple(conditions), least, most)
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise _refused(f"the upload policy is malformed: {error}") from error

    def judge(self, form: Mapping[str, str], size: int) -> None:
        for condition in self.conditions:
            condition.check(form)
        uncovered = form.keys() - {condition.field for condition in self.conditions} - _UNCONDITIONED_FIELDS
        for name in sorted(uncovered):
            if not name.startswith(_IGNORED_PREFIX):
                raise _refused(f"the field {name!r} of the upload form is not in its policy")
        if self.max_bytes is not None and size > self.max_bytes:
            raise RunvoyError(ErrorCode.TOO_LARGE, f"the upload is over the {self.max_bytes:,} bytes its policy allows")
        if size < self.min_bytes:
            raise _refused(f"the upload has {size:,} bytes; its policy asks for at least {self.min_bytes:,}")


def _parse_condition(form: object) -> _Condition:
    match form:
        case dict() if len(form) == 1:
            ((field, value),) = form.items()
            operator: Literal["eq", "starts-with"] = "eq"
        case ["eq" | "starts-with" as operator, str(dollar_field), value] if dollar_field.startswith("$"):
            field = dollar_field[1:]
        case _:
            raise ValueError(f"unknown condition {json.dumps(form)[:200]}")
    if not isinstance(value, str) or not field:
        raise ValueError(f"unknown condition {json.dumps(form)[:200]}")
    return _Condition(operator, field.lower(), value)


def _parse_expiration(text: object) -> datetime:
    if not isinstance(text, str):
        raise TypeError("its expiration is no text")
    return datetime.strptime(text, _EXPIRATION_MILLISECONDS if "." in text else _EXPIRATION).replace(tzinfo=UTC)


def _without_duplicates(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:80]!r} stands twice")
        found[name] = value
    return found


def _form(fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The fields by lower-case name, for field names have no case."""
    form: dict[str, str] = {}
    for given, value in fields:
        name = given.lower()
        if name in form:
            raise _refused(f"the field {name[:80]!r} stands twice in the upload form")
        form[name] = value
    return form


def _refused(message: str) -> RunvoyError:
    return RunvoyError(ErrorCode.FORBIDDEN, message, "Ask for a new grant; what it allows stands in its policy.")
