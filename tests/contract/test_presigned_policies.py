"""Presigned uploads and reads, judged by three servers that share no code: SeaweedFS, MiniStack, and the gateway.

One table of cases. The policies are made by the code that makes them in production: Presigner for the S3 servers, Grants
for the gateway. What is asked of all: the right use passes, and every other use is refused and stores nothing.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import waitress.server  # type: ignore[import-untyped]
from tests.servers.fixtures import ON_SERVERS
from tests.servers.ministack import MiniStack
from tests.servers.seaweedfs import PRESIGNER, SeaweedFs

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.objects import S3Objects
from runvoy_agent.aws.presigning import Presigner
from runvoy_agent.local.changes import Changes
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.local.gateway import Answer, Gateway
from runvoy_agent.local.grants import Grants
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.ports import Objects, PostPolicy
from runvoy_protocol import ids, object_keys
from runvoy_protocol.keys import SigningKey

CONTENT_TYPE = "application/vnd.runvoy.envelope+msgpack"
MAX_BYTES = 64 * 1024
MINE = SigningKey(b"m" * 32).key_id
THEIRS = SigningKey(b"t" * 32).key_id
REQUEST_ID = ids.uuid7(datetime(2026, 5, 4, tzinfo=UTC), bytes(10))
OBJECT_KEY = object_keys.request(MINE, REQUEST_ID)
THEIR_KEY = object_keys.request(THEIRS, REQUEST_ID)


class Judge(Protocol):
    """A server with an inbox and an outbox: as the deployment's function sees them, and as who puts things there."""

    @property
    def inbox(self) -> Objects: ...

    @property
    def outbox(self) -> Objects: ...

    def stored(self, object_key: str) -> bytes | None: ...

    def store(self, object_key: str, data: bytes) -> None: ...


class S3Judge:
    def __init__(self, functions: Clients, admin: Clients, role: str, buckets: tuple[str, str]) -> None:
        presigner = Presigner(functions, role, SystemClock())
        self.inbox = S3Objects(functions, buckets[0], presigner)
        self.outbox = S3Objects(functions, buckets[1], presigner)
        self._theirs = S3Objects(admin, buckets[0], presigner)
        self._written = S3Objects(admin, buckets[1], presigner)

    def stored(self, object_key: str) -> bytes | None:
        found = self._theirs.get(object_key)
        return None if found is None else found.data

    def store(self, object_key: str, data: bytes) -> None:
        bucket = self._theirs if object_key.startswith("requests/") else self._written
        bucket.put(object_key, data, content_type="text/plain")


class UserAsRole:
    """SeaweedFS has no STS for its configured identities: the narrow identity's own keys stand in for the role's."""

    def assume_role(self, **_: Any) -> dict[str, Any]:
        return {
            "Credentials": {
                "AccessKeyId": PRESIGNER.access_key_id,
                "SecretAccessKey": PRESIGNER.secret_access_key,
                "SessionToken": None,
                "Expiration": datetime.now(UTC) + timedelta(hours=1),
            }
        }


class WithoutSts(Clients):
    def get(self, service: str, **options: Any) -> Any:
        return UserAsRole() if service == "sts" else super().get(service, **options)


class GatewayJudge:
    def __init__(self, folder: Path) -> None:
        grants = Grants(b"g" * 32)
        self.inbox = FolderObjects(folder / "inbox", versioned=True, grants=grants)
        self.outbox = FolderObjects(folder / "outbox", grants=grants)
        self._changes = Changes(4)
        gateway = Gateway(
            inbox=self.inbox,
            outbox=self.outbox,
            grants=grants,
            changes=self._changes,
            clock=SystemClock(),
            serve_control=lambda _: Answer(404),
            on_upload=lambda *_: None,
        )
        self._server: Any = waitress.server.create_server(gateway, host="127.0.0.1", port=0, threads=4)
        gateway.port = self._server.effective_port
        grants.base_url = f"http://127.0.0.1:{gateway.port}"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._server.asyncore.loop(timeout=0.05, map=self._server._map, count=1)

    def close(self) -> None:
        self._changes.close()
        self._closing.set()
        self._thread.join()
        self._server.task_dispatcher.shutdown()
        self._server.close()

    def stored(self, object_key: str) -> bytes | None:
        found = self.inbox.get(object_key)
        return None if found is None else found.data

    def store(self, object_key: str, data: bytes) -> None:
        (self.inbox if object_key.startswith("requests/") else self.outbox).put(object_key, data, content_type="")


