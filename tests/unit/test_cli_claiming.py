"""A claim token becomes a key: the client's part over real HTTP, before the real control handler."""

import socket
import threading
import time
from datetime import timedelta

import pytest
from tests.unit.served import served

from runvoy_agent.core.model import Claim, Key
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.members import claims as claim_handlers
from runvoy_cli.home import config_file
from runvoy_cli.http.transport import Transport
from runvoy_cli.members import claiming
from runvoy_protocol.claims import Token
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey


@pytest.fixture
def endpoint(world):
    with served(world) as url:
        yield url


def token(world, endpoint, secret=b"t" * 32):
    now = world.clock.now()
    claim = Claim(user="ada", created_by="aws", created_at=now, expires_at=now + timedelta(minutes=15))
    key = claim_handlers._record_key(world.deployment, b"t" * 32)
    world.records.commit([store.put_new(key, claim)])
    return Token(secret, endpoint, world.deployment.deployment_id)


def test_a_token_registers_a_key_that_was_made_here(world, endpoint, tmp_path):
    answer = claiming.redeem(tmp_path, None, token(world, endpoint), endpoint, Transport(), 10)
    written = config_file.load(tmp_path / "config.yaml").top
    signing_key = SigningKey.from_api_key(written["api_key"])
    assert written | {"api_key": ""} == {
        "endpoint": endpoint,
        "deployment_id": world.deployment.deployment_id,
        "api_key": "",
    }
    assert (answer.key.user, answer.key.key_id) == ("ada", signing_key.key_id)
    kept = store.load(world.records, store.key_key(signing_key.key_id), Key).document
    assert kept is not None
    assert kept.public_key == signing_key.public_key


def test_an_address_that_does_not_answer_yet_is_tried_again(world, tmp_path):
    with socket.socket() as held:  # so that nobody else is given the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        known = token(world, url)
        redeemed = []
        thread = threading.Thread(
            target=lambda: redeemed.append(
                claiming.redeem(tmp_path, None, known, url, Transport(), 10, patience_seconds=60)
            )
        )
        thread.start()
        while not list(tmp_path.glob("pending_keys/*")):
            time.sleep(0.01)
        with served(world, port):
            thread.join(60)
    assert redeemed[0].key.user == "ada"


def test_a_wrong_token_is_refused_in_the_deployments_words_and_nothing_is_written(world, endpoint, tmp_path):
    with pytest.raises(RunvoyError) as refused:
        claiming.redeem(tmp_path, None, token(world, endpoint, secret=b"x" * 32), endpoint, Transport(), 10)
    assert not (tmp_path / "config.yaml").exists()
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert "token" in refused.value.message
