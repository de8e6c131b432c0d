"""Grants are signed as a narrow role, in sessions that reach one prefix, whatever else is signed with them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.servers.fixtures import ON_SERVERS
from tests.servers.ministack import MiniStack

from runvoy_agent.aws.clients import Clients, Credentials
from runvoy_agent.aws.objects import S3Objects
from runvoy_agent.aws.presigning import MAX_POLICY_CHARACTERS, Presigner, session_policy
from runvoy_agent.local.clock import SystemClock
from runvoy_agent.ports import Unavailable
from runvoy_protocol import ids, object_keys
from runvoy_protocol.keys import SigningKey

ROLE = "arn:aws:iam::123456789012:role/presign"
KEY_ID = SigningKey(b"k" * 32).key_id
EXECUTION_ID = ids.uuid7(datetime(2026, 5, 4, tzinfo=UTC), bytes(10))


class CountingSts:
    """Hands out credentials that no server knows: nothing here is sent."""

    def __init__(self, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.lifetime = lifetime
        self.requests: list[dict[str, Any]] = []

    def assume_role(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {
            "Credentials": {
                "AccessKeyId": f"id{len(self.requests)}",
                "SecretAccessKey": "secret",
                "SessionToken": "token",
                "Expiration": datetime.now(UTC) + self.lifetime,
            }
        }


class Local(Clients):
    def __init__(self, sts: CountingSts, region: str = "eu-west-1") -> None:
        super().__init__(region=region, credentials=Credentials("id", "secret"))
        self.sts = sts

    def get(self, service: str, **options: Any) -> Any:
        return self.sts if service == "sts" else super().get(service, **options)


def soon(**duration: float) -> datetime:
    return datetime.now(UTC) + timedelta(**duration)


def test_a_session_is_used_again_while_it_outlives_what_is_asked() -> None:
    sts = CountingSts()
    presigner = Presigner(Local(sts), ROLE, SystemClock())
    for _ in range(3):
        presigner.get("outbox", object_keys.status(EXECUTION_ID), expires_at=soon(minutes=5))
        presigner.get("outbox", object_keys.log_chunk(EXECUTION_ID, 1), expires_at=soon(minutes=5))
    assert len(sts.requests) == 1
    presigner.get("outbox", object_keys.receipt(KEY_ID, EXECUTION_ID, "0" * 64), expires_at=soon(minutes=5))
    assert len(sts.requests) == 2, "another prefix is another session"


def test_a_session_that_ends_too_early_is_replaced() -> None:
    sts = CountingSts(lifetime=timedelta(minutes=30))
    presigner = Presigner(Local(sts), ROLE, SystemClock())
    for minutes, sessions in ((20, 1), (25, 1), (40, 2), (20, 2)):
        presigner.get("outbox", object_keys.status(EXECUTION_ID), expires_at=soon(minutes=minutes))
        assert len(sts.requests) == sessions


def test_a_grant_ends_with_the_credentials_that_sign_it() -> None:
    sts = CountingSts(lifetime=timedelta(minutes=10))
    presigner = Presigner(Local(sts), ROLE, SystemClock())
    url = presigner.get("outbox", object_keys.status(EXECUTION_ID), expires_at=soon(hours=5))
    assert 590 <= int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 600
    policy = presigner.post("inbox", "requests/", content_type="a/b", max_bytes=1, expires_at=soon(hours=5))
    document = json.loads(base64.b64decode(policy.fields["policy"]))
    until = datetime.strptime(document["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert until <= soon(minutes=10)


def test_the_conditions_are_exact() -> None:
    presigner = Presigner(Local(CountingSts()), ROLE, SystemClock())
    policy = presigner.post("inbox", "requests/k/", content_type="a/b", max_bytes=8, expires_at=soon(minutes=5))
    document = json.loads(base64.b64decode(policy.fields["policy"]))
    signed = [condition for condition in document["conditions"] if not str(condition).startswith("{'x-amz-")]
    assert signed == [
        {"bucket": "inbox"},
        ["starts-with", "$key", "requests/k/"],
        ["content-length-range", 1, 8],
        {"Content-Type": "a/b"},
    ]
    assert policy.fields.keys() == {
        "policy",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-signature",
    }


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "cn-north-1"])
def test_a_bucket_is_addressed_in_its_region(region: str) -> None:
    """A new bucket's global name leads to a redirect for hours, which a form cannot follow."""
    presigner = Presigner(Local(CountingSts(), region), ROLE, SystemClock())
    policy = presigner.post("inbox", "requests/", content_type="a/b", max_bytes=8, expires_at=soon(minutes=5))
    suffix = ".cn" if region.startswith("cn-") else ""
    assert policy.url == f"https://inbox.s3.{region}.amazonaws.com{suffix}"


