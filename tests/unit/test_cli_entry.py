"""Ctrl-C while the command line is still being loaded, and when it has ended."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
wanted, sys.argv[1:] = sys.argv[1], sys.argv[2:]
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
from runvoy_cli import entry
sys.exit(entry.main())
"""


def interrupted_at(module, tmp_path, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *(arguments or ["version"])],
        env={**os.environ, "RUNVOY_HOME": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("module", "code"),
    [("runvoy_cli.app", -signal.SIGINT), ("typer", -signal.SIGINT), ("runvoy_cli.commands.version", 130)],
)
def test_an_interrupt_while_loading_is_no_traceback(tmp_path, module, code):
    done = interrupted_at(module, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (code, b"", b"")


def test_an_interrupt_while_an_error_is_told_is_no_traceback(tmp_path):
    done = interrupted_at("runvoy_cli.input.usage", tmp_path, "status", "--nonsense")
    assert (done.returncode, done.stderr, done.stdout) == (130, b"", b"")


def test_an_interrupt_at_the_very_end_is_no_traceback(tmp_path):
    program = "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT)" + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program, "nothing", "--version"],
        env={**os.environ, "RUNVOY_HOME": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
    assert done.stdout.startswith(b"runvoy ")


def test_who_ignores_interrupts_goes_on(tmp_path):
    done = interrupted_at("runvoy_cli.app", tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (0, b"")
