"""Where `runvoy` begins: before the rest is loaded, which takes long enough for a Ctrl-C to come in between."""

from __future__ import annotations

import gc
import signal

# The collector of cycles looks for them after every 700 new objects by default: some twenty times while a command is loaded, whose
# objects all stay, and there are 40,000 of them. So that is a tenth of the time to start.
_NEW_OBJECTS = 60_000


def main() -> int:
    """Run the command line; the exit code. Until it is loaded, and once it has ended, an interrupt ends the process quietly,
    as it does `sleep`."""
    # Not where whoever started it has it ignore interrupts, as `nohup` and a script's `&` do.
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(_NEW_OBJECTS)
    from runvoy_cli import app
    from runvoy_cli.input import problems

    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app.main()
    except KeyboardInterrupt:  # one more, while the command line told how it ended
        code = problems.EXIT_INTERRUPTED
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.freeze()  # the process ends: nobody is to look for cycles in all that it holds, as the interpreter would
    return code
