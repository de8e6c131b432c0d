"""`python -I -S <this file or its directory> RUN_DIR < payload`: run one execution. See main.py."""

import sys

if not __package__:
    # A plain path: let `runvoy_agent.runner` be found. At the end of the path, so that nothing that is installed beside
    # this package stands in for a module of the standard library.
    sys.path.append(__file__.rpartition("/runvoy_agent/")[0])

from runvoy_agent.runner.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
