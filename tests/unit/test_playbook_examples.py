"""The playbooks of docs/playbooks: right to the loader, the schema and every shell, and run for real beside stand-ins for
the programs they call."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runvoy_cli.playbooks import compiling, reader
from runvoy_protocol import requests

FOLDER = Path(__file__).parents[2] / "docs" / "playbooks"
PATHS = {path.stem: path for path in sorted(FOLDER.glob("*.yml"))}
# A value for each parameter that has no default; `...` where any text will do.
GIVEN: dict[str, dict[str, object]] = {
    "database-restore": {"database": "shop", "day": "2030-01-31", "jobs": "8"},
    "image-build": {"service": "api", "tag": "1.4.2", "build_arg": ...},
    "log-query": {"service": "web", "text": ...},
    "rolling-restart": {"namespace": "shop", "deployment": "cart-api"},
    "secret-rotation": {"service": "api", "value": ...},
    "terraform": {"action": "apply", "target": "module.vpc"},
}
PROGRAMS = ("aws", "buildah", "kubectl", "pg_restore", "psql", "terraform")
# Keeps of each call how many words it has, the program, the words, and its stdin where it reads that, each ended by a NUL.
STAND_IN = """#!/bin/sh
{ printf '%s\\0' "$#" "${0##*/}" "$@"
  case " $* " in *" file:///dev/stdin "*) cat ;; esac
  printf '\\0'
} >>"$RECORD"
: >digest.txt; printf '%s' "$FOUND"
exit "${FAIL:-0}"
"""
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "' ; touch pwned ; '",
    '" ; touch pwned ; "',
    "\ntouch pwned\n",
    "*",
    "-rf /",
]
HOSTILE += ["a[$(touch pwned)]", "ключ=é", "\\", "%s%n", "#", "$PATH", " "]
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


def read(name):
    return reader.read(name, PATHS[name], PATHS[name].read_text())


def request(name, text="x", **more):
    chosen = read(name)
    given = {key: text if value is ... else value for key, value in {**GIVEN[name], **more}.items()}
    made = compiling.to_request(chosen, chosen.values_of(given))
    requests.check(made)
    return made


class Place:
    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for program in PROGRAMS:
            path = folder / "bin" / program
            path.write_text(STAND_IN)
            path.chmod(0o755)

    def run(self, made, **variables):
        work, record = self.folder / "work", self.folder / "record"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        record.write_bytes(b"")
        done = subprocess.run(
            ["/bin/sh", "-c", made.command],
            cwd=work,
            env={"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "RECORD": str(record), **made.env, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert not (work / "pwned").exists()
        return done, list(calls_of(record.read_bytes().decode().split("\0")[:-1]))


def calls_of(items):
    """The words of each call, and its stdin as the last, where it read any."""
    while items:
        end = int(items[0]) + 2
        yield items[1:end] + ([items[end]] if items[end] else [])
        items = items[end + 1 :]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("examples"))


def test_there_are_six_and_values_for_each():
    assert set(PATHS) == set(GIVEN)


@pytest.mark.parametrize("name", PATHS)
def test_an_example_is_right_to_loader_and_schema(name):
    assert read(name).description
    schema = json.loads((FOLDER.parent / "playbook.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(PATHS[name].read_text()), schema, jsonschema.Draft202012Validator)


def test_the_playbook_of_the_page_is_right():
    [block] = re.findall(r"```yaml\n(.*?)```", (FOLDER.parent / "playbooks.md").read_text(), re.DOTALL)
    assert reader.read("restart", Path("restart.yml"), block).parameters["patience"].default == "10"


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("name", PATHS)
def test_an_example_is_shell_that_every_shell_can_parse(name, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    chosen = read(name)
    for text in (compiling.shell_text(chosen), *(command.shell for command in chosen.commands)):
        done = subprocess.run([shell, "-n", "-c", text], capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", PATHS)
def test_an_example_runs_to_its_end_and_announces_every_command(place, name):
    done, calls = place.run(request(name))
    assert done.returncode == 0, done.stderr
    assert calls
    announced = [line for line in done.stderr.decode().splitlines() if line.startswith(f"playbook {name}: ")]
    assert len(announced) == len(read(name).commands)


@pytest.mark.parametrize("name", PATHS)
def test_an_example_ends_with_the_first_program_that_fails(place, name):
    done, calls = place.run(request(name), FAIL="9")
    if name == "rolling-restart":  # its first command fails, so that the second never undoes anything
        assert len(calls) == 1
    assert (done.returncode, len(calls)) == (9, 1), done.stderr


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS.map("".join).filter(bool))
def test_any_text_arrives_exactly_and_runs_nothing(place, text):
    done, calls = place.run(request("secret-rotation", text))
    words = ["secretsmanager", "put-secret-value", "--secret-id", "prod/api", "--secret-string", "file:///dev/stdin"]
    assert (done.returncode, calls[0]) == (0, ["aws", *words, text])
    done, calls = place.run(request("image-build", text))
    words = ["build", "--layers", "--tag", "registry.example.com/services/api:1.4.2", "--build-arg", text, "api"]
    assert (done.returncode, calls[0]) == (0, ["buildah", *words])
    done, calls = place.run(request("log-query", text))
    assert (done.returncode, len(calls)) == (0, 1)


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\n" not in text])
def test_a_search_is_for_the_text_itself(place, text):
    done, _ = place.run(request("log-query", text), FOUND=f"other\n{text}, and more\n")
    assert done.stdout.decode().splitlines()[-1] == f"{text}, and more"


def test_what_the_examples_call(place):
    _, calls = place.run(request("terraform"))
    assert calls == [
        ["terraform", "init", "-lockfile=readonly"],
        ["terraform", "plan", "-out=plan.bin", "-target=module.vpc"],
        ["terraform", "apply", "plan.bin"],
    ]
    _, calls = place.run(request("terraform", action="plan", target=""))
    assert [call[1] for call in calls] == ["init", "plan"]
    _, calls = place.run(request("database-restore"))
    assert calls[0][-2:] == ["s3://example-backups/2030-01-31/shop.dump", "restore.dump"]
    assert calls[2][4:6] == ["--jobs=8", "--dbname=shop"]
    _, calls = place.run(request("rolling-restart", patience_minutes="3"))
    assert calls[1][-1] == "--timeout=180s"


def test_a_restart_that_fails_is_undone(place):
    made = request("rolling-restart")
    stand_in = place.folder / "bin" / "kubectl"
    stand_in.write_text(STAND_IN.replace('exit "${FAIL:-0}"', 'case "$*" in *" status "*) exit 1 ;; esac'))
    try:
        done, calls = place.run(made)
    finally:
        stand_in.write_text(STAND_IN)
    assert done.returncode == 1
    assert [call[4] for call in calls] == ["restart", "status", "undo"]
