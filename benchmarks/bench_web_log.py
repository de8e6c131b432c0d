"""Frames while a log of a million lines is scrolled in headless Chromium (Debian's), and how soon its end is there.

Three ways of scrolling: turns of the wheel, the bar dragged over the whole log there and back, and pages by keys in wrapped
lines. Beside them the frames of a page that does nothing, for without a GPU and on a busy machine those are late, too. Then a log
of many small chunks, searched and downloaded.
Needs `uv sync --group browser`.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from tests.browser.log_pages import LogServer, chunked, records

LINES = 1_000_000
STEPS = 200
SMALL_CHUNKS = 1_000
END = {"n": SMALL_CHUNKS * 5 + 1, "s": "sys", "end": True}
WATCH = """() => { globalThis.frames = []; let last = performance.now();
  const next = () => { const now = performance.now(); frames.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next); }"""
DRAG = """async (steps) => { const one = document.querySelector('.rv-scroller');
  for (let step = 0; step <= 2 * steps; step++) {
    one.scrollTop = Math.abs(1 - step / steps) * (one.scrollHeight - one.clientHeight);
    await new Promise((resolve) => requestAnimationFrame(resolve));
  } }"""


def main() -> None:
    if shutil.which("chromium") is None:
        print("there is no chromium here: nothing is measured")
        return
    from playwright.sync_api import sync_playwright

    lines = [b"line %d of the log, with some words that make it about as long as lines are\n" % n for n in range(LINES)]
    chunks = chunked((("out", b"".join(lines[start : start + 1000])) for start in range(0, LINES, 1000)), step_ms=5)
    size = sum(map(len, lines)) / 1e6
    server = LogServer()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            print(f"{LINES:,} lines, {size:.0f} MB, {len(chunks)} chunks; load average {os.getloadavg()[0]:.1f}")
            began = time.monotonic()
            page.goto(server.put("million", chunks))
            page.get_by_text(f"line {LINES - 1} of").wait_for()
            print(
                f"its end is there after {(time.monotonic() - began) * 1000:.0f} ms, {len(server.requests)} chunks read"
            )
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            tasks = Tasks(browser)
            page.evaluate(WATCH)
            _frames(page, session, "nothing happens", lambda: time.sleep(3))
            _frames(page, session, "wheel", lambda: _turn(page))
            _frames(page, session, "bar, chunks read on the way", lambda: page.evaluate(DRAG, STEPS))
            _frames(page, session, "bar, chunks in memory", lambda: page.evaluate(DRAG, STEPS))
            print(tasks.longest(page))
            page.locator(".rv-scroller").press("w")
            _frames(page, session, "pages by keys, wrapped", lambda: _pages(page))
            began = time.monotonic()
            page.locator(".rv-field").fill("9 of the")
            page.locator('.rv-log[data-search="done"]').wait_for()
            print(
                f"searched through after {time.monotonic() - began:.1f} s: {page.locator('.rv-count').inner_text()} matches"
            )
            print(_many(browser, server))
            browser.close()
    finally:
        server.close()


class Tasks:
    """What the page's main thread does at a stretch, by the thread's own clock: no frame comes in the middle of it."""

    def __init__(self, browser: Any) -> None:
        self._events: list[dict[str, Any]] = []
        self._is_complete = False
        self._session = browser.new_browser_cdp_session()
        self._session.on("Tracing.dataCollected", lambda event: self._events.extend(event["value"]))
        self._session.on("Tracing.tracingComplete", lambda _: setattr(self, "_is_complete", True))
        config = {"includedCategories": ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]}
        self._session.send("Tracing.start", {"traceConfig": config, "transferMode": "ReportEvents"})

    def longest(self, page: Any) -> str:
        self._session.send("Tracing.end")
        while not self._is_complete:
            page.wait_for_timeout(50)
        names = [event for event in self._events if event["name"] == "thread_name"]
        main = {(one["pid"], one["tid"]) for one in names if one["args"]["name"] == "CrRendererMain"}
        tasks = [one for one in self._events if "RunTask" in one["name"] and (one["pid"], one["tid"]) in main]
        cpu, clock = (max((task.get(kind, 0) / 1000 for task in tasks), default=0) for kind in ("tdur", "dur"))
        return (
            f"so far the main thread's longest task took {cpu:.0f} ms of CPU, and by the clock one took {clock:.0f} ms"
        )


def _many(browser: Any, server: LogServer) -> str:
    """The log of a run that printed now and then, whose chunks each take as long as from a bucket."""
    chunks = [
        records({"n": number * 5 + 1, "m": "line of the log\n" * 5}, *([] if number + 1 < SMALL_CHUNKS else [END]))
        for number in range(SMALL_CHUNKS)
    ]
    page = browser.new_page()
    page.goto(server.put("many", chunks))
    page.locator(".rv-row").first.wait_for()
    server.pause_seconds = 0.03
    began = time.monotonic()
    page.locator(".rv-field").fill("line")
    page.locator('.rv-log[data-search="done"]').wait_for(timeout=120_000)
    searched = time.monotonic() - began
    page.goto(server.put("many", chunks))
    page.locator(".rv-row").first.wait_for()
    began = time.monotonic()
    with page.expect_download(timeout=120_000):
        page.get_by_label("Download all of the log").click()
    downloaded = time.monotonic() - began
    return f"{SMALL_CHUNKS:,} chunks, each answered after 30 ms: searched through in {searched:.1f} s, downloaded in {downloaded:.1f} s"


def _frames(page: Any, session: Any, what: str, act: Any) -> None:
    page.evaluate("frames.length = 0")
    before = _busy(session)
    act()
    frames = sorted(page.evaluate("frames"))
    busy = (_busy(session) - before) * 1000 / len(frames)
    late = sum(1 for frame in frames if frame > 50)
    p95, p99 = (frames[int(len(frames) * share)] for share in (0.95, 0.99))
    median = frames[len(frames) // 2]
    print(
        f"{what:28} {len(frames):4} frames: median {median:3.0f}, 95% {p95:3.0f}, 99% {p99:3.0f}, most {frames[-1]:3.0f} ms; {late} over 50; {busy:.1f} ms of CPU each"
    )


def _busy(session: Any) -> float:
    """Seconds of CPU that the page's main thread has used: what a frame costs, whoever else wants the machine."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def _turn(page: Any) -> None:
    page.locator(".rv-scroller").hover()
    for _ in range(STEPS):
        page.mouse.wheel(0, -700)


def _pages(page: Any) -> None:
    for _ in range(STEPS):
        page.locator(".rv-scroller").press("PageUp")


if __name__ == "__main__":
    main()
