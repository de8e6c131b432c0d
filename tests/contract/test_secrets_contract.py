"""What every implementation of Secrets promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runvoy_agent.ports import PreconditionFailed, Secrets


@pytest.mark.parametrize("value", [b"", b"s3cret", bytes(range(256)) * 200])
@pytest.mark.parametrize("name", ["TOKEN", "users/anna/TOKEN", "../../etc/passwd", "", "é\n\0", "n" * 2000])
def test_what_was_put_is_there(secrets: Secrets, name: str, value: bytes) -> None:
    assert secrets.get(name) is None
    secrets.put(name, value)
    assert secrets.get(name) == value
    assert secrets.get(name + "x") is None


def test_put_replaces(secrets: Secrets) -> None:
    secrets.put("a", b"1")
    secrets.put("a", b"2")
    assert secrets.get("a") == b"2"


def test_if_absent(secrets: Secrets) -> None:
    secrets.put("a", b"1", if_absent=True)
    with pytest.raises(PreconditionFailed):
        secrets.put("a", b"2", if_absent=True)
    assert secrets.get("a") == b"1"


def test_delete_is_idempotent(secrets: Secrets) -> None:
    secrets.delete("a")
    secrets.put("a", b"1")
    secrets.put("b", b"2")
    secrets.delete("a")
    secrets.delete("a")
    assert secrets.get("a") is None
    assert secrets.get("b") == b"2"
    secrets.put("a", b"3", if_absent=True)


def test_one_of_many_concurrent_first_puts_wins(secrets: Secrets) -> None:
    def race(number: int) -> bytes | None:
        try:
            secrets.put("a", b"%d" % number, if_absent=True)
        except PreconditionFailed:
            return None
        return b"%d" % number

    with ThreadPoolExecutor(8) as pool:
        winners = [value for value in pool.map(race, range(16)) if value is not None]
    assert winners == [secrets.get("a")]
