"""`python -m runvoy_agent --home DIR`: the embedded stack's process, as the command line starts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runvoy_agent import wiring
from runvoy_agent.local import stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="runvoy_agent", description="The embedded stack of one machine.")
    parser.add_argument("--home", type=Path, required=True, help="RUNVOY_HOME; the state lies in its folder `local`")
    arguments = parser.parse_args()
    return stack.run(wiring.embedded_home(arguments.home.absolute()), wiring.embedded)


if __name__ == "__main__":
    sys.exit(main())
