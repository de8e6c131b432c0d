"""Ranges of batches by the inbox function: it works as long as its invocation has time, and leaves the rest to the next."""

from __future__ import annotations

import hashlib

from tests.aws.conftest import Deployment
from tests.servers.fixtures import ON_SERVERS

from runvoy_agent.handlers.documents import messages
from runvoy_agent.handlers.documents.messages import InboxDelivery
from runvoy_protocol import batches, object_keys, requests
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.requests import RunRequest

pytestmark = ON_SERVERS


def uploaded(deployment: Deployment, made: list[RunRequest]) -> tuple[str, str]:
    """A batch in the inbox, and the message of its arrival; the digest of the object."""
    batch_id = deployment.clock.new_id()
    batched = tuple(BatchedRequest(one.request_id, requests.encode(one)) for one in made)
    raw = batches.seal_batch(Batch(1, batch_id, batched), deployment.signing_key)
    object_key = object_keys.batch(deployment.signing_key.key_id, batch_id)
    deployment.services.ports.inbox.put(object_key, raw, content_type="application/octet-stream")
    return messages.encode(InboxDelivery(object_key=object_key)).decode(), hashlib.sha256(raw).hexdigest()


def test_an_invocation_without_time_for_a_range_leaves_the_rest_to_another(deployment: Deployment) -> None:
    made = [deployment.request() for _ in range(9)]
    arrival, digest = uploaded(deployment, made)

    def answered() -> int:
        key_id = deployment.signing_key.key_id
        receipts = [object_keys.receipt(key_id, one.request_id, digest) for one in made]
        return sum(deployment.services.ports.outbox.get(receipt) is not None for receipt in receipts)

    assert deployment.invoke("inbox", arrival) == []
    [part] = deployment.taken("ranges")
    for number in (1, 2, 3):
        assert deployment.invoke("ranges", part, remaining_ms=0) == [], "a good range was told to have failed"
        assert answered() == number, "one is taken up however little time there is, and no more"
        assert deployment.taken("ranges") == [part]
    # One that comes again, of before, and the one that has time; each begins where the others ended.
    assert deployment.invoke("ranges", part, part) == []
    assert (answered(), deployment.taken("ranges")) == (9, [])
    assert len(deployment.taken("bulk")) == 9
    assert deployment.taken("inbox") == deployment.taken("starts") == []
