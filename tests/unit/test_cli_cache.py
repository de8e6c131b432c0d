"""A lost or broken cache costs one request, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from runvoy_cli.home.cache import Cache


def content_of(home: Path) -> Path:
    Cache(home, "e", "k").learn_time(datetime.now(UTC).isoformat())
    [path] = (home / "cache").glob("*.json")
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"offset_seconds":1e300,"offset_learned_at":"2026-01-01T00:00:00Z"}',
        b'{"offset_seconds":9007199254740993,"offset_learned_at":"2026-01-01T00:00:00Z"}',
        b'{"offset_learned_at":"2026-01-01T00:00:00"}',
        b'{"inbox_grant":{"expires_at":"2026-01-01T00:00:00"}}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe",
    ],
)
def test_a_broken_cache_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    content_of(tmp_path).write_bytes(content)
    cache = Cache(tmp_path, "e", "k")
    assert cache.inbox_grant is None
    assert abs(cache.now() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2126-01-01T00:00:00Z", "None", "", "noon"]
)
def test_a_time_that_no_clock_shows_is_not_learned(tmp_path: Path, at: str) -> None:
    cache = Cache(tmp_path, "e", "k")
    assert not cache.learn_time(at)
    cache.hear_time(at, datetime.now(UTC))
    assert abs(Cache(tmp_path, "e", "k").now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_hour_off_is_learned_and_kept(tmp_path: Path) -> None:
    Cache(tmp_path, "e", "k").learn_time((datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert abs(Cache(tmp_path, "e", "k").now() - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


def test_an_answer_s_date_mends_an_offset_that_is_far_from_it(tmp_path: Path) -> None:
    theirs = datetime.now(UTC)
    Cache(tmp_path, "e", "k").learn_time((theirs - timedelta(hours=1)).isoformat())
    Cache(tmp_path, "e", "k").hear_time(format_datetime(theirs), theirs)
    assert abs(Cache(tmp_path, "e", "k").offset) < timedelta(seconds=5)


def test_a_date_that_is_near_to_what_is_kept_changes_nothing(tmp_path: Path) -> None:
    """It has whole seconds, and was long on its way: what is kept is better."""
    cache = Cache(tmp_path, "e", "k")
    cache.learn_time((datetime.now(UTC) + timedelta(hours=1)).isoformat())
    kept = cache.offset
    cache.hear_time(format_datetime(datetime.now(UTC) + timedelta(hours=1, seconds=20)), datetime.now(UTC))
    assert cache.offset == kept


@pytest.mark.parametrize("took", [timedelta(hours=2), timedelta(minutes=-5)])
def test_of_an_exchange_in_which_the_machine_slept_or_its_clock_was_set_no_time_is_learned(
    tmp_path: Path, took: timedelta
) -> None:
    cache = Cache(tmp_path, "e", "k")
    cache.hear_time(format_datetime(datetime.now(UTC) - timedelta(hours=2)), datetime.now(UTC) - took)
    assert cache.offset == timedelta()
