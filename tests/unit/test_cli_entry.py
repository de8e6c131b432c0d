"""Ctrl-C while the command line is still being loaded."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
wanted, sys.argv[1:] = sys.argv[1], ["version"]
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
from runvoy_cli import entry
sys.exit(entry.main())
"""


def interrupted_at(module, tmp_path, **options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
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


def test_who_ignores_interrupts_goes_on(tmp_path):
    done = interrupted_at("runvoy_cli.app", tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (0, b"")
