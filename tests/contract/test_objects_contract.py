"""What every implementation of Objects promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from runvoy_agent.ports import Objects, PreconditionFailed

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def put(objects: Objects, key: str, data: bytes = b"x", if_absent: bool = False, if_match: str | None = None) -> str:
    return objects.put(key, data, content_type="text/plain", if_absent=if_absent, if_match=if_match)


def content(objects: Objects, key: str) -> bytes | None:
    stored = objects.get(key)
    return None if stored is None else stored.data


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_what_was_put_is_there(objects: Objects, data: bytes) -> None:
    assert objects.get("a/b/c.json") is None
    etag = put(objects, "a/b/c.json", data)
    stored = objects.get("a/b/c.json")
    assert stored is not None
    assert (stored.data, stored.etag) == (data, etag)
    assert etag.startswith('"')
    assert etag.endswith('"')


def test_put_replaces_and_the_etag_tells(objects: Objects) -> None:
    assert put(objects, "a", b"1") != put(objects, "a", b"2")
    assert content(objects, "a") == b"2"
    assert put(objects, "a", b"2") == put(objects, "a", b"2")


def test_if_absent(objects: Objects) -> None:
    put(objects, "a", b"1", if_absent=True)
    for data in (b"1", b"2"):
        with pytest.raises(PreconditionFailed):
            put(objects, "a", data, if_absent=True)
    assert content(objects, "a") == b"1"
    objects.delete("a")
    put(objects, "a", b"3", if_absent=True)
    assert content(objects, "a") == b"3"


def test_if_match(objects: Objects) -> None:
    with pytest.raises(PreconditionFailed):
        put(objects, "a", b"1", if_match='"0"')
    assert content(objects, "a") is None
    first = put(objects, "a", b"1")
    second = put(objects, "a", b"2", if_match=first)
    with pytest.raises(PreconditionFailed):
        put(objects, "a", b"3", if_match=first)
    assert content(objects, "a") == b"2"
    objects.delete("a")
    with pytest.raises(PreconditionFailed):
        put(objects, "a", b"3", if_match=second)


def test_delete_is_idempotent(objects: Objects) -> None:
    put(objects, "a/b", b"1")
    for _ in range(2):
        objects.delete("a/b")
        assert objects.get("a/b") is None
    objects.delete("never/was")
    assert objects.list("") == []


def test_list_is_in_the_order_of_keys(objects: Objects) -> None:
    keys = ["a-b", "a.b", "a/b", "a/b0", "a0", "a/c/d", "a/c-d", "b/1", "B", "_"]
    for key in keys:
        put(objects, key, key.encode())
    ordered = sorted(keys)
    assert [(info.key, info.size) for info in objects.list("")] == [(key, len(key)) for key in ordered]
    for prefix in ("a", "a/", "a/b", "a/c", "a/c/", "b/1", "nothing", "no/thing", "a0/"):
        assert [info.key for info in objects.list(prefix)] == [key for key in ordered if key.startswith(prefix)]
    for after in ("", "0", "a", "a/", "a/b", "a/bz", "a/c/", "a/c/d", "zz"):
        for limit in (1, 3, 100):
            expected = [key for key in ordered if key > after][:limit]
            assert [info.key for info in objects.list("", after=after, limit=limit)] == expected
    assert [info.key for info in objects.list("a/", after="a/b", limit=2)] == ["a/b0", "a/c-d"]
    for up_to in ("", "0", "a", "a-b", "a/", "a/b", "a/bz", "a/c/", "a/c/d", "a0", "zz"):
        assert [info.key for info in objects.list("", up_to=up_to)] == [key for key in ordered if key <= up_to]
        for after in ("a", "a/b", "a/c/d"):
            expected = [key for key in ordered if after < key <= up_to][:2]
            assert [info.key for info in objects.list("", after=after, up_to=up_to, limit=2)] == expected
    assert [info.key for info in objects.list("a/", after="a/b", up_to="a/c-d")] == ["a/b0", "a/c-d"]


# fmt: off
NO_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", ".hidden", "a/.hidden", "a b", "a\\b", "a\0", "é", "a\n",
    "a:b", "a" * 513, "/".join(["a" * 100] * 6),
]
# fmt: on


@pytest.mark.parametrize("key", NO_KEYS)
def test_what_is_no_object_key_is_refused(objects: Objects, key: str) -> None:
    with pytest.raises(ValueError):
        put(objects, key)
    with pytest.raises(ValueError):
        objects.get(key)
    with pytest.raises(ValueError):
        objects.delete(key)
    with pytest.raises(ValueError):
        objects.presign_get(key, expires_at=LATER)


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "a/../", ".", "a b"])
def test_what_is_no_prefix_is_refused(objects: Objects, prefix: str) -> None:
    with pytest.raises(ValueError):
        objects.list(prefix)


def test_grants_are_for_the_bucket(objects: Objects) -> None:
    policy = objects.presign_post("requests/k/", content_type="text/plain", max_bytes=10, expires_at=LATER)
    assert policy.url.startswith("http")
    assert policy.fields
    assert "a/b.json?" in objects.presign_get("a/b.json", expires_at=LATER)


def test_every_version_stays_readable(versioned_objects: Objects) -> None:
    versions: dict[str, bytes] = {}
    for data in (b"1", b"2", b"", b"3"):
        put(versioned_objects, "r/a", data)
        stored = versioned_objects.get("r/a")
        assert stored is not None
        versions[stored.version] = data
    assert len(versions) == 4
    versioned_objects.delete("r/a")
    assert versioned_objects.get("r/a") is None
    for version, data in versions.items():
        stored = versioned_objects.get("r/a", version)
        assert stored is not None
        assert (stored.data, stored.version) == (data, version)
        assert versioned_objects.get("r/b", version) is None
    for wrong in ("", "null", "../a", "0" * 32):
        assert versioned_objects.get("r/a", wrong) is None
    assert versioned_objects.list("") == []


def test_one_of_many_concurrent_first_puts_wins(objects: Objects) -> None:
    def race(number: int) -> bytes | None:
        try:
            put(objects, "new/folder/a", b"%d" % number, if_absent=True)
        except PreconditionFailed:
            return None
        return b"%d" % number

    with ThreadPoolExecutor(8) as pool:
        winners = [data for data in pool.map(race, range(16)) if data is not None]
    assert winners == [content(objects, "new/folder/a")]


def test_no_conditional_update_is_lost_between_threads(objects: Objects) -> None:
    put(objects, "counter", b"0")

    def increment(_: int) -> None:
        while True:
            stored = objects.get("counter")
            assert stored is not None
            try:
                put(objects, "counter", b"%d" % (int(stored.data) + 1), if_match=stored.etag)
            except PreconditionFailed:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(60)))
    assert content(objects, "counter") == b"60"
