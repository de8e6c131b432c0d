"""What a worker on a machine has for functions of AWS: a function URL on loopback, and spools that are uploaded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from runvoy_agent.aws import events
from runvoy_agent.local.function_url import FunctionUrl
from runvoy_agent.local.objects import FolderObjects
from runvoy_agent.local.spool_upload import UploadedSpool
from runvoy_protocol import control, object_keys, run_objects

EXECUTION = "0" * 31 + "1"


class Called:
    """A WSGI application, called once."""

    def __init__(self, application: Any, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        path, _, query = target.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "REQUEST_URI": target,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(body),
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }
        self.body = b"".join(application(environ, self._start))

    def _start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status = int(status.split(maxsplit=1)[0])
        self.headers = dict(headers)


def test_a_call_reaches_the_function_as_the_function_url_would_tell_it() -> None:
    seen = []

    def function(event: dict[str, Any]) -> dict[str, Any]:
        seen.append(events.http_request(event))
        return events.http_answer(201, b'{"a":"\xc3\xbc"}', "application/json")

    target = "/api/v1/images/a%2Fb?limit=2&after="
    called = Called(FunctionUrl(function), "POST", target, b"\xff\x00", authorization="Runvoy x")
    assert (called.status, called.body) == (201, b'{"a":"\xc3\xbc"}')
    assert called.headers["content-type"] == "application/json"
    assert called.headers["Content-Length"] == str(len(called.body))
    (request,) = seen
    assert (request.method, request.path, request.target) == ("POST", "/api/v1/images/a%2Fb", target)
    assert (request.query, request.body, request.source) == ({"limit": "2", "after": ""}, b"\xff\x00", "127.0.0.1")
    assert request.headers["authorization"] == "Runvoy x"


def test_a_function_that_raises_is_502_and_a_body_that_is_too_large_never_reaches_it() -> None:
    def function(_: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a bug")

    failed = Called(FunctionUrl(function), "GET", "/api/v1/health")
    assert (failed.status, b"bug" in failed.body) == (502, False)
    large = Called(FunctionUrl(function), "POST", "/api/v1/images", b"x" * (control.MAX_BODY_BYTES + 1))
    assert (large.status, json.loads(large.body)["error"]["code"]) == (413, "TOO_LARGE")


@pytest.fixture
def outbox(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "outbox", bucket="outbox")


def test_what_was_spooled_is_uploaded_and_its_file_goes(outbox: FolderObjects, tmp_path: Path) -> None:
    spool = UploadedSpool(outbox)
    for object_key, name in ((object_keys.log_chunk(EXECUTION, 1), "00000001"), (object_keys.result(EXECUTION), "r")):
        (tmp_path / name).write_bytes(name.encode())
        spool.adopt(object_key, tmp_path / name)
        found = spool.get(object_key)
        assert found is not None
        assert found.data == name.encode()
        assert not (tmp_path / name).exists()
    with pytest.raises(FileNotFoundError):
        spool.adopt(object_keys.result(EXECUTION), tmp_path / "r")


def test_what_a_command_put_in_its_place_is_not_uploaded(outbox: FolderObjects, tmp_path: Path) -> None:
    secret, place = tmp_path / "private", tmp_path / "result.json"
    secret.write_text("of the worker's user")
    object_key = object_keys.result(EXECUTION)
    place.symlink_to(secret)
    with pytest.raises(ValueError, match="cannot be opened"):
        UploadedSpool(outbox).adopt(object_key, place)
    place.unlink()
    place.mkdir()
    with pytest.raises(ValueError, match="no regular file"):
        UploadedSpool(outbox).adopt(object_key, place)
    place.rmdir()
    place.write_bytes(b"x" * (run_objects.MAX_RUN_OBJECT_BYTES + 1))
    with pytest.raises(ValueError, match="is over"):
        UploadedSpool(outbox).adopt(object_key, place)
    assert outbox.get(object_key) is None
