"""Masking: no form of a secret (see secret_forms) gets past, however the output is cut into reads.

What is shown depends on a stream's bytes alone, not on how they arrive: every occurrence of every form is found,
overlapping ones too, and each stretch of bytes that occurrences cover becomes one `***`. Bytes that may be the
beginning of an occurrence wait for what follows, or for the stream's end. No clock releases them: a command that prints
a secret slowly, or a pipe that stalls in its midst, would leak the first half.

Base64 and hexadecimal are also found across line breaks, where tools wrap them: a break that follows 60 or more
characters of their alphabet joins two lines. Any break would not do: the end of every second line would have to wait.
"""

from __future__ import annotations

import array
import bisect
import re
from collections.abc import Iterable, Mapping

from runvoy_agent.runner.secret_forms import forms, is_too_short

MASK = b"***"
_BREAKS = b"\r\n"
_WRAP_RUN = 60  # xxd -p wraps at 60 columns, PEM and openssl at 64, base64 and MIME at 76
_WRAP = re.compile(
    # The lookbehinds come last, for then only line ends are looked at. The last case: a newline may follow.
    rb"\n(?<=[A-Za-z0-9+/_-]{60}\n)|\r\n(?<=[A-Za-z0-9+/_-]{60}\r\n)|\r\Z(?<=[A-Za-z0-9+/_-]{60}\r)"
)
_WORD = 4
_HEAD = 2 * _WORD - 1  # as many bytes hold a whole aligned word wherever they stand


class Form:
    """One thing to look for. `head` is where to begin: as many of its bytes as hold _HEAD bytes that are no breaks."""

    def __init__(self, data: bytes, *, is_wrapped: bool) -> None:
        self.data = data
        self.is_wrapped = is_wrapped
        size = _HEAD
        while size < len(data) and len(data[:size].translate(None, _BREAKS)) < _HEAD:
            size += 1
        self.head = data[:size]

    def words(self) -> list[int]:
        """Of these aligned words, one is in any text that holds the head; none if the head is all too short."""
        solid = self.head.translate(None, _BREAKS)
        if len(solid) < _HEAD:
            return []
        return [array.array("I", solid[at : at + _WORD])[0] for at in range(_WORD)]

    def beginnings(self) -> Iterable[bytes]:
        """The proper beginnings too short for the words."""
        return (self.data[:size] for size in range(1, min(len(self.head), len(self.data) - 1) + 1))


class _Stream:
    """Where one stream stands. `kept` ends with what waits; before it comes what was shown or masked already."""

    def __init__(self) -> None:
        self.kept = b""
        self.done = 0  # so many bytes of `kept` are dealt with
        self.is_masked = False  # the last of them was masked


