"""Where a playbook is found, whose wins, and what is nobody's project."""

from pathlib import Path

import pytest

from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import finding


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home folder, with RUNVOY_HOME where it is by default."""
    folder = tmp_path / "home" / "ann"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("RUNVOY_HOME", raising=False)
    monkeypatch.chdir(folder)
    return folder


def put(folder: Path, name: str, text: str = "commands: [make]") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def names():
    return {found.name: (found.origin, found.path) for found in finding.find_all()}


def test_none_at_all(home):
    assert names() == {}
    with pytest.raises(UsageProblem, match="no playbook 'deploy'") as caught:
        finding.load("deploy")
    assert f"{home}/.runvoy/playbooks/NAME.yml" in caught.value.hint


def test_the_nearest_wins_and_the_users_are_last(home, monkeypatch):
    project = home / "src" / "shop"
    (project / ".git").mkdir(parents=True)
    service = project / "services" / "api"
    service.mkdir(parents=True)
    put(home / ".runvoy" / "playbooks", "deploy.yml")
    own = put(home / ".runvoy" / "playbooks", "own.yaml")
    put(home / "src" / ".runvoy", "outside.yml")
    put(project / ".runvoy", "deploy.yml")
    top = put(project / ".runvoy", "build.yaml")
    near = put(service / ".runvoy", "deploy.yml")
    monkeypatch.chdir(service)
    assert names() == {"build": ("project", top), "deploy": ("project", near), "own": ("user", own)}


def test_below_the_home_folder_without_git_every_folder_up_to_it_counts(home, monkeypatch):
    put(home.parent / ".runvoy", "above.yml")
    found = put(home / "a" / ".runvoy", "deploy.yml")
    (home / "a" / "b").mkdir()
    monkeypatch.chdir(home / "a" / "b")
    assert names() == {"deploy": ("project", found)}


def test_the_clients_own_folder_is_no_project(home):
    put(home / ".runvoy", "config.yaml", "endpoint: https://x.example")
    assert names() == {}


def test_outside_of_home_and_git_only_the_folder_itself_counts(home, tmp_path, monkeypatch):
    """What somebody else puts into a shared folder, /tmp above all, must not become ours."""
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    put(shared / ".runvoy", "deploy.yml")
    monkeypatch.chdir(shared / "mine")
    assert names() == {}
    monkeypatch.chdir(shared)
    assert set(names()) == {"deploy"}


def test_a_folder_of_runvoys_own_may_lie_elsewhere(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "state"))
    found = put(tmp_path / "state" / "playbooks", "deploy.yml")
    assert names() == {"deploy": ("user", found)}


def test_what_is_no_playbooks_name_is_left_out(home):
    folder = home / "p" / ".runvoy"
    for name in ("ok.yml", ".hidden.yml", "a b.yml", "-x.yml", "notes.txt", "x.yml~"):
        put(folder, name)
    assert [path.name for path in finding._files(folder)] == ["ok.yml"]


def test_one_name_twice_in_a_folder_is_told_and_not_chosen(home, monkeypatch):
    (home / "p").mkdir()
    put(home / "p" / ".runvoy", "deploy.yml")
    put(home / "p" / ".runvoy", "deploy.yaml")
    monkeypatch.chdir(home / "p")
    with pytest.raises(UsageProblem, match=r"deploy is there twice: .*deploy.yaml and deploy.yml"):
        finding.load("deploy")


def test_a_near_miss_is_told(home, monkeypatch):
    put(home / "p" / ".runvoy", "deploy.yml")
    monkeypatch.chdir(home / "p")
    with pytest.raises(UsageProblem, match="no playbook 'depoly'") as caught:
        finding.load("depoly")
    assert "Did you mean 'deploy'? Found here: deploy." in caught.value.hint


def test_what_cannot_be_read_is_told(home, monkeypatch):
    import os

    folder = home / "p" / ".runvoy"
    put(folder, "latin.yml").write_bytes(b"commands: [\xe9]")
    (folder / "folder.yml").mkdir()
    os.mkfifo(folder / "pipe.yml")
    put(folder, "large.yml").write_bytes(b"#" * 1_000_000)
    (folder / "lost.yml").symlink_to("nowhere")
    monkeypatch.chdir(home / "p")
    for name, told in {
        "latin": "not valid UTF-8",
        "folder": "no regular file",
        "pipe": "no regular file",
        "large": "over 262,144 bytes",
        "lost": "no regular file",
    }.items():
        with pytest.raises(UsageProblem, match=told):
            finding.load(name)


def test_a_folder_that_is_gone_is_told_as_that(home, monkeypatch):
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageProblem, match="is not there any more"):
        finding.find_all()