def test_session_policies_fit() -> None:
    """2,048 characters is all that AssumeRole takes."""
    longest_bucket, longest_prefix = "b" * 63, "executions/" + "e" * 200 + "/"
    key = "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/" + "k" * 36
    policy = session_policy("read", longest_bucket, longest_prefix, partition="aws-us-gov", decrypts_with=key)
    assert len(policy) <= MAX_POLICY_CHARACTERS // 2


def test_reads_of_many_executions_share_sessions_that_reach_no_other() -> None:
    sts = CountingSts()
    presigner = Presigner(Local(sts), ROLE, SystemClock())
    bucket = "b" * 63
    ids_of_many = [ids.uuid7(datetime(2026, 5, 4, tzinfo=UTC), bytes([number] * 10)) for number in range(20)]
    keys = [object_keys.log_chunk(one, number) for one in ids_of_many for number in (1, 2)]
    urls = presigner.gets(bucket, keys, expires_at=soon(minutes=5))
    assert [urlsplit(url).path.lstrip("/") for url in urls] == keys
    assert len(sts.requests) == 4
    reached = []
    for request in sts.requests:
        assert len(request["Policy"]) <= MAX_POLICY_CHARACTERS // 2
        places = json.loads(request["Policy"])["Statement"][0]["Resource"]
        reached += places
        signed_by = [parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[0] for url in urls]
        assert len(set(signed_by)) == 4
    assert reached == [f"arn:aws:s3:::{bucket}/{object_keys.execution_prefix(one)}*" for one in ids_of_many]
    presigner.gets(bucket, keys, expires_at=soon(minutes=5))
    assert len(sts.requests) == 4, "the same reads are signed in the same sessions"


def test_the_partition_is_that_of_the_role() -> None:
    sts = CountingSts()
    role = ROLE.replace("arn:aws:", "arn:aws-cn:")
    Presigner(Local(sts), role, SystemClock()).get("outbox", "executions/a/b", expires_at=soon(minutes=5))
    assert "arn:aws-cn:s3:::outbox/executions/a/*" in sts.requests[0]["Policy"]


# --- enforced, on MiniStack ---


def session_clients(ministack: MiniStack, presigner: Presigner, scope: tuple[Any, str, tuple[str, ...]]) -> Any:
    """S3 as somebody has it who got hold of a session's credentials, secret and all."""
    session = presigner._sessions[scope]
    credentials = session.credentials
    return ministack.clients(Credentials(credentials.access_key, credentials.secret_key, credentials.token)).get("s3")


@ON_SERVERS
def test_a_sessions_credentials_reach_its_prefix_alone(ministack: MiniStack) -> None:
    inbox, outbox = ministack.bucket(versioned=True), ministack.bucket()
    presigner = Presigner(ministack.functions, ministack.presign_role, SystemClock())
    mine = object_keys.inbox_prefix(KEY_ID)
    S3Objects(ministack.functions, inbox, presigner).presign_post(
        mine, content_type="a/b", max_bytes=8, expires_at=soon(minutes=5)
    )
    S3Objects(ministack.functions, outbox, presigner).presign_get("executions/a/b", expires_at=soon(minutes=5))
    writer = session_clients(ministack, presigner, ("write", inbox, (mine,)))
    reader = session_clients(ministack, presigner, ("read", outbox, ("executions/a/",)))
    ministack.admin.get("s3").put_object(Bucket=outbox, Key="executions/a/b", Body=b"x")
    writer.put_object(Bucket=inbox, Key=f"{mine}x", Body=b"x")
    assert reader.get_object(Bucket=outbox, Key="executions/a/b")["Body"].read() == b"x"
    refused = [
        lambda: writer.put_object(Bucket=inbox, Key="requests/another/x", Body=b"x"),
        lambda: writer.put_object(Bucket=outbox, Key=f"{mine}x", Body=b"x"),
        lambda: writer.get_object(Bucket=inbox, Key=f"{mine}x"),
        lambda: writer.delete_object(Bucket=inbox, Key=f"{mine}x"),
        lambda: reader.get_object(Bucket=outbox, Key="executions/c/d"),
        lambda: reader.put_object(Bucket=outbox, Key="executions/a/b", Body=b"y"),
        lambda: reader.get_object(Bucket=inbox, Key=f"{mine}x"),
    ]
    for call in refused:
        with pytest.raises(writer.exceptions.ClientError, match="AccessDenied"):
            call()


@ON_SERVERS
def test_whoever_may_not_take_the_role_makes_no_grants(ministack: MiniStack) -> None:
    nobody = ministack.clients(ministack.user(ministack.name("nobody"), ["s3:ListAllMyBuckets"]))
    presigner = Presigner(nobody, ministack.presign_role, SystemClock())
    with pytest.raises(Unavailable, match="AccessDenied"):
        presigner.get("outbox", "executions/a/b", expires_at=soon(minutes=5))
