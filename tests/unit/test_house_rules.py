"""Rules of the house that no other tool checks, on every tracked file."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
MAX_MODULES = 12  # of a package, commands aside: those are named as what one types
MAX_TEST_LINES = 600  # a suite is read a test at a time
# Longer by nature. A file is listed here with its reason, or split.
LONG_FILES: dict[str, str] = {
    "tests/golden/generate.py": "a flat list: one example of every message",
    "agent/runvoy_agent/ports.py": "every port, and what passes through it, stands in one place",
}

# Spelled in pieces, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a package registry's host": re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", r"registry\.npm" + "js"])
    ),
    "a path of one machine": re.compile(r"(?<![\w.-])/(?:wo" + r"rk|ro" + r"ot)/"),
    "a private key": re.compile("BEGIN [A-Z ]*PRIVATE " + "KEY"),
    "an AWS access key": re.compile(r"\bAK" + r"IA[0-9A-Z]{16}\b"),
}
BINARY = {".bin", ".gz", ".png", ".ico", ".zip", ".woff2"}


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    """The files git tracks; without git (an unpacked archive) there is nothing to judge."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what, tracked_files):
    found = []
    for path in tracked_files:
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, f"{what}:\n" + "\n".join(found)


def test_files_stay_small_enough_to_be_read_at_once(tracked_files):
    long = {}
    for path in tracked_files:
        name = str(path.relative_to(ROOT))
        if path.suffix == ".py" and name not in LONG_FILES:
            count = len(path.read_text().splitlines())
            if count > (MAX_TEST_LINES if name.startswith("tests/") else MAX_LINES):
                long[name] = count
    assert not long, f"too long: split, or list with a reason in LONG_FILES: {long}"


@pytest.mark.parametrize("folder", ["agent/runvoy_agent/handlers", "cli/runvoy_cli"])
def test_packages_stay_small_and_cost_nothing_by_themselves(folder):
    """Whoever imports a module imports its package: an `__init__.py` says what is in it, and does nothing."""
    for init in sorted((ROOT / folder).glob("*/__init__.py")):
        said, *rest = ast.parse(init.read_text()).body
        assert isinstance(said, ast.Expr), init
        assert isinstance(said.value, ast.Constant), init
        assert not rest, f"{init} is to hold a docstring alone"
        count = len(list(init.parent.glob("*.py"))) - 1
        assert init.parent.name == "commands" or 2 <= count <= MAX_MODULES, f"{init.parent} has {count} modules"


def test_no_lock_file_is_tracked(tracked_files):
    """A lock file names a registry's host: versions are held by bounds and a date in pyproject.toml."""
    assert not [path.name for path in tracked_files if path.name in {"uv.lock", "package-lock.json", "poetry.lock"}]


def test_test_files_have_names_of_their_own(tracked_files):
    """With --import-mode=importlib two equal names would work, and confuse whoever reads a failure."""
    names = [path.name for path in tracked_files if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_the_recipe_that_makes_the_bundle_brings_what_synthesizes_the_template():
    """Who deploys begins with it, in a checkout that has nothing but uv."""
    lines = [line for line in (ROOT / "justfile").read_text().splitlines() if "runvoy_infra.bundling" in line]
    assert lines
    assert all("uv run --group infra " in line for line in lines)
