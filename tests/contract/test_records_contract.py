"""What every implementation of Records promises."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from runvoy_agent.ports import (
    MAX_COMMIT_WRITES,
    MAX_KEY_BYTES,
    MAX_PLACE_BYTES,
    Add,
    Check,
    Conflict,
    Delete,
    IndexEntry,
    Item,
    Page,
    Position,
    Put,
    Records,
    Versioned,
    Write,
)


def placed(body: bytes, **places: tuple[str, str]) -> Item:
    return Item(body, {index: IndexEntry(*place) for index, place in places.items()})


def keys_of(records: Records, index: str, partition: str, descending: bool = False) -> list[str]:
    return [record.key for record in records.query(index, partition, descending=descending).records]


def test_absent_record_is_none(records: Records) -> None:
    assert records.get("a") is None


def test_many_are_read_in_the_order_they_are_asked_for(records: Records) -> None:
    records.commit([Put(key, Item(key.encode()), 0) for key in "abc"])
    records.commit([Delete("b", 1), Put("c", Item(b"again"), 1)])
    assert list(records.get_many([])) == []
    found = records.get_many(["c", "x", "a", "b", "c"])
    again = Versioned("c", b"again", 2)
    assert list(found) == [again, None, Versioned("a", b"a", 1), None, again]


def test_more_are_read_than_fit_into_one_call(records: Records) -> None:
    every = [f"k{number}" for number in range(1_100)]
    for begun in range(0, len(every), MAX_COMMIT_WRITES):
        records.commit([Put(key, Item(b"x" * 1000), 0) for key in every[begun : begun + MAX_COMMIT_WRITES]])
    found = records.get_many([*every[::-1], "none"])
    assert [one and one.key for one in found] == [*every[::-1], None]


def test_versions_begin_at_one_and_rise_by_one(records: Records) -> None:
    for version, body in enumerate((b"one", b"", b"\0\xff three")):
        records.commit([Put("a", Item(body), version)])
        assert records.get("a") == Versioned("a", body, version + 1)


def test_a_record_of_300_kib_is_kept(records: Records) -> None:
    """The largest that the handlers make: a user's published playbooks. DynamoDB takes 400 KB."""
    body = bytes(range(256)) * 1200
    records.commit([Put("a", Item(body), 0), Put("b", Item(b"beside it"), 0)])
    assert records.get("a") == Versioned("a", body, 1)


def test_put_of_an_existing_record_as_new_conflicts(records: Records) -> None:
    records.commit([Put("a", Item(b"first"), 0)])
    with pytest.raises(Conflict):
        records.commit([Put("a", Item(b"second"), 0)])
    assert records.get("a") == Versioned("a", b"first", 1)


@pytest.mark.parametrize("write", [Put("a", Item(b"x"), 1), Put("a", Item(b"x"), 3), Delete("a", 1), Check("a", 3)])
def test_wrong_version_conflicts_and_nothing_is_written(records: Records, write: Write) -> None:
    records.commit([Put("a", Item(b"1"), 0)])
    records.commit([Put("a", placed(b"2", day=("d", "s")), 1)])
    for writes in ([write, Put("b", Item(b"b"), 0)], [Put("b", Item(b"b"), 0), write]):
        with pytest.raises(Conflict):
            records.commit(writes)
    assert records.get("a") == Versioned("a", b"2", 2)
    assert records.get("b") is None
    assert keys_of(records, "day", "d") == ["a"]


def test_conditions_on_absent_records(records: Records) -> None:
    for write in (Put("a", Item(b"x"), 1), Delete("a", 1), Check("a", 1)):
        with pytest.raises(Conflict):
            records.commit([write])
    records.commit([Check("a", 0), Put("b", Item(b"b"), 0)])
    assert records.get("b") is not None
    with pytest.raises(Conflict):
        records.commit([Check("b", 0)])


def test_check_leaves_the_version(records: Records) -> None:
    records.commit([Put("a", Item(b"a"), 0)])
    records.commit([Check("a", 1), Put("b", Item(b"b"), 0)])
    assert records.get("a") == Versioned("a", b"a", 1)


def test_deleted_record_is_gone_everywhere(records: Records) -> None:
    records.commit([Put("a", placed(b"a", day=("d", "1"), owner=("o", "1")), 0)])
    records.commit([Delete("a", 1)])
    assert records.get("a") is None
    assert keys_of(records, "day", "d") == keys_of(records, "owner", "o") == []


def test_old_version_of_a_recreated_record_never_succeeds(records: Records) -> None:
    records.commit([Put("a", Item(b"old"), 0)])
    records.commit([Delete("a", 1)])
    for stale in (Put("a", Item(b"x"), 1), Delete("a", 1), Check("a", 1)):
        with pytest.raises(Conflict):
            records.commit([stale])
    records.commit([Check("a", 0), Put("b", Item(b""), 0)])
    records.commit([Put("a", Item(b"new"), 0)])
    for stale in (Put("a", Item(b"x"), 1), Delete("a", 1), Check("a", 1)):
        with pytest.raises(Conflict):
            records.commit([stale])
    found = records.get("a")
    assert found is not None
    assert found.body == b"new"
    assert found.version > 1
    records.commit([Put("a", Item(b"newer"), found.version)])


