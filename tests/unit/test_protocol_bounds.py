"""Bounds at their edges, and that no refusal grows with what was refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runvoy_protocol import codec, envelope, ids, images, members, object_keys, requests, secret_messages
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.keys import SigningKey

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = SigningKey(bytes(range(32)))
LONG = "ä" * 100_000
MOST_CHARACTERS = 1_000
DIGEST = "0" * 64


def key_of(length: int) -> str:
    """An object key of that many characters: segments of 200, and a last one of what is left."""
    whole, left = divmod(length, 201)
    return "/".join([*("a" * 200 for _ in range(whole)), "b" * left])


def run_request(**changes: Any) -> requests.RunRequest:
    fields: dict[str, Any] = {"command": "true", "deployment_id": "here", "request_id": ids.uuid7(NOW, bytes(10))}
    times = {"issued_at": NOW, "expires_at": NOW + timedelta(minutes=1)}
    return requests.RunRequest(version=1, **{**fields, **times, **changes})


def secret(**changes: Any) -> None:
    fields: dict[str, Any] = {"name": "db", "env_name": "DB", "description": "", "shared_with": ()}
    secret_messages.check_secret(**{**fields, **changes})


def terms(**limits: Any) -> None:
    members.check_terms(members.KeyTerms(limits=members.KeyLimits(**limits)))


def pin(parameters: int) -> tuple[members.PlaybookPin, ...]:
    return (
        members.PlaybookPin(
            name="deploy", digest=DIGEST, parameters=tuple(f"P{number}" for number in range(parameters))
        ),
    )


EDGES: dict[str, tuple[Callable[[Any], object], Any, Any]] = {
    "an object key": (object_keys.split, key_of(512), key_of(513)),
    "a prefix of one": (object_keys.check_prefix, key_of(512), key_of(513)),
    "a segment": (object_keys.split, "a" * 200, "a" * 201),
    "a segment of a prefix": (object_keys.check_prefix, "a" * 200 + "/", "a" * 201 + "/"),
    "a user's name": (members.check_user_name, "a" * 128, "a" * 129),
    "a key's name": (lambda name: members.check_terms(members.KeyTerms(name=name)), "a" * 128, "a" * 129),
    "images of a key": (lambda count: terms(images=tuple(map(str, range(count)))), 64, 65),
    "the name of one of them": (lambda name: terms(images=(name,)), "a" * 512, "a" * 513),
    "labels of a key": (lambda count: terms(labels={f"l{number}": "" for number in range(count)}), 32, 33),
    "a label's value, of a key": (lambda value: terms(labels={"a": value}), "v" * 256, "v" * 257),
    "parameters of a pinned playbook": (lambda count: terms(playbooks=pin(count)), 64, 65),
    "vCPUs": (lambda cpu: requests.check(run_request(cpu=cpu)), 64, 63),
    "more vCPUs": (lambda cpu: requests.check(run_request(cpu=cpu)), 16_384, 16_385),
    "memory": (lambda memory: requests.check(run_request(memory_mib=memory)), 64, 63),
    "more memory": (lambda memory: requests.check(run_request(memory_mib=memory)), 122_880, 122_881),
    "a name for people": (lambda name: requests.check(run_request(name=name)), "n" * 128, "n" * 129),
    "an image, of a run": (lambda image: requests.check(run_request(image=image)), "i" * 512, "i" * 513),
    "a registered image's reference": (
        lambda reference: images.check(images.RegisterImage(reference=reference, name="i")),
        "i" * 512,
        "i" * 513,
    ),
    "a registered image's name": (
        lambda name: images.check(images.RegisterImage(reference="i", name=name)),
        "i" * 500,
        "i" * 501,
    ),
    "its description": (
        lambda text: images.check(images.RegisterImage(reference="a", description=text)),
        "d" * 512,
        "d" * 513,
    ),
    "a secret's description": (lambda text: secret(description=text), "d" * 256, "d" * 257),
    "those a secret is shared with": (
        lambda count: secret(shared_with=tuple(f"u{number}" for number in range(count))),
        64,
        65,
    ),
}


@pytest.mark.parametrize("what", EDGES)
def test_a_bound_holds_at_its_edge(what: str) -> None:
    check, good, bad = EDGES[what]
    check(good)
    with pytest.raises((RunvoyError, ValueError)):
        check(bad)


def test_a_key_of_the_longest_length_is_that_long() -> None:
    assert [len(key_of(length)) for length in (512, 513)] == [512, 513]


REFUSED: dict[str, Callable[[], object]] = {
    "an object key": lambda: object_keys.split(LONG),
    "a prefix": lambda: object_keys.check_prefix(LONG),
    "an envelope of another kind": lambda: envelope.parse(
        codec.encode(envelope.Envelope(1, "ä" * 100_000, b"", ())), envelope.PayloadType.BATCH
    ),
    "a user's name": lambda: members.check_user_name(LONG),
    "names in limits": lambda: terms(images=(LONG,), locks=(LONG,), labels={LONG: LONG}),
    "names in a request": lambda: requests.check(
        run_request(env={LONG: "\0"}, locks=(LONG,), secrets=(LONG,), labels={LONG: LONG}, image=LONG, name=LONG)
    ),
    "a variable of a request": lambda: requests.check(run_request(env={"A" * 100_000: "\0"})),
    "an image": lambda: images.check(images.RegisterImage(reference=LONG, name=LONG, platform=LONG, description=LONG)),
    "a secret": lambda: secret(name=LONG, env_name=LONG, description=LONG, shared_with=(LONG,)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_refusal_grows_with_what_was_refused(what: str) -> None:
    with pytest.raises((RunvoyError, ValueError)) as refused:
        REFUSED[what]()
    assert len(str(refused.value)) < MOST_CHARACTERS


def test_five_problems_are_told_and_no_more() -> None:
    names = tuple(f"{letter} {letter}" for letter in "abcdefg")
    for check in (
        lambda: requests.check(run_request(locks=names)),
        lambda: terms(locks=names),
        lambda: secret(name="a b", env_name="1", description="\0", shared_with=names),
    ):
        with pytest.raises(RunvoyError) as refused:
            check()
        assert refused.value.message.count("; ") <= 4
    with pytest.raises(RunvoyError) as refused:
        requests.check(run_request(locks=names))
    assert refused.value.message.count("; ") == 4
