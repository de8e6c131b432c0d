"""From a command line to a run request: where options may stand, what is literal, what is refused."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from runvoy_cli import app
from runvoy_cli.input.options import Settings
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.submission import request
from runvoy_protocol import ids
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.requests import GitSource

NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
ID = ids.uuid7(NOW, bytes(10))


def contexts(*arguments):
    """The context of the group and of the command, parsed and not run."""
    settings = Settings()
    group = app.root()
    outer = group.make_context("runvoy", list(arguments), obj=settings)
    name, command, rest = group.resolve_command(outer, [*outer._protected_args, *outer.args])
    return settings, command.make_context(name, rest, parent=outer)


def build(*arguments, environ=None):
    _, context = contexts(*arguments)
    return request.build(context, request.command_of(context, context.params["words"]), environ or {})


@pytest.mark.parametrize("name", ["run", "submit"])
@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["echo hi"], "echo hi"),
        (["--", "echo hi"], "echo hi"),
        (["echo", "hi"], ("echo", "hi")),
        (["--", "sh", "-c", "exit 7"], ("sh", "-c", "exit 7")),
        (["sh", "-c", "exit 7"], ("sh", "-c", "exit 7")),
        (["make", "--help"], ("make", "--help")),
        (["make", "--timeout", "5"], ("make", "--timeout", "5")),
        (["make", "--", "--json"], ("make", "--", "--json")),
        (["--", "--", "x"], ("--", "x")),
        (["--", "my script", "--timeout", "5"], ("my script", "--timeout", "5")),
        (["my script", "--other"], ("my script", "--other")),
        (["printf", "%s", "", "a  b", "*", "$HOME"], ("printf", "%s", "", "a  b", "*", "$HOME")),
        (["--timeout", "5", "echo", "-n"], ("echo", "-n")),
    ],
)
def test_what_is_run(name, arguments, command):
    assert build(name, *arguments).command == command


@pytest.mark.parametrize("option", ["--timeout", "--timeout=5", "--env", "--json", "--lock=a"])
def test_an_option_after_a_shell_line_is_a_slip(option):
    with pytest.raises(UsageProblem, match="stands after the command") as caught:
        build("run", "echo hi", option, "5")
    assert "Options stand before the command" in caught.value.hint


@pytest.mark.parametrize("arguments", [[], ["--"], ["--timeout", "5"], [""], ["", "x"]])
def test_no_command(arguments):
    with pytest.raises(UsageProblem, match=r"no command|command is empty"):
        build("run", *arguments)


def test_every_option_is_in_the_request():
    made = build(
        *["run", "--image", "alpine", "--lock", "a", "--lock", "b", "--if-locked", "fail", "--queue-timeout", "1h"],
        *["--timeout", "1h30m", "--env", "A=1", "--secret", "s", "--git-repo", "https://x.example/r"],
        *[
            "--git-ref",
            "main",
            "--git-path",
            "infra",
            "--git-depth",
            "50",
            "--cpu",
            "0.5",
            "--memory",
            "2g",
            "--label",
            "team=data",
        ],
        *["--name", "deploy", "--isolation", "container", "make"],
        environ={"RUNVOY_USER_B": "2"},
    )
    assert (made.image, made.locks, made.if_locked) == ("alpine", ("a", "b"), "fail")
    assert (made.queue_timeout_seconds, made.timeout_seconds) == (3600, 5400)
    assert (made.env, made.secrets) == ({"A": "1", "B": "2", "GIT_DEPTH": "50"}, ("s",))
    assert made.git == GitSource("https://x.example/r", "main", "infra")
    assert (made.cpu, made.memory_mib, made.labels) == (512, 2048, {"team": "data"})
    assert (made.name, made.isolation, made.command) == ("deploy", "container", "make")


def test_the_environment_of_the_command_by_strength(tmp_path):
    file = tmp_path / "env"
    file.write_text("A=file\nB=file\n")
    made = build(
        *["run", "--env", "A=option", "--env-file", str(file), "env"],
        environ={"RUNVOY_USER_A": "user", "RUNVOY_USER_B": "user", "RUNVOY_USER_C": "user"},
    )
    assert made.env == {"A": "option", "B": "file", "C": "user"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--git-ref", "main", "x"], "--git-ref needs --git-repo"),
        (["--git-depth", "3", "x"], "--git-depth needs --git-repo"),
        (["--git-repo", "https://ann:secret@x.example/r", "x"], "holds a user or a password"),
        (["--git-repo", "ext::sh -c id", "x"], "none of the addresses that can be cloned"),
        (["--git-repo", "/srv/r", "--git-ref", "a:b", "x"], "--git-ref: it is no name of a branch"),
        (["--git-repo", "/srv/r", "--git-path", "../x", "x"], "--git-path: it must be a folder of the repository"),
        (["--git-repo", "/srv/r", "--env", "GIT_DEPTH=x", "x"], "the variable GIT_DEPTH must be a number"),
        (["--env", "1A=x", "x"], "no name for an environment variable"),
        (["--env", "RUNVOY_A=x", "x"], "reserved"),
        (["--lock", "", "x"], "no valid name"),
        ([*(f"--lock=l{n}" for n in range(9)), "x"], "9 locks are named; at most 8"),
        (["--timeout", "0", "x"], "--timeout: its seconds must be from 1"),
        (["--timeout", "8d", "x"], "--timeout: its seconds must be from 1"),
        (["--memory", "1m", "x"], "--memory: its MiB must be from 64"),
        (["--label", "a", "x"], "--label number 1"),
        (["a", "x" * 200_000], "over 131,072 bytes"),
        (["--memory", "1", "x"], "--memory: its MiB must be from 64"),
    ],
)
def test_what_no_deployment_would_accept_is_refused_here(arguments, told):
    with pytest.raises(UsageProblem, match=told):
        build("run", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--if-locked", "maybe", "x"], ["--timeout", "soon", "x"], ["--cpu", "x", "x"], ["--isolation", "", "x"]],
)
def test_a_bad_value_is_told_with_its_option(arguments):
    with pytest.raises(UsageProblem) as caught:
        build("run", *arguments)
    assert caught.value.message.startswith(f"{arguments[0]}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--profile", "p", "--timeout", "5s", "run", "x"],
        ["run", "--json", "--profile", "p", "--timeout", "5s", "x"],
        ["--profile", "q", "--timeout", "9s", "run", "--json", "--profile", "p", "--timeout", "5s", "x"],
    ],
)
def test_global_options_stand_before_or_after_the_name_and_the_innermost_wins(arguments):
    settings, _ = contexts(*arguments)
    assert (settings.json, settings.profile, settings.timeout_seconds) == (True, "p", 5)


def runvoy(*arguments, home, given="", **environ):
    # Where bytecode is forbidden every process would compile its imports anew.
    base = {name: value for name, value in os.environ.items() if not name.startswith(("RUNVOY_", "PYTHONDONTWRITE"))}
    return subprocess.run(
        [sys.executable, "-m", "runvoy_cli.app", *arguments],
        env={**base, "RUNVOY_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        input=given,
        timeout=60,
        check=False,
    )


MISTAKES = [
    ([], "Usage: runvoy"),
    (["bogus"], "there is no command 'bogus'"),
    (["help", "bogus"], "there is no command 'bogus'"),
    (["runn", "x"], "did you mean 'run'?"),
    (["run"], "no command is given"),
    (["run", "--bogus", "x"], "there is no option --bogus"),
    (["list", "--limt", "3"], "there is no option --limt"),
    (["list", "--limt", "3"], "hint: Did you mean --limit? See `runvoy list --help`."),
    (["run", "--imge", "a", "x"], "hint: Did you mean --image? See"),
    (["run", "--timeuot", "5s", "x"], "hint: Did you mean --timeout? See"),
    (["run", "-e", "A=b", "x"], "there is no option -e (INVALID_REQUEST)\nhint: Did you mean --env or --env-file? See"),
    (["list", "-z", "3"], "there is no option -z (INVALID_REQUEST)\nhint: See `runvoy list --help`."),
    (["list", "--limit", "x"], "--limit: 'x' is no whole number"),
    (["logs", "--tail", "-1", ID], "--tail: -1 is less than 0"),
    (
        ["quotas", "set", "--max-running"],
        "--max-running needs a value (INVALID_REQUEST)\nhint: See `runvoy quotas set --help`.",
    ),
    (["list", "--label"], "--label needs a value (INVALID_REQUEST)\nhint: See `runvoy list --help`."),
    (["run", "--timeout", "soon", "x"], "--timeout: 'soon' is no duration (INVALID_REQUEST)\nhint: Write it like 30s"),
    (["run", "--cpu", "much", "x"], "--cpu: 'much' is no amount of CPU"),
    (
        ["users", "create", "bob"],
        "--role is missing (INVALID_REQUEST)\nhint: --role: admin, operator, developer or viewer. "
        "As in: `runvoy users create ada@example.com --role developer`. See `runvoy users create --help`.",
    ),
    (
        ["users", "role", "bob"],
        "ROLE is missing (INVALID_REQUEST)\nhint: ROLE: admin, operator, developer or viewer. As in: `",
    ),
    (
        ["users", "role", "bob", "admin", "x"],
        "takes: x (INVALID_REQUEST)\nhint: As in: `runvoy users role ada@example.com op",
    ),
    (
        ["users", "role", "viewer", "bob"],
        "'bob' is no role (INVALID_REQUEST)\nhint: The user stands first: runvoy users role bob v",
    ),
    (
        ["users", "role", "bob", "dev"],
        "'dev' is no role (INVALID_REQUEST)\nhint: Did you mean 'developer'? A role is one of",
    ),
    (["users", "create", "bob", "--role", "amdin"], "hint: Did you mean 'admin'? A role is one of"),
    (["users", "role", "bob", ""], "'' is no role (INVALID_REQUEST)\nhint: A role is one of"),
    (["users", "list", "--role", "x"], "hint: `runvoy users create` has it, after its name. See"),
    (["images", "register", "--role", "x", "alpine"], "hint: Did you mean --task-role? See"),
    (["run", "-d", "true"], "hint: `runvoy submit` leaves at once;"),
    (["run", "-it", "sh"], "hint: A command has no terminal, and its stdin is empty"),
    (["logs", "-n", "5", "@last"], "hint: Did you mean --tail?"),
    (["list", "-n", "5"], "hint: Did you mean --limit?"),
    (["list", "-o", "json"], "hint: With --json it prints JSON."),
    (["status", "--watch", "@last"], "hint: `runvoy logs --follow ID` shows the output as it comes"),
    (["users", "set", "bob", "--role", "viewer"], "hint: Perhaps `runvoy users role` is what you look for."),
    (["users", "--role", "x"], "hint: `runvoy users create` has it, after its name. See"),
    (
        ["--lock", "a", "run", "x"],
        "hint: `runvoy run`, `runvoy submit`, `runvoy playbook run` have it, after its name. See",
    ),
    (["run", "--bulk", "x"], "hint: `runvoy submit` has it, after its name. See"),
    (["local", "restart"], "hint: Perhaps `runvoy local up` is what you look for."),
    (["RUN", "x"], "did you mean 'run'?"),
    (["PS"], "hint: Perhaps `runvoy list` is what you look for."),
    (["keys", "revoke"], "KEY is missing"),
    (["list", "more", "words"], "there are more words than this takes: more words"),
    (["health", "reconsile"], "there is no command 'health reconsile'"),
    (["playbook", "lst"], "hint: Did you mean 'list'? `runvoy playbook` has: list, show, run"),
    (["playbook", "validate", "x"], "hint: Perhaps `runvoy playbook show` is what you look for."),
    (["playbook", "deploy"], "hint: A playbook is run with `runvoy playbook run NAME`."),
    (["users", "delete", "bob"], "hint: Perhaps `runvoy users revoke` is what you look for."),
    (["secrets", "set", "a", "A"], "hint: Perhaps `runvoy secrets create` is what you look for."),
    (["quotas", "show"], "hint: Perhaps `runvoy quotas list` is what you look for."),
    (["users", "get", "bob"], "hint: Perhaps `runvoy users show` is what you look for."),
    (["infra", "synth"], "hint: Perhaps `runvoy infra template` is what you look for."),
    (["playbook", "run", "deploy", "--stage", "test"], "hint: A parameter is given as --param stage=VALUE. See"),
    (["playbook", "run", "deploy", "stage=test"], "hint: A parameter is given as --param NAME=VALUE."),
    (["run", "--env", "NO_SUCH_THING", "x"], "--env number 1 has no NAME=VALUE form, and is no variable"),
    (["run", "--env", "=b", "x"], "--env number 1 has no NAME=VALUE form"),
    (["completion"], "shell is missing (INVALID_REQUEST)\nhint: Choose bash or zsh or fish."),
    (["run", "echo hi", "--timeout", "5"], "hint: Options stand before the command"),
    (["run", "a\udcff"], "word 1 of the command is not valid UTF-8"),
    (["wait", "nonsense"], "no execution id"),
    (["wait"], "ID is missing"),
    (["logs", "--grep", "(", ID], "no Python pattern"),
    (["local"], "`runvoy local` needs a further word"),
    (["--profile", "p", "list"], "there is no config file"),
    (["completion", "tcsh"], "tcsh"),
    (["run", "--timeout", "0", "x"], "--timeout: its seconds must be from 1 to"),
    (["submit", "--timeout", "0", "x"], "--timeout: its seconds must be from 1 to"),
    (["run", *(f"--env=A{n}={'x' * 100_000}" for n in range(3)), "x"], "the request has 300,"),
    (
        ["run", "--env", f"A={'x' * 140_000}", "x"],
        "bytes (TOO_LARGE)\nhint: The message names the limit. A command can",
    ),
    (["ps"], "there is no command 'ps' (INVALID_REQUEST)\nhint: Perhaps `runvoy list` is what you look for."),
    (["cancel", ID], "hint: Perhaps `runvoy kill` is what you look for."),
    (["submit", "--id", "", "x"], "--id: the id is empty"),
    (["run", "--lock", "a b", "x"], "no valid name"),
    (["submit", "--bulk", "/no/such/file"], "cannot be read"),
    (["list", "--label", "=x"], "--label has no name"),
    (["kill", "--label", ""], "--label has no name"),
    (["audit", "--since", "yesterday"], "'yesterday' is no time"),
    (["audit", "export", "--until", ""], "a time is empty"),
    (["audit", "--execution", "nonsense"], "no execution id"),
    (["audit", "verify", "nonsense"], "no execution id"),
    (["audit", "--changes", "--outcome", "refused"], "--changes leaves out what was refused"),
    (["audit", "export", "--changes", "--outcome", "FORBIDDEN"], "so --outcome FORBIDDEN finds nothing"),
    (["audit", "verify", "--day", "2030-01-31", "--head", "x"], "no hash of a seal"),
    (["cost", "--since", "soon"], "'soon' is no time"),
    (["users", "create", "a b", "--role", "viewer"], "no name for a user"),
    (["sync", __file__], "is no folder"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_mistakes_exit_2_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    assert app.main(arguments) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert not (tmp_path / "home").exists()


def test_a_bad_bulk_file_is_told_of_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    (tmp_path / "runs.jsonl").write_text('{"comand": "x"}\n{"command": "x", "timeout": 0}\n')
    assert app.main(["submit", "--bulk", str(tmp_path / "runs.jsonl")]) == 2
    assert "2 mistakes; nothing was submitted" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "arguments",
    [["configure", "rvk1_of-somebody"], ["whoami", "rvc1_of-somebody"], ["secrets", "create", "a", "B", "of-somebody"]],
)
def test_a_word_too_many_that_may_be_secret_is_not_shown(capsys, arguments):
    assert app.main(arguments) == 2
    told = capsys.readouterr().err
    assert "there are more words than this takes (INVALID_REQUEST)" in told
    assert "of-somebody" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", b"a\xff"], "word 1 of the command is not valid UTF-8"),
        (["wait", "-"], "there are no ids on standard input"),
        (["configure", "--endpoint", "https://x.example"], "the API key is missing"),
    ],
)
def test_mistakes_of_a_process_exit_2(tmp_path, arguments, told):
    done = runvoy(*arguments, home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["wait", "kill"])
def test_which_word_of_standard_input_is_no_id_is_told(tmp_path, command):
    done = runvoy(command, "-", home=tmp_path / "home", given=f"{ID}\n\n  {ID}\nnot found\n")
    assert done.returncode == 2
    assert "number 3 on standard input: 'not' is no execution id (INVALID_REQUEST)" in done.stderr


@pytest.mark.parametrize("arguments", [["--json", "run"], ["run", "--json", "--bogus", "x"]])
def test_errors_are_json_on_stderr_if_asked_for(capsys, arguments):
    assert app.main(arguments) == 2
    assert capsys.readouterr().err.startswith('{"error":{"code":"INVALID_REQUEST"')


@pytest.mark.parametrize("name", [None, *app.COMMANDS])
def test_every_command_has_help_with_an_example(capsys, name):
    assert app.main([*([name] if name else []), "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Example: " in printed
    assert "--json" in printed


@pytest.mark.parametrize("words", [[], ["run"], ["users", "create"]])
def test_help_is_a_command_as_well(capsys, words):
    assert app.main(["help", *words]) == 0
    asked = capsys.readouterr()
    assert asked.out.startswith(f"Usage: {' '.join(['runvoy', *words])} ")
    assert app.main([*words, "--help"]) == 0
    assert capsys.readouterr() == asked


@pytest.mark.parametrize(
    ("words", "of"),
    [
        (["help", "run", "echo", "hi"], "runvoy run"),
        (["help", "submit", "--", "echo", "hi"], "runvoy submit"),
        (["help", "run", "--", "true"], "runvoy run"),
        (["help", "kill", "--", ID], "runvoy kill"),
        (["help", "playbook", "run", "deploy"], "runvoy playbook run"),
        (["help", "help"], "runvoy"),
        (["help", "--json"], "runvoy"),
        (["--json", "help"], "runvoy"),
        (["--verbose", "help", "users", "create"], "runvoy users create"),
    ],
)
def test_help_never_does_what_it_is_asked_about(capsys, words, of):
    assert app.main(words) == 0
    assert capsys.readouterr().out.startswith(f"Usage: {of} [OPTIONS]")


def test_version_of_the_client_is_the_packages():
    import tomllib
    from pathlib import Path

    from runvoy_cli import __version__

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        *(([name, ID], 1) for name in ("status", "logs", "kill", "trace")),
        (["status", "--request", ID], 1),
        (["kill", "--label", "a=b"], 1),
        (["wait", ID], 121),
    ],
)
def test_a_question_about_executions_begins_no_stack_where_none_ever_was(
    tmp_path, monkeypatch, capsys, arguments, code
):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    assert app.main(arguments) == code
    told = capsys.readouterr().err
    assert "nothing is configured, and nothing ever ran on this machine" in told
    assert "(NOT_FOUND)\nhint: Set the deployment" in told
    assert not (tmp_path / "home").exists()


def test_a_list_of_a_machine_on_which_nothing_ran_is_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    assert app.main(["list"]) == 0
    assert capsys.readouterr().out == ""
    assert app.main(["list", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "[]\n"
    assert "nothing ever ran on this machine" in printed.err
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written_is_told_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    done = runvoy("run", "true", home=tmp_path / "file" / "home")
    assert done.returncode == 125
    assert "set RUNVOY_HOME to a folder that you can write to" in done.stderr
    assert runvoy("whoami", home=tmp_path / "file" / "home").returncode == 1


@pytest.mark.parametrize("name", ["run", "submit"])
def test_ctrl_c_while_the_variables_are_read_says_that_nothing_was_submitted(tmp_path, name):
    os.mkfifo(tmp_path / "env")
    process = subprocess.Popen(
        [sys.executable, "-m", "runvoy_cli.app", name, "--env-file", str(tmp_path / "env"), "true"],
        env={**os.environ, "RUNVOY_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    with (tmp_path / "env").open("w"):  # which waits for whoever reads
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "runvoy: not submitted\n")
    assert not (tmp_path / "home").exists()


def test_what_was_certainly_not_submitted_is_told_as_that(tmp_path):
    key = SigningKey(bytes(range(32))).to_api_key()
    at = {"RUNVOY_ENDPOINT": "http://127.0.0.1:9", "RUNVOY_DEPLOYMENT": "d", "RUNVOY_API_KEY": key}
    done = runvoy("run", "true", home=tmp_path, **at)
    assert done.returncode == 125
    assert "no answer from 127.0.0.1:9" in done.stderr
    assert "; nothing was submitted (UNAVAILABLE)" in done.stderr


HOT = """
import sys
from runvoy_cli import app
from runvoy_cli.input.options import Settings
group = app.root()
outer = group.make_context("runvoy", sys.argv[1:], obj=Settings())
name, command, rest = group.resolve_command(outer, [*outer._protected_args, *outer.args])
command.make_context(name, rest, parent=outer)
slow = {"boto3", "rich", "pydantic", "httpx", "yaml", "asyncio", "runvoy_agent", "runvoy_sync", "watchdog", "pygments", "importlib.metadata"}
slow |= {module for module in sys.modules if module.startswith(("runvoy_cli.playbooks", "runvoy_cli.input.yaml"))}
print(sorted(slow & set(sys.modules)))
print(sorted(m for m in sys.modules if m.startswith("runvoy_cli.commands.")))
"""


@pytest.mark.parametrize("arguments", [["submit", "x"], ["run", "x"], ["wait", ID], ["logs", ID]])
def test_the_hot_path_imports_nothing_slow_and_no_other_command(arguments):
    done = subprocess.run(
        [sys.executable, "-c", HOT, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["[]", f"['runvoy_cli.commands.{arguments[0]}']"]
