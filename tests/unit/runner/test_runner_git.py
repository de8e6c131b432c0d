"""Checkouts before the command, by the real runner and real git: from a folder, a smart HTTP server and sshd on loopback."""

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.servers.git_hosts import TOKEN, USER, HttpHost, SshHost, git
from tests.servers.ministack_tls import make_certificate

from runvoy_agent.runner import git_commands

# One after another: a test looks for a token among all processes of the machine, and another has it in its command.
pytestmark = pytest.mark.xdist_group("git")


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    host = SshHost(tmp_path_factory.mktemp("ssh") / "host")
    yield host
    host.close()


def encoded(**credentials):
    return {f"RUNVOY_GIT_{name}": base64.b64encode(value).decode() for name, value in credentials.items()}


def checkout(run, command, repo, ref="", *, path="", depth=1, timeout_seconds=60, credentials=None, **fields):
    wanted = {"repo": str(repo), "ref": ref, "path": path, "depth": depth, "timeout_seconds": timeout_seconds}
    return run.start(command, git=wanted, git_credentials=credentials or {}, **fields)


def refs(repository):
    return {
        "": repository.main,
        "HEAD": repository.main,
        "main": repository.main,
        "feature/x": repository.feature,
        "v1": repository.first,
        "both": repository.feature,  # the branch, not the tag
        "refs/tags/both": repository.first,
        "refs/heads/main": repository.main,
        repository.second: repository.second,
    }


@pytest.mark.parametrize(
    "ref", ["", "HEAD", "main", "feature/x", "v1", "both", "refs/tags/both", "refs/heads/main", "SHA"]
)
def test_a_branch_a_tag_and_a_full_sha_are_checked_out_and_told(new_run, repository, ref):
    ref = repository.second if ref == "SHA" else ref
    run = checkout(new_run(), "git rev-parse HEAD; echo $RUNVOY_GIT_COMMIT; pwd", repository.bare, ref)
    result = run.wait()
    commit = refs(repository)[ref]
    assert result["outcome"] == "exited", run.output("sys")
    assert run.output().decode().splitlines() == [commit, commit, str(run.folder / "work")]
    assert result["git_commit"] == run.report("started")["git_commit"] == commit
    assert f"checked out {commit}" in run.output("sys").decode()
    assert not (run.folder / "work").exists()
    assert not list(run.folder.glob("git-*"))


def test_a_run_without_git_tells_of_no_commit(new_run):
    run = new_run().start("true")
    assert "git_commit" not in run.wait()


def test_a_file_address_and_a_depth(new_run, repository):
    run = checkout(new_run(), "git rev-list --count HEAD; git tag", f"file://{repository.bare}", depth=2)
    assert run.wait()["outcome"] == "exited", run.output("sys")
    assert run.output() == b"2\n"
    run = checkout(new_run(), "git rev-list --count HEAD; git tag", f"file://{repository.bare}", depth=0)
    assert run.wait()["outcome"] == "exited", run.output("sys")
    assert run.output() == b"3\nboth\nv1\n"


@pytest.mark.parametrize("path", ["envs/prod", "envs/prod/", "in"])
def test_the_command_begins_in_the_folder(new_run, repository, path):
    run = checkout(new_run(), "cat where; ../../run.sh", repository.bare, path=path)
    assert run.wait()["exit_code"] == 0, run.output("sys")
    assert run.output() == b"prod\nran\n"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("out", "leads out of the repository"),
        ("up", "leads out of the repository"),
        ("out/ssh", "leads out of the repository"),
        (".git", "leads out of the repository"),
        ("nowhere", "it has no folder 'nowhere'"),
        ("say", "it has no folder 'say'"),
    ],
)
def test_a_folder_that_is_none_or_leads_out_is_refused(new_run, repository, path, why):
    run = checkout(new_run(), "echo ran", repository.bare, path=path)
    result = run.wait()
    assert (result["outcome"], result["exit_code"]) == ("setup_failed", None)
    assert why in result["message"]
    assert run.output() == b""


