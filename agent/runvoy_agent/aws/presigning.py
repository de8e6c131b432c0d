"""Presigned uploads and reads, signed as a narrow role and never as the function itself.

Each is signed with credentials of their own scope: a session policy allows the role nothing but one prefix of one bucket.
So whatever a bearer makes of a grant, and whatever a flaw in a policy lets through, ends at that prefix.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import calling
from runvoy_agent.ports import Clock, PostPolicy

SESSION_SECONDS = 3600
"""The longest that a role may be taken by a role (which a function is)."""

MAX_POLICY_CHARACTERS = 2048
# Of reads that one session signs. Ids do not compress, and AWS bounds a policy's packed size too, in a way it does not tell:
# so no more than fill half of the characters.
_PREFIXES_OF_SESSION = 6
_SPARE = timedelta(minutes=1)
_MAX_SESSIONS = 256

Access = Literal["write", "read", "take"]
"""`take` reads an object and deletes it."""


_ACTIONS: dict[Access, str | list[str]] = {
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "take": ["s3:GetObject", "s3:DeleteObject"],
}


class _Session(NamedTuple):
    credentials: Any
    expires_at: datetime


class Presigner:
    """Signs as `role_arn`. Sessions are kept and used again while they live long enough for what is asked."""

    def __init__(self, clients: Clients, role_arn: str, clock: Clock, *, decrypts_with: str | None = None) -> None:
        """`decrypts_with` is the ARN of the key under which the buckets' objects are encrypted, if it is not S3's own."""
        self._clients = clients
        self._role_arn = role_arn
        self._decrypts_with = decrypts_with
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[tuple[Access, str, tuple[str, ...]], _Session] = OrderedDict()

    def post(
        self, bucket: str, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime
    ) -> PostPolicy:
        """A form's policy: the bucket, the prefix, the type and the size are conditions, and no other field passes."""
        from botocore.auth import S3SigV4PostAuth
        from botocore.awsrequest import AWSRequest

        session = self._session("write", bucket, (key_prefix,), expires_at)
        policy = {
            "expiration": min(expires_at, session.expires_at).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "conditions": [
                {"bucket": bucket},
                ["starts-with", "$key", key_prefix],
                ["content-length-range", 1, max_bytes],
                {"Content-Type": content_type},
            ],
        }
        fields: dict[str, str] = {}
        s3 = self._clients.get("s3")
        url = _bucket_url(s3, bucket)
        request = AWSRequest(method="POST", url=url)
        request.context["s3-presign-post-fields"] = fields
        request.context["s3-presign-post-policy"] = policy
        S3SigV4PostAuth(session.credentials, "s3", s3.meta.region_name).add_auth(request)
        return PostPolicy(url, fields)

    def get(self, bucket: str, object_key: str, *, expires_at: datetime) -> str:
        session = self._session("read", bucket, (_scope_of(object_key),), expires_at)
        return self._url("GET", session, bucket, object_key, expires_at)

    def gets(self, bucket: str, object_keys: Sequence[str], *, expires_at: datetime) -> list[str]:
        """The same for many, in their order: a session for every few executions, and not one for each."""
        prefixes = list(dict.fromkeys(_scope_of(object_key) for object_key in object_keys))
        sessions: dict[str, _Session] = {}
        for start in range(0, len(prefixes), _PREFIXES_OF_SESSION):
            scope = tuple(prefixes[start : start + _PREFIXES_OF_SESSION])
            sessions |= dict.fromkeys(scope, self._session("read", bucket, scope, expires_at))
        return [self._url("GET", sessions[_scope_of(key)], bucket, key, expires_at) for key in object_keys]

    def take(self, bucket: str, object_key: str, *, expires_at: datetime) -> tuple[str, str]:
        """Two URLs: one that reads the object, one that deletes it."""
        session = self._session("take", bucket, (object_key,), expires_at)
        read, delete = (self._url(method, session, bucket, object_key, expires_at) for method in ("GET", "DELETE"))
        return read, delete

    def _url(self, method: str, session: _Session, bucket: str, object_key: str, expires_at: datetime) -> str:
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        left = min(expires_at, session.expires_at) - self._clock.now()
        s3 = self._clients.get("s3")
        request = AWSRequest(method=method, url=f"{_bucket_url(s3, bucket)}/{object_key}")
        seconds = max(1, int(left.total_seconds()))
        S3SigV4QueryAuth(session.credentials, "s3", s3.meta.region_name, expires=seconds).add_auth(request)
        return str(request.url)

    def _session(self, access: Access, bucket: str, prefixes: tuple[str, ...], expires_at: datetime) -> _Session:
        """A session that outlives `expires_at`, or else one of the longest that there are."""
        scope = (access, bucket, prefixes)
        wanted = min(expires_at, self._clock.now() + timedelta(seconds=SESSION_SECONDS) - _SPARE)
        with self._lock:
            found = self._sessions.get(scope)
            if found is not None and found.expires_at >= wanted:
                self._sessions.move_to_end(scope)
                return found
        made = self._assume(access, bucket, prefixes)
        with self._lock:
            self._sessions[scope] = made
            while len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return made

    def _assume(self, access: Access, bucket: str, prefixes: tuple[str, ...]) -> _Session:
        from botocore.credentials import Credentials

        partition = self._role_arn.split(":")[1]
        policy = session_policy(access, bucket, *prefixes, partition=partition, decrypts_with=self._decrypts_with)
        if len(policy) > MAX_POLICY_CHARACTERS:
            raise ValueError(f"the session policy for {prefixes!r} has {len(policy)} characters")
        reach = hashlib.sha256("\n".join(prefixes).encode()).hexdigest()
        name = f"runvoy-{access}-{reach[:32]}"
        with calling("assuming the role that signs grants"):
            answer = self._clients.get("sts").assume_role(
                RoleArn=self._role_arn, RoleSessionName=name, DurationSeconds=SESSION_SECONDS, Policy=policy
            )
        given = answer["Credentials"]
        credentials = Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        return _Session(credentials, given["Expiration"])


def session_policy(
    access: Access, bucket: str, *prefixes: str, partition: str = "aws", decrypts_with: str | None = None
) -> str:
    """What the narrow role may do in one session. The role's own policy bounds it further.

    Reading includes listing the bucket, without which a missing object would be 403 and not 404.
    """
    arn = f"arn:{partition}:s3:::{bucket}"
    # What is taken is one object, and no other whose key begins so.
    places = [f"{arn}/{prefix}" if access == "take" else f"{arn}/{prefix}*" for prefix in prefixes]
    resource = places[0] if len(places) == 1 else places
    statements: list[dict[str, Any]] = [{"Effect": "Allow", "Action": _ACTIONS[access], "Resource": resource}]
    if access != "write":
        statements.append({"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn})
        if decrypts_with is not None:
            statements.append({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": decrypts_with})
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _bucket_url(s3: Any, bucket: str) -> str:
    """Where a bucket answers: by its own name at AWS (in its region, for that name is known at once), by a path elsewhere."""
    endpoint: str = s3.meta.endpoint_url
    scheme, _, host = endpoint.partition("://")
    if re.fullmatch(r"s3[.-][a-z0-9.-]*amazonaws\.com(\.cn)?", host) or host == "s3.amazonaws.com":
        return f"{scheme}://{bucket}.{host}"
    return f"{endpoint}/{bucket}"


def _scope_of(object_key: str) -> str:
    """Reads of one execution, or of one key's receipts of one request, share a session."""
    segments = object_key.split("/")
    return "/".join(segments[: 3 if segments[0] == "receipts" else 2]) + ("/" if len(segments) > 2 else "")
