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


RAW_CHUNKS = """async () => {
  const { RawChunks } = await import("/web/log/raw_chunks.js");
  const asked = [];
  const answers = new Map();
  const source = { readChunk: async (number) => {
    asked.push(number);
    const found = answers.get(number);
    if (found instanceof Error) throw found;
    return found ?? null;
  } };
  const asking = async (act) => { asked.length = 0; await act(); return [...asked]; };
  const chunks = new RawChunks(source, new AbortController().signal);
  const ahead = (numbers, last) => chunks.prefetch(numbers, (number) => number <= last, (number) => number === 2);
  // Eight fit: the ninth drops those that were wanted longest ago.
  for (let number = 1; number <= 10; number++) answers.set(number, new Uint8Array(20e6));
  answers.set(11, new Error("gone wrong"));
  const told = {};
  told.shared = await asking(() => Promise.all([chunks.read(1), chunks.read(1)]));
  told.ahead = await asking(() => ahead([1, 2, 3, 4, 5], 9));
  told.notThere = await asking(() => ahead([12, 6], 11));
  told.again = await asking(async () => { for (const number of [1, 3, 4]) await chunks.read(number); });
  for (let number = 5; number <= 10; number++) await chunks.read(number);
  told.dropped = await asking(async () => { for (const number of [10, 6, 1]) await chunks.read(number); });
  ahead([11], 11);
  told.failed = await chunks.read(11).catch((error) => error.message);
  answers.set(11, new Uint8Array(1));
  told.mended = (await chunks.read(11)).length;
  told.missing = await chunks.read(12);
  return told;
}"""


def test_bytes_of_chunks_are_kept_while_there_is_room_and_what_failed_is_read_anew(module_page: Any) -> None:
    assert module_page.evaluate(RAW_CHUNKS) == {
        "shared": [1],
        "ahead": [3, 4],
        "notThere": [],
        "again": [],
        "dropped": [1],
        "failed": "gone wrong",
        "mended": 1,
        "missing": None,
    }
