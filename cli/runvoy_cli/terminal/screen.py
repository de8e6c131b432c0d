"""stderr as a terminal: its width and colours, runvoy's own lines on it, and live rows at its end.

The command's output may share the terminal. So whatever is written takes the live rows away first, runvoy's own lines
begin at a line's start and in plain colours, and the output's colours go on after them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, TextIO

from runvoy_cli.terminal.sanitize import RESET, Sanitizer, one_line

Row = Sequence[tuple[str, str]]  # texts, each with the name of its style ("" for plain)

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_DEFAULT_COLUMNS = 80
_TICK_SECONDS = 0.1
_QUIET_SECONDS = 0.4  # rows drawn between two lines of busy output would only flicker
_ROOM_FOR_AN_ECHO = 3  # Ctrl-C is shown as ^C where the cursor stands; it must not begin another row
_ERASE_BELOW = "\x1b[J"
_ERASE_RIGHT = "\x1b[K"


class Screen:
    """stderr. `is_rich`: a terminal that understands escapes and belongs to a person, so that rows may be live."""

    def __init__(
        self, file: TextIO, is_rich: bool, has_colour: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_rich = is_rich
        self.has_colour = has_colour
        self._file = file
        self._lock = threading.RLock()
        self._rows_drawn = 0
        self._at_line_start = True
        self._styles: dict[object, str] = {}
        self._clock = clock
        self._quiet_since = clock()

    @property
    def has_symbols(self) -> bool:
        return (getattr(self._file, "encoding", "") or "").lower().replace("-", "") == "utf8"

    def columns(self) -> int:
        try:
            return os.get_terminal_size(self._file.fileno()).columns or _DEFAULT_COLUMNS
        except (OSError, ValueError):
            return _DEFAULT_COLUMNS

    def live_columns(self) -> int:
        """How wide a live row may be."""
        return max(self.columns() - _ROOM_FOR_AN_ECHO, 1)

    def text_of(self, row: Row, columns: int | None = None) -> str:
        """A row as it is written, what does not print shown as an escape; cut to `columns`, if given."""
        shown = []
        left = columns if columns is not None else sys.maxsize
        for text, style in row:
            piece = clip(one_line(text), left)
            left -= cells(piece)
            shown.append(f"\x1b[{STYLES[style]}m{piece}{RESET}" if style and self.has_colour and piece else piece)
            if left <= 0:
                break
        return "".join(shown)

    def write(self, text: str) -> None:
        """Lines of runvoy's own, whole ones. A closed stderr is no reason to fail: there is nobody left to tell."""
        with self._lock:
            style = "".join(self._styles.values())
            begin = self._erased() + (RESET if style else "") + ("" if self._at_line_start else "\n")
            self._at_line_start = True
            self._put(begin + text + style)

    def show(self, file: BinaryIO, data: bytes, sanitizer: Sanitizer) -> None:
        """A piece of output, sanitized by `sanitizer`, on a `file` that is the same terminal."""
        with self._lock:
            erased = self._erased()
            if erased:
                self._put(erased)
            file.write(data)
            file.flush()
            self._at_line_start = sanitizer.at_line_start
            self._styles[file] = sanitizer.style
            self._quiet_since = self._clock()

    def draw(self, rows: Sequence[Row], is_over: Callable[[], bool]) -> None:
        """Put live rows at the end, over those drawn before, unless something is in the way or it `is_over`."""
        with self._lock:
            is_quiet = self._clock() - self._quiet_since >= _QUIET_SECONDS
            if is_over() or not is_quiet or not self._at_line_start or not self._is_ours():
                return
            style = "".join(self._styles.values())
            columns = self.live_columns()
            up = f"\x1b[{self._rows_drawn - 1}A" if self._rows_drawn > 1 else ""
            lines = f"{_ERASE_RIGHT}\n".join(self.text_of(row, columns) for row in rows)
            self._put(f"\r{up}{RESET if style else ''}{lines}{_ERASE_BELOW}{style}")
            self._rows_drawn = len(rows)

    def erase(self) -> None:
        """Take the live rows away."""
        with self._lock:
            self._put(self._erased())

    def _erased(self) -> str:
        if not self._rows_drawn:
            return ""
        up = f"\x1b[{self._rows_drawn - 1}A" if self._rows_drawn > 1 else ""
        self._rows_drawn = 0
        return f"\r{up}{_ERASE_BELOW}"

    def _is_ours(self) -> bool:
        """Whether we are in the terminal's foreground; a shell that put us behind writes there itself."""
        try:
            return os.tcgetpgrp(self._file.fileno()) == os.getpgrp()
        except (OSError, ValueError, AttributeError):
            return True

    def _put(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except (OSError, ValueError):
            return


def screen_of(wants_json: bool, environ: Mapping[str, str] = os.environ) -> Screen:
    """This process's stderr."""
    is_rich = not wants_json and is_capable(sys.stderr, environ)
    return Screen(sys.stderr, is_rich, is_rich and has_colour(sys.stderr, environ))


def is_capable(file: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether escapes mean something to where the file leads."""
    return file.isatty() and environ.get("TERM", "dumb" if os.name == "posix" else "") != "dumb"


def has_colour(file: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    return is_capable(file, environ) and not environ.get("NO_COLOR")


class Live:
    """While it is entered, rows at the terminal's end are drawn anew ten times a second, by a thread of its own.

    `rows_of` gets the number of the drawing; it may take its time, and is not asked any more once this was left.
    """

    def __init__(self, screen: Screen, rows_of: Callable[[int], Sequence[Row]]) -> None:
        self._screen = screen
        self._rows_of = rows_of
        self._is_over = threading.Event()

    def __enter__(self) -> None:
        if self._screen.is_rich:
            threading.Thread(target=self._tick, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._screen.erase()

    def _tick(self) -> None:
        number = 0
        while not self._is_over.wait(_TICK_SECONDS):
            self._screen.draw(self._rows_of(number), self._is_over.is_set)
            number += 1


def cells(text: str) -> int:
    """How many columns a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, columns: int) -> str:
    """The text, cut with an ellipsis if it takes more than so many columns."""
    if cells(text) <= columns:
        return text
    kept = ""
    left = columns - 1
    for char in text:
        left -= cells(char)
        if left < 0:
            break
        kept += char
    return kept + "…" if columns > 0 else ""