@pytest.fixture(
    params=[pytest.param("seaweedfs", marks=ON_SERVERS), pytest.param("ministack", marks=ON_SERVERS), "gateway"]
)
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Judge]:
    if request.param == "seaweedfs":
        weed: SeaweedFs = request.getfixturevalue("seaweedfs")
        narrow = WithoutSts(region="us-east-1", credentials=PRESIGNER, endpoints={"s3": weed.url})
        made = S3Judge(narrow, weed.admin, "arn:aws:iam::0:role/unused", ("inbox", "outbox"))
        for bucket in ("inbox", "outbox"):
            for item in weed.admin.get("s3").list_objects_v2(Bucket=bucket).get("Contents", ()):
                weed.admin.get("s3").delete_object(Bucket=bucket, Key=item["Key"])
        yield made
    elif request.param == "ministack":
        mini: MiniStack = request.getfixturevalue("ministack")
        yield S3Judge(mini.functions, mini.admin, mini.presign_role, (mini.bucket(versioned=True), mini.bucket()))
    else:
        gateway = GatewayJudge(tmp_path)
        yield gateway
        gateway.close()


class Upload(NamedTuple):
    """A form as a client sends it: `fields` in order, then the file."""

    url: str
    fields: tuple[tuple[str, str], ...]
    data: bytes = b"signed bytes"

    def change(self, name: str, value: str | None) -> Upload:
        kept = tuple((other, old) for other, old in self.fields if other.lower() != name.lower())
        return self._replace(fields=kept if value is None else (*kept, (name, value)))

    def value(self, name: str) -> str:
        return next(value for other, value in self.fields if other.lower() == name.lower())

    def has(self, name: str) -> bool:
        return any(other.lower() == name.lower() for other, _ in self.fields)


def right_use(policy: PostPolicy) -> Upload:
    return Upload(policy.url, (("key", OBJECT_KEY), ("Content-Type", CONTENT_TYPE), *policy.fields.items()))


def signature_field(upload: Upload) -> str:
    return "x-amz-signature" if upload.has("x-amz-signature") else "x-runvoy-signature"


def with_wider_policy(upload: Upload) -> Upload:
    document = json.loads(base64.b64decode(upload.value("policy")))
    document["conditions"] = [
        ["starts-with", "$key", ""] if isinstance(condition, list) and condition[1] == "$key" else condition
        for condition in document["conditions"]
    ]
    widened = base64.b64encode(json.dumps(document).encode()).decode()
    return upload.change("policy", widened).change("key", THEIR_KEY)


def with_bad_signature(upload: Upload) -> Upload:
    field = signature_field(upload)
    good = upload.value(field)
    return upload.change(field, ("0" if good[0] != "0" else "1") + good[1:])


def anonymous(upload: Upload) -> Upload:
    kept = tuple(pair for pair in upload.fields if pair[0].lower() in ("key", "content-type"))
    return upload._replace(fields=kept)


REFUSED: dict[str, Callable[[Upload], Upload]] = {
    "a wrong prefix": lambda upload: upload.change("key", f"elsewhere/{REQUEST_ID}"),
    "another key": lambda upload: upload.change("key", THEIR_KEY),
    "no key": lambda upload: upload.change("key", None),
    "oversize": lambda upload: upload._replace(data=b"x" * (MAX_BYTES + 1)),
    "empty": lambda upload: upload._replace(data=b""),
    "a wrong type": lambda upload: upload.change("Content-Type", "text/html"),
    "no type": lambda upload: upload.change("Content-Type", None),
    "an extra field": lambda upload: upload.change("x-amz-meta-extra", "1"),
    "an extra ACL": lambda upload: upload.change("acl", "public-read"),
    "a tampered policy": with_wider_policy,
    "a bad signature": with_bad_signature,
    "no signature": lambda upload: upload.change(signature_field(upload), None),
    "anonymous": anonymous,
}

# What a server lets through that AWS's documentation refuses. The other two judges refuse it.
LET_THROUGH = {
    ("seaweedfs", "an extra ACL"): "SeaweedFS 4.48 asks for no condition on the field acl, and gives it no effect"
}


def granted(judge: Judge, **lifetime: float) -> PostPolicy:
    return judge.inbox.presign_post(
        object_keys.inbox_prefix(MINE),
        content_type=CONTENT_TYPE,
        max_bytes=MAX_BYTES,
        expires_at=datetime.now(UTC) + timedelta(**(lifetime or {"minutes": 5})),
    )


