"""Secrets as their users have them: exact to the byte in a command, masked in all it prints, and readable nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Machine
from tests.e2e.test_cli_terminal_e2e import terminal

pytestmark = pytest.mark.xdist_group("secrets")

VALUES = {
    "long": (b"a line of sixty-four KiB, with 'quotes' and \"such\" and \\ in it\n" * 1100)[: 64 * 1024],
    "lines": b"-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA7bq\n'\"`$(id)\\ \t\n-----END KEY-----\n\n",
    "bytes": bytes(byte for byte in range(1, 256)) * 3,
    "not-utf8": b"\xff\xfe\x80 spaces around? \xc3\x28  ",
    "quotes": b"""it's "quoted" `so` $HOME ${PATH} \\n %s""",
    "text": "pässwörter für die Datenbank".encode(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("secrets") / "home")
    made.ok("local", "up")
    yield made
    made.end()


def piped(machine: Machine, folder: Path, value: bytes, *args: str) -> Any:
    """One command with these bytes on its stdin."""
    path = folder / "value"
    path.write_bytes(value)
    with path.open("rb") as file:
        return machine(*args, stdin=file)


def variable(name: str) -> str:
    return f"S_{name.replace('-', '_').upper()}"


def forms_of(value: bytes) -> list[bytes]:
    """How a value, or a tell-tale part of it, may lie in a file."""
    parts = [value, value[:40], *(line for line in value.splitlines() if len(line) > 15)]
    found = []
    for part in parts:
        found += [part, part.hex().encode(), base64.b64encode(part)[:-4]]
        found.append(json.dumps(part.decode(errors="surrogateescape"))[1:-1].encode())
    return [form for form in found if len(form) > 12]


def assert_nowhere(machine: Machine, values: dict[str, bytes]) -> None:
    files = [path for path in machine.home.rglob("*") if path.is_file()]
    assert any(path.name == "state.db-wal" for path in files)
    for path in files:
        held = path.read_bytes()
        for name, value in values.items():
            assert not [form for form in forms_of(value) if form in held], f"{name} lies in {path}"


PRINT_ALL = """
import base64, hashlib, json, os, sys
found = {name: value for name, value in os.environb.items() if name.startswith(b"S_")}
print(json.dumps({name.decode(): hashlib.sha256(value).hexdigest() for name, value in found.items()}))
sys.stdout.flush()
for value in found.values():
    for where in (1, 2):
        os.write(where, value + b"\\n")
        os.write(where, base64.b64encode(value) + b"\\n" + value.hex().encode() + b"\\n")
        os.write(where, json.dumps(value.decode(errors="surrogateescape")).encode(errors="surrogateescape") + b"\\n")
"""


def test_values_of_every_kind_from_their_making_to_their_end(home: Machine, folder: Path) -> None:
    for name, value in VALUES.items():
        done = piped(home, folder, value, "secrets", "create", name, variable(name))
        assert done.returncode == 0, done
        assert done.stdout == f"created {name}\n".encode()
        assert (b"ends in a newline" in done.stderr) == value.endswith(b"\n")
    for name, value in VALUES.items():
        assert home("secrets", "get", name).stdout == value
        told = json.loads(home.ok("secrets", "get", name, "--json"))
        assert base64.b64decode(told["base64"]) == value
        assert told["text"] == (None if name in ("bytes", "not-utf8") else value.decode())

    script = folder / "script.py"
    script.write_text(PRINT_ALL)
    options = [word for name in VALUES for word in ("--secret", name)]
    done = home("run", *options, "--", "python3", str(script))
    assert done.returncode == 0, done
    shown, _, rest = done.stdout.partition(b"\n")
    assert json.loads(shown) == {variable(name): hashlib.sha256(value).hexdigest() for name, value in VALUES.items()}
    for name, value in VALUES.items():
        for printed in (rest, done.stderr):
            assert not [form for form in forms_of(value) if form in printed], f"{name} was printed"
    assert rest.count(b"***") >= len(VALUES)
    execution_id = json.loads(home.ok("list", "--limit", "1", "--json"))[0]["execution_id"]
    log = home("logs", execution_id, "--json").stdout
    home.wait_until(lambda: not (home.home / "local" / "runs" / execution_id).exists())
    assert not [form for value in VALUES.values() for form in forms_of(value) if form in log]
    assert_nowhere(home, VALUES)

    listed = home("secrets", "list", "--json").stdout + home("secrets", "list").stdout
    assert not [form for value in VALUES.values() for form in forms_of(value) if form in listed]
    for name in VALUES:
        home.ok("secrets", "delete", name, "--yes")
    assert home.ok("secrets", "list", "--json") == "[]\n"
    assert list((home.home / "local" / "secrets").glob("*.secret")) == []
    assert_nowhere(home, VALUES)
    audit = sqlite3.connect(home.home / "local" / "state.db").execute(
        "SELECT body FROM records WHERE key LIKE 'audit#%'"
    )
    actions = [json.loads(body) for (body,) in audit if body is not None]
    assert len([event for event in actions if event["action"] == "reveal-secret"]) == 2 * len(VALUES)
    [start] = [event for event in actions if event["action"] == "start"]
    assert start["message"] == f"with the secrets {', '.join(VALUES)}"