class Masker:
    """Masks a run's secrets. `too_short` names those that are not masked, `forms` counts what is looked for."""

    def __init__(self, secrets: Mapping[bytes, bytes]) -> None:
        self.too_short = sorted(name.decode("utf-8", "replace") for name in secrets if is_too_short(secrets[name]))
        found = [forms(value) for value in secrets.values()]
        wrapped = set().union(*(encoded for _, encoded in found))
        plain = set().union(*(plain for plain, _ in found)) - wrapped
        self._always: list[Form] = []
        self._by_word: dict[int, list[Form]] = {}
        beginnings: set[bytes] = set()
        self.forms = len(plain | wrapped)
        for form in [Form(data, is_wrapped=data in wrapped) for data in sorted(plain | wrapped)]:
            beginnings.update(form.beginnings())
            words = form.words()
            for word in words:
                self._by_word.setdefault(word, []).append(form)
            if not words:
                self._always.append(form)
        self._words = frozenset(self._by_word)
        self._beginnings = frozenset(beginnings)
        self._longest_beginning = max(map(len, beginnings), default=0)
        self._streams: dict[str, _Stream] = {}

    def filter(self, stream: str, data: bytes) -> bytes:
        """What may be shown after one more read of a stream; b"" for `data` ends the stream and releases the rest."""
        state = self._streams.setdefault(stream, _Stream())
        text = state.kept + data
        solid = text.translate(None, _BREAKS)
        candidates = self._candidates(solid)
        spans = _spans(text, solid, candidates)
        limit = self._first_that_waits(text, candidates) if data else len(text)
        shown: list[bytes] = []
        for start, end in spans:
            if end <= state.done:
                continue
            if start > limit:
                break
            if start > state.done:
                shown.append(text[state.done : start])
                state.is_masked = False
            if not state.is_masked:
                shown.append(MASK)
            state.done, state.is_masked = end, True
        if state.done < limit:
            shown.append(text[state.done : limit])
            state.done, state.is_masked = limit, False
        if not data:
            del self._streams[stream]
            return b"".join(shown)
        kept_from = max(0, limit - _WRAP_RUN)  # by what comes before it a break is known
        state.kept, state.done = text[kept_from:], state.done - kept_from
        return b"".join(shown)

    def _candidates(self, solid: bytes) -> list[Form]:
        """The forms of which a text may hold all or a longer beginning: mostly none, and found at 100 MB/s.

        The text is looked at in aligned words of four bytes, for a set takes an array of them without a loop in Python,
        however many forms there are. It comes without its breaks, so that wrapped forms are found as well.
        """
        words = array.array("I", solid[: len(solid) // _WORD * _WORD])
        found = {form.data: form for word in self._words.intersection(words) for form in self._by_word[word]}
        return [*self._always, *found.values()]

    def _first_that_waits(self, text: bytes, candidates: list[Form]) -> int:
        """Where the longest end of `text` begins that is a proper beginning of a form; the text's length if none is."""
        first = self._first_beginning(text, candidates)
        reach = max(self._longest_beginning, *(len(form.data) for form in candidates), 0)
        base = max(0, len(text) - reach - 2 * (reach // _WRAP_RUN + 1) - _WRAP_RUN)
        tail = text[base:]
        joined, cuts = _join(tail)
        if cuts:
            at = self._first_beginning(joined, candidates)
            if at < len(joined):
                first = min(first, base + _place(cuts, at))
        return first

    def _first_beginning(self, text: bytes, candidates: list[Form]) -> int:
        first = size = len(text)
        for length in range(min(self._longest_beginning, size), 0, -1):
            if text[-length:] in self._beginnings:
                first = size - length
                break
        for form in candidates:
            at = text.find(form.head, max(0, size - len(form.data) + 1))
            while 0 <= at < first:
                if form.data.startswith(text[at:]):
                    first = at
                    break
                at = text.find(form.head, at + 1)
        return first


def _spans(text: bytes, solid: bytes, candidates: list[Form]) -> list[tuple[int, int]]:
    """Where the candidates occur, in order; spans may overlap. `solid` is the text without its breaks."""
    spans: list[tuple[int, int]] = []
    for form in candidates:
        spans += _occurrences(text, form.data)
    wrapped = [form for form in candidates if form.is_wrapped and form.data in solid]
    if wrapped:
        joined, cuts = _join(text)
        if cuts:
            for form in wrapped:
                for start, end in _occurrences(joined, form.data):
                    spans.append((_place(cuts, start), _place(cuts, end - 1) + 1))
    spans.sort()
    return spans


def _occurrences(text: bytes, data: bytes) -> Iterable[tuple[int, int]]:
    """All occurrences, those that overlap each other as one span. (What lies between two that touch in joined text is a
    break, and no part of either.)"""
    size = len(data)
    start = text.find(data)
    while start >= 0:
        last = start
        # A form that repeats itself may occur at every byte: going on from the last that overlaps is linear even then.
        while (further := text.rfind(data, last + 1, last + 2 * size - 1)) >= 0:
            last = further
        yield start, last + size
        start = text.find(data, last + size)


def _join(text: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """The text without the breaks that wrapping made; cuts are (where in the joined text, bytes removed up to there)."""
    parts: list[bytes] = []
    cuts: list[tuple[int, int]] = []
    begin = removed = 0
    for match in _WRAP.finditer(text):
        parts.append(text[begin : match.start()])
        begin = match.end()
        cuts.append((match.start() - removed, removed + begin - match.start()))
        removed += begin - match.start()
    if not cuts:
        return text, cuts
    parts.append(text[begin:])
    return b"".join(parts), cuts


def _place(cuts: list[tuple[int, int]], at: int) -> int:
    """Where in the text the byte `at` of the joined text stands."""
    before = bisect.bisect_right(cuts, at, key=lambda cut: cut[0])
    return at + cuts[before - 1][1] if before else at
