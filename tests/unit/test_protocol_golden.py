"""Today's code makes and reads the very bytes of every golden message (tests/golden)."""

import gzip
import hashlib
import importlib.util
import json
import pkgutil
import sys
from pathlib import Path

import msgspec
import pytest

import runvoy_protocol as protocol

GOLDEN = Path(__file__).parents[1] / "golden"


def _load_examples():
    spec = importlib.util.spec_from_file_location("golden_generate", GOLDEN / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_generate"] = module
    spec.loader.exec_module(module)
    return module


examples = _load_examples()
MESSAGES = {message.file: message for message in examples.messages()}
FOLDER = GOLDEN / examples.VERSION
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def test_the_manifest_lists_every_file_and_no_other():
    assert {path.name for path in FOLDER.iterdir()} == MANIFEST.keys() | {"manifest.json"}
    assert MESSAGES.keys() == MANIFEST.keys()


@pytest.mark.parametrize("file", MANIFEST)
def test_a_golden_file_is_what_it_was(file):
    assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == MANIFEST[file]["sha256"]


@pytest.mark.parametrize("file", MESSAGES)
def test_today_s_code_makes_the_golden_bytes(file):
    stored, made = (FOLDER / file).read_bytes(), MESSAGES[file].made
    if file.endswith(".gz"):  # deflate's output is zlib's choice; what is compressed is ours
        stored, made = gzip.decompress(stored), gzip.decompress(made)
    assert made == stored


@pytest.mark.parametrize("file", MESSAGES)
def test_today_s_code_reads_the_golden_bytes(file):
    message = MESSAGES[file]
    assert message.read((FOLDER / file).read_bytes()) == message.value


def _structs_in(value, found):
    """The types of all messages in a value, its own and those of its parts."""
    if isinstance(value, msgspec.Struct):
        found.add(type(value))
        value = tuple(getattr(value, field) for field in value.__struct_fields__)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            _structs_in(part, found)
    return found


def test_every_message_has_an_example():
    """All public structs of the protocol are messages, or parts of one. What is read of an envelope is its payload, of an error a
    RunvoyError."""
    modules = [
        importlib.import_module(f"runvoy_protocol.{one.name}") for one in pkgutil.iter_modules(protocol.__path__)
    ]
    messages = {
        value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    shown = set()
    for message in MESSAGES.values():
        _structs_in(message.value, shown)
    assert {message.__name__ for message in messages - shown} == {"Envelope", "Signature", "ErrorBody", "ErrorAnswer"}


def test_the_runner_reads_the_golden_payload():
    """The runner shares no code with the protocol, so the golden file is what holds the two together."""
    payload = pytest.importorskip("runvoy_agent.runner.payload")
    read = payload.parse((FOLDER / "runner-payload.json").read_bytes())
    assert read.execution_id == examples.ID
    assert read.attempt == 1
    assert read.execution_key == examples.EXECUTION_KEY
    assert read.argv == [b"sh", b"-c", b"exit 7"]
    assert read.env == {b"A": b"1"}
    assert read.secrets == {b"DB_PASSWORD": b"hunter22"}
    assert (read.timeout_seconds, read.grace_seconds) == (90, 30)


def test_the_runner_reads_the_golden_checkout():
    payload = importlib.import_module("runvoy_agent.runner.payload")
    read = payload.parse((FOLDER / "runner-payload-git.json").read_bytes())
    assert vars(read.git) == {
        "repo": "https://example.com/infra.git",
        "ref": "main",
        "path": "envs/prod",
        "depth": 50,
        "timeout_seconds": 300,
    }
    assert read.git_credentials == {b"RUNVOY_GIT_TOKEN": b"hunter33"}
    assert read.git_credentials[b"RUNVOY_GIT_TOKEN"] in read.masked.values()
    assert payload.parse((FOLDER / "runner-payload.json").read_bytes()).git is None


def test_the_runner_reads_the_golden_grant_and_signs_the_golden_call():
    payload = importlib.import_module("runvoy_agent.runner.payload")
    run_grant = importlib.import_module("runvoy_agent.runner.run_grant")
    read = payload.parse((FOLDER / "runner-payload-task.json").read_bytes())
    assert (read.start_seconds, read.ship_seconds) == (300, 120)
    grant = run_grant.RunGrant(read, None)
    assert grant._key_prefix == f"executions/{examples.ID}/run/"
    assert {kind: policy.fields for kind, policy in grant._policies.items()} == {
        "logs": examples.RUN_GRANT.logs.fields,
        "reports": examples.RUN_GRANT.reports.fields,
    }
    made = run_grant.authorization(read, "POST", examples.RUN_GRANT.renew_url, 1770091510250)
    assert made.encode() == (FOLDER / "runner-call.authorization").read_bytes()
