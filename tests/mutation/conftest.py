"""The mutation tool is a package of its own beside the tests, and runs as a program: `python -m tests.mutation`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