def test_changing_a_secret(home: Machine, folder: Path) -> None:
    done = piped(
        home, folder, b"the-first-value\n", "secrets", "create", "team/api", "API_TOKEN", "--trim-newline",
        "--description", "of the API", "--share", "*", "--json",
    )  # fmt: skip
    made = json.loads(done.stdout)
    assert done.stderr == b""
    assert made == json.loads(home.ok("secrets", "show", "team/api", "--json"))
    assert (made["env_name"], made["description"], made["shared_with"]) == ("API_TOKEN", "of the API", ["*"])
    assert "everybody" in home.ok("secrets", "show", "team/api")
    assert home("secrets", "get", "team/api").stdout == b"the-first-value"

    home.ok("secrets", "update", "team/api", "--env-name", "TOKEN", "--unshare", "*", "--description", "")
    done = piped(home, folder, b"the-second-value", "secrets", "update", "team/api", "--value-stdin", "--json")
    changed = json.loads(done.stdout)
    assert (changed["env_name"], changed["description"], changed["shared_with"]) == ("TOKEN", "", [])
    assert changed["version"] == 3
    assert home.ok("run", "--secret", "team/api", 'printf %s "$TOKEN" | sha256sum').split()[0] == (
        hashlib.sha256(b"the-second-value").hexdigest()
    )
    home.ok("secrets", "delete", "team/api", "--yes")


@pytest.mark.parametrize(
    ("value", "args", "code", "told"),
    [
        (b"1234567", ("create", "x", "X"), 1, b"fewer than 8 bytes"),
        (b"", ("create", "x", "X"), 1, b"fewer than 8 bytes"),
        (b"with a \0 in it", ("create", "x", "X"), 1, b"NUL"),
        (b"x" * (64 * 1024 + 1), ("create", "x", "X"), 1, b"65,536"),
        (b"long enough", ("create", "x", "RUNVOY_X"), 2, b"reserved"),
        (b"long enough", ("create", "x y", "X"), 2, b"no name for a secret"),
        (b"", ("create", "x", "long enough"), 2, b"does not stand on the command line"),
        (b"", ("create", "x", "X", "long enough"), 2, b"more words"),
        (b"", ("update", "x", "--env-name", "long enough"), 2, b"does not stand on the command line"),
        (b"long enough", ("create", "x", "X", "--share", "nobody"), 1, b"no user 'nobody'"),
        (b"long enough", ("create", "x"), 2, b"VARIABLE"),
        (b"long enough", ("update", "x", "--value-stdin"), 1, b"no secret 'x'"),
        (b"", ("update", "x"), 2, b"nothing is to be changed"),
        (b"", ("update", "x", "--env-name", "X", "--trim-newline"), 2, b"--value-stdin"),
        (b"", ("delete", "x"), 2, b"--yes"),
        (b"", ("delete", "x", "--yes"), 1, b"no secret 'x'"),
        (b"", ("get", "x"), 1, b"no secret 'x'"),
        (b"", ("show", "x"), 1, b"no secret 'x'"),
        (b"", ("show", ""), 2, b"empty"),
    ],
)
def test_what_is_refused(
    home: Machine, folder: Path, value: bytes, args: tuple[str, ...], code: int, told: bytes
) -> None:
    done = piped(home, folder, value, "secrets", *args)
    assert done.returncode == code, done
    assert told in done.stderr
    assert b"long enough" not in done.stderr
    assert done.stdout == b""


