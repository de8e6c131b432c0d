"""What holds for every test. Fixtures live beside the tests that use them."""

import os

from hypothesis import HealthCheck, settings

# Tests start many processes; where bytecode is forbidden each of them would compile its imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A busy machine must not fail a property; the seed is fixed so that the same checkout gives the same verdict.
settings.register_profile("runvoy", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runvoy")
