"""A batch whose key is replaced while it is taken apart, and one that comes again when it is forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.unit.calls import claim_body, new_key, ok
from tests.unit.test_handlers_batches import Batches, batched, make, sent_again

from runvoy_agent.handlers import retention
from runvoy_agent.handlers.documents import store
from runvoy_protocol.members import Role

if TYPE_CHECKING:
    from tests.unit.conftest import World


def test_a_key_that_is_rotated_in_the_middle_of_a_batch_leaves_nothing_undecided(world: World) -> None:
    """What was not admitted yet is refused, each with an answer; what was admitted and not started is not started any more."""
    at = Batches(world)
    world.deployment = world.deployment._replace(range_size=3)
    bob = world.add_user("bob", Role.DEVELOPER)
    made = make(world, 7, locks=("db",))
    delivery = at.upload([batched(one) for one in made], bob)
    at.handle(delivery)
    parts = at.sent()
    at.handle(parts[0])
    world.start(made[0].request_id)
    fresh = new_key(world)
    ok(world, "POST", "/keys/rotate", claim_body(fresh), bob)
    ok(world, "DELETE", f"/keys/{bob.key_id}", None, fresh)
    for part in parts[1:]:
        at.handle(part)
    outcomes = [at.outcome(delivery, one.request_id) for one in made]
    assert outcomes == ["accepted"] * 3 + ["KEY_REVOKED"] * 4
    world.leave_result(made[0].request_id)
    world.tell(made[0].request_id, "stopped", 1)
    for one in made[1:3]:
        world.start(one.request_id)
        assert (world.execution(one.request_id).state, world.execution(one.request_id).reason) == ("STOPPED", "revoked")
    assert world.execution(made[0].request_id).state == "SUCCEEDED", "what runs goes on"
    world.clock.move(minutes=5)
    assert sent_again(world) == []
    assert len(world.launcher.launches) == 1


@pytest.mark.parametrize("with_objects", [True, False])
def test_a_batch_again_after_its_runs_were_forgotten_runs_nothing(world: World, with_objects: bool) -> None:
    """As a dead letter that somebody redrives a month later."""
    at = Batches(world)
    made = make(world, 3)
    delivery = at.upload([batched(one) for one in made])
    at.run(delivery)
    for one in made:
        world.start(one.request_id)
        world.leave_result(one.request_id)
        world.tell(one.request_id, "stopped", 1)
    world.clock.move(days=31)
    world.records.purge_expired(world.clock.now())
    removing = retention.Removing(world.inbox.remove, world.outbox.remove) if with_objects else None
    swept = retention.sweep(world.ports, world.deployment.created_at, timedelta(days=30), removing)
    assert swept.executions == 3
    world.messages("bulk")
    launched = len(world.launcher.launches)
    at.run(delivery)
    assert world.messages("bulk") == []
    for one in made:
        assert world.records.get(store.execution_key(one.request_id)) is None
        assert at.outcome(delivery, one.request_id) == ("REQUEST_EXPIRED" if with_objects else "accepted")
        world.start(one.request_id)
    assert len(world.launcher.launches) == launched
