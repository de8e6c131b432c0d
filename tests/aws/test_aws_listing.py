"""How many calls it takes to list: what S3 is asked for, as moto sees it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest
from moto import mock_aws

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_agent.aws.objects import S3Objects
from runvoy_agent.aws.presigning import Presigner
from runvoy_agent.handlers.reconciler.inbox_sweeps import TIMES, Allowance, Budget, Sweep
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.ports import ObjectInfo
from runvoy_protocol import ids, object_keys

KEY_ID = "a" * 32
ROLE = "arn:aws:iam::123456789012:role/presign"


class Bucket:
    """A bucket at moto, and the listings that were asked for."""

    def __init__(self) -> None:
        clients = Clients(region="eu-west-1", credentials=Credentials("id", "secret"))
        s3 = clients.get("s3")
        s3.create_bucket(Bucket="inbox", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.meta.events.register("before-send.s3.ListObjectsV2", self._note)
        self.objects = S3Objects(clients, "inbox", Presigner(clients, ROLE, SystemClock()))
        self.listings = 0

    def _note(self, request: AWSRequest, **_: Any) -> None:
        self.listings += 1

    def fill(self, count: int) -> list[str]:
        names = [f"requests/k/{number:04d}" for number in range(count)]
        for name in names:
            self.objects.put(name, b"x", content_type="")
        return names


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with mock_aws():
        yield Bucket()


def test_a_range_is_listed_no_further_than_to_its_end(bucket: Bucket) -> None:
    names = bucket.fill(1010)
    found = bucket.objects.list("requests/k/", after=names[1], up_to=names[4], limit=5000)
    assert [info.key for info in found] == names[2:5]
    assert bucket.listings == 1, "S3 is asked for a thousand, and no more once one of them is past the end"
    found = bucket.objects.list("requests/k/", up_to=names[-1], limit=5000)
    assert [info.key for info in found] == names
    assert bucket.listings == 3


def test_a_round_makes_as_many_calls_as_it_may_and_the_next_goes_on(bucket: Bucket) -> None:
    """Of 30 objects, by a budget of 4 pages of 5 at most in one round."""
    now = SystemClock().now()
    made = [ids.uuid7(now - timedelta(days=number), bytes(10)) for number in range(1, 31)]
    for request_id in made:
        bucket.objects.put(object_keys.request(KEY_ID, request_id), b"x", content_type="")
    read: list[ObjectInfo] = []
    mark, calls = None, []
    for _ in range(3):
        sweep = Sweep(TIMES, mark, now, now - timedelta(days=1), now - timedelta(days=1), at_once=False)
        before = bucket.listings
        allowance = Allowance(Budget(pages=4, page=5, reads=100), 1, lambda: now)
        read += [] if sweep.is_idle else sweep.objects(bucket.objects, [KEY_ID], allowance, lambda _info: True)
        calls.append(bucket.listings - before)
        mark = sweep.reached(forgets_some=False)
    assert [info.key for info in read] == sorted(object_keys.request(KEY_ID, one) for one in made)
    assert calls == [1, 1, 0], "a page of S3 holds more than these budgets"
