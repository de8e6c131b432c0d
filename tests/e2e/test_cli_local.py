"""The command line as a user has it: real processes, the real embedded stack, each home in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded stack runs on Linux and macOS")


class Shell:
    """Runs `runvoy` with a home of its own and nothing of the tester's configuration."""

    def __init__(self, home):
        self.home = home

    def environment(self, **extra):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNVOY_", "PYTHONDONT"))}
        return {**kept, "RUNVOY_HOME": str(self.home), **extra}

    def start(self, *arguments, **environ):
        return subprocess.Popen(
            [sys.executable, "-m", "runvoy_cli.app", *arguments],
            env=self.environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments, stdin=b"", **environ):
        return subprocess.run(
            [sys.executable, "-m", "runvoy_cli.app", *arguments],
            env=self.environment(**environ),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def json(self, *arguments):
        return json.loads(self("--json", *arguments).stdout)

    def endpoint(self):
        return json.loads((self.home / "local" / "endpoint.json").read_bytes())


@pytest.fixture(scope="module")
def runvoy(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("cli") / "home")
    yield shell
    shell("local", "down")


@pytest.fixture
def own(tmp_path):
    """A home of this test's own."""
    shell = Shell(tmp_path / "home")
    yield shell
    shell("local", "down")


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (["echo a; echo b >&2; exit 3"], 3, b"a\n"),
        (["--", "sh", "-c", "exit 7"], 7, b""),
        (["--", "printf", "%s|", "a b", "", "*", "$HOME"], 0, b"a b||*|$HOME|"),
        (["sh", "-c", 'kill -9 "$$"'], 137, b""),
        (["no-such-program", "x"], 127, b""),
        (["--timeout", "1", "sleep 30"], 124, b""),
        (["--env", "A=x y", 'printf %s "$A"'], 0, b"x y"),
        ([r"printf '\377\000\n'"], 0, b"\xff\x00\n"),
        (["--secret", "nobody-made-it", "true"], 121, b""),
        (["--image", "nobody-made-it", "--isolation", "container", "true"], 125, b""),
    ],
)
def test_run_exits_with_the_commands_code_and_prints_its_bytes(runvoy, arguments, code, out):
    done = runvoy("run", *arguments)
    assert (done.returncode, done.stdout) == (code, out), done.stderr.decode()


def test_stderr_stays_the_commands_own(runvoy):
    runvoy("run", "true")  # the first start's notice, if this is it
    done = runvoy("run", "echo oops >&2; exit 1")
    assert done.stderr == b"oops\n"
    done = runvoy("--verbose", "run", "exit 1")
    assert b"FAILED, exit code 1" in done.stderr


def test_what_ended_a_run_that_did_not_end_itself_is_said(runvoy):
    assert b"timed out after 1 s" in runvoy("run", "--timeout", "1", "sleep 30").stderr


def test_variables_of_the_environment_reach_the_command(runvoy):
    assert runvoy("run", "echo $GREETING", RUNVOY_USER_GREETING="hello").stdout == b"hello\n"


def test_submit_prints_the_id_alone_and_wait_has_the_code(runvoy):
    submitted = runvoy("submit", "--name", "n", "--label", "team=data", "echo x; exit 5")
    execution_id = submitted.stdout.decode().strip()
    assert (submitted.returncode, submitted.stdout) == (0, f"{execution_id}\n".encode())
    waited = runvoy("wait", execution_id)
    assert (waited.returncode, waited.stdout) == (5, b"")
    assert f"{execution_id} FAILED, exit code 5".encode() in waited.stderr
    told = runvoy.json("wait", execution_id)
    assert (told["state"], told["exit_code"], told["decided_by"]) == ("FAILED", 5, "command")
    assert runvoy("logs", execution_id).stdout == b"x\n"
    status = runvoy.json("status", execution_id)
    assert (status["name"], status["exit_code_of"], status["lines"]) == ("n", 5, 1)
    assert b"FAILED (exit)" in runvoy("status", execution_id).stdout
    assert [one["execution_id"] for one in runvoy.json("list", "--label", "team=data")] == [execution_id]
    assert execution_id.encode() in runvoy("list", "--status", "failed", "--limit", "200").stdout


def test_wait_for_several_has_the_first_failure_in_order(runvoy):
    ids = [runvoy("submit", f"sleep {delay}; exit {code}").stdout for delay, code in ((0.5, 4), (0, 9), (0, 0))]
    assert runvoy("wait", "-", stdin=b"".join(ids)).returncode == 4
    assert runvoy("wait", ids[2].decode().strip()).returncode == 0


