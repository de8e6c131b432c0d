"""`runvoy web`: the link, what stands in it, and how it reaches a browser; and where other commands tell it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from tests.e2e.test_cli_json import documented

from runvoy_protocol import claims


def test_the_link_has_a_token_for_a_key_of_one_s_own(machine_of_module: Any) -> None:
    execution_id = machine_of_module.ok("submit", "true").strip()
    origin = f"http://127.0.0.1:{machine_of_module.endpoint()['port']}"
    done = machine_of_module("web", "--no-open", execution_id)
    url, _, fragment = done.stdout.decode().strip().partition("#claim=")
    assert url == f"{origin}/?execution_id={execution_id}"
    token = claims.parse_token(fragment)
    assert (token.endpoint, token.deployment_id) == (origin, machine_of_module.endpoint()["deployment_id"])
    assert b"whoever opens it first" in done.stderr
    told = json.loads(machine_of_module.ok("web", "--no-open", "--json"))
    assert told["opened"] is False
    assert told["url"].startswith(f"{origin}/#claim=rvc1_")
    assert machine_of_module("web", "nonsense").returncode == 2


def test_a_browser_is_given_a_private_file_and_no_secret_argument(machine_of_module: Any, tmp_path: Path) -> None:
    seen = tmp_path / "arguments"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$*" > {seen}.new && mv {seen}.new {seen}\n')
    browser.chmod(0o755)
    env = {"BROWSER": f"{browser} %s", "DISPLAY": ":0"}
    shown = machine_of_module.ok("web", env=env).strip()
    assert "#" not in shown
    machine_of_module.wait_until(seen.exists)
    page = machine_of_module.home / "web" / "open.html"
    assert seen.read_text() == page.as_uri()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert "#claim=rvc1_" in page.read_text()


def test_without_a_screen_the_link_is_printed(machine_of_module: Any) -> None:
    shown = machine_of_module.ok("web", env={"DISPLAY": "", "WAYLAND_DISPLAY": ""}).strip()
    assert "#claim=rvc1_" in shown


def test_a_limited_key_hands_nothing_over(machine_of_module: Any) -> None:
    made = json.loads(machine_of_module.ok("keys", "create", "--only-label", "a=b", "--json"))
    endpoint = machine_of_module.endpoint()
    env = {
        "RUNVOY_API_KEY": made["api_key"],
        "RUNVOY_ENDPOINT": f"http://127.0.0.1:{endpoint['port']}",
        "RUNVOY_DEPLOYMENT": endpoint["deployment_id"],
    }
    done = machine_of_module("web", "--no-open", env=env)
    assert done.stdout.decode().strip() == f"{env['RUNVOY_ENDPOINT']}/"
    assert b"the browser will ask for an API key" in done.stderr


def test_a_run_s_page_is_told_to_people_and_scripts_get_the_id_alone(machine_of_module: Any) -> None:
    quiet = machine_of_module("submit", "true")
    assert quiet.stderr == b""
    told = machine_of_module("--verbose", "submit", "true")
    execution_id = told.stdout.decode().strip()
    link = f"/?execution_id={execution_id}".encode()
    assert link in told.stderr
    assert link in machine_of_module("--verbose", "status", execution_id).stderr
    assert b"/?execution_id=" in machine_of_module("--verbose", "run", "true").stderr


def test_origins_are_named_while_the_stack_is_down(machine: Any) -> None:
    assert machine("local", "up", "--web-origin", "https://runs.example.com/path").returncode == 2
    machine.ok("local", "up", "--web-origin", "https://runs.example.com")
    assert json.loads((machine.home / "local" / "settings.json").read_bytes())["web_origins"] == [
        "https://runs.example.com"
    ]
    refused = machine("local", "up", "--web-origin", "none")
    assert refused.returncode == 2
    assert b"local down" in refused.stderr
    machine.ok("local", "down")
    machine.ok("local", "up", "--web-origin", "none")
    assert json.loads((machine.home / "local" / "settings.json").read_bytes()) == {
        "host_processes": True,
        "keep_seconds": None,
        "web_origins": [],
        "host": "",
    }


def test_opening_the_viewer_publishes_the_playbooks_of_the_place(machine_of_module: Any, tmp_path: Path) -> None:
    folder = tmp_path / ".runvoy"
    folder.mkdir()
    (folder / "good.yml").write_text("commands: ['true']\n")
    (folder / "bad.yml").write_text("commands: ['true']\nlocks: {}\n")
    published = ("playbook", "list", "--published", "--json")
    machine_of_module.ok("web", "--no-open", "--no-playbooks", cwd=tmp_path)
    assert json.loads(machine_of_module.ok(*published)) == []
    done = machine_of_module("web", "--no-open", cwd=tmp_path)
    assert done.returncode == 0
    assert b"#claim=rvc1_" in done.stdout
    assert f"{folder / 'bad.yml'}, line 2, column 8: locks must be a name or a list of names" in done.stderr.decode()
    assert b"runvoy: playbooks published: good" in done.stderr
    assert [one["name"] for one in json.loads(machine_of_module.ok(*published))] == ["good"]
    assert b"published: good" not in machine_of_module("web", "--no-open", cwd=tmp_path).stderr
    (folder / "good.yml").unlink()
    assert b"playbooks no longer published: good" in machine_of_module("web", "--no-open", cwd=tmp_path).stderr


def test_what_cannot_be_published_is_told_and_the_viewer_opens(machine_of_module: Any, tmp_path: Path) -> None:
    (tmp_path / ".runvoy").mkdir()
    for number in range(5):
        (tmp_path / ".runvoy" / f"large{number}.yml").write_text(f"commands: ['# {'x' * 60_000}']\n")
    done = machine_of_module("web", "--no-open", cwd=tmp_path)
    assert done.returncode == 0
    assert b"playbooks are not published: all playbooks together have" in done.stderr
    assert b"#claim=rvc1_" in done.stdout


def test_publish_prints_what_its_page_says(machine_of_module: Any, tmp_path: Path) -> None:
    (tmp_path / ".runvoy").mkdir()
    (tmp_path / ".runvoy" / "deploy.yml").write_text("commands: ['true']\n")
    done = machine_of_module("playbook", "publish", "--json", cwd=tmp_path)
    [shape] = documented("playbook publish")
    told = json.loads(done.stdout)
    assert (set(told), set(told["playbooks"][0])) == (set(shape), set(shape["playbooks"][0]))
    [listed] = json.loads(machine_of_module.ok("playbook", "list", "--published", "--json"))
    assert set(listed) == set(documented("playbook list")[1][0])
    machine_of_module.ok("playbook", "publish", "--remove")
