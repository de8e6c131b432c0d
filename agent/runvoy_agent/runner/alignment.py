"""Two streams in the order of their steps, where a command marks on both where a step begins.

What comes through two pipes has no order: whoever is late reads all of one stream, then all of the other. A playbook says on stderr
what it is about to run, and what it runs prints to stdout; so it writes a mark on both streams first, on stdout and then on stderr, which
nobody sees. Until a stream's mark is matched by the other's, what follows it waits.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runvoy_agent.runner.supervise import Listener

# A step that learned the mark could write it on one stream alone, and then print for ever.
_MOST_HELD_BYTES = 1024 * 1024


class Aligned:
    """Stands before what takes the output. Within a step what is on stderr comes first where both are there."""

    def __init__(self, output: Listener, mark: bytes) -> None:
        self._output = output
        self._mark = mark
        self._held = {"err": b"", "out": b""}
        self._passed = {"err": 0, "out": 0}
        self._ended: set[str] = set()

    @property
    def due(self) -> float | None:
        return self._output.due

    def note(self, text: str) -> None:
        self._output.note(text)

    def tick(self, now: float) -> None:
        self._output.tick(now)

    def feed(self, stream: str, data: bytes) -> None:
        self._held[stream] += data
        if not data:
            self._ended.add(stream)
        while self._goes_on("err", "out") or self._goes_on("out", "err"):
            pass
        # Not before what is held: a filter of the output would take that for the beginning of another stream.
        for ended in self._ended:
            if not self._held[ended]:
                self._output.feed(ended, b"")

    def _goes_on(self, stream: str, other: str) -> bool:
        """Hand out what a stream has up to its next mark, if it may; whether it got on."""
        held = self._held[stream]
        is_over = stream in self._ended
        waits = self._passed[stream] > self._passed[other] and (other not in self._ended or self._held[other])
        if not held or (waits and len(held) <= _MOST_HELD_BYTES):
            return False
        shown, mark, left = held.partition(self._mark)
        if mark and stream == "err" and b"\n" not in left and len(left) <= _MOST_HELD_BYTES and not is_over:
            left = mark + left  # the announcement's end is yet to be read: nothing may come in between
        elif mark:
            self._passed[stream] += 1
        elif not is_over:
            kept = self._begun(shown)
            shown, left = shown[: len(shown) - kept], shown[len(shown) - kept :]
        self._held[stream] = left
        if shown:
            self._output.feed(stream, shown)
        return left != held

    def _begun(self, held: bytes) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        longest = min(len(self._mark) - 1, len(held))
        return next((size for size in range(longest, 0, -1) if held.endswith(self._mark[:size])), 0)
