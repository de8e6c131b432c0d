"""`runvoy infra` where something is missing on this machine."""

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules[{module!r}] = None; from runvoy_cli.app import main; sys.exit(main({arguments!r}))"


def without(module, *arguments):
    program = WITHOUT.format(module=module, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_without_boto3_it_says_how_to_get_it():
    done = without("boto3", "infra", "status")
    assert done.returncode == 1
    assert "needs boto3, which is not installed" in done.stderr
    assert "pip install 'runvoy[aws]'" in done.stderr


@pytest.mark.parametrize("arguments", [("infra", "--help"), ("infra", "apply", "--help"), ("version",), ("--help",)])
def test_nothing_else_needs_it(arguments, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNVOY_HOME", str(tmp_path))
    assert without("boto3", *arguments).returncode == 0
    assert without("runvoy_infra", *arguments).returncode == 0
