"""Where `runvoy` begins: before the rest is loaded, which takes long enough for a Ctrl-C to come in between."""

from __future__ import annotations

import signal


def main() -> int:
    """Run the command line; the exit code. Until it is loaded an interrupt ends the process quietly, as it does `sleep`."""
    # Not where whoever started it has it ignore interrupts, as `nohup` and a script's `&` do.
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from runvoy_cli import app

    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return app.main()