def send(upload: Upload) -> int:
    """POST the form; the status, or 0 where the server hung up on it."""
    boundary = "runvoy-form-boundary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in upload.fields
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
    parts.append(f"{head}Content-Type: {CONTENT_TYPE}\r\n\r\n".encode() + upload.data + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return status_of(urllib.request.Request(upload.url, body, headers, method="POST"))


def status_of(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
        return 0


def everything_stored(judge: Judge) -> set[str]:
    return {key for key in (OBJECT_KEY, THEIR_KEY, f"elsewhere/{REQUEST_ID}") if judge.stored(key) is not None}


def test_the_right_use(judge: Judge) -> None:
    upload = right_use(granted(judge))
    assert send(upload) in (200, 201, 204)
    assert judge.stored(OBJECT_KEY) == upload.data
    assert send(upload._replace(data=b"x" * MAX_BYTES)) in (200, 201, 204), "the largest that is allowed"
    assert send(upload._replace(data=b"x")) in (200, 201, 204), "the smallest"


@pytest.mark.parametrize("case", REFUSED)
def test_every_other_use_is_refused(judge: Judge, case: str, request: pytest.FixtureRequest) -> None:
    status = send(REFUSED[case](right_use(granted(judge))))
    if (request.node.callspec.params["judge"], case) in LET_THROUGH:
        assert status == 204, "the server has become stricter: take the case out of LET_THROUGH"
        assert everything_stored(judge) == {OBJECT_KEY}
        assert status_of(f"{granted(judge).url}/{OBJECT_KEY}") == 403, "and nobody may read it"
        return
    assert 400 <= status < 500
    assert everything_stored(judge) == set()


def test_a_key_that_goes_up_leads_to_nobody(judge: Judge) -> None:
    """To S3 a key is no path: AWS and MiniStack store it under this very name, which is no request's; the others refuse."""
    going_up = f"{object_keys.inbox_prefix(MINE)}../{THEIRS}/{REQUEST_ID}"
    judge.store(THEIR_KEY, b"theirs")
    send(right_use(granted(judge)).change("key", going_up))
    assert judge.stored(THEIR_KEY) == b"theirs"
    assert object_keys.parse_request(going_up) is None


def test_an_expired_policy_is_refused(judge: Judge) -> None:
    assert send(right_use(granted(judge, seconds=-5))) in (400, 403)
    assert everything_stored(judge) == set()


def test_another_ones_object_is_not_overwritten(judge: Judge) -> None:
    judge.store(THEIR_KEY, b"theirs")
    assert 400 <= send(right_use(granted(judge)).change("key", THEIR_KEY)) < 500
    assert judge.stored(THEIR_KEY) == b"theirs"


def test_a_grant_is_no_grant_to_read_or_to_delete(judge: Judge) -> None:
    judge.store(OBJECT_KEY, b"mine")
    upload = right_use(granted(judge))
    url = f"{upload.url}/{OBJECT_KEY}"
    assert status_of(url) in (401, 403, 404, 405)
    assert status_of(urllib.request.Request(url, method="DELETE")) in (401, 403, 404, 405)
    assert judge.stored(OBJECT_KEY) == b"mine"


# --- reads ---

READ_KEY = object_keys.status(REQUEST_ID)


def changed_query(url: str, name: str, value: Callable[[str], str]) -> str:
    base, _, query = url.partition("?")
    pairs = [part.partition("=")[::2] for part in query.split("&")]
    return base + "?" + "&".join(f"{key}={value(old) if key.lower() == name else old}" for key, old in pairs)


def flipped(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


WRONG_READS: dict[str, Callable[[str], str]] = {
    "another object": lambda url: url.replace(READ_KEY, object_keys.result(REQUEST_ID)),
    "a bad signature": lambda url: changed_query(changed_query(url, "x-amz-signature", flipped), "signature", flipped),
    "a longer life": lambda url: changed_query(
        changed_query(url, "x-amz-expires", lambda _: "86400"), "expires", lambda old: str(int(old) + 86400)
    ),
    "anonymous": lambda url: url.partition("?")[0],
}


def test_a_presigned_read(judge: Judge) -> None:
    url = judge.outbox.presign_get(READ_KEY, expires_at=datetime.now(UTC) + timedelta(minutes=5))
    assert status_of(url) == 404, "presigned before it is there"
    judge.store(READ_KEY, b"{}")
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == b"{}"


@pytest.mark.parametrize("case", WRONG_READS)
def test_every_other_read_is_refused(judge: Judge, case: str) -> None:
    for object_key in (READ_KEY, object_keys.result(REQUEST_ID)):
        judge.store(object_key, b"{}")
    url = judge.outbox.presign_get(READ_KEY, expires_at=datetime.now(UTC) + timedelta(minutes=5))
    assert status_of(url) == 200
    assert status_of(WRONG_READS[case](url)) in (400, 401, 403)


def test_another_method_on_a_presigned_read_is_refused(judge: Judge) -> None:
    judge.store(READ_KEY, b"{}")
    url = judge.outbox.presign_get(READ_KEY, expires_at=datetime.now(UTC) + timedelta(minutes=5))
    for method in ("PUT", "DELETE", "POST"):
        assert 400 <= status_of(urllib.request.Request(url, b"x", method=method)) < 500
    assert status_of(url) == 200