@pytest.mark.parametrize(
    ("ref", "why"),
    [
        ("nope", "it has no branch or tag 'nope'"),
        ("abcdef12", "a SHA must be given in full"),
        ("0123456789" * 4, "there is no commit " + "0123456789" * 4),
    ],
)
def test_a_ref_that_is_not_there_is_a_reason(new_run, repository, ref, why):
    run = checkout(new_run(), "echo ran", repository.bare, ref)
    result = run.wait()
    assert result["outcome"] == "setup_failed"
    assert why in result["message"]
    assert why in run.output("sys").decode()
    assert run.output() == b""


def test_submodules_are_not_fetched_and_the_log_says_so(new_run, repository, tmp_path):
    git(tmp_path, "init", "--quiet", "outer")
    added = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.bare), "inner"]
    git(tmp_path / "outer", *added)
    git(tmp_path / "outer", "commit", "--quiet", "-m", "with a submodule")
    run = checkout(new_run(), "ls inner", tmp_path / "outer")
    assert run.wait()["exit_code"] == 0, run.output("sys")
    assert run.output() == b""
    assert "it has submodules, which are not fetched" in run.output("sys").decode()


def test_an_empty_repository_and_no_repository_are_reasons(new_run, tmp_path):
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    assert "it has no commit yet" in checkout(new_run(), "true", tmp_path / "empty.git").wait()["message"]
    said = checkout(new_run(), "true", tmp_path / "nothing.git").wait()["message"]
    assert "there is no such repository" in said


@pytest.mark.parametrize(
    "wanted",
    [
        {"repo": "--upload-pack=touch /tmp/x"},
        {"repo": "https://e.example/x", "ref": "--upload-pack=x"},
        {"repo": "https://e.example/x", "path": "../x"},
        {"repo": "https://e.example/x", "path": "/etc"},
        {"repo": ""},
        {"repo": 3},
    ],
)
def test_what_would_be_an_option_is_no_payload(new_run, wanted):
    run = new_run()
    runner = run.start_with(run.payload("true", git=wanted))
    assert runner.wait() == 64
    assert not run.is_claimed()


@pytest.mark.parametrize("repo", ["ext::sh -c touch% x", "ftp://127.0.0.1/x", "git://127.0.0.1:1/x"])
def test_no_other_transport_is_spoken(new_run, tmp_path, repo):
    result = checkout(new_run(), "true", repo).wait()
    assert result["outcome"] == "setup_failed"


def test_over_http_with_a_token_that_nobody_sees(new_run, repository, http):
    run = new_run()
    seen: list[bytes] = []
    end = threading.Event()

    def look():
        while not end.is_set():
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) != os.getpid():
                    for name in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            text = (folder / name).read_bytes()
                            if TOKEN.encode() in text:
                                seen.append(text)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        command = "cat .git/config; env; grep -r glpat- . && echo found; echo $RUNVOY_GIT_TOKEN"
        credentials = encoded(TOKEN=f"{TOKEN}\n".encode())
        checkout(run, command, f"{http.url}/infra.git", "main", credentials=credentials)
        result = run.wait()
    finally:
        end.set()
        watching.join()
    assert result["git_commit"] == repository.main, run.output("sys")
    assert http.authorizations
    assert not seen
    whole = b"".join(record.data for record in run.records())
    assert f"url = {http.url}/infra.git".encode() in whole
    assert TOKEN.encode() not in whole
    assert b"found" not in whole
    assert b"RUNVOY_GIT_TOKEN" not in whole


def test_a_token_may_come_with_its_user(new_run, repository, http):
    run = checkout(new_run(), "true", f"{http.url}/infra.git", credentials=encoded(TOKEN=f"{USER}:{TOKEN}".encode()))
    assert run.wait()["git_commit"] == repository.main


def test_a_token_that_is_printed_is_masked_with_and_without_its_user(new_run, http):
    command = f"echo {USER}:{TOKEN}; echo {TOKEN}"
    run = checkout(new_run(), command, f"{http.url}/infra.git", credentials=encoded(TOKEN=f"{USER}:{TOKEN}".encode()))
    run.wait()
    assert TOKEN.encode() not in run.output()
    assert b"***" in run.output()


