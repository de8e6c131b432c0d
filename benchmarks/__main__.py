"""Run benchmarks: `python -m benchmarks [WORD…]` runs those of `bench_*.py` whose name holds one of the words.

A benchmark is a module with a `main()` that prints what it measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure. Without a word all are run, which takes long and asks for a quiet machine.",
        epilog=f"The benchmarks: {', '.join(names)}.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="run those whose name holds it")
    words = parser.parse_args(arguments).words
    chosen = [name for name in names if not words or any(word in name for word in words)]
    if not chosen:
        parser.error(f"no benchmark's name holds {' or '.join(words)}; there are {', '.join(names)}")
    for name in chosen:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
