"""What a shell is offered: names that the deployment knows, fixed words, and nothing where nothing can be known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from runvoy_cli import app
from runvoy_cli.home import config
from runvoy_cli.home.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.conftest import Run, World

ONE = "01890a5dac96774bbcceb302099a8057"
TWO = "01890a5dac96774bbcceb302099a9999"

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(runvoy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    """The lines that a shell gets for a line up to the cursor, from a deployment that is there."""
    return lambda line, replaced="", shell="bash": _offered(monkeypatch, capsys, line, replaced, shell)


def _offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, replaced: str, shell: str
) -> list[str]:
    with monkeypatch.context() as patch:
        patch.setenv("_RUNVOY_COMPLETE", f"complete_{shell}")
        patch.setenv("_RUNVOY_LINE", line)
        patch.setenv("_RUNVOY_WORD", replaced)
        with pytest.raises(SystemExit) as left:
            app.main([])
    assert left.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return [one for one in shown.out.splitlines() if one]


@pytest.mark.parametrize(
    "line", ["logs ", "wait ", "status ", "trace ", "kill ", "web ", "audit verify ", "audit --execution "]
)
def test_executions_are_offered_where_one_is_asked_for(world: World, offered: Offered, line: str) -> None:
    for one in (ONE, TWO):
        world.submit(world.request(request_id=one, command="echo hello", name="greet"))
    assert set(offered(f"runvoy {line}")) == {ONE, TWO}
    first, *_ = offered(f"runvoy {line}{ONE[:-4]}8", ONE[:-4] + "8", "zsh")
    assert first.startswith(f"{ONE}:QUEUED ")
    assert first.endswith("greet: echo hello")


def test_what_has_ended_is_not_offered_to_be_killed(world: World, offered: Offered, runvoy: Run) -> None:
    for one in (ONE, TWO):
        world.submit(world.request(request_id=one))
    Cache(config.home(), os.environ["RUNVOY_ENDPOINT"], world.signing_key.key_id).last_submitted = ONE
    assert set(offered("runvoy kill ")) == {"@last", ONE, TWO}
    assert runvoy("kill", ONE)[0] == 0
    assert offered("runvoy kill ") == [TWO]
    assert set(offered("runvoy logs ")) == {"@last", ONE, TWO}


def test_names_are_the_deployments(world: World, offered: Offered, runvoy: Run) -> None:
    assert runvoy("users", "create", "bob@example.com", "--role", "developer")[0] == 0
    assert offered("runvoy users role bob@e", "@e") == ["@example.com"]
    assert offered("runvoy list --owner b", "b") == ["bob@example.com"]
    assert "me" in offered("runvoy list --owner ")
    assert offered("runvoy users create ") == []
    assert offered("runvoy users role bob@example.com o", "o") == ["operator"]
    assert runvoy("images", "register", "alpine:3.20", "--name", "tools")[0] == 0
    assert offered("runvoy run --image ") == ["tools"]
    assert offered("runvoy images show t", "t", "zsh") == ["tools:alpine:3.20"]
    assert runvoy("images", "register", "alpine:3.19")[0] == 0
    assert offered("runvoy run --image alpine:3", "3") == ["3.19"]
    assert offered("runvoy run --image a", "a", "zsh") == ["alpine\\:3.19"]
    world.submit(world.request(request_id=ONE, locks=("prod-db",)))
    assert offered("runvoy locks show ") == ["prod-db"]
    assert offered("runvoy run --lock=pr", "pr") == ["prod-db"]
    assert offered("runvoy run --lock=pr", "--lock=pr", "zsh") == ["--lock=prod-db:1 in its queue"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runvoy list --status QU", ["QUEUED"]),
        ("runvoy run --if-locked ", ["wait", "fail"]),
        ("runvoy cost --by d", ["day"]),
        ("runvoy su", ["submit"]),
        ("runvoy users ", ["create", "list", "show", "role", "revoke"]),
        ("runvoy help users ", ["create", "list", "show", "role", "revoke"]),
        ("runvoy help su", ["submit"]),
        ("runvoy run --queue", ["--queue-timeout"]),
        ("runvoy run -- ec", []),
        ("runvoy no-such-command x", []),
        ("runvoy run 'not closed", []),
    ],
)
def test_fixed_words(offered: Offered, line: str, words: Sequence[str]) -> None:
    assert offered(line, line.rpartition(" ")[2]) == words


def test_commands_are_told_with_what_they_do(offered: Offered) -> None:
    told = offered("runvoy ", "", "zsh")
    assert "logs:Print an execution's log." in told
    assert len(told) == len(app.COMMANDS)
    assert "get:Print a secret's value." in offered("runvoy secrets ", "", "zsh")


def test_profiles_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text("profiles:\n  prod: {}\n  test: {}\n")
    assert _offered(monkeypatch, capsys, "runvoy list --profile p", "p", "bash") == ["prod"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RUNVOY_ENDPOINT": "http://127.0.0.1:9"},
        {"RUNVOY_ENDPOINT": "http://127.0.0.1:9", "RUNVOY_DEPLOYMENT": "x", "RUNVOY_API_KEY": "no key"},
    ],
)
def test_where_nothing_answers_nothing_is_offered_said_or_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    for name in ("ENDPOINT", "DEPLOYMENT", "API_KEY", "PROFILE"):
        monkeypatch.delenv(f"RUNVOY_{name}", raising=False)
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _offered(monkeypatch, capsys, "runvoy logs ", "", "bash") == []
    assert not (tmp_path / "home").exists()


def test_a_deployment_that_is_away_offers_nothing(
    runvoy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNVOY_ENDPOINT", "http://127.0.0.1:9")
    assert _offered(monkeypatch, capsys, "runvoy run --image ", "", "zsh") == []


ZSH = """
compdef() { :; }
compadd() { :; }
_files() { print FILES; }
_describe() { print -r -- "$@[4,-1]"; print -rl -- "${(@P)3}"; }
env() { command env "${@[1,-2]}" $RUNVOY_PYTHON -m runvoy_cli.app; }
source <(command env $RUNVOY_PYTHON -m runvoy_cli.app completion zsh)
words=("$@"); CURRENT=$#
_runvoy_completion
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["users", "cr"],
            ["", "create:Make a user, or bring a revoked one back, and print the claim token of their key."],
        ),
        (["list", "--status", "RUN"], ["", "RUNNING"]),
        (["playbook", "run", "greet", "--param", ""], ["-S ", "who=:Whom"]),
        (["playbook", "run", "greet", "--param", "who=b"], ["", "who=bob"]),
        (["run", "--", "ls", ""], ["FILES"]),
    ],
)
def test_completion_in_zsh(tmp_path: Path, words: Sequence[str], told: Sequence[str]) -> None:
    (tmp_path / ".runvoy").mkdir()
    (tmp_path / ".runvoy" / "greet.yml").write_text(
        'parameters: {who: {enum: [ann, bob], description: Whom}}\ncommands: ["echo ${{ who }}"]\n'
    )
    done = subprocess.run(
        ["zsh", "-fc", ZSH, "zsh", "runvoy", *words],
        env={**os.environ, "RUNVOY_PYTHON": sys.executable, "RUNVOY_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == list(told), done.stderr