def test_commit_of_nothing(records: Records) -> None:
    records.commit([])


def test_commit_has_a_hundred_writes_at_most(records: Records) -> None:
    writes = [Put(f"k{number}", Item(b"x"), 0) for number in range(MAX_COMMIT_WRITES + 1)]
    with pytest.raises(ValueError):
        records.commit(writes)
    assert records.get("k0") is None
    records.commit(writes[:-1])
    assert records.get("k99") is not None


def test_keys_and_places_are_of_bounded_length(records: Records) -> None:
    """DynamoDB's limits, in bytes: one machine would take more, and a deployment then refuse what it had shown to work."""
    longest_sort = "ü" * ((MAX_PLACE_BYTES - 2) // 2)
    records.commit([Put("k", placed(b"1", day=("p" * MAX_KEY_BYTES, longest_sort)), 0)])
    assert keys_of(records, "day", "p" * MAX_KEY_BYTES) == ["k"]
    assert records.get("a" * (MAX_KEY_BYTES + 1)) is None, "there can be none"
    assert records.get_many(["a" * (MAX_KEY_BYTES + 1), "k"]) == [None, Versioned("k", b"1", 1)]
    assert records.query("day", "p" * (MAX_KEY_BYTES + 1)) == Page([], None)
    records.commit([Put("k" * MAX_KEY_BYTES, Item(b"2"), 0)])
    assert records.get("k" * MAX_KEY_BYTES) == Versioned("k" * MAX_KEY_BYTES, b"2", 1)
    refused: tuple[Write, ...] = (
        Put("a" * (MAX_KEY_BYTES + 1), Item(b"x"), 0),
        Check("a" * (MAX_KEY_BYTES + 1), 0),
        Put("a", placed(b"x", day=("p" * (MAX_KEY_BYTES + 1), "s")), 0),
        Put("a", placed(b"x", day=("p", longest_sort + "x")), 0),
    )
    for write in refused:
        with pytest.raises(ValueError, match="bytes"):
            records.commit([write])
    assert records.get("a") is None


def test_commit_names_a_key_once(records: Records) -> None:
    for second in (Put("a", Item(b"2"), 1), Check("a", 0), Delete("a", 1)):
        with pytest.raises(ValueError):
            records.commit([Put("a", Item(b"1"), 0), second])
    assert records.get("a") is None


def test_query_orders_by_sort_then_key(records: Records) -> None:
    places = [("c", "1"), ("a", "2"), ("b", "1"), ("d", "10"), ("e", ""), ("B", "1")]
    records.commit([Put(key, placed(key.encode(), day=("d", sort)), 0) for key, sort in places])
    records.commit([Put("other", placed(b"", day=("elsewhere", "1"), owner=("d", "1")), 0), Put("no", Item(b""), 0)])
    ordered = ["e", "B", "b", "c", "d", "a"]
    assert keys_of(records, "day", "d") == ordered
    assert keys_of(records, "day", "d", descending=True) == ordered[::-1]
    assert records.query("day", "d").records[0] == Versioned("e", b"e", 1)
    assert records.query("day", "nowhere") == ([], None)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_pages_hold_each_record_once(records: Records, limit: int, descending: bool) -> None:
    # Keys run against the order of sorts, and some sorts are shared.
    expected = sorted((f"s{number // 2}", f"k{5 - number}") for number in range(6))
    records.commit([Put(key, placed(b"", day=("d", sort)), 0) for sort, key in expected])
    found: list[str] = []
    after: Position | None = None
    while True:
        page = records.query("day", "d", after=after, limit=limit, descending=descending)
        assert len(page.records) <= limit
        found += [record.key for record in page.records]
        if (after := page.after) is None:
            break
        assert page.records
    assert found == [key for _, key in (expected[::-1] if descending else expected)]


def test_cursor_holds_when_its_record_is_gone(records: Records) -> None:
    records.commit([Put(key, placed(b"", day=("d", key)), 0) for key in "abc"])
    after = records.query("day", "d", limit=2).after
    records.commit([Delete("b", 1), Put("aa", placed(b"", day=("d", "aa")), 0)])
    assert [record.key for record in records.query("day", "d", after=after).records] == ["c"]


def test_put_moves_a_record_in_its_indexes(records: Records) -> None:
    records.commit([Put("a", placed(b"1", day=("monday", "1"), active=("yes", "1")), 0)])
    records.commit([Put("a", placed(b"2", day=("tuesday", "1")), 1)])
    assert keys_of(records, "day", "monday") == keys_of(records, "active", "yes") == []
    assert keys_of(records, "day", "tuesday") == ["a"]


def test_query_needs_a_limit(records: Records) -> None:
    with pytest.raises(ValueError):
        records.query("day", "d", limit=0)


def test_a_page_may_begin_at_any_position(records: Records) -> None:
    records.commit([Put(key, placed(b"", day=("d", key)), 0) for key in "abce"])
    after = [record.key for record in records.query("day", "d", after=Position("c", "c")).records]
    before = [record.key for record in records.query("day", "d", after=Position("d", "x"), descending=True).records]
    assert (after, before) == (["e"], ["c", "b", "a"])


def test_expiry_is_no_reason_to_refuse(records: Records) -> None:
    records.commit([Put("a", Item(b"a", expires_at=datetime(2020, 1, 1, tzinfo=UTC)), 0)])
    found = records.get("a")
    assert found in (None, Versioned("a", b"a", 1))


def test_one_of_many_concurrent_commits_wins(records: Records) -> None:
    start = threading.Barrier(8)

    def race(number: int) -> int:
        start.wait()
        try:
            records.commit([Put("a", Item(b"%d" % number), 0), Put(f"mine{number}", Item(b""), 0)])
        except Conflict:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(race, range(8))) == 1
    winner = records.get("a")
    assert winner is not None
    assert [records.get(f"mine{number}") is not None for number in range(8)] == [
        winner.body == b"%d" % number for number in range(8)
    ]


