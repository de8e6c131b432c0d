"""Writing a large secret, which takes more than one call of SSM: where it is cut off, throttled, or an answer is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from moto import mock_aws

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_agent.aws.secrets import SsmSecrets
from runvoy_agent.ports import PreconditionFailed, Unavailable

LARGEST = bytes(range(256)) * 256
TRIES = 2  # of each call, by the client; between four it pauses for seconds
WRITES = 23  # 22 parts, and what names them
OLD = b"old" * 2000  # of two parts


class Died(BaseException):
    """The process did, at this call."""


class Answer:
    """What a client reads of a response's body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body


def failed(request: AWSRequest, status: int, code: str) -> AWSResponse:
    body = json.dumps({"__type": code, "message": code}).encode()
    return AWSResponse(request.url, status, {"Content-Type": "application/x-amz-json-1.1"}, Answer(body))


class Ssm:
    """moto's SSM, and what becomes of the writes that are made: `fate` gets each with its number, from 1."""

    def __init__(self) -> None:
        self._clients = [
            Clients(region="eu-west-1", credentials=Credentials("id", "secret"), tries=TRIES) for _ in range(2)
        ]
        key = self._clients[0].get("kms").create_key()["KeyMetadata"]["Arn"]
        self.secrets, self.other = (SsmSecrets(clients, "/d/secrets", key) for clients in self._clients)
        self.impatient = SsmSecrets(self._clients[0], "/d/secrets", key, throttled_seconds=0)
        self.writes = 0
        self.fate: Callable[[int, AWSRequest], AWSResponse | None] = lambda _number, _request: None
        self._clients[0].get("ssm").meta.events.register("before-send.ssm.PutParameter", self._write)

    def _write(self, request: AWSRequest, **_: Any) -> AWSResponse | None:
        self.writes += 1
        return self.fate(self.writes, request)

    def write_and_lose_the_answer(self, request: AWSRequest) -> AWSResponse:
        self._clients[1].get("ssm").put_parameter(**json.loads(request.body))
        return failed(request, 500, "InternalServerError")

    def parameters(self) -> list[str]:
        pages = self._clients[1].get("ssm").get_paginator("describe_parameters").paginate()
        return [one["Name"] for page in pages for one in page["Parameters"]]


@pytest.fixture
def ssm() -> Iterator[Ssm]:
    with mock_aws():
        yield Ssm()


@pytest.mark.parametrize("before", [None, b"small", OLD], ids=["none", "small", "large"])
@pytest.mark.parametrize("at", [1, 2, 12, WRITES - 1, WRITES])
def test_whoever_dies_between_the_writes_leaves_the_old_value_whole(ssm: Ssm, before: bytes | None, at: int) -> None:
    if before is not None:
        ssm.other.put("a", before)

    def die(number: int, _request: AWSRequest) -> None:
        if number == at:
            raise Died

    ssm.fate = die
    with pytest.raises(Died):
        ssm.secrets.put("a", LARGEST)
    assert ssm.other.get("a") == before
    ssm.other.put("a", LARGEST)
    assert ssm.other.get("a") == LARGEST
    ssm.other.delete("a")
    assert ssm.parameters() == [], "of what was cut off, too"


def test_a_value_is_the_new_one_with_the_last_write(ssm: Ssm) -> None:
    ssm.secrets.put("a", OLD)
    ssm.writes = 0
    seen = []

    def look(_number: int, _request: AWSRequest) -> None:
        seen.append(ssm.other.get("a"))

    ssm.fate = look
    ssm.secrets.put("a", LARGEST)
    assert seen == [OLD] * WRITES
    assert ssm.other.get("a") == LARGEST
    assert len(ssm.parameters()) == WRITES, "the parts of the old one are gone"


def test_a_write_that_is_throttled_is_made_again(ssm: Ssm) -> None:
    """By the client a few times, and then for as long as the put has: what gave up here would begin with the first part anew."""
    throttled = range(3, 3 + TRIES + 1)  # more than the client's own tries
    ssm.fate = lambda number, request: failed(request, 400, "ThrottlingException") if number in throttled else None
    ssm.secrets.put("a", LARGEST)
    assert ssm.writes == WRITES + len(throttled)
    assert ssm.other.get("a") == LARGEST


def test_an_ssm_that_throttles_on_and_on_leaves_the_old_value(ssm: Ssm) -> None:
    ssm.other.put("a", OLD)
    ssm.fate = lambda number, request: failed(request, 400, "ThrottlingException") if number >= 5 else None
    with pytest.raises(Unavailable, match="Throttling"):
        ssm.impatient.put("a", LARGEST)
    assert ssm.other.get("a") == OLD


@pytest.mark.parametrize("at", [1, 7, WRITES])
def test_an_answer_that_was_lost_is_no_other_s_parameter(ssm: Ssm, at: int) -> None:
    ssm.fate = lambda number, request: ssm.write_and_lose_the_answer(request) if number == at else None
    ssm.secrets.put("a", LARGEST, if_absent=True)
    assert ssm.other.get("a") == LARGEST


def test_a_name_that_is_taken_is_so_whatever_was_lost(ssm: Ssm) -> None:
    ssm.other.put("a", b"theirs")
    ssm.fate = lambda number, request: failed(request, 500, "InternalServerError") if number == 1 else None
    with pytest.raises(PreconditionFailed):
        ssm.secrets.put("a", b"ours", if_absent=True)
    assert ssm.other.get("a") == b"theirs"
