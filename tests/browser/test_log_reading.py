"""How a log's chunks are read: several at once where a reader goes through many, and by few grants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, records
from tests.browser.log_steps import searched, settled

CHUNKS = 16
LINES = 40  # of each: the view has room for one chunk
LATE = 8  # its answer waits until another was asked for


@pytest.fixture
def slow(logs: LogServer) -> Iterator[str]:
    """A log of small chunks, as of a run that prints now and then. One of them is answered only once the chunk after the next
    was asked for: who reads one after the other waits there."""
    end = {"n": CHUNKS * LINES + 1, "s": "sys", "end": True}
    chunks = [
        records({"n": number * LINES + 1, "m": "word\n" * LINES}, *([end] if number == CHUNKS - 1 else []))
        for number in range(CHUNKS)
    ]
    address = logs.put("slow", chunks)
    logs.requests.clear()
    yield address
    logs.held.clear()
    logs.overdue.clear()


@pytest.mark.parametrize("way", ["search", "first error", "copy", "download"])
def test_who_goes_through_a_log_does_not_wait_for_each_chunk(
    new_context: Any, logs: LogServer, slow: str, way: str
) -> None:
    page = new_context(permissions=["clipboard-write"]).new_page()
    page.goto(slow)
    settled(page)
    logs.requests.clear()
    # What was read to fill the view is in memory; a search goes back from there, all else on from the beginning.
    step = -1 if way == "search" else 1
    logs.held["slow", LATE] = LATE + 2 * step
    if way == "search":
        assert searched(page, "word") == str(CHUNKS * LINES)
    elif way == "first error":
        page.get_by_label("First error (e)").click()
        expect(page.locator(".rv-told")).to_have_text("No error found, and nothing on stderr.")
    elif way == "copy":
        page.get_by_label("Copy the marked lines (c)").click()
        expect(page.locator(".rv-told")).to_have_text(f"Copied {CHUNKS * LINES} lines.")
    else:
        with page.expect_download():
            page.get_by_label("Download all of the log").click()
    asked = [number for name, number in logs.requests if name == "slow"]
    assert LATE in asked
    assert logs.overdue == []
    assert len(asked) == len(set(asked))


READS = """async () => {
  const { Outbox } = await import("/web/log_source.js");
  const grants = [];
  const client = {
    now: () => Date.now(), reached() {}, lost(error) { throw error; },
    async call(method, path, { body }) {
      grants.push(body.from_chunk);
      await new Promise((resolve) => setTimeout(resolve));
      const chunk_urls = Array.from({ length: PER_GRANT }, (_, at) => `chunk/${body.from_chunk + at}`);
      return { status_url: "status", from_chunk: body.from_chunk, expires_at: new Date(Date.now() + 300_000).toISOString(), chunk_urls };
    },
    read: async (url) => new Response(url),
  };
  const outbox = new Outbox(client, "x");
  const text = async (number) => new TextDecoder().decode((await outbox.chunk(number)).body);
  const read = await Promise.all([1, 2, 3, 4].map(text));
  for (let number = 200; number > 4; number -= 4) read.push(...(await Promise.all([0, 1, 2, 3].map((back) => text(number - back)))));
  return { grants, read };
}"""


@pytest.mark.parametrize(
    ("per_grant", "grants"), [(64, [1, 193, 129, 65]), (24, [1, 193, 169, 145, 121, 97, 73, 49, 25])]
)
def test_chunks_are_read_by_few_grants_also_from_the_end_backwards(
    module_page: Any, per_grant: int, grants: list[int]
) -> None:
    found = module_page.evaluate(READS.replace("PER_GRANT", str(per_grant)))
    assert found["read"] == [f"chunk/{number}" for number in [1, 2, 3, 4, *range(200, 4, -1)]]
    assert found["grants"] == grants