def test_wait_gives_up_and_tells_unknown_ids(runvoy):
    execution_id = runvoy("submit", "sleep 60").stdout.decode().strip()
    given_up = runvoy("--json", "wait", "--timeout", "0", execution_id)
    assert given_up.returncode == 120
    assert json.loads(given_up.stdout)["exit_code"] == 120
    unknown = runvoy("wait", execution_id[:-4] + "0000")
    assert (unknown.returncode, b"NOT_FOUND" in unknown.stderr) == (121, True)
    runvoy("kill", "--wait", execution_id)


def test_an_id_chosen_twice_is_one_execution_or_a_conflict(runvoy):
    first = runvoy("submit", "--id", "deploy-1", "echo one")
    again = runvoy("submit", "--id", "deploy-1", "echo one")
    other = runvoy("submit", "--id", "deploy-1", "echo two")
    assert first.stdout == again.stdout
    assert (other.returncode, other.stdout, b"ID_CONFLICT" in other.stderr) == (121, b"", True)
    assert runvoy("run", "--id", "deploy-1", "echo one").stdout == b"one\n"


def test_a_held_lock_is_122_for_who_would_not_wait(runvoy):
    holder = runvoy("submit", "--lock", "prod", "--id", "holder", "sleep 60")
    assert holder.returncode == 0
    assert runvoy("run", "--lock", "prod", "--if-locked", "fail", "true").returncode == 122
    waited = runvoy("run", "--lock", "prod", "--queue-timeout", "1s", "true")
    assert (waited.returncode, b"never started" in waited.stderr) == (124, True)
    assert runvoy("kill", "--wait", holder.stdout.decode().strip()).returncode == 0


def test_logs_choose_lines(runvoy):
    script = "for n in 1 2 3 4 5 6; do echo line $n; done; echo bad >&2"
    execution_id = runvoy("submit", script).stdout.decode().strip()
    followed = runvoy("logs", "--follow", execution_id)
    assert sorted(followed.stdout.split(b"\n")) == sorted([b"", b"bad", *(f"line {n}".encode() for n in range(1, 7))])
    assert runvoy("logs", "--grep", "[35]$", execution_id).stdout == b"line 3\nline 5\n"
    assert runvoy("logs", "--since", "2000-01-01", "--tail", "7", execution_id).stdout == followed.stdout
    assert runvoy("logs", "--tail", "0", execution_id).stdout == b""
    lines = [json.loads(line) for line in runvoy("logs", "--json", execution_id).stdout.splitlines()]
    assert sorted(line["n"] for line in lines) == list(range(1, 8))
    assert {line["s"] for line in lines} == {"out", "err"}


def test_a_size_that_nothing_holds_a_process_to_is_told(runvoy):
    done = runvoy("run", "--cpu", "0.5", "--memory", "64m", "echo hi")
    assert (done.returncode, done.stdout) == (0, b"hi\n")
    assert b"runvoy: not limited to 0.5 vCPU and 64 MiB of memory: a process of the machine may" in done.stderr
    [listed] = json.loads(runvoy("list", "--limit", "1", "--json").stdout)
    assert (listed["isolation"], listed["cpu"], listed["memory_mib"]) == ("process", 512, 64)
    shown = runvoy("status", listed["execution_id"]).stdout.decode().splitlines()
    assert "cpu        0.5 vCPU (not limited: a process of the machine)" in shown


def test_run_as_json_is_lines_and_then_the_result(runvoy):
    *lines, result = [json.loads(line) for line in runvoy("run", "--json", "echo a; exit 2").stdout.splitlines()]
    assert [line["text"] for line in lines] == ["a"]
    assert (result["state"], result["exit_code"]) == ("FAILED", 2)


def test_a_reader_that_goes_away_is_no_failure_to_tell(runvoy):
    process = runvoy.start("run", "yes | head -c 3000000; sleep 1; echo more")
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""


def test_an_interrupt_says_how_to_come_back(runvoy, tmp_path):
    gate = tmp_path / "gate"
    process = runvoy.start("run", f"echo started; until [ -e {gate} ]; do sleep 0.05; done; echo finished")
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    gate.touch()
    told = process.stderr.read().decode()
    assert "runvoy logs --follow " in told
    execution_id = told.rsplit(maxsplit=1)[-1]
    assert runvoy("wait", execution_id).returncode == 0
    assert runvoy("logs", execution_id).stdout == b"started\nfinished\n"


