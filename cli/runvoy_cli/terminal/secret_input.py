"""A secret's value as people give it: piped, or typed on a terminal that does not show it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.secret_messages import MAX_VALUE_BYTES

if TYPE_CHECKING:
    from runvoy_cli.terminal.render import Console

_LONGEST_LINE = 1023
"""What every terminal takes as one line: Linux cuts off what is over 4,095 bytes, macOS what is over 1,023, silently."""


def read(name: str, console: Console, trim_newline: bool) -> bytes:
    """The exact bytes of stdin; on a terminal one line, asked for twice, without its newline.

    A newline at the end of what is piped is left out with `trim_newline`, and warned of without: it comes from an editor
    or `echo` more often than it is meant.
    """
    if sys.stdin.isatty():
        return _typed(name, console)
    value = sys.stdin.buffer.read(MAX_VALUE_BYTES + 3)  # more than a value and its newline is too long for sure
    if trim_newline:
        return value.removesuffix(b"\r\n") if value.endswith(b"\r\n") else value.removesuffix(b"\n")
    if value.endswith(b"\n"):
        console.warn("the value ends in a newline, which is part of it; --trim-newline leaves it out")
    return value


def _typed(name: str, console: Console) -> bytes:
    while True:
        value = _asked(f"Value of {name}: ")
        if len(value) >= _LONGEST_LINE:
            raise UsageProblem("the value is too long to be typed: the terminal may have cut it off", "Pipe it: < FILE")
        if value and value == _asked("The same again: "):
            return value
        console.say("the two are not the same; once more" if value else "nothing was typed; once more")


def _asked(prompt: str) -> bytes:
    """One line from the terminal. It shows nothing from before the prompt is there on, unlike with Typer's own prompt, which
    shows what is pasted at once."""
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt).encode("utf-8", "surrogateescape")
    except getpass.GetPassWarning as warning:
        raise UsageProblem(
            "the terminal cannot be kept from showing what is typed", "Pipe the value: < FILE"
        ) from warning
    except UnicodeDecodeError:
        raise UsageProblem("what was typed is not in the terminal's encoding", "Pipe the value: < FILE") from None
    except EOFError as error:
        raise typer.Abort from error
