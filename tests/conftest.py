"""What holds for every test. Fixtures live beside the tests that use them."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from runvoy_protocol import codec

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


def pytest_collection_finish() -> None:
    """Tests run handlers and clients in many threads."""
    codec.work_out_types()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs servers that others wrote, or the CDK, takes minutes: `servers` picks it, and a plain run leaves it out."""
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group is not None and group.args[0] in ("servers", "infra"):
            item.add_marker("servers")


# A busy machine must not fail a property; the seed is fixed so that the same checkout gives the same verdict.
settings.register_profile("runvoy", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runvoy")
