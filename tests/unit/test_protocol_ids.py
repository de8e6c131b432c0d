"""Execution ids and object keys."""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runvoy_protocol import ids, keys, object_keys

KEY = keys.SigningKey(bytes(32))
KEY_ID = KEY.key_id
ID = "019ab1c2d3e47f0089abcdef01234567"
EPOCH = datetime.fromtimestamp(0, UTC)
milliseconds = st.integers(0, 253_402_300_799_999)


def test_uuid7_is_rfc_9562_s():
    """Appendix A.6: 2022-02-22 14:22:22 at UTC-5, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F."""
    at = datetime(2022, 2, 22, 14, 22, 22, tzinfo=timezone(timedelta(hours=-5)))
    random = bytes.fromhex("0cc3" + "18c4dc0c0c07398f")
    assert ids.uuid7(at, random) == "017f22e279b07cc398c4dc0c0c07398f"


def test_uuid8_is_rfc_9562_s_of_a_sha_256():
    """Appendix B.2: the stamp on SHA-256(DNS namespace ‖ www.example.com)."""
    digest = hashlib.sha256(uuid.NAMESPACE_DNS.bytes + b"www.example.com").digest()
    assert ids._stamp(bytearray(digest[:16]), 8) == "5c146b143c528afd938a375d0df1fbf6"


@given(milliseconds, st.binary(min_size=10, max_size=10))
def test_a_uuid7_tells_its_time_to_the_millisecond(ms, random):
    at = EPOCH + timedelta(milliseconds=ms)
    made = ids.uuid7(at, random)
    assert ids.is_execution_id(made)
    assert ids.made_at(made) == at
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


@given(st.tuples(milliseconds, milliseconds), st.binary(min_size=10, max_size=10))
def test_uuid7s_sort_by_time(two, random):
    earlier, later = sorted(two)
    made = [ids.uuid7(EPOCH + timedelta(milliseconds=ms), random) for ms in (earlier, later)]
    assert made == sorted(made)


@given(st.binary(min_size=16, max_size=16))
def test_any_id_tells_a_time_or_none(raw):
    """Whoever makes an id chooses all its bits."""
    for version in (7, 8):
        made = ids._stamp(bytearray(raw), version)
        assert ids.is_execution_id(made)
        told = ids.made_at(made)
        assert told is None or version == 7
    assert ids.made_at("f" * 12 + "7fffbfff" + "f" * 12) is None


@given(st.text(), st.text())
def test_a_text_and_a_key_make_one_id(one, other):
    made = KEY.execution_id_of(one)
    assert ids.is_execution_id(made)
    assert uuid.UUID(made).version == 8
    assert (KEY.execution_id_of(other) == made) == (one == other)
    assert keys.SigningKey(b"other" + bytes(27)).execution_id_of(one) != made


def test_a_text_that_is_not_utf_8_makes_an_id_too():
    assert KEY.execution_id_of("caf\udce9") != KEY.execution_id_of("café")


def test_a_uuid7_takes_ten_random_bytes():
    with pytest.raises(ValueError):
        ids.uuid7(EPOCH, bytes(9))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID.upper(),
        ID[:-1],
        ID + "0",
        ID + "\n",
        str(uuid.UUID(ID)),
        uuid.UUID(int=0).hex,
        "0" * 12 + "4" + "0" * 3 + "8" + "0" * 15,
        "0" * 12 + "7" + "0" * 3 + "c" + "0" * 15,
        ID[:-1] + "٣",
    ],
)
def test_what_is_no_execution_id(text):
    assert not ids.is_execution_id(text)
    assert ids.made_at(text) is None
    assert object_keys.parse_request(f"requests/{KEY_ID}/{text}") is None


def test_object_keys_are_where_the_protocol_says():
    digest = "ab" * 32
    assert object_keys.request(KEY_ID, ID) == f"requests/{KEY_ID}/{ID}"
    assert object_keys.receipt(KEY_ID, ID, digest) == f"receipts/{KEY_ID}/{ID}/{digest}.json"
    assert object_keys.status(ID) == f"executions/{ID}/status.json"
    assert object_keys.started(ID) == f"executions/{ID}/run/started.json"
    assert object_keys.result(ID) == f"executions/{ID}/run/result.json"
    assert object_keys.log_chunk(ID, 1) == f"executions/{ID}/run/logs/00000001"
    assert object_keys.payload(ID) == f"payloads/{ID}"


def test_each_writer_stays_under_its_prefix():
    assert object_keys.request(KEY_ID, ID).startswith(object_keys.inbox_prefix(KEY_ID))
    for key in (object_keys.started(ID), object_keys.result(ID), object_keys.log_chunk(ID, 7)):
        assert key.startswith(object_keys.run_prefix(ID))
    assert not object_keys.status(ID).startswith(object_keys.run_prefix(ID))


@given(st.integers(1, 99_999_998))
def test_chunks_sort_by_number(number):
    assert object_keys.log_chunk(ID, number) < object_keys.log_chunk(ID, number + 1)


@pytest.mark.parametrize("digest", ["", "ab" * 31, "AB" * 32, "../" + "a" * 61, "ab" * 32 + "\n"])
def test_a_receipt_lies_under_a_digest(digest):
    with pytest.raises(ValueError):
        object_keys.receipt(KEY_ID, ID, digest)


def test_a_request_s_place_names_its_key_and_id():
    assert object_keys.parse_request(object_keys.request(KEY_ID, ID)) == (KEY_ID, ID)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "requests",
        f"requests/{KEY_ID}",
        f"requests/{KEY_ID}/",
        f"requests/{KEY_ID}/{ID}/",
        f"/requests/{KEY_ID}/{ID}",
        f"requests//{KEY_ID}/{ID}",
        f"requests/{KEY_ID}/../{KEY_ID}/{ID}",
        f"requests/{KEY_ID.upper()}/{ID}",
        f"receipts/{KEY_ID}/{ID}",
        f"requests/{KEY_ID}/{ID}.batch",
    ],
)
def test_any_other_place_is_no_request_s(place):
    assert object_keys.parse_request(place) is None


def test_a_batch_s_place_is_no_request_s():
    place = object_keys.batch(KEY_ID, ID)
    assert place == f"requests/{KEY_ID}/{ID}.batch"
    assert object_keys.parse_batch(place) == (KEY_ID, ID)
    assert object_keys.parse_request(place) is None
    for other in (
        object_keys.request(KEY_ID, ID),
        f"{place}.batch",
        f"requests/{KEY_ID}/.batch",
        f"x/{place}",
        ".batch",
    ):
        assert object_keys.parse_batch(other) is None, other