def test_a_killed_stack_does_not_end_what_is_followed(own):
    own("local", "up")
    process = own.start("run", "for n in 1 2 3 4; do echo $n; sleep 0.4; done; exit 9")
    assert process.stdout.readline() == b"1\n"
    os.kill(own.endpoint()["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, b"2\n3\n4\n"), err.decode()


def test_clients_that_start_at_once_start_one_stack(own):
    clients = [own.start("submit", f"echo {n}") for n in range(8)]
    answers = [client.communicate(timeout=60) for client in clients]
    assert [client.returncode for client in clients] == [0] * 8, answers
    assert len({out for out, _ in answers}) == 8
    assert sum(b"commands run on this machine" in err for _, err in answers) == 1
    log = (own.home / "local" / "stack.log").read_text()
    assert log.count("listening on") == 1
    assert (own.home / "local").stat().st_mode & 0o777 == 0o700
    assert (own.home / "local" / "api_key").stat().st_mode & 0o777 == 0o600


def test_the_life_of_a_stack(own):
    assert own.json("local", "status")["running"] is False
    assert not own.home.exists()
    assert own.json("version")["server"] is None
    up = own.json("local", "up")
    assert (up["running"], up["pid"]) == (True, own.endpoint()["pid"])
    assert own.json("version")["server"]["instance"] == up["instance"]
    assert own.json("whoami")["role"] == "admin"
    assert b"listening" in own("local", "logs").stdout
    execution_id = own("submit", "sleep 120").stdout.decode().strip()
    while own.json("status", execution_id)["state"] != "RUNNING":
        time.sleep(0.05)
    refused = own("local", "reset", "--yes")
    assert (refused.returncode, b"still running" in refused.stderr) == (1, True)
    assert own.json("local", "down") == {"running": False, "was_running": True}
    assert own.json("local", "down") == {"running": False, "was_running": False}
    assert own("local", "reset").returncode == 1  # the command runs while the stack does not
    assert own("local", "reset", "--yes", "--force").returncode == 0
    assert not (own.home / "local").exists()


def test_a_stack_that_cannot_start_is_told_with_its_log(own):
    folder = own.home / "local"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "deployment.json").write_text("{")
    done = own("run", "true")
    assert done.returncode == 125
    assert b"the embedded stack ended as it started" in done.stderr
    assert b"stack.log" in done.stderr


def test_a_configured_deployment_goes_the_same_way(runvoy, tmp_path):
    runvoy("local", "up")
    member = Shell(tmp_path / "member")
    key = (runvoy.home / "local" / "api_key").read_bytes()
    url = f"http://127.0.0.1:{runvoy.endpoint()['port']}"
    done = member("configure", "--profile", "box", "--endpoint", url, "--api-key-stdin", stdin=key)
    assert done.returncode == 0, done.stderr.decode()
    assert key.strip() not in done.stdout + done.stderr
    assert (member.home / "config.yaml").stat().st_mode & 0o777 == 0o600
    assert member("--profile", "box", "run", "exit 6").returncode == 6
    assert member("run", "--profile", "box", "--debug", "echo hi").stdout == b"hi\n"
    half = member("run", "true")
    assert (half.returncode, b"missing endpoint" in half.stderr) == (2, True)
    assert not (member.home / "local").exists()


def test_a_wrong_deployment_id_is_refused(runvoy, tmp_path):
    runvoy("local", "up")
    member = Shell(tmp_path / "member")
    given = {
        "RUNVOY_API_KEY": (runvoy.home / "local" / "api_key").read_text().strip(),
        "RUNVOY_ENDPOINT": f"http://127.0.0.1:{runvoy.endpoint()['port']}",
        "RUNVOY_DEPLOYMENT": "another",
    }
    done = member("run", "true", **given)
    assert (done.returncode, b"WRONG_DEPLOYMENT" in done.stderr) == (121, True)
    assert member("whoami", **given).returncode == 1


def test_the_stack_inherits_nothing_of_the_client_that_started_it(own):
    read_end, write_end = os.pipe()
    try:
        os.set_inheritable(write_end, True)
        done = subprocess.run(
            [sys.executable, "-m", "runvoy_cli.app", "run", "echo hi"],
            env=own.environment(),
            capture_output=True,
            pass_fds=[write_end],
            timeout=60,
            check=True,
        )
    finally:
        os.close(write_end)
    assert done.stdout == b"hi\n"
    assert os.read(read_end, 1) == b""  # nobody holds the other end: `$(runvoy …)` returns
    os.close(read_end)
    if sys.platform == "linux":
        environment = Path(f"/proc/{own.endpoint()['pid']}/environ").read_bytes()
        assert b"RUNVOY_HOME=" not in environment


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_stack_leaves_no_core_file(own):
    """Its memory holds the keys and values of secrets; whoever starts it may have asked for core files of their own."""
    line = f"ulimit -c $(ulimit -H -c); exec {sys.executable} -m runvoy_cli.app local up"
    subprocess.run(["sh", "-c", line], env=own.environment(), timeout=60, check=True, capture_output=True)
    limits = Path(f"/proc/{own.endpoint()['pid']}/limits").read_text().splitlines()
    core = next(one.split() for one in limits if one.startswith("Max core file size"))
    assert core[4] == "0"
    # A command may still ask for its own.
    hard = subprocess.run(["sh", "-c", "ulimit -H -c"], capture_output=True, check=True).stdout
    assert own("run", "ulimit -c $(ulimit -H -c) && ulimit -c").stdout == hard
