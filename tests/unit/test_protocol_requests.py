"""Run requests: every field's limits, and what makes two tries the same request."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import LONGEST_ID

from runvoy_protocol import codec, envelope, keys, requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.requests import GitSource, RunRequest

KEY = keys.SigningKey(bytes(32))
ID = "019ab1c2d3e47f0089abcdef01234567"
NOW = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
REQUEST = RunRequest(1, "dep", ID, NOW, NOW + timedelta(minutes=10), ("echo", "hello"))
LATEST = datetime.max.replace(tzinfo=UTC)


def changed(**fields):
    return msgspec.structs.replace(REQUEST, **fields)


def refusal(request):
    with pytest.raises(RunvoyError) as caught:
        requests.check(request)
    with pytest.raises(RunvoyError) as sealing:
        requests.seal_request(request, KEY)
    assert sealing.value.code is caught.value.code
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command": "echo hello"},
        {"command": ("true", "", " ", "--help", "$(id)", "two\nlines", "\\", "ä€𝄞", "\x01\x7f")},
        {"command": ("x", "a" * (requests.MAX_ARGUMENT_BYTES - 1))},
        {"expires_at": NOW + requests.MAX_LIFETIME},
        {"issued_at": LATEST - timedelta(minutes=5), "expires_at": LATEST},
        {"issued_at": datetime.min.replace(tzinfo=UTC), "expires_at": datetime.min.replace(tzinfo=UTC, minute=1)},
        {"env": {"A": "", "_": "x", "a9": "ä\n", "LONG": "v" * requests.MAX_ENV_VALUE_BYTES}},
        {"locks": tuple(f"l{number}" for number in range(8))},
        {"locks": ("prod/db:eu-1@x+y.z_",)},
        {"labels": {"team": "", "k": "ä" * 256}},
        {"timeout_seconds": 1, "queue_timeout_seconds": 1, "cpu": 64, "memory_mib": 64},
        {"timeout_seconds": requests.MAX_TIMEOUT_SECONDS, "cpu": 16_384, "memory_mib": 122_880},
        {"git": GitSource("https://example.com/x.git", "main", "a/b")},
        {"git": GitSource("https://e.example/" + "x" * 2030, "r" * 256, "p" * 1024)},
        {"image": "i" * 512, "playbook": "p" * 128, "name": "n" * 128, "deployment_id": "d" * 128},
        {"secrets": tuple(f"s{number}" for number in range(64))},
        {"labels": {f"l{number}": "" for number in range(32)}},
        {"queue_timeout_seconds": requests.MAX_TIMEOUT_SECONDS},
        {"env": {"A" * 255: ""}, "locks": ("l" * 128,)},
        {"image": "tools:1", "playbook": "deploy", "name": "Übung 1", "isolation": "process"},
    ],
    ids=lambda changed: str(changed)[:LONGEST_ID],
)
def test_a_good_request_goes_through(fields):
    request = changed(**fields)
    sealed = envelope.parse(requests.seal_request(request, KEY), envelope.PayloadType.RUN_REQUEST)
    assert requests.decode(envelope.verified_payload(sealed, KEY.key_id, KEY.public_key)) == request


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"request_id": "x"}, "request_id"),
        ({"request_id": ID.upper()}, "request_id"),
        ({"deployment_id": ""}, "deployment_id"),
        ({"deployment_id": "a b"}, "deployment_id"),
        ({"issued_at": NOW.replace(tzinfo=None)}, "issued_at"),
        ({"expires_at": NOW.replace(tzinfo=None)}, "expires_at"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": NOW - timedelta(seconds=1)}, "expires_at"),
        ({"expires_at": NOW + timedelta(hours=1, microseconds=1)}, "expires_at"),
        ({"expires_at": LATEST}, "expires_at"),
        ({"issued_at": LATEST}, "expires_at"),
        ({"command": ()}, "command"),
        ({"command": ""}, "command"),
        ({"command": ("", "x")}, "command"),
        ({"command": ("x", "a\0b")}, "NUL"),
        ({"command": ("x", "caf\udce9")}, "UTF-8"),
        ({"command": "caf\udce9"}, "UTF-8"),
        ({"env": {"": "x"}}, "environment variable"),
        ({"env": {"1A": "x"}}, "environment variable"),
        ({"env": {"A=B": "x"}}, "environment variable"),
        ({"env": {"A\n": "x"}}, "environment variable"),
        ({"env": {"Ä": "x"}}, "environment variable"),
        ({"env": {"A" * 256: "x"}}, "environment variable"),
        ({"env": {"A\udcff": "\0"}}, "environment variable"),
        ({"env": {"RUNVOY_LOCK_FENCE": "9"}}, "reserved"),
        ({"env": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "x"}}, "reserved"),
        ({"env": {"A": "\0"}}, "NUL"),
        ({"env": {"A": "\udcff"}}, "UTF-8"),
        ({"locks": tuple(f"l{number}" for number in range(9))}, "at most 8"),
        ({"locks": ("a", "a")}, "twice"),
        ({"locks": ("",)}, "locks"),
        ({"locks": ("-x",)}, "locks"),
        ({"locks": ("a b",)}, "locks"),
        ({"locks": ("a\n",)}, "locks"),
        ({"locks": ("a" * 129,)}, "locks"),
        ({"secrets": tuple(f"s{number}" for number in range(65))}, "at most 64"),
        ({"secrets": ("s", "s")}, "twice"),
        ({"labels": {f"l{number}": "" for number in range(33)}}, "at most 32"),
        ({"labels": {"a b": ""}}, "label"),
        ({"labels": {"a": "x\n"}}, "label"),
        ({"labels": {"a": "x" * 257}}, "label"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": requests.MAX_TIMEOUT_SECONDS + 1}, "timeout_seconds"),
        ({"queue_timeout_seconds": 0}, "queue_timeout_seconds"),
        ({"cpu": 63}, "cpu"),
        ({"cpu": 16_385}, "cpu"),
        ({"memory_mib": 63}, "memory_mib"),
        ({"memory_mib": 122_881}, "memory_mib"),
        ({"image": ""}, "image is"),
        ({"image": "a\x1b[2J"}, "image"),
        ({"image": "a" * 513}, "image"),
        ({"name": "\u202e"}, "name"),
        ({"playbook": ""}, "playbook is"),
        ({"git": GitSource("")}, "git_repo is empty"),
        ({"git": GitSource("x" * 2049)}, "git_repo"),
        ({"git": GitSource("/x", "r" * 257)}, "git_ref"),
        ({"git": GitSource("/x", "", "p" * 1025)}, "git_path"),
        ({"git": GitSource("x\n")}, "git_repo"),
        ({"playbook": "p" * 129}, "playbook"),
        ({"name": "n" * 129}, "name is"),
        ({"name": ""}, "name is"),
        ({"env": {"ECS_X": ""}}, "reserved"),
        ({"deployment_id": "d" * 129}, "deployment_id"),
        ({"queue_timeout_seconds": requests.MAX_TIMEOUT_SECONDS + 1}, "queue_timeout_seconds"),
        ({"git": GitSource("--upload-pack=x")}, "git_repo"),
        ({"git": GitSource("/x", "-b")}, "git_ref"),
        ({"git": GitSource("/x", "", "-")}, "git_path"),
    ],
    ids=lambda changed: str(changed)[:LONGEST_ID],
)
def test_a_bad_field_is_named(fields, named):
    error = refusal(changed(**fields))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert named in error.message
    assert error.message.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ("x", "a" * requests.MAX_ARGUMENT_BYTES)},
        {"command": "ä" * (requests.MAX_ARGUMENT_BYTES // 2)},
        {"env": {"A": "v" * (requests.MAX_ENV_VALUE_BYTES + 1)}},
    ],
    ids=["word", "line", "value"],
)
def test_a_field_over_its_size_is_too_large(fields):
    assert refusal(changed(**fields)).code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize(
    "command", [("x",) * 40_000, tuple("a" * 100_000 for _ in range(3))], ids=["many words", "many bytes"]
)
def test_what_the_deployment_would_refuse_is_refused_before_it_is_sent(command):
    request = changed(command=command)
    requests.check(request)
    with pytest.raises(RunvoyError) as caught:
        requests.seal_request(request, KEY)
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_many_problems_make_one_short_message():
    error = refusal(changed(env={f"{number}": "\0" for number in range(10_000)}, image=""))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "payload",
    [
        codec.encode(REQUEST)[:-1],
        codec.encode(changed(if_locked="maybe")),
        codec.encode(changed(isolation="vm")),
        codec.encode(changed(timeout_seconds=True)),
        codec.encode(changed(timeout_seconds="600")),
        codec.encode(changed(command=(b"echo",))),
        codec.encode(changed(command=None)),
        codec.encode(changed(issued_at="2026-02-03T04:05:06Z")),
        codec.encode(changed(issued_at=1770091506)),
        codec.encode(changed(git=("x",))),
        codec.encode(changed(labels=[])),
        codec.encode(changed(version=0)),
        codec.encode(changed(version=2)),
    ],
)
def test_a_payload_of_other_types_is_refused(payload):
    with pytest.raises(RunvoyError) as caught:
        requests.decode(payload)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_a_naive_time_is_refused_though_it_is_canonical():
    payload = codec.encode(changed(issued_at=NOW.replace(tzinfo=None)))
    with pytest.raises(RunvoyError) as caught:
        requests.decode(payload)
    assert "time zone" in caught.value.message


OTHER_VALUES = {
    "version": 2,
    "deployment_id": "other",
    "request_id": ID[:-1] + "0",
    "command": ("echo", "hello "),
    "image": "x",
    "env": {"A": ""},
    "secrets": ("s",),
    "locks": ("l",),
    "if_locked": "fail",
    "timeout_seconds": 601,
    "queue_timeout_seconds": 1,
    "cpu": 256,
    "memory_mib": 512,
    "git": GitSource("/x"),
    "playbook": "p",
    "labels": {"a": ""},
    "name": "n",
    "isolation": "process",
}


def test_every_field_but_the_times_makes_another_content():
    assert OTHER_VALUES.keys() | {"issued_at", "expires_at"} == set(RunRequest.__struct_fields__)
    digests = {requests.content_digest(changed(**{field: value})) for field, value in OTHER_VALUES.items()}
    assert len(digests | {requests.content_digest(REQUEST)}) == len(OTHER_VALUES) + 1


def test_signing_anew_keeps_the_content():
    later = changed(issued_at=NOW + timedelta(hours=2), expires_at=NOW + timedelta(hours=3))
    assert requests.content_digest(later) == requests.content_digest(REQUEST)
    assert requests.seal_request(later, KEY) != requests.seal_request(REQUEST, KEY)


def test_a_line_and_its_argv_are_not_the_same_content():
    forms = ["a b", ("a b",), ("a", "b"), ("a", "b", "")]
    assert len({requests.content_digest(changed(command=form)) for form in forms}) == len(forms)


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_words_arrive_as_they_were(words):
    request = changed(command=("x", *words))
    assert requests.decode(requests.encode(request)).command == ("x", *words)


@given(st.text())
def test_is_utf8_says_whether_text_can_be_encoded(text):
    assert requests.is_utf8(text)
    assert not requests.is_utf8(text + "\udcff")