def test_a_run_that_names_what_it_cannot_have(home: Machine, folder: Path) -> None:
    piped(home, folder, b"a-good-value", "secrets", "create", "db-password", "PASSWORD")
    done = home("run", "--secret", "db_password", "true")
    assert done.returncode == 121
    assert b"SECRET_NOT_FOUND" in done.stderr
    assert b"'db-password'" in done.stderr, "a hint"
    done = home("run", "--secret", "db-password", "true", env={"RUNVOY_USER_PASSWORD": "mine"})
    assert done.returncode == 121
    assert b"both set the variable PASSWORD" in done.stderr
    home.ok("secrets", "delete", "db-password", "--yes")


def test_a_secret_that_is_deleted_while_a_run_waits_for_its_start(home: Machine, folder: Path) -> None:
    piped(home, folder, b"soon-to-be-gone", "secrets", "create", "gone", "GONE")
    holder = home.ok("submit", "--lock", "gone", "sleep 100").strip()
    waiting = home.ok("submit", "--lock", "gone", "--secret", "gone", "true").strip()
    home.wait_until(lambda: home.status(waiting).get("reason") == "lock")
    home.ok("secrets", "delete", "gone", "--yes")
    home.ok("kill", holder)
    assert home("wait", waiting).returncode == 123
    told = home.ok("status", waiting)
    assert "there is no secret 'gone'" in told
    assert "key or user" not in told, "neither was revoked"


def test_at_a_terminal_a_value_is_typed_twice_and_not_shown(home: Machine) -> None:
    with terminal(home, "secrets", "create", "typed", "TYPED") as person:
        person.see(b"Value of typed")
        person.type(b"typed-by-hand\n")
        person.see(b"again")
        person.type(b"typed-by-hant\n")
        at = person.see(b"not the same")
        person.see(b"Value of typed", at)
        person.type(b"typed-by-hand\n")
        person.see(b"again", at)
        person.type(b"typed-by-hand\n")
        assert person.end() == 0
        assert b"typed-by-hand" not in person.seen
    with terminal(home, "secrets", "get", "typed") as person:
        assert person.end() == 0
        assert person.seen.endswith(b"typed-by-hand"), "and no newline after it"
    with terminal(home, "secrets", "update", "typed", "--value-stdin") as person:
        person.see(b"Value of typed")
        person.type(b"x" * 1100 + b"\n")
        assert person.end() == 2
        assert b"too long to be typed" in person.seen
    with terminal(home, "secrets", "delete", "typed") as person:
        person.see(b"[y/N]")
        person.type(b"n\n")
        assert person.end() == 1
    for cut in (b"\x03", b"\x04"):  # Ctrl-C, Ctrl-D
        with terminal(home, "secrets", "delete", "typed") as person:
            person.see(b"[y/N]")
            person.type(cut)
            assert person.end() == 130
            assert person.seen.endswith(b"\n"), "the shell's prompt is not to stand behind the question"
    assert home("secrets", "get", "typed").stdout == b"typed-by-hand"
    with terminal(home, "secrets", "delete", "typed") as person:
        person.see(b"[y/N]")
        person.type(b"y\n")
        assert person.end() == 0


def test_a_terminal_is_not_given_what_it_would_obey(home: Machine, folder: Path) -> None:
    piped(home, folder, b"\x1b]0;owned\x07 and more", "secrets", "create", "escape", "ESCAPE")
    with terminal(home, "secrets", "get", "escape") as person:
        assert person.end() == 2
        assert b"\x1b]0;owned" not in person.seen
        assert b"not printable" in person.seen
    assert home("secrets", "get", "escape").stdout.startswith(b"\x1b]0;owned")
    home.ok("secrets", "delete", "escape", "--yes")


def test_no_message_and_no_trace_of_the_client_shows_a_value(home: Machine, folder: Path) -> None:
    done = piped(home, folder, b"seen-by-nobody", "--debug", "--verbose", "secrets", "create", "quiet", "QUIET")
    assert done.returncode == 0
    assert b"/secrets" in done.stderr
    done = home("--debug", "--verbose", "secrets", "get", "quiet")
    assert b"seen-by-nobody" not in done.stderr
    assert base64.b64encode(b"seen-by-nobody")[:-2] not in done.stderr
    home.ok("secrets", "delete", "quiet", "--yes")


def test_secrets_survive_the_death_of_the_stack(home: Machine, folder: Path) -> None:
    piped(home, folder, b"kept-for-good", "secrets", "create", "kept", "KEPT")
    home.kill_stack()
    assert home("secrets", "get", "kept").stdout == b"kept-for-good"
    assert home.ok("run", "--secret", "kept", "echo $KEPT") == "***\n"
    home.ok("secrets", "delete", "kept", "--yes")
