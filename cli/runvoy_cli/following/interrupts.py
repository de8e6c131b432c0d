"""Ctrl-C while something is followed: once, twice, and for good."""

from __future__ import annotations

import signal
from types import FrameType

_ENOUGH = 3


class Interrupted(Exception):
    """Ctrl-C was pressed; raised where nothing is lost by it. Whoever catches it says so by `Interrupts.heard`."""


class Interrupts:
    """While it is entered, Ctrl-C is noted at any moment and raised as Interrupted only within `interruptible`.

    An exception between reading a piece of the log and showing it would lose that piece. One that was raised and not heard is
    raised again: where it came in an object's finalizer, the interpreter drops it. The third Ctrl-C is a
    KeyboardInterrupt wherever it comes: whoever presses it wants to leave, and writing to a full pipe may never end.
    Only for the main thread, and not where interrupts are ignored, as `nohup` and a script's `&` have it: else it does nothing.
    """

    def __init__(self) -> None:
        self._presses = 0
        self._heard = 0
        self._is_open = False
        self._before: object = None

    def __enter__(self) -> Interrupts:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return self
        try:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        except ValueError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def interruptible(self) -> _Open:
        return _Open(self)

    def heard(self) -> None:
        """An Interrupted was caught, and is being seen to."""
        self._heard += 1

    def open(self) -> None:
        self._is_open = True
        self._raise_what_is_new()

    def close(self, is_over: bool) -> None:
        """`is_over`: what was interruptible came to its own end."""
        self._is_open = False
        if is_over:
            self._raise_what_is_new()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._presses += 1
        if self._presses >= _ENOUGH:
            raise KeyboardInterrupt
        if self._is_open:
            self._raise()

    def _raise_what_is_new(self) -> None:
        if self._heard < self._presses:
            self._raise()

    def _raise(self) -> None:
        self._is_open = False
        raise Interrupted


class _Open:
    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._interrupts.close(is_over=kind is None)
