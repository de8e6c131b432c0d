"""A payload that is cut off or spoiled: nothing is claimed, and what is said of it tells none of its secrets."""

from __future__ import annotations

import base64
import json

import pytest

from runvoy_agent.runner.payload import PayloadError, parse

SECRET = base64.b64encode(b"hunter2-hunter2").decode()
WHOLE = json.dumps(
    {
        "execution_id": "0" * 32,
        "attempt": 1,
        "execution_key": "00" * 32,
        "command": ["true"],
        "timeout_seconds": 1,
        "secrets": {"TOKEN": SECRET},
        "env": {"NAME": "Jürgen", "ODD": "x"},
    },
    ensure_ascii=False,
).encode()


def test_the_whole_is_read() -> None:
    assert parse(WHOLE).secrets == {b"TOKEN": b"hunter2-hunter2"}


def test_what_is_said_of_a_part_tells_no_secret() -> None:
    """A launcher may die in the midst of a character as well."""
    for size in range(len(WHOLE)):
        with pytest.raises(PayloadError) as caught:
            parse(WHOLE[:size])
        assert caught.value.__cause__ is None, size
        assert SECRET[:8] not in f"{caught.value!r} {caught.value}", size


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"x"', b'"\\ud800"'),
        (b'"x"', b'"\\u0000"'),
        (SECRET.encode(), SECRET.encode()[:-1] + b"!"),
        (SECRET.encode(), base64.b64encode(b"hunter2-\0hunter2")),
        (b'"TOKEN"', b'"TO=KEN"'),
        (b'"attempt": 1', b'"attempt": "1"'),
    ],
)
def test_what_is_said_of_a_spoiled_one_tells_no_secret(old: bytes, new: bytes) -> None:
    assert old in WHOLE
    with pytest.raises(PayloadError) as caught:
        parse(WHOLE.replace(old, new))
    assert SECRET[:8] not in f"{caught.value!r} {caught.value}"