@pytest.mark.parametrize(
    ("credentials", "why"),
    [
        ({}, "its host asks who this is, and no secret sets RUNVOY_GIT_TOKEN"),
        (encoded(TOKEN=b"not-the-token"), "its host refused the secret that sets RUNVOY_GIT_TOKEN"),
        (encoded(TOKEN=b"one line\nanother"), "is no token"),
    ],
)
def test_a_wrong_token_is_a_reason(new_run, http, credentials, why):
    run = checkout(new_run(), "echo ran", f"{http.url}/infra.git", credentials=credentials)
    result = run.wait()
    assert result["outcome"] == "setup_failed"
    assert why in result["message"]
    assert b"not-the-token" not in b"".join(record.data for record in run.records())


def test_a_token_does_not_follow_to_another_host(new_run, http, repository):
    other = HttpHost(repository.bare.parent)
    try:
        http.is_private = False
        http.redirect_to = other.url
        run = checkout(new_run(), "true", f"{http.url}/infra.git", credentials=encoded(TOKEN=TOKEN.encode()))
        assert run.wait()["outcome"] == "setup_failed"
        assert not other.authorizations
    finally:
        other.close()


def test_over_https_with_the_certificate_of_a_host_of_ones_own(new_run, repository, tmp_path):
    certificate = make_certificate(tmp_path)
    host = HttpHost(repository.bare.parent, certificate=certificate)
    try:
        token = encoded(TOKEN=TOKEN.encode())
        said = checkout(new_run(), "true", f"{host.url}/infra.git", credentials=token).wait()["message"]
        assert "its host's TLS certificate is not good" in said
        assert not host.authorizations
        credentials = token | encoded(CERTIFICATES=certificate[0].read_bytes())
        run = checkout(new_run(), "env", f"{host.url}/infra.git", credentials=credentials)
        assert run.wait().get("git_commit") == repository.main, run.output("sys")
        assert b"RUNVOY_GIT_CERT" not in run.output()
    finally:
        host.close()


def test_where_a_server_hands_out_no_commit_by_its_sha_everything_is_fetched(new_run, repository, http):
    http.is_private = False
    http.is_old = True
    run = checkout(new_run(), "git rev-parse HEAD", f"{http.url}/infra.git", repository.second)
    assert run.wait()["git_commit"] == repository.second, run.output("sys")
    assert "fetching all branches and tags" in run.output("sys").decode()


def test_a_host_that_is_not_there_is_a_reason(new_run, http):
    url = http.url
    http.close()
    said = checkout(new_run(), "true", f"{url}/infra.git").wait()["message"]
    assert "its host cannot be reached" in said
    assert "its host cannot be reached" in checkout(new_run(), "true", "https://nowhere.invalid/x").wait()["message"]


def test_a_repository_that_is_not_there_is_a_reason(new_run, http):
    http.is_private = False
    said = checkout(new_run(), "true", f"{http.url}/other.git").wait()["message"]
    assert "there is no such repository" in said


def test_a_kill_ends_a_clone(new_run, http):
    http.is_stuck.set()
    run = checkout(new_run(), "echo ran", f"{http.url}/infra.git")
    assert http.asked.wait(60)
    os.kill(run.runners[0].pid, signal.SIGTERM)
    result = run.wait()
    assert (result["outcome"], result["exit_code"]) == ("killed", None)
    assert not run.pids()
    assert not (run.folder / "work").exists()


def test_a_clone_has_a_time_limit_of_its_own(new_run, http):
    http.is_stuck.set()
    run = checkout(new_run(), "echo ran", f"{http.url}/infra.git", timeout_seconds=0.5)
    result = run.wait()
    assert result["outcome"] == "setup_failed"
    assert "it took longer than 0.5 seconds" in result["message"]
    assert not run.pids()


def test_the_commands_deadline_does_not_run_while_it_is_cloned(new_run, repository, http):
    http.is_stuck.set()
    run = new_run()
    checkout(run, "echo ran", f"{http.url}/infra.git", credentials=encoded(TOKEN=TOKEN.encode()))
    assert http.asked.wait(60)
    assert not (run.folder / "spool" / "started.json").exists()
    http.is_stuck.clear()
    assert run.wait()["outcome"] == "exited"


