"""A question about the benchmarks runs none of them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "code"), [(["bench_masking", "--help"], 0), (["no-such"], 2), (["bench_masking", "--x"], 2)]
)
def test_what_is_no_choice_of_benchmarks_shows_how_to_choose(arguments, code):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert "usage: python -m benchmarks" in done.stdout + done.stderr
    assert "== " not in done.stdout
