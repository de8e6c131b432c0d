from __future__ import annotations

from datetime import UTC, datetime

from runvoy_agent.local.clock import SystemClock
from runvoy_protocol import ids


def test_now_is_aware_and_to_the_millisecond() -> None:
    before, now = datetime.now(UTC), SystemClock().now()
    assert now.utcoffset() == UTC.utcoffset(None)
    assert now.microsecond % 1000 == 0
    assert abs((now - before).total_seconds()) < 60


def test_ids_rise_and_hold_their_time() -> None:
    clock = SystemClock()
    before = clock.now()
    made = [clock.new_id() for _ in range(20_000)]
    after = clock.now()
    assert made == sorted(set(made))
    assert all(map(ids.is_execution_id, made))
    for execution_id in (made[0], made[-1]):
        at = ids.made_at(execution_id)
        assert at is not None
        assert before <= at.replace(microsecond=round(at.microsecond, -3)) <= after
    assert SystemClock().new_id() != SystemClock().new_id()


def test_random_and_sleep() -> None:
    clock = SystemClock()
    assert len(clock.random(32)) == 32
    assert clock.random(32) != clock.random(32)
    clock.sleep(0)
