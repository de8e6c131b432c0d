"""A lost or broken cache costs one request, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runvoy_cli.home.cache import Cache


def content_of(home: Path) -> Path:
    Cache(home, "e", "k").learn_time(datetime.now(UTC))
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


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2126-01-01T00:00:00Z"])
def test_a_time_that_no_clock_shows_is_not_learned(tmp_path: Path, at: str) -> None:
    cache = Cache(tmp_path, "e", "k")
    with pytest.raises((ValueError, OverflowError)):
        cache.learn_time(datetime.fromisoformat(at))
    assert abs(Cache(tmp_path, "e", "k").now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_hour_off_is_learned_and_kept(tmp_path: Path) -> None:
    Cache(tmp_path, "e", "k").learn_time(datetime.now(UTC) + timedelta(hours=1))
    assert abs(Cache(tmp_path, "e", "k").now() - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
