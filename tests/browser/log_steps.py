"""What a reader does in the log view, and what is then seen of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, records


def scroller(page: Any) -> Any:
    return page.locator(".rv-scroller")


def rows(page: Any) -> list[tuple[int, str]]:
    """Number and text of each row in view."""
    found = page.evaluate(
        """[...document.querySelectorAll('.rv-rows > .rv-row:not(.rv-pinned)')]
            .map((row) => [row.dataset.n ?? '0', row.querySelector('.rv-text').textContent])"""
    )
    return [(int(number), text) for number, text in found]


def top(page: Any) -> int:
    return next(number for number, _ in rows(page) if number)


def eventually(holds: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What `holds` returns as soon as that is true; expressions in the page would be `eval`, which its policy forbids."""
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.02)
    return found


def settled(page: Any) -> list[tuple[int, str]]:
    """The rows in view, once none of them waits for its chunk."""
    expect(page.locator(".rv-rows > .rv-row").first).to_be_visible()
    eventually(lambda: page.locator(".rv-unread").count() == 0)
    return rows(page)


def near_line(page: Any, line: float, within: float) -> None:
    eventually(lambda: abs(settled(page)[0][0] - line) < within)


def searched(page: Any, text: str) -> str:
    """Search, and wait until all of the log was looked through: how many matches there are, as it is shown."""
    page.locator(".rv-field").fill(text)
    expect(page.locator('.rv-log[data-search="done"]')).to_be_visible()
    return str(page.locator(".rv-count").inner_text()).split(" of ")[-1]


def writer(logs: LogServer, name: str) -> Callable[..., None]:
    """Adds so many lines to a log, as one more chunk."""
    written = 0

    def add(count: int, ended: bool = False) -> None:
        nonlocal written
        text = "".join(f"line {number}\n" for number in range(written + 1, written + count + 1))
        end = [{"n": written + count + 1, "s": "sys", "end": True}] if ended else []
        logs.add(name, records({"n": written + 1, "m": text}, *end), ended=ended)
        written += count

    return add
