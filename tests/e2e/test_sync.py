"""`runvoy sync` with a real stack: files dropped in, whole trees come out, whatever is in the way."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.e2e.kept_folder import KeptFolder, stop
from tests.e2e.test_cli_json import documented


@pytest.fixture
def folder(machine, tmp_path):
    made = KeptFolder(machine, tmp_path / "kept")
    yield made
    made.end()


def test_files_become_executions_with_logs_and_results_beside_them(folder):
    folder.drop("a.yml", "command: echo hello; echo oops >&2; printf end\nlabels: {team: data, 'x/y': ../up}\n")
    folder.drop("b.yaml", "command: [sh, -c, 'echo \"$A\"; exit 3']\nenv: {A: two  words}\n")
    folder.drop("c.json", '{\n\t"command": "seq 3",\n\t"name": "count"}')
    done = folder.once()
    assert done.returncode == 3
    folder.check_whole()
    assert sorted((folder.of("a") / "log.txt").read_text().splitlines()) == ["end", "hello", "oops"]
    assert (folder.of("b") / "log.txt").read_text() == "two  words\n"
    blocks = [json.loads(line) for line in (folder.of("c") / "log.jsonl").read_text().splitlines()]
    assert "".join(block["m"] for block in blocks) == "1\n2\n3\n"
    assert (blocks[0]["n"], {block["s"] for block in blocks}) == (1, {"out"})
    result = json.loads((folder.of("b") / "result.json").read_text())
    assert (result["exit_code"], result["decided_by"], result["log_is_whole"]) == (3, "command", True)
    assert json.loads((folder.of("b") / "request.json").read_text())["env"] == {"A": "two  words"}
    (linked,) = folder.path.glob("by-label/team/data/*")
    assert linked.resolve() == folder.of("a")
    assert (folder.path / "latest").resolve().name in folder.ids()
    assert all(path.resolve().is_relative_to(folder.path) for path in folder.path.rglob("*"))


def test_with_json_a_program_follows_what_becomes_of_its_files(folder):
    folder.machine.ok("local", "up")
    folder.drop("good.yml", "command: exit 3\n")
    folder.drop("bad.yml", "comand: x\n")
    folder.drop("no-request.txt", "command: x\n")
    done = folder.once("--json")
    assert (done.returncode, done.stderr) == (121, b"")
    events = {one["event"]: one for one in map(json.loads, done.stdout.splitlines())}
    # The stack of a machine that others keep busy may be slow to answer, which is told.
    assert set(events) - {"trouble"} == {"submitted", "ended", "rejected", "ignored"}
    assert events["ignored"]["file"] == "inbox/no-request.txt"
    assert events["submitted"]["file"] == "inbox/good.yml"
    assert "inbox/bad.yml, line 1" in events["rejected"]["message"]
    documents = {one["event"]: one for one in documented("sync") if "event" in one}
    assert {name: set(one) for name, one in events.items()} == {name: set(documents[name]) for name in events}
    result = json.loads((folder.of("good") / "result.json").read_text())
    assert events["ended"] == {"event": "ended", **result}


def test_a_file_that_stands_for_an_execution_copied_before_is_told_to_have_ended(folder):
    told = []
    for _ in range(2):
        folder.drop("one.yml", "command: exit 3\nid: once and for all\n")
        done = folder.once("--json")
        assert done.returncode == 3
        told.append([json.loads(line) for line in done.stdout.splitlines()])
    first, again = told
    assert [one["event"] for one in again] == ["submitted", "ended"]
    assert again[1] in first


def test_a_daemon_whose_events_nobody_reads_any_more_leaves(folder):
    reader, writer = os.pipe()
    daemon = folder.daemon("--json", stdout=writer)
    os.close(writer)
    folder.drop("a.yml", "command: 'true'\n")
    with os.fdopen(reader) as events:
        assert json.loads(events.readline())["event"] == "submitted"
    assert daemon.wait(60) == 141


def test_a_bad_file_is_rejected_with_the_line_and_a_refused_one_with_the_reason(folder):
    folder.drop("bad.yml", "command: x\nlocks: [a]\ntimeuot: 5\n")
    folder.drop("cut.json", '{"command": "x",\n "locks": [')
    folder.drop("refused.yml", "command: x\nimage: nowhere\n")
    done = folder.once()
    assert done.returncode == 121
    reasons = {path.name.split(".")[0]: path.read_text() for path in folder.rejected()}
    assert "bad.yml, line 3, column 1" in reasons["bad"]
    assert "timeout" in reasons["bad"]
    assert "cut.json, line 2" in reasons["cut"]
    assert "refused" in reasons
    assert not [path for path in folder.inbox.iterdir() if not path.name.startswith(".")]
    assert not folder.done()


def test_hostile_names_and_what_is_no_file_lead_nowhere(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target.yml").write_text("command: echo stolen\n")
    folder.drop("a\n\x1b[31mb ..%.yml", "command: 'true'\n")
    (folder.inbox / os.fsdecode(b"\xff\xfe.yml")).write_text("command: 'true'\n")
    (folder.inbox / ("n" * 251 + ".yml")).write_text("command: 'true'\n")
    (folder.inbox / "link.yml").symlink_to(outside / "target.yml")
    (folder.inbox / "folder.yml").mkdir()
    os.mkfifo(folder.inbox / "pipe.yml")
    (folder.inbox / ".hidden.yml").write_text("command: echo hidden\n")
    done = folder.once()
    assert done.returncode == 121
    assert b"\x1b[31m" not in done.stderr
    assert len(folder.done()) == 3
    assert len(folder.rejected()) == 3
    assert (outside / "target.yml").read_text() == "command: echo stolen\n"
    assert (folder.inbox / ".hidden.yml").exists()
    folder.check_whole()


def test_no_link_is_followed_out_of_the_folder(machine, tmp_path, request):
    """Each place by a daemon of its own, all at once: what does not happen takes its time to be seen."""
    machine.ok("local", "up")
    outside = tmp_path / "outside"
    processes = []
    for number, place in enumerate(("executions", "executions.jsonl", "by-label", ".runvoy", "inbox/.done")):
        folder = KeptFolder(machine, tmp_path / f"kept-{number}")
        request.addfinalizer(folder.end)
        leads_to = outside / str(number)
        leads_to.mkdir(parents=True)
        (folder.path / place).symlink_to(leads_to / "file" if place.endswith("jsonl") else leads_to)
        folder.drop("a.yml", "command: echo hi\nlabels: {a: b}\n")
        processes.append(folder.daemon())
    time.sleep(4)
    for process in processes:
        stop(process)
    assert [path for path in outside.rglob("*") if path.parent != outside] == []


def test_a_half_written_file_is_left_until_it_is_whole(folder):
    process = folder.daemon()
    path = folder.inbox / "slow.yml"
    with path.open("w") as file:
        file.write("command: echo first\n")
        file.flush()
        time.sleep(2)  # it would be a request as it stands, and somebody is writing it
        assert path.exists()
        file.write("env: {A: b}\n")
    folder.machine.wait_until(folder.done)
    assert json.loads((folder.of("slow") / "request.json").read_text())["env"] == {"A": "b"}
    (folder.inbox / "broken.yml").write_text("command: [echo, ")
    time.sleep(2)
    assert not folder.rejected()
    (folder.inbox / "broken.yml").write_text("command: [echo, whole]\n")
    folder.machine.wait_until(lambda: len(folder.done()) == 2)
    assert stop(process) == 0


def test_a_running_command_is_copied_as_it_prints(folder):
    process = folder.daemon()
    folder.drop(
        "a.yml", "command: echo one; while [ ! -e " + str(folder.path / "go") + " ]; do sleep 0.05; done; echo two"
    )
    folder.machine.wait_until(lambda: folder.done() and (folder.of("a") / "log.txt").exists())
    folder.machine.wait_until(lambda: (folder.of("a") / "log.txt").read_text() == "one\n")
    # The word of a start and the first lines come by different ways: either may be there first.
    folder.machine.wait_until(lambda: json.loads((folder.of("a") / "status.json").read_text())["state"] == "RUNNING")
    assert not (folder.of("a") / "result.json").exists()
    (folder.of("a") / "log.txt").write_text("somebody's mark\n")
    (folder.path / "go").touch()
    folder.machine.wait_until(lambda: folder.results() and folder.is_idle())
    assert (folder.of("a") / "log.txt").read_text() == "one\ntwo\n"
    assert stop(process) == 0
    folder.check_whole()


def test_a_second_daemon_says_so_and_leaves(folder):
    first = folder.daemon()
    folder.machine.wait_until(lambda: folder.is_kept_by(first))
    second = folder.machine("sync", str(folder.path))
    assert second.returncode == 1
    assert f"process {first.pid}".encode() in second.stderr
    assert stop(first, signal.SIGINT) == 130

    def as_nohup_does():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    started_in_background = folder.daemon(preexec_fn=as_nohup_does)
    folder.machine.wait_until(lambda: folder.is_kept_by(started_in_background))
    started_in_background.send_signal(signal.SIGHUP)
    started_in_background.send_signal(signal.SIGINT)
    folder.drop("a.yml", "command: echo still here\n")
    folder.machine.wait_until(folder.results)
    assert stop(started_in_background) == 0


def test_others_executions_are_chosen_by_label(folder):
    wanted = folder.machine.ok("submit", "--label", "team=data", "true").strip()
    folder.machine.ok("submit", "true")
    assert folder.once("--label", "team=data").returncode == 0
    assert folder.ids() == [wanted]
    folder.drop("own.yml", "command: echo own\n")
    assert folder.once("--label", "team=data").returncode == 0
    assert len(folder.ids()) == 2
    folder.check_whole()


def test_a_playbook_is_called_by_name(folder):
    playbooks = folder.path / ".runvoy"
    playbooks.mkdir()
    (playbooks / "greet.yml").write_text(
        "commands: ['echo \"${{ who }}\"']\nparameters: {who: {pattern: '[a-z]+'}}\nlabels: {kind: greeting}\n"
    )
    folder.drop("a.yml", "playbook: greet\nparams: {who: ann}\nlabels: {by: hand}\n")
    folder.drop("b.yml", "playbook: greet\nparams: {who: '$(id)'}\n")
    assert folder.once().returncode == 121
    assert "ann\n" in (folder.of("a") / "log.txt").read_text()
    request = json.loads((folder.of("a") / "request.json").read_text())
    assert request["labels"] == {"kind": "greeting", "by": "hand"}
    assert "must match" in folder.rejected()[0].read_text()


@pytest.mark.parametrize("count", [50, pytest.param(150, marks=pytest.mark.long)])
def test_many_files_at_once_all_run_and_each_once(folder, count):
    marks = folder.path / "marks"
    marks.mkdir()
    process = folder.daemon()
    for number in range(count):
        folder.drop(f"{number:05}.json", json.dumps({"command": f"echo x >> {marks}/{number}; echo {number}"}))
    folder.machine.wait_until(lambda: len(folder.results()) == count and folder.is_idle())
    assert stop(process) == 0
    folder.check_whole()
    assert {path.read_text() for path in marks.iterdir()} == {"x\n"}
    assert len(list(marks.iterdir())) == count


@pytest.mark.slow
def test_more_changes_than_the_kernel_remembers(folder):
    """Thousands of files at once, faster than they are looked at: none is overlooked. They are not right, for commands would
    take long; a good one among them shows that it goes on."""
    count = int(os.environ.get("RUNVOY_TEST_SYNC_FILES", "1500"))
    process = folder.daemon()
    folder.machine.wait_until(lambda: folder.is_kept_by(process))
    staged = folder.path / "staged"
    staged.mkdir()
    for number in range(count):
        (staged / f"{number:05}.yml").write_text(f"comand: {number}\n")
    for path in staged.iterdir():
        path.rename(folder.inbox / path.name)
    folder.drop("good.yml", "command: echo good\n")
    limit = time.monotonic() + 60 + count / 20
    while len(folder.rejected()) < count or not folder.results() or not folder.is_idle():
        assert time.monotonic() < limit, len(folder.rejected())
        time.sleep(0.5)
    assert not [path for path in folder.inbox.iterdir() if not path.name.startswith(".")]
    assert len(list((folder.inbox / ".rejected").glob("*.yml"))) == count
    assert stop(process) == 0
    folder.check_whole()


def test_it_goes_on_when_the_stack_was_away(folder):
    process = folder.daemon()
    folder.drop("a.yml", "command: for i in $(seq 40); do echo $i; sleep 0.05; done\n")
    folder.machine.wait_until(folder.done)
    for _ in range(3):
        time.sleep(0.4)
        folder.machine.kill_stack()
    folder.drop("b.yml", "command: echo after\n")
    folder.machine.wait_until(lambda: len(folder.results()) == 2 and folder.is_idle())
    assert (folder.of("a") / "log.txt").read_text().splitlines() == [str(n) for n in range(1, 41)]
    assert stop(process) == 0
    folder.check_whole()


def test_a_full_disk_tears_no_line_and_is_got_over(folder):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    folder.machine.ok("run", "true")  # the stack is not to be limited with us
    folder.drop("big.yml", "command: seq 10000\n")
    process = folder.daemon(preexec_fn=small_files, stderr=subprocess.PIPE)
    folder.machine.wait_until(folder.done)
    told = b""
    while b"too large" not in told:
        told += (line := process.stderr.readline())
        assert line, told
    time.sleep(1)  # and tries again
    text = (folder.of("big") / "log.txt").read_bytes() if (folder.of("big") / "log.txt").exists() else b""
    assert text == b"" or text.endswith(b"\n")
    assert not (folder.of("big") / "result.json").exists()
    stop(process)
    assert folder.once().returncode == 0
    assert (folder.of("big") / "log.txt").read_text().splitlines() == [str(n) for n in range(1, 10001)]
    folder.check_whole()


def test_a_folder_that_cannot_be_written_is_told_of(folder, tmp_path):
    done = folder.machine("sync", "/proc/nowhere")
    assert done.returncode == 1
    assert b"/proc/nowhere" in done.stderr
    done = folder.machine("sync", str(Path(__file__)))
    assert done.returncode == 2


def test_what_is_asked_wrongly_is_exit_2(folder):
    for options in (["--mine", "--all"], ["--label", "x"], ["--git-pull", "0"], ["--timeout", "5s"]):
        done = folder.machine("sync", str(folder.path), *options)
        assert done.returncode == 2, options


def test_once_gives_up_in_time(folder):
    folder.machine.ok("local", "up")
    folder.drop("a.yml", "command: sleep 600\n")
    for seconds in (2, 8, 32):  # in which a busy machine may not come so far as to submit it
        assert folder.once("--timeout", f"{seconds}s").returncode == 120
        if folder.done():
            break
    folder.machine.ok("kill", folder.of("a").name)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_what_is_committed_runs_once_in_every_clone(folder, tmp_path):
    def git(*words, cwd):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *words],
            cwd=cwd,
            check=True,
            capture_output=True,
        )

    origin = tmp_path / "origin"
    (origin / "inbox").mkdir(parents=True)
    (origin / "inbox" / "a.yml").write_text(f"command: echo run >> {tmp_path}/mark\n")
    git("init", "-q", "-b", "main", cwd=origin)
    git("add", ".", cwd=origin)
    git("commit", "-qm", "one", cwd=origin)
    clones = []
    for name in ("one", "two"):
        git("clone", "-q", str(origin), str(tmp_path / name), cwd=tmp_path)
        clones.append(KeptFolder(folder.machine, tmp_path / name))
    for clone in (*clones, *clones):
        done = clone.once("--git-pull", "60s")
        assert done.returncode == 0, done
        assert (clone.inbox / "a.yml").exists()
    assert (tmp_path / "mark").read_text() == "run\n"
    assert clones[0].ids() == clones[1].ids()
    process = clones[0].daemon("--git-pull", "1s")
    (origin / "inbox" / "b.yml").write_text(f"command: echo second >> {tmp_path}/mark\n")
    git("add", ".", cwd=origin)
    git("commit", "-qm", "two", cwd=origin)
    folder.machine.wait_until(lambda: len(clones[0].ids()) == 2 and len(clones[0].results()) == 2)
    assert stop(process) == 0
    assert (tmp_path / "mark").read_text() == "run\nsecond\n"
    # A checkout that somebody works in: what keeps it from being pulled is told, and what it holds runs no second time.
    (origin / "inbox" / "a.yml").unlink()
    git("add", ".", cwd=origin)
    git("commit", "-qm", "three", cwd=origin)
    (clones[0].inbox / "a.yml").write_text("command: false\n")
    done = clones[0].once("--git-pull", "60s")
    assert done.returncode == 0
    assert b"would be overwritten by merge: inbox/a.yml; it is tried again" in done.stderr
    assert (tmp_path / "mark").read_text() == "run\nsecond\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_folder_that_git_knows_nothing_of_cannot_be_pulled(folder):
    folder.machine.ok("local", "up")
    done = folder.once("--git-pull", "60s")
    assert (done.returncode, b"is in no Git checkout" in done.stderr) == (2, True), done
    subprocess.run(["git", "init", "-q", str(folder.path)], check=True)
    done = folder.once("--git-pull", "60s")
    assert (done.returncode, b"has no commit yet" in done.stderr) == (2, True), done