def test_no_update_is_lost_between_threads(records: Records) -> None:
    records.commit([Put("counter", Item(b"0"), 0)])

    def increment(_: int) -> None:
        while True:
            found = records.get("counter")
            assert found is not None
            try:
                records.commit([Put("counter", Item(b"%d" % (int(found.body) + 1)), found.version)])
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(increment, range(120)))
    assert records.get("counter") == Versioned("counter", b"120", 121)


def test_a_number_begins_at_none_and_its_version_rises(records: Records) -> None:
    steps = ((1, b"1"), (4, b"5"), (-2, b"3"), (-3, b"0"), (12, b"12"))
    for version, (amount, expected) in enumerate(steps, start=1):
        records.commit([Add("n", amount)])
        assert records.get("n") == Versioned("n", expected, version)
    assert list(records.get_many(["n", "m"])) == [Versioned("n", b"12", 5), None]


def test_a_number_goes_up_to_its_bound_and_no_further(records: Records) -> None:
    with pytest.raises(Conflict):
        records.commit([Add("n", 1, at_most=0), Put("a", Item(b"a"), 0)])
    records.commit([Add("n", 1, at_most=2)])
    records.commit([Add("n", 1, at_most=2), Put("a", Item(b"a"), 0)])
    other = Put("b", Item(b"b"), 0)
    for first, second in ((Add("n", 1, at_most=2), other), (other, Add("n", 1, at_most=1))):
        with pytest.raises(Conflict):
            records.commit([first, second])
    assert records.get("n") == Versioned("n", b"2", 2)
    assert (records.get("a") is not None, records.get("b")) == (True, None)
    records.commit([Add("n", -1, at_most=2)])
    records.commit([Add("n", 1, at_most=2)])
    assert records.get("n") == Versioned("n", b"2", 4)


def test_a_commit_that_conflicts_adds_nothing(records: Records) -> None:
    records.commit([Add("n", 1), Put("a", Item(b"a"), 0)])
    with pytest.raises(Conflict):
        records.commit([Add("n", 1), Put("a", Item(b"again"), 0)])
    with pytest.raises(ValueError):
        records.commit([Add("n", 1), Add("n", 1)])
    assert records.get("n") == Versioned("n", b"1", 1)


def test_a_number_can_be_checked(records: Records) -> None:
    records.commit([Check("n", 0), Put("a", Item(b""), 0)])
    records.commit([Add("n", 7)])
    records.commit([Check("n", 1), Put("b", Item(b""), 0)])
    records.commit([Add("n", -7)])
    for version in (0, 1):
        with pytest.raises(Conflict):
            records.commit([Check("n", version), Put("c", Item(b""), 0)])


def test_an_index_without_a_lag_shows_what_was_committed(records: Records) -> None:
    assert records.index_lag >= timedelta(0)
    records.commit([Put("a", placed(b"", day=("monday", "1")), 0)])
    if not records.index_lag:
        assert keys_of(records, "day", "monday") == ["a"]


def test_many_who_add_at_once_fill_a_number_to_its_bound_exactly(records: Records) -> None:
    start = threading.Barrier(8)

    def add(_: int) -> int:
        start.wait()
        added = 0
        for _ in range(20):
            try:
                records.commit([Add("n", 1, at_most=30)])
                added += 1
            except Conflict:  # at the bound, or one that another commit came between
                found = records.get("n")
                if found is not None and found.body == b"30":
                    break
        return added

    with ThreadPoolExecutor(8) as pool:
        added = sum(pool.map(add, range(8)))
    assert records.get("n") == Versioned("n", b"%d" % added, added)
    assert added == 30
