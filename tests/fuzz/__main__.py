"""`python -m tests.fuzz`. What atheris is to follow has to be imported under its eyes, so that comes first."""

from __future__ import annotations

import contextlib
import importlib
import sys

if __name__ == "__main__":
    with contextlib.ExitStack() as eyes:
        if "--child" in sys.argv and "atheris" in sys.argv:
            parts = ["runvoy_protocol", "runvoy_agent", "runvoy_cli", "runvoy_sync"]
            eyes.enter_context(importlib.import_module("atheris").instrument_imports(include=parts))
        from tests.fuzz.engine import main
    sys.exit(main())
