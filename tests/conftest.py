"""What holds for every test. Fixtures live beside the tests that use them."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runvoy_protocol import codec

LONGEST_ID = 100
MEMORY = Path(f"/dev/shm/runvoy-{os.getuid()}")
MEMORY_BYTES = 2 * 1024**3  # a whole run takes less than half of it


def _is_fit(folder: Path) -> bool:
    """Whether tests can have their folders in this one: it is ours, there is room, and programs in it can be executed."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        told = os.statvfs(folder)
        is_ours = folder.lstat().st_uid == os.getuid()
    except OSError:
        return False
    return is_ours and told.f_bavail * told.f_frsize >= MEMORY_BYTES and not told.f_flag & os.ST_NOEXEC


def remove_folders_of_the_dead(of_user: Path) -> None:
    """What runs left whose pytest was killed. It would itself keep that for three days, and there it takes memory. `of_user` is
    the folder of all runs of a user; the lock in each holds the id of its process."""
    for lock in of_user.glob("pytest-*/.lock"):
        try:
            os.kill(int(lock.read_text()), 0)
        except ProcessLookupError:
            if not lock.parent.is_symlink():
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (OSError, ValueError):
            continue  # one that just begins or ends, or another user's


# In memory a commit takes a hundredth of what it takes on a disk, and what is killed loses no more there: only a machine could. A
# `--basetemp`, or this variable, leads elsewhere.
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _is_fit(MEMORY):
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

# Tests start many processes; where bytecode is forbidden each of them would compile its imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A run that a shell started in the background ignores these, and so would every process that a test starts and interrupts.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and os.environ.get("PYTEST_DEBUG_TEMPROOT") == str(MEMORY):
        for of_user in MEMORY.glob("pytest-of-*"):
            remove_folders_of_the_dead(of_user)


def pytest_collection_finish() -> None:
    """Tests run handlers and clients in many threads."""
    codec.work_out_types()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs servers that others wrote, or the CDK, takes minutes: `servers` picks it, and a plain run leaves it out."""
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group is not None and group.args[0] in ("servers", "infra"):
            item.add_marker("servers")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Some values are megabytes. Every worker tells the controller all ids, and a test's is in the environment of what it starts."""
    if isinstance(val, (str, bytes)) and len(val) > LONGEST_ID:
        return f"{val[:20]!r} and so on, {len(val)} long"
    return None


# A busy machine must not fail a property; the seed is fixed so that the same checkout gives the same verdict.
settings.register_profile("runvoy", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runvoy")
