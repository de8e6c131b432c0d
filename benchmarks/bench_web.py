"""The viewer in headless Chromium (Debian's) on a warm embedded stack: what a page weighs, and how soon a run is to be seen.

What it weighs is what a browser loads that was never here. For the times the reader has been here before: the key is in the
browser, and the files in its cache. Needs `uv sync --group browser`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 7
LINES = 10_000
RUNVOY = Path(sys.executable).parent / "runvoy"
SIZES = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter((part) => !part.name.includes("/api/")).map((part) => [part.name, part.encodedBodySize, part.decodedBodySize])"""
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
# When the facts about the run, and rows of its log, are there: looked for at each frame.
WHEN_SHOWN = """() => new Promise((done, fail) => { const look = () => {
  if (performance.now() > 60000) return fail(new Error('the log was not shown within a minute'));
  const rows = document.querySelector('.log-host')?.textContent.includes('line 10000');
  rows && document.querySelector('aside dl') ? done(performance.now()) : requestAnimationFrame(look); }; look(); })"""


def main() -> None:
    if shutil.which("chromium") is None:
        print("there is no chromium here: nothing is measured")
        return
    with tempfile.TemporaryDirectory() as name:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNVOY_", "PYTHONDONTWRITE"))}
        env |= {"RUNVOY_HOME": f"{name}/home"}
        command = f'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "line $i"; done'
        try:
            execution_id = _runvoy(env, "submit", command)
            _runvoy(env, "wait", execution_id)
            _measure(env, Path(name), execution_id)
        finally:
            _runvoy(env, "local", "down")


def _runvoy(env: dict[str, str], *args: str) -> str:
    return subprocess.run([RUNVOY, *args], env=env, check=True, capture_output=True, text=True).stdout.strip()


def _weigh(browser: Any, origin: str) -> None:
    """What a first visit loads, all parts: by the browser's own count, and with the headers of the answers."""
    context = browser.new_context()
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    addresses: dict[str, str] = {}
    on_the_wire: dict[str, int] = {}
    network.on(
        "Network.responseReceived", lambda event: addresses.update({event["requestId"]: event["response"]["url"]})
    )
    network.on(
        "Network.loadingFinished", lambda event: on_the_wire.update({event["requestId"]: event["encodedDataLength"]})
    )
    page.goto(origin, wait_until="networkidle")
    sizes = page.evaluate(SIZES)
    with_headers = sum(on_the_wire.get(one, 0) for one, url in addresses.items() if "/api/" not in url)
    context.close()
    sent, written = sum(size[1] for size in sizes), sum(size[2] for size in sizes)
    log = sum(size[2] for size in sizes if "/log/" in size[0])
    print(
        f"{len(sizes)} files: {with_headers / 1024:.0f} KiB transferred with headers, {sent / 1024:.0f} KiB of it files (gzip);"
        f" {written / 1024:.0f} KiB as written, {log / 1024:.0f} of them the log's"
    )


def _measure(env: dict[str, str], folder: Path, execution_id: str) -> None:
    from playwright.sync_api import sync_playwright

    port = json.loads((folder / "home" / "local" / "endpoint.json").read_bytes())["port"]
    api_key = (folder / "home" / "local" / "api_key").read_text()
    origin = f"http://127.0.0.1:{port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        _weigh(browser, origin)
        found: dict[str, list[float]] = {
            "first paint": [],
            "the run and its log's last line": [],
            "a new line seen": [],
        }
        for _ in range(ROUNDS):
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            state = _signed_in(context, origin, api_key)
            shown = _shown(context, f"{origin}/?execution_id={execution_id}")
            found["first paint"].append(shown[0])
            found["the run and its log's last line"].append(shown[1])
            found["a new line seen"].append(_line_seen(context, env, origin))
            state.close()
            context.close()
        browser.close()
    print(f"{ROUNDS} rounds of a run with {LINES:,} lines; median (least - most) milliseconds")
    for what, values in found.items():
        print(f"{what:34} {statistics.median(values):7.0f} ({min(values):.0f} - {max(values):.0f})")


def _signed_in(context: Any, origin: str, api_key: str) -> Any:
    """The context with a key; the page that has taken it. Its files are in the cache by then, so the next page's are not
    counted a second time: what is measured is a reader who comes back."""
    page = context.new_page()
    page.goto(origin)
    page.get_by_label("API key or claim token").fill(api_key)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("table", name="Runs").wait_for()
    return page


def _shown(context: Any, address: str) -> tuple[float, float]:
    page = context.new_page()
    page.goto(address)
    whole = float(page.evaluate(WHEN_SHOWN))
    first = float(page.evaluate(FIRST_PAINT))
    page.close()
    return first, whole


def _line_seen(context: Any, env: dict[str, str], origin: str) -> float:
    """From the moment a command prints a line to the moment the page shows it. The line is that moment, by this machine's
    clock, which page and command share."""
    command = 'sleep 2; echo "at=$(date +%s%3N)"; sleep 3'
    execution_id = _runvoy(env, "submit", command)
    page = context.new_page()
    page.goto(f"{origin}/?execution_id={execution_id}")
    script = r"""() => new Promise((done, fail) => { const look = () => {
      if (performance.now() > 60000) return fail(new Error('the line was not shown within a minute'));
      const found = /at=(\d{13})/.exec(document.querySelector('.log-host')?.textContent ?? '');
      found ? done(Date.now() - Number(found[1])) : requestAnimationFrame(look); }; look(); })"""
    seen = float(page.evaluate(script))
    page.close()
    while not json.loads(_runvoy(env, "status", execution_id, "--json")).get("ended_at"):
        time.sleep(0.2)
    return seen


if __name__ == "__main__":
    main()
