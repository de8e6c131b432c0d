"""The first admin of a deployment on AWS, asked for by an event that only the account's own rights can send."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.aws.conftest import Deployment, http_event
from tests.servers.fixtures import ON_SERVERS

from runvoy_protocol import aws_layout, claims, keys

pytestmark = ON_SERVERS


def seed(deployment: Deployment, **fields: object) -> Any:
    return deployment.control({"seed_admin": fields})


def test_the_first_admin_is_seeded_with_a_token_and_can_be_again(deployment: Deployment) -> None:
    for _ in range(2):
        made = seed(deployment, user="eve@example.com")
        assert made["user"] == "eve@example.com"
        assert len(base64.b64decode(made["secret"])) == 32
        assert datetime.fromisoformat(made["expires_at"]) > datetime.now(UTC)
    event = deployment.call("GET", "/api/v1/audit?action=seed-admin")
    assert {one["actor"] for one in json.loads(event["body"])["entries"]} == {"aws"}
    assert made["secret"] not in event["body"]


def test_a_seed_redeems_for_a_key_of_an_admin(deployment: Deployment) -> None:
    made = seed(deployment, user="eve@example.com")
    key = keys.SigningKey(deployment.clock.random(32))
    claim = claims.seal(
        deployment.environment[aws_layout.ENV_DEPLOYMENT], base64.b64decode(made["secret"], validate=True), key
    )
    body = json.dumps({"claim": base64.b64encode(claim).decode()}).encode()
    answer = deployment.control(http_event("POST", "/api/v1/claim", body))
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"])["role"] == "admin"
    assert seed(deployment, user="eve@example.com") == {"user": "eve@example.com", "secret": None, "expires_at": None}
    assert seed(deployment, user="eve@example.com", further_key=True)["secret"]


def test_a_seed_makes_no_admin_of_a_member(deployment: Deployment) -> None:
    deployment.call("POST", "/api/v1/users", json.dumps({"name": "bob@example.com", "role": "viewer"}).encode())
    refused = seed(deployment, user="bob@example.com")
    assert refused["error"]["code"] == "CONFLICT"
    assert "viewer" in refused["error"]["message"]


@pytest.mark.parametrize(
    "asked", [{}, {"user": "no address"}, {"user": 3}, {"user": "a@example.com", "role": "admin"}, None, "x"]
)
def test_a_malformed_seed_is_refused(asked: object, deployment: Deployment) -> None:
    assert deployment.control({"seed_admin": asked})["error"]["code"] == "INVALID_REQUEST"


def test_a_call_of_the_url_cannot_seed(deployment: Deployment) -> None:
    for path, code in (("/", 405), ("/api/v1/users", 401)):
        event = http_event("POST", path, b'{"seed_admin": {"user": "eve@example.com"}}')
        assert deployment.control(event)["statusCode"] == code
        assert deployment.control(event | {"seed_admin": {"user": "eve@example.com"}})["statusCode"] == code
