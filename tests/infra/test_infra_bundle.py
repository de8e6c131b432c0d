"""The bundle: the same bytes from the same code, and nothing in it that functions do not need."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import zipfile

import pytest

from runvoy_infra import bundle_files, bundling
from runvoy_infra.archive import write_zip
from runvoy_protocol.errors import ErrorCode, RunvoyError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_a_zip_depends_on_names_and_contents_alone(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_text("the same")
    os.utime(first, (1, 1))
    second.chmod(0o700)
    write_zip(tmp_path / "a.zip", {"b": first, "a": second})
    write_zip(tmp_path / "b.zip", {"a": first, "b": second})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "functions.zip"
    bundling.make_code(path, "arm64", "3.13")
    assert path.stat().st_size < 10_000_000
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_code_is_for_the_functions_machine_and_not_for_this_one(names):
    libraries = [name for name in names if ".so" in name]
    assert libraries
    assert not [name for name in libraries if "x86_64" in name]
    assert [name for name in libraries if name.endswith("cpython-313-aarch64-linux-gnu.so")]


def test_the_code_has_what_functions_need_and_no_client(names):
    tops = {name.partition("/")[0] for name in names}
    assert {"runvoy_agent", "runvoy_protocol", "msgspec", "nacl", "aws_lambda_powertools"} <= tops
    assert "runvoy_agent/runner/main.py" in names  # what tasks are given
    assert not tops & {
        "typer",
        "click",
        "yaml",
        "waitress",
        "multipart",
        "boto3",
        "botocore",
        "runvoy_cli",
        "runvoy_infra",
    }
    assert [name for name in names if name.startswith("runvoy-") and name.endswith(".dist-info/METADATA")]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="functions run on these")
def test_the_code_for_this_machine_runs_here(tmp_path):
    """As MiniStack runs it: the very zip, unpacked, with nothing of this environment but boto3's own."""
    architecture = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    path = tmp_path / "functions.zip"
    bundling.make_code(path, architecture, HERE)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "code")
    program = (
        "import importlib.metadata as m, runvoy_agent.handlers.inbox, runvoy_protocol.keys, aws_lambda_powertools.logging;"
        "print(m.version('runvoy'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'code')!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == bundling._project()["version"]
    # With the byte code that this Python would make, so that a cold start compiles nothing.
    names = {str(found.relative_to(tmp_path / "code")) for found in (tmp_path / "code").rglob("*.py*")}
    compiled = {importlib.util.cache_from_source(name) for name in names if name.endswith(".py")}
    assert compiled == {name for name in names if name.endswith(".pyc")}


def test_where_no_such_python_is_the_code_goes_without_byte_code(tmp_path, capsys):
    source = tmp_path / "module.py"
    source.write_text("1")
    assert bundling._byte_code({"module.py": source}, tmp_path / "compiled", "3.99") == {}
    assert "no Python 3.99" in capsys.readouterr().err
    source.write_text("1 +")
    with pytest.raises(SystemExit):
        bundling._byte_code(
            {"module.py": source}, tmp_path / "c2", f"{sys.version_info.major}.{sys.version_info.minor}"
        )


def test_an_installation_without_a_bundle_says_how_to_get_one(tmp_path):
    with pytest.raises(RunvoyError) as refused:
        bundle_files.load(tmp_path / "none")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "just bundle" in refused.value.hint


def test_a_bundle_is_read_as_it_was_written(tmp_path):
    (tmp_path / bundle_files.TEMPLATE).write_text('{"Parameters":{}}')
    (tmp_path / bundle_files.CODE).write_bytes(b"zip")
    (tmp_path / bundle_files.MANIFEST).write_text(
        json.dumps({"version": "1", "architecture": "arm64", "python": "3.13"})
    )
    bundle = bundle_files.load(tmp_path)
    assert (bundle.version, bundle.code, bundle_files.parameters_of(bundle.template)) == ("1", b"zip", {})
