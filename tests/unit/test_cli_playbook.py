"""`runvoy playbook` up to the moment where a request would be sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.calls import ok
from tests.unit.served import served

from runvoy_agent.core.admission import Capabilities
from runvoy_cli import app

TEXT = """\
description: Deploy the shop
commands:
  - echo "deploying ${{ stage }} for ${{ who }}"
image: alpine
env: {TOOL: x, NOTE: "by ${{ who }}"}
secrets: [deployer]
locks: [shop]
timeout: 20m
git_repo: https://git.example.com/shop
labels: {stage: "${{ stage }}"}
parameters:
  stage: {enum: [test, prod], description: Where}
  who: {default: nobody}
  token: {secret: true, required: false}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    (folder / ".runvoy").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".runvoy" / "deploy.yml").write_text(TEXT)
    for name in ("RUNVOY_API_KEY", "RUNVOY_ENDPOINT", "RUNVOY_DEPLOYMENT", "RUNVOY_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def runvoy(project, capsys):
    def run(*arguments):
        code = app.main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def deployment(world, project, monkeypatch):
    """A deployment that would run it."""
    able = Capabilities("process", frozenset({"process", "container"}))
    world.deployment = world.deployment._replace(capabilities=able)
    for name in ("alpine", "other"):
        ok(world, "POST", "/images", {"reference": name})
    for name in ("deployer", "extra"):
        ok(world, "POST", "/secrets", {"name": name, "env_name": name.upper(), "value": "aHVudGVyMjI="})
    with served(world) as endpoint:
        monkeypatch.setenv("RUNVOY_ENDPOINT", endpoint)
        monkeypatch.setenv("RUNVOY_DEPLOYMENT", "here")
        monkeypatch.setenv("RUNVOY_API_KEY", world.signing_key.to_api_key())
        yield world


def dry_run(runvoy, *arguments):
    code, out, err = runvoy("playbook", "run", "deploy", "--dry-run", "--json", *arguments)
    assert code == 0, (out, err)
    return json.loads(out)


def test_list(runvoy, project):
    (project / ".runvoy" / "broken.yml").write_text("comands: [a]\ntimeout: soon\n")
    code, out, _ = runvoy("playbook", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["PLAYBOOK", "broken", "deploy"]
    assert "runvoy playbook show broken" in out
    listed = json.loads(runvoy("playbook", "list", "--json")[1])
    assert listed[1]["parameters"] == ["stage", "who", "token"]
    assert "2 problems" in listed[0]["problem"]


def test_an_empty_list_says_how_to_make_one(runvoy, project):
    (project / ".runvoy" / "deploy.yml").unlink()
    assert runvoy("playbook", "list") == (
        0,
        "",
        "runvoy: there are no playbooks here; `.runvoy/NAME.yml` makes one\n",
    )
    assert runvoy("playbook", "list", "--json")[1] == "[]\n"


def test_show(runvoy):
    code, out, _ = runvoy("playbook", "show", "deploy")
    assert code == 0
    for told in (
        "Deploy the shop",
        "test | prod",
        "(required)",
        "string, secret",
        'echo "deploying ${{ stage }}',
        "20m00s",
    ):
        assert told in out
    shown = json.loads(runvoy("playbook", "show", "deploy", "--json")[1])
    assert shown["parameters"][0]["enum"] == ["test", "prod"]
    assert len(shown["digest"]) == 64


def test_problems_are_shown_one_a_line(runvoy, project):
    path = project / ".runvoy" / "deploy.yml"
    path.write_text("comands: [a]\ntimeout: soon\n")
    code, out, err = runvoy("playbook", "show", "deploy")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "runvoy: the playbook deploy has 2 problems: (INVALID_REQUEST)"
    assert f"{path}, line 1, column 1: a playbook has no 'comands'" in err
    assert f"{path}, line 2, column 10: 'soon' is no duration" in err
    told = json.loads(runvoy("playbook", "run", "deploy", "--json")[2])
    assert [one["line"] for one in told["error"]["details"]["problems"]] == [1, 2]


def test_a_dry_run_shows_the_request_and_starts_nothing(runvoy, deployment):
    given = ("--param", "stage=prod", "--param", "token=S3CRET", "--env", "TOOL=y")
    code, out, _ = runvoy("playbook", "run", "deploy", *given, "--dry-run")
    assert code == 0
    facts, parameters, variables, commands = out.split("\n\n")
    assert [line.split() for line in parameters.splitlines()] == [
        ["PARAMETER", "VALUE"],
        ["stage", "prod"],
        ["who", "nobody"],
        ["token", "(secret)"],
    ]
    assert variables.splitlines() == ["TOOL=y", "NOTE=by ${{ who }}"]
    assert commands == '  echo "deploying ${{ stage }} for ${{ who }}"\n'
    for told in ("stage=prod", "shop"):
        assert told in facts
    assert "S3CRET" not in out
    code, out, _ = runvoy("--verbose", "playbook", "run", "deploy", *given, "--dry-run")
    assert code == 0
    for told in ("PARAM_STAGE=prod", "PARAM_WHO=nobody", "PARAM_TOKEN=(secret)", "/bin/sh -ec"):
        assert told in out
    assert "S3CRET" not in out
    for told in ("allowed", "deployer as DEPLOYER", "on Fargate it would cost"):
        assert told in out
    assert ok(deployment, "GET", "/executions")["executions"] == []


def test_the_repository_may_be_left_to_the_caller(runvoy, project, deployment):
    path = project / ".runvoy" / "deploy.yml"
    path.write_text(TEXT.replace("git_repo: https://git.example.com/shop", "git_path: infra\ngit_ref: main"))
    code, _, err = runvoy("playbook", "run", "deploy", "--param", "stage=test")
    assert (code, "--git-repo" in err) == (2, True)
    git = dry_run(runvoy, "--param", "stage=test", "--git-repo", "https://git.example.com/fork")["git"]
    assert git == {"repo": "https://git.example.com/fork", "ref": "main", "path": "infra"}
    code, out, _ = runvoy("playbook", "show", "deploy")
    assert (code, "(the caller's) main infra" in out) == (0, True)
    assert json.loads(runvoy("playbook", "show", "deploy", "--json")[1])["digest"] is None
    code, _, err = runvoy("keys", "create", "--only-playbook", "deploy")
    assert (code, "no key can be limited to that" in err) == (2, True)


def test_another_repository_has_the_playbook_s_ref_and_folder(runvoy, project, deployment):
    path = project / ".runvoy" / "deploy.yml"
    path.write_text(TEXT + "git_ref: v1\ngit_path: infra\n")
    fork = ("--param", "stage=test", "--git-repo", "https://git.example.com/fork")
    assert dry_run(runvoy, *fork)["git"] == {"repo": "https://git.example.com/fork", "ref": "v1", "path": "infra"}
    assert dry_run(runvoy, *fork, "--git-path", "")["git"]["path"] == ""


def test_a_size_is_told_with_what_holds_a_process_to_it(runvoy, project, deployment):
    (project / ".runvoy" / "sized.yml").write_text("cpu: 0.5\nmemory: 2g\ncommands: [make]\n")
    code, out, _ = runvoy("playbook", "run", "sized", "--dry-run")
    assert code == 0
    assert "cpu        0.5 vCPU (not limited: a process of the machine)" in out.splitlines()
    assert "memory     2 GiB (not limited: a process of the machine)" in out.splitlines()
    code, out, _ = runvoy("playbook", "run", "sized", "--dry-run", "--image", "alpine")
    assert "cpu        0.5 vCPU" in out.splitlines()


@pytest.mark.parametrize(
    ("declared", "value", "hint"),
    [
        ("{enum: [test, prod], description: Where}", "tset", "Did you mean 'test'? x takes test or prod: Where"),
        ("{type: int}", "y", "x takes a whole number such as 42 or -1."),
        ("{type: bool, description: Whether}", "maybe", "x takes true or false: Whether"),
        ("{pattern: '[a-z]+', description: A word}", "A", "x takes text that matches [a-z]+ as a whole: A word"),
        ("{enum: [test, prod], secret: true}", "tset", "x takes test or prod."),
    ],
)
def test_a_wrong_value_s_hint_says_what_would_do(runvoy, project, declared, value, hint):
    (project / ".runvoy" / "one.yml").write_text(f"parameters: {{x: {declared}}}\ncommands: ['echo ${{{{ x }}}}']\n")
    code, _, err = runvoy("playbook", "run", "one", "--param", f"x={value}")
    assert code == 2
    assert err.splitlines()[1:] == [f"hint: {hint}"]


def test_a_dry_run_of_a_playbook_that_would_be_refused(runvoy, deployment):
    code, out, _ = runvoy("playbook", "run", "deploy", "--param", "stage=prod", "--secret", "nobody-s", "--dry-run")
    assert code == 121
    assert "refused (SECRET_NOT_FOUND)" in out


def test_a_dry_run_as_json(runvoy, deployment):
    made = dry_run(runvoy, "--param", "stage=prod", "--param", "token=S3CRET")
    assert made["verdict"]["allowed"] is True
    assert made["env"] == {"TOOL": "x", "PARAM_STAGE": "prod", "PARAM_WHO": "nobody", "PARAM_TOKEN": None}
    assert (made["image"], made["locks"], made["secrets"]) == ("alpine", ["shop"], ["deployer"])
    assert (made["timeout_seconds"], made["labels"], made["name"]) == (1200, {"stage": "prod"}, "deploy")


def test_a_dry_run_needs_no_secret(runvoy, project, deployment):
    path = project / ".runvoy" / "deploy.yml"
    path.write_text(TEXT.replace("secret: true, required: false", "secret: true, pattern: '[a-z]+'"))
    assert dry_run(runvoy, "--param", "stage=test")["env"]["PARAM_TOKEN"] is None
    code, _, err = runvoy("playbook", "run", "deploy", "--param", "stage=test")
    assert (code, "needs the parameter token" in err) == (2, True)


def test_options_override(runvoy, tmp_path, deployment):
    (tmp_path / "env").write_text("A=1\n")
    made = dry_run(
        runvoy,
        *["--param", "stage=test", "--image", "other", "--lock", "more", "--secret", "extra", "--env", "TOOL=y"],
        *["--env-file", str(tmp_path / "env"), "--timeout", "5m", "--cpu", "2", "--memory", "1g", "--label", "x=y"],
        *[
            "--git-ref",
            "v1",
            "--name",
            "mine",
            "--if-locked",
            "fail",
            "--queue-timeout",
            "60",
            "--isolation",
            "container",
        ],
    )
    assert (made["image"], made["locks"], made["secrets"]) == ("other", ["shop", "more"], ["deployer", "extra"])
    assert made["env"] | {"TOOL": "y", "A": "1"} == made["env"]
    assert (made["timeout_seconds"], made["cpu"], made["memory_mib"]) == (300, 2048, 1024)
    assert made["labels"] == {"stage": "test", "x": "y"}
    assert made["git"] == {"repo": "https://git.example.com/shop", "ref": "v1", "path": ""}
    assert (made["name"], made["if_locked"], made["queue_timeout_seconds"]) == ("mine", "fail", 60)
    assert made["isolation"] == "container"


def test_nothing_of_the_machine_gets_in(runvoy, monkeypatch, tmp_path, deployment):
    before = dry_run(runvoy, "--param", "stage=test")
    monkeypatch.setenv("RUNVOY_USER_TOOL", "other")
    monkeypatch.setenv("PARAM_WHO", "other")
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "config.yaml").write_text("endpoint: https://x.example\ntimeout: 1m\n")
    assert dry_run(runvoy, "--param", "stage=test") == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs the parameter stage"),
        (["--param", "stage"], "--param number 1 has no NAME=VALUE form"),
        (["--param", "stage=prd"], "stage must be test or prod"),
        (["--param", "stag=prod"], "Did you mean 'stage'"),
        (["--param", "stage=prod", "--env", "PARAM_WHO=x"], "PARAM_WHO is made of the playbook's parameters"),
        (["--param", "stage=prod", "--env", "NOTE=x"], "NOTE is made of the playbook's parameters"),
        (["--param", "stage=prod", "--env", "RUNVOY_X=x"], "reserved"),
        (
            ["--param", "stage=prod", "--timeout", "8d"],
            "--timeout: its seconds must be from 1 to 604,800 (INVALID_REQUEST)\nhint: See `runvoy playbook run --help`.",
        ),
        (["--param-stdin", "nothing"], "no parameter 'nothing'"),
        (["--param", "stage=prod", "extra"], "more words than this takes: extra"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_mistakes_exit_2_before_anything_starts(runvoy, project, arguments, told, how):
    code, out, err = runvoy("playbook", "run", "deploy", *how, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert not (project.parent / "home" / "local").exists()


@pytest.mark.usefixtures("deployment")
def test_a_value_from_stdin_is_kept_exactly_but_for_its_last_newline():
    program = [str(Path(sys.executable).with_name("runvoy")), "playbook", "run", "deploy", "--dry-run", "--json"]
    command = [*program, "--param", "stage=test", "--param-stdin", "who"]
    done = subprocess.run(command, input="é\n\n".encode(), capture_output=True, check=False)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["env"]["PARAM_WHO"] == "é\n"
    wrong = subprocess.run(command, input=b"\xff", capture_output=True, check=False)
    assert wrong.returncode == 2, wrong


# --- completion ---------------------------------------------------------------------------------------------------------

COMPLETE = """
source <(runvoy() { "$RUNVOY_PYTHON" -m runvoy_cli.app "$@"; }; runvoy completion bash)
env() { command env "${@:1:$#-1}" "$RUNVOY_PYTHON" -m runvoy_cli.app; }
COMP_LINE=$1; COMP_POINT=${#1}
_runvoy_completion runvoy "$2"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "replaced", "offered"),
    [
        ("runvoy playbook ", "", ["list", "show", "run", "publish"]),
        ("runvoy playbook run ", "", ["deploy"]),
        ("runvoy playbook show de", "de", ["deploy"]),
        ("runvoy playbook run deploy --param ", "", ["stage=", "who=", "token="]),
        ("runvoy playbook run deploy --param st", "st", ["stage="]),
        # bash replaces what stands behind the =, and that alone.
        ("runvoy playbook run deploy --param stage=", "", ["test", "prod"]),
        ("runvoy playbook run deploy --param stage=p", "p", ["prod"]),
        ("runvoy playbook run deploy --param=stage=p", "p", ["prod"]),
        ("runvoy playbook run deploy --param who=x --param s", "s", ["stage="]),
        ("runvoy playbook run deploy --param who=", "", [""]),
        ("runvoy playbook run nothing --param ", "", [""]),
        ("runvoy playbook run deploy --dry", "--dry", ["--dry-run"]),
        ("runvoy run --queue", "--queue", ["--queue-timeout"]),
        ("A=b RUNVOY_PROFILE= runvoy run --queue", "--queue", ["--queue-timeout"]),
    ],
)
def test_completion_in_bash(project, line, replaced, offered):
    import os
    import shutil

    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    done = subprocess.run(
        [bash, "-c", COMPLETE, "bash", line, replaced],
        env={**os.environ, "RUNVOY_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == offered, done.stderr
