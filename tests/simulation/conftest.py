"""The simulator is a package of its own beside the tests, and runs as a program too: `python -m tests.simulation`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
