"""Executions named by a part of their id, or as the last that was submitted: which one that is, and what happens where it is none
or several."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.short_ids import Written
from runvoy_cli.deployment.target import Target
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import Transport
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.terminal.render import short_id
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.members import Role
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.conftest import Run, World

ONE = "01890a5dac96774bbcceb302099a8057"
TWIN = "01890a5dac96774bbcceb302099a9999"  # of the same moment
LATER = "01890a5e0000774bbcceb302099a8057"  # with the same end
OTHER = "0189ffffffff774bbcceb30209901890"  # which ends as the others begin


def submit(world: World, *execution_ids: str) -> None:
    for execution_id in execution_ids:
        world.submit(world.request(request_id=execution_id, command=f"echo {execution_id[-4:]}"))


def found(runvoy: Run, text: str) -> str:
    code, out, err = runvoy("status", text, "--json")
    assert code == 0, err
    return str(json.loads(out)["execution_id"])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (ONE, Written(ONE, ONE)),
        ("01890A5D-AC96-774B-BCCE-B302099A8057", Written(ONE, ONE)),
        ("0189", Written("0189", "0189")),
        ("01890a5d-ac96", Written("01890a5d-ac96", "01890a5dac96")),
        (short_id(ONE), Written("01890a5d…8057", "01890a5d", "8057")),
        ("01890a5d..8057", Written("01890a5d..8057", "01890a5d", "8057")),
        ("...8057", Written("...8057", "", "8057")),
        ("0189…", Written("0189…", "0189", "")),
        ("@last", Written("@last", "@last")),
        ("@LAST", Written("@last", "@last")),
    ],
)
def test_what_can_be_written_for_an_execution(text: str, written: Written) -> None:
    assert short_ids.read(text) == written
    assert written.text == short_ids.LAST or written.fits(ONE)


@pytest.mark.parametrize(
    "text",
    ["", "018", "…", "01…8", "deploy-42", "@first", ONE + "0", "0" * 32, f"{ONE}…8057", "0189.8057", "01890a5d…80…57"],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(UsageProblem, match="is no execution id"):
        short_ids.read(text)


def test_the_ellipsis_is_known_whatever_the_locale_made_of_it() -> None:
    mangled = "01890a5d…8057".encode().decode("ascii", "surrogateescape")
    assert short_ids.read(mangled) == Written("01890a5d…8057", "01890a5d", "8057")
    with pytest.raises(UsageProblem, match="not valid UTF-8"):
        short_ids.read("01890a5d\udcff")


def test_either_end_is_enough_if_one_execution_fits(world: World, runvoy: Run) -> None:
    submit(world, ONE, TWIN, OTHER)
    assert found(runvoy, "8057") == ONE
    assert found(runvoy, "01890a5dac96774bbcceb302099a9") == TWIN
    assert found(runvoy, short_id(TWIN)) == TWIN
    assert found(runvoy, "0189f") == OTHER
    assert runvoy("trace", "9999")[0] == 0
    assert runvoy("wait", "9999", "--timeout", "0")[0] == 120
    assert runvoy("audit", "--execution", "8057", "--json")[1].count(ONE) >= 1


def test_what_fits_several_names_them_and_does_nothing(world: World, runvoy: Run) -> None:
    submit(world, ONE, TWIN, LATER, OTHER)
    code, out, err = runvoy("status", "01890a5d")
    assert (code, out) == (2, "")
    assert "01890a5d is short for 2 executions:" in err
    assert f"  {ONE}  QUEUED, " in err
    assert ": echo 9999" in err
    assert found(runvoy, "1890") == OTHER, "no other begins or ends so"
    code, _, err = runvoy("logs", "8057", "--json")
    assert code == 2
    assert json.loads(err)["error"]["details"]["executions"] == [LATER, ONE]
    code, _, err = runvoy("wait", TWIN, "0189")
    assert (code, "short for 4 executions" in err) == (2, True)


def test_what_fits_none_is_not_found(world: World, runvoy: Run) -> None:
    submit(world, ONE)
    code, _, err = runvoy("status", "beef")
    assert code == 1
    assert (
        "no execution has an id that begins or ends with beef, among the newest 1 that you may see (NOT_FOUND)" in err
    )
    assert runvoy("wait", "beef")[0] == 121


def test_ones_own_are_found_behind_any_number_of_others(world: World, runvoy: Run, tmp_path: Path) -> None:
    submit(world, ONE)
    bob = world.add_user("bob", Role.DEVELOPER)
    for number in range(5):
        world.clock.move(seconds=1)
        world.submit(world.request(request_id=f"{OTHER[:-4]}000{number}"), bob)
    world.submit(world.request(request_id=TWIN), bob)
    target = Target(runvoy_endpoint(runvoy), "here", world.signing_key)
    client = Client(target, lambda of: Cache(tmp_path, of.endpoint, "k"), Transport(), 30.0)
    [found] = short_ids.resolve([short_ids.read("8057")], client, most=3)
    assert found == ONE
    with pytest.raises(RunvoyError, match="among the newest 4 that you may see"):
        short_ids.resolve([short_ids.read("0000")], client, most=3)
    with pytest.raises(UsageProblem, match="01890a5d is short for 2 executions"):
        short_ids.resolve([short_ids.read("01890a5d")], client, most=3)


def test_whole_ids_ask_for_no_list(world: World, runvoy: Run) -> None:
    submit(world, ONE)
    code, _, err = runvoy("status", ONE, "--debug")
    assert (code, "GET" in err, "/executions?" in err) == (0, True, False)


def test_a_short_id_finds_only_what_the_caller_may_see(
    world: World, runvoy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(world, ONE)
    bob = world.add_user("bob", Role.DEVELOPER)
    world.submit(world.request(request_id=TWIN), bob)
    monkeypatch.setenv("RUNVOY_API_KEY", bob.to_api_key())
    assert found(runvoy, "01890a5d") == TWIN
    assert runvoy("status", "8057")[0] == 1


def test_without_a_terminal_only_whole_ids_are_killed(world: World, runvoy: Run) -> None:
    submit(world, ONE, TWIN)
    for short in ("8057", short_id(ONE), "@last"):
        code, _, err = runvoy("kill", TWIN, short)
        assert code == 2
        assert "there is no terminal to ask on" in err
    assert world.status(TWIN).state is State.QUEUED
    assert runvoy("kill", TWIN)[0] == 0
    assert world.status(ONE).state is State.QUEUED


def test_last_is_what_was_submitted_from_here(world: World, runvoy: Run, tmp_path: Path) -> None:
    submit(world, ONE, TWIN)
    code, _, err = runvoy("status", "@last")
    assert code == 1
    assert "there is no @last: nothing was submitted from here with this key lately (NOT_FOUND)" in err
    cache = Cache(tmp_path / "home", runvoy_endpoint(runvoy), world.signing_key.key_id)
    for one in (TWIN, ONE):
        cache.last_submitted = one
        assert found(runvoy, "@last") == one
    other = Cache(tmp_path / "home", runvoy_endpoint(runvoy), "another key's")
    assert other.last_submitted is None


def runvoy_endpoint(runvoy: Run) -> str:
    return str(json.loads(runvoy("health", "--json")[1])["endpoint"])


@pytest.mark.parametrize("content", [b"", b"\xff", b"../../x", ONE.encode() + b"\n"])
def test_a_broken_memory_of_the_last_one_is_none(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path, "e", "k")
    cache.last_submitted = ONE
    assert Cache(tmp_path, "e", "k").last_submitted == ONE
    [path] = (tmp_path / "cache").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(content)
    assert Cache(tmp_path, "e", "k").last_submitted is None
