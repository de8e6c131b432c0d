"""A key that is limited to a playbook: what the deployment makes of requests that are the playbook, and of all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.unit.calls import ok

from runvoy_agent.core.model import Key
from runvoy_agent.handlers.documents import store
from runvoy_cli.playbooks import compiling, finding, reader
from runvoy_protocol.errors import ErrorCode
from runvoy_protocol.members import KeyLimits, Role
from runvoy_protocol.requests import GitSource, RunRequest

if TYPE_CHECKING:
    from tests.unit.conftest import World

TEXT = """\
description: Move the database to a new schema
commands:
  - echo "moving ${{ stage }} by ${{ steps }}"
  - [migrate, --stage, "${{ stage }}"]
env: {TOOL: migrate, TARGET: "db-${{ stage }}"}
locks: [database]
timeout: 20m
labels: {stage: "${{ stage }}"}
parameters:
  stage: {enum: [test, prod]}
  steps: {type: int, default: 1}
  note: {required: false}
"""


def book(text: str = TEXT, name: str = "migrate"):
    return reader.read(name, Path(f"{name}.yml"), text)


def made(world: World, text: str = TEXT, name: str = "migrate", **given: str):
    chosen = book(text, name)
    values = chosen.values_of({"stage": "test", **given})
    own = ("deployment_id", "request_id", "issued_at", "expires_at")
    addressed = world.request()
    template = compiling.to_request(chosen, values)
    return msgspec.structs.replace(template, **{field: getattr(addressed, field) for field in own})


@pytest.fixture
def limited(world):
    """A developer's key that is limited to the playbook, as `keys create --only-playbook` would make it."""
    signing_key = world.add_user("ci", Role.DEVELOPER)
    key = store.load(world.records, store.key_key(signing_key.key_id), Key)
    assert key.document is not None
    limits = KeyLimits(playbooks=(compiling.pin(book()),))
    world.records.commit([store.put(key, msgspec.structs.replace(key.document, limits=limits))])
    return signing_key


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stage": "prod", "steps": "12"},
        {"note": "$(touch x) ` ' \" \n é"},
    ],
)
def test_the_playbook_is_accepted_with_every_value(world, limited, given):
    receipt = world.submit(made(world, **given), limited)
    assert receipt.outcome == "accepted", receipt


def test_who_waits_how_and_under_what_name_is_the_callers_choice(world, limited):
    request = msgspec.structs.replace(
        made(world), labels={"x": "y"}, name="mine", if_locked="fail", queue_timeout_seconds=60
    )
    assert world.submit(request, limited).outcome == "accepted"


def test_a_value_that_no_client_would_send_is_let_through_to_the_check_beside_the_command(world, limited):
    """The deployment knows no types: the text it was pinned to refuses the value (test_playbook_shell.py)."""
    request = made(world)
    forged = msgspec.structs.replace(request, env={**request.env, "PARAM_STAGE": "anything"})
    assert world.submit(forged, limited).outcome == "accepted"
    assert "case \"$PARAM_STAGE\" in 'test'|'prod')" in str(forged.command)


DEVIATIONS: dict[str, Callable[[RunRequest], dict[str, Any]]] = {
    "another command": lambda r: {"command": f"{r.command}\nid"},
    "an argv": lambda r: {"command": ("/bin/sh", "-c", r.command)},
    "an image": lambda r: {"image": "alpine"},
    "another value of its variable": lambda r: {"env": {**r.env, "TOOL": "other"}},
    "a variable more": lambda r: {"env": {**r.env, "LD_PRELOAD": "/tmp/x.so"}},
    "a variable of the user's environment": lambda r: {"env": {**r.env, "FROM_RUNVOY_USER": "x"}},
    "a variable that parameters have a part in": lambda r: {"env": {**r.env, "TARGET": "db-x"}},
    "a parameter that is none": lambda r: {"env": {**r.env, "PARAM_OTHER": "x"}},
    "a variable less": lambda r: {"env": {name: value for name, value in r.env.items() if name != "TOOL"}},
    "a secret": lambda r: {"secrets": ("other",)},
    "a lock more": lambda r: {"locks": ("database", "other")},
    "no lock": lambda r: {"locks": ()},
    "a longer deadline": lambda r: {"timeout_seconds": r.timeout_seconds + 1},
    "more cpu": lambda r: {"cpu": 1024},
    "more memory": lambda r: {"memory_mib": 1024},
    "a repository": lambda r: {"git": GitSource("https://git.example.com/r")},
    "isolation": lambda r: {"isolation": "process"},
    "no playbook": lambda r: {"playbook": None},
    "another name": lambda r: {"playbook": "other"},
}


@pytest.mark.parametrize("what", DEVIATIONS)
def test_every_deviation_is_refused(world, limited, what):
    ok(world, "POST", "/images", {"reference": "alpine"})  # there is such an image: it is the key that may not use it
    request = made(world)
    receipt = world.submit(msgspec.structs.replace(request, **DEVIATIONS[what](request)), limited)
    assert (receipt.outcome, receipt.code) == ("refused", ErrorCode.FORBIDDEN)
    assert "the key is limited" in receipt.message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[test, prod]", "[test, prod, dev]"),
        ("by ${{ steps }}", "by about ${{ steps }}"),
        ("default: 1", "default: 2"),
        ("timeout: 20m", "timeout: 21m"),
        ("locks: [database]", "locks: [data]"),
        ("db-${{ stage }}", "${{ stage }}"),
        ("note: {required: false}", "remark: {required: false}"),
    ],
)
def test_a_playbook_that_was_changed_is_another_one(world, limited, old, new):
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    receipt = world.submit(made(world, changed), limited)
    assert (receipt.outcome, receipt.code) == ("refused", ErrorCode.FORBIDDEN)


def test_words_for_people_change_nothing(world, limited):
    changed = TEXT.replace("Move the database", "# moves\n  it").replace("{enum:", "{description: Which, enum:")
    changed = changed.replace('labels: {stage: "${{ stage }}"}', "labels: {a: b}")
    assert compiling.pin(book(changed)) == compiling.pin(book())
    assert world.submit(made(world, changed), limited).outcome == "accepted"


def test_a_pin_does_not_depend_on_the_machine(tmp_path, monkeypatch):
    """Not on where the file lies, what the environment or the configuration says, or what its values would be."""
    pins = set()
    for number in range(2):
        folder = tmp_path / f"checkout{number}"
        (folder / ".runvoy").mkdir(parents=True)
        (folder / ".git").mkdir()
        (folder / ".runvoy" / f"migrate.{('yml', 'yaml')[number]}").write_text(TEXT)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / f"home{number}"))
        monkeypatch.setenv("RUNVOY_USER_NUMBER", str(number))
        monkeypatch.setenv("PARAM_STAGE", str(number))
        pins.add(finding.pin_of("migrate"))
    [pin] = pins
    assert pin == compiling.pin(book())
    assert pin.parameters == ("PARAM_NOTE", "PARAM_STAGE", "PARAM_STEPS")


def test_the_digest_of_today():
    """A change of what is compiled breaks every key that is limited to a playbook: it is made on purpose, and told in the
    changelog."""
    assert compiling.pin(book()).digest == "42699130487591ccb94fc66a91e4514af84d2d56f70bb36ad5ba1d80dd4088f8"
