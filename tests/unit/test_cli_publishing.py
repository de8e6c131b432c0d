"""`runvoy playbook publish` and `list --published`: what is published from where, against a deployment of real ports."""

from __future__ import annotations

import json
import socket

import pytest
from tests.unit.calls import add_key, ok
from tests.unit.served import served

from runvoy_cli import app
from runvoy_cli.playbooks import finding
from runvoy_protocol.members import KeyLimits

HOST = socket.gethostname()


@pytest.fixture
def place(tmp_path, monkeypatch, world):
    """A folder with projects in it, and a deployment that the client is configured for."""
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RUNVOY_PROFILE", raising=False)
    with served(world) as endpoint:
        monkeypatch.setenv("RUNVOY_ENDPOINT", endpoint)
        monkeypatch.setenv("RUNVOY_DEPLOYMENT", "here")
        monkeypatch.setenv("RUNVOY_API_KEY", world.signing_key.to_api_key())
        yield tmp_path


@pytest.fixture
def runvoy(place, capsys):
    def run(*arguments):
        code = app.main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def stand(place, monkeypatch):
    """Stand in a project, with these playbooks in it (a text each; None for none any more)."""

    def act(project, **texts):
        folder = place / project / ".runvoy"
        (place / project / ".git").mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            path = folder / f"{name}.yml"
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        monkeypatch.chdir(place / project)

    return act


def changes(runvoy, *arguments):
    code, out, err = runvoy("playbook", "publish", *arguments, "--json")
    assert code == 0, (out, err)
    return {one["name"]: one["change"] for one in json.loads(out)["playbooks"]}


GOOD = "commands: ['true']\n"


def test_all_that_is_found_is_published_and_what_is_gone_is_taken_out(runvoy, stand, place):
    (place / "home" / "playbooks").mkdir(parents=True)
    (place / "home" / "playbooks" / "mine.yml").write_text(GOOD)
    stand("shop", deploy=GOOD, restart=GOOD)
    assert changes(runvoy) == {"deploy": "added", "mine": "added", "restart": "added"}
    assert changes(runvoy) == {"deploy": "unchanged", "mine": "unchanged", "restart": "unchanged"}
    stand("shop", deploy=GOOD + "timeout: 5m\n", restart=None)
    assert changes(runvoy) == {"deploy": "changed", "mine": "unchanged", "restart": "removed"}
    listed = json.loads(runvoy("playbook", "list", "--published", "--json")[1])
    assert [(one["name"], one["source"]) for one in listed] == [
        ("deploy", f"{HOST}:~/shop"),
        ("mine", f"{HOST}:~/home/playbooks"),
    ]


def test_what_came_from_elsewhere_stays_unless_it_has_the_same_name(runvoy, stand):
    stand("shop", deploy=GOOD, restart=GOOD)
    changes(runvoy)
    stand("data", deploy=GOOD, load=GOOD)
    assert changes(runvoy) == {"deploy": "changed", "load": "added", "restart": "unchanged"}
    stand("empty")
    assert set(changes(runvoy).values()) == {"unchanged"}
    stand("data", load=GOOD)
    assert changes(runvoy, "--replace") == {"deploy": "unchanged", "load": "unchanged", "restart": "removed"}


def test_named_ones_alone(runvoy, stand):
    stand("shop", deploy=GOOD, restart=GOOD)
    assert changes(runvoy, "deploy") == {"deploy": "added"}
    assert changes(runvoy, "restart") == {"deploy": "unchanged", "restart": "added"}
    assert changes(runvoy, "restart", "--replace") == {"deploy": "removed", "restart": "unchanged"}
    code, _, err = runvoy("playbook", "publish", "nothing")
    assert (code, "there is no playbook 'nothing'" in err) == (2, True)


def test_taking_out(runvoy, stand):
    stand("shop", deploy=GOOD, restart=GOOD, third=GOOD)
    changes(runvoy)
    stand("elsewhere")
    assert changes(runvoy, "--remove", "deploy") == {"deploy": "removed", "restart": "unchanged", "third": "unchanged"}
    code, _, err = runvoy("playbook", "publish", "--remove", "deploy")
    assert (code, "there is no published playbook 'deploy'" in err) == (2, True)
    assert changes(runvoy, "--remove") == {"restart": "removed", "third": "removed"}
    assert runvoy("playbook", "publish", "--remove", "--replace")[0] == 2
    assert "no playbooks are published" in runvoy("playbook", "list", "--published")[2]
    assert runvoy("playbook", "list", "--published", "--json")[1] == "[]\n"