def test_without_git_on_the_machine_that_is_the_reason(new_run, repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = checkout(new_run(), "true", repository.bare).wait()
    assert result["message"] == "the repository was not cloned: git is not installed where runvoy clones"


def test_nothing_of_the_machines_configuration_is_read(new_run, repository, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    evil = f'[core]\n\thooksPath = {home}\n\tsshCommand = touch {home}/ssh\n[url "{tmp_path}/"]\n\tinsteadOf = {repository.bare}\n'
    (home / ".gitconfig").write_text(evil)
    (home / "post-checkout").write_text(f"#!/bin/sh\ntouch {home}/hook\n")
    (home / "post-checkout").chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.hooksPath={home}'")
    run = checkout(new_run(), "true", repository.bare)
    assert run.wait()["git_commit"] == repository.main, run.output("sys")
    assert sorted(path.name for path in home.iterdir()) == [".gitconfig", "post-checkout"]


def test_over_ssh_with_a_key_that_is_on_no_disk(new_run, repository, ssh):
    run = new_run()
    checkout(run, "cat say; env", ssh.url(repository), "v1", credentials=encoded(SSH_KEY=ssh.key))
    result = run.wait()
    assert result.get("git_commit") == repository.first, (result, run.output("sys"))
    assert run.output().startswith(b"first\n")
    assert b"SSH" not in run.output()
    assert b"Permanently added" in run.output("sys")  # the host's key was taken as it came, and that is in the log
    assert not run.pids()


def test_an_agent_is_asked_only_once_somebody_listens(tmp_path):
    """ssh-agent's socket is there a moment before it is listened at: a good key was told to be none, one time in ten."""
    agent, keygen = shutil.which("ssh-agent"), shutil.which("ssh-keygen")
    if agent is None or keygen is None:
        pytest.skip("there is no ssh-agent on this machine")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    late = tmp_path / "ssh-agent"
    late.write_text(
        f"#!{sys.executable}\nimport os, socket, sys, time\nsocket.socket(socket.AF_UNIX).bind(sys.argv[-1])\n"
        f"time.sleep(0.5)\nos.unlink(sys.argv[-1])\nos.execv({agent!r}, sys.argv)\n"
    )
    late.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SSH_AUTH_SOCK": str(tmp_path / "s")}
    with (tmp_path / "key").open("rb") as key:
        argv = git_commands.with_key(key.fileno(), ["ssh-add", "-l"])
        done = subprocess.run(argv, env=env, pass_fds=[key.fileno()], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"ED25519" in done.stdout


def test_a_known_host_is_held_to(new_run, repository, ssh):
    good = encoded(SSH_KEY=ssh.key.strip(), KNOWN_HOSTS=ssh.known_hosts)
    run = checkout(new_run(), "true", ssh.url(repository), credentials=good)
    assert run.wait()["git_commit"] == repository.main, run.output("sys")
    assert b"Permanently added" not in run.output("sys")
    wrong = encoded(SSH_KEY=ssh.key, KNOWN_HOSTS=ssh.wrong_hosts)
    said = checkout(new_run(), "true", ssh.url(repository), credentials=wrong).wait()["message"]
    assert "the host's key is not the one in the secret" in said


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("none", "no secret sets RUNVOY_GIT_SSH_KEY"),
        ("other", "its host refused the secret that sets RUNVOY_GIT_SSH_KEY"),
        ("rubbish", "is no private key that can be read without a passphrase"),
    ],
)
def test_a_wrong_key_is_a_reason(new_run, repository, ssh, key, why):
    keys = {"none": None, "other": ssh.other_key, "rubbish": b"-----BEGIN RUBBISH-----\nabcdefghij\n"}
    credentials = {} if keys[key] is None else encoded(SSH_KEY=keys[key])
    run = checkout(new_run(), "echo ran", ssh.url(repository), credentials=credentials)
    result = run.wait()
    assert result["outcome"] == "setup_failed"
    assert why in result["message"], run.output("sys")
    assert not run.pids()