def test_what_is_not_right_is_told_with_its_place_and_the_others_go_on(runvoy, stand, place):
    stand("shop", good=GOOD, bad="comands: [a]\ntimeout: soon\n")
    code, out, err = runvoy("playbook", "publish")
    path = place / "shop" / ".runvoy" / "bad.yml"
    assert code == 1
    assert out.splitlines() == ["PLAYBOOK  CHANGE  FROM", f"good      added   {HOST}:~/shop"]
    assert err.splitlines()[0] == "runvoy: not published: the playbook bad has 2 problems:"
    assert f"{path}, line 1, column 1: a playbook has no 'comands'" in err
    code, out, _ = runvoy("playbook", "publish", "--json")
    [told] = json.loads(out)["problems"]
    assert (code, told["name"], told["path"], len(told["problems"])) == (1, "bad", str(path), 2)
    assert runvoy("playbook", "publish", "bad")[0] == 2  # a named one that is not right is no playbook to publish


def test_one_that_leaves_the_repository_to_its_caller_is_none_for_a_page(runvoy, stand):
    stand("shop", good=GOOD, anywhere=GOOD + "git_path: tools\n")
    code, out, err = runvoy("playbook", "publish")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (1, ["PLAYBOOK", "good"])
    assert (
        "not published: the playbook anywhere leaves the repository to whoever runs it: a page could not run it" in err
    )
    assert runvoy("playbook", "publish", "anywhere")[0] == 2


def test_one_that_is_not_right_any_more_is_taken_out(runvoy, stand):
    """The page must not offer what `playbook run` refuses."""
    stand("shop", deploy=GOOD, restart=GOOD)
    changes(runvoy)
    stand("shop", deploy="commands: [")
    code, out, _ = runvoy("playbook", "publish", "--json")
    assert code == 1
    assert {one["name"]: one["change"] for one in json.loads(out)["playbooks"]} == {
        "deploy": "removed",
        "restart": "unchanged",
    }


def test_what_is_published_is_what_a_key_is_limited_to(runvoy, stand, world):
    stand("shop", deploy="commands: ['echo ${{ who }}']\nparameters: {who: {}}\nlabels: {who: 'x ${{ who }}'}\n")
    changes(runvoy)
    [found] = ok(world, "GET", "/playbooks")["playbooks"]
    assert found["digest"] == json.loads(runvoy("playbook", "show", "deploy", "--json")[1])["digest"]
    assert found["digest"] == finding.pin_of("deploy").digest
    assert found["playbook"]["labels"] == {"who": ["x ", {"parameter": "who"}]}


def test_a_limited_key_is_told_that_it_may_not(runvoy, stand, world, monkeypatch):
    stand("shop", deploy=GOOD)
    monkeypatch.setenv("RUNVOY_API_KEY", add_key(world, "ada", KeyLimits(labels={"a": "b"})).to_api_key())
    code, _, err = runvoy("playbook", "publish")
    assert (code, "is limited and does not allow this (publish-playbooks)" in err) == (1, True)


def test_too_much_is_refused_by_name(runvoy, stand):
    stand("shop", deploy=GOOD, large=f"commands: ['# {'x' * 60_000}', '# {'y' * 2_000}']\n")
    assert changes(runvoy) == {"deploy": "added", "large": "added"}
    stand("shop", **{f"large{number}": f"commands: ['# {'x' * 60_000}']\n" for number in range(9)})
    code, _, err = runvoy("playbook", "publish")
    assert code == 1
    assert "(TOO_LARGE)" in err
    assert "Publish by name those alone that are run from a browser" in err


def test_a_folder_with_a_strange_or_long_name_is_told_as_well_as_can_be(runvoy, stand):
    stand("a\nb\x1b[31m", deploy=GOOD)
    changes(runvoy)
    stand("/".join(["x" * 100] * 4), other=GOOD)
    changes(runvoy)
    sources = {one["name"]: one["source"] for one in json.loads(runvoy("playbook", "list", "--published", "--json")[1])}
    assert sources["deploy"] == f"{HOST}:~/a?b?[31m"
    assert sources["other"].startswith(f"{HOST}:…")
    assert sources["other"].endswith("x" * 100)
    assert len(sources["other"]) == 256
