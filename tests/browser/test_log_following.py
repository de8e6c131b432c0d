"""The log view in a real browser, of a log that still grows: following, leaving its end, clearing, and stopping."""

from __future__ import annotations

import time
from typing import Any

from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, chunked, records
from tests.browser.log_steps import eventually, rows, scroller, top, writer


def test_it_follows_stops_when_one_scrolls_and_comes_back(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("live", [], ended=False))
    expect(page.locator(".rv-empty")).to_have_text("Nothing was printed yet.")
    add = writer(logs, "live")
    add(100)
    eventually(lambda: rows(page) and rows(page)[-1][0] == 100)
    expect(page.locator(".rv-state")).to_have_text("live · following")
    add(50)
    eventually(lambda: rows(page)[-1][0] == 150)
    scroller(page).hover()
    page.mouse.wheel(0, -600)
    eventually(lambda: rows(page)[-1][0] < 130)
    was = top(page)
    expect(page.locator(".rv-jump")).to_have_text("↓ End")
    add(1234)
    expect(page.locator(".rv-jump")).to_have_text("↓ 1,234 new lines")
    assert top(page) == was
    page.locator(".rv-jump").click()
    eventually(lambda: rows(page)[-1][0] == 1384)
    expect(page.locator(".rv-jump")).to_be_hidden()
    page.get_by_label("Pause (p)").click()
    expect(page.locator(".rv-state")).to_have_text("paused")
    add(1)  # the read that was under way may still bring one chunk
    add(10)
    time.sleep(0.5)
    assert rows(page)[-1][0] <= 1385
    page.get_by_label("Resume (p)").click()
    eventually(lambda: rows(page)[-1][0] == 1395)
    add(5, ended=True)
    expect(page.locator(".rv-state")).to_have_text("complete")
    eventually(lambda: rows(page)[-1] == (1400, "line 1400"))


def test_who_scrolls_as_more_comes_is_not_taken_back_to_the_end(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("moving", [], ended=False))
    add = writer(logs, "moving")
    add(300)
    eventually(lambda: rows(page) and rows(page)[-1][0] == 300)
    scroller(page).evaluate(
        """(one) => new MutationObserver((_, seen) => {
            seen.disconnect();
            one.scrollTop = 0;
        }).observe(document.querySelector(".rv-lines"), { childList: true, characterData: true, subtree: true })"""
    )
    add(300)
    expect(page.locator(".rv-jump")).to_have_text("↓ End")
    assert top(page) == 1
    add(300)
    expect(page.locator(".rv-jump")).to_have_text("↓ 300 new lines")
    assert top(page) == 1


def test_a_log_that_grows_is_opened_at_its_end_by_few_reads(page: Any, logs: LogServer) -> None:
    address = logs.put("growing", [], ended=False)
    add = writer(logs, "growing")
    for _ in range(1_000):
        add(3)
    logs.requests.clear()
    page.goto(address)
    eventually(lambda: rows(page) and rows(page)[-1] == (3_000, "line 3000"))
    assert len(logs.requests) < 60
    add(1)
    eventually(lambda: rows(page)[-1] == (3_001, "line 3001"))
    logs.add("growing", ended=True)


def test_what_was_shown_can_be_cleared_and_shown_again(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("clear", [], ended=False))
    add = writer(logs, "clear")
    add(30)
    eventually(lambda: len(rows(page)) > 20)
    page.get_by_label("Clear what is shown").click()
    eventually(lambda: rows(page) == [])
    add(2, ended=True)
    eventually(lambda: rows(page) == [(31, "line 31"), (32, "line 32")])
    page.get_by_text("show them").click()
    eventually(lambda: len(rows(page)) > 20)


def test_a_log_whose_end_never_comes_is_not_told_as_complete(page: Any, logs: LogServer) -> None:
    logs.lost.add("lost")
    page.goto(logs.put("lost", [records({"n": 1, "m": "before its runner was gone\n"})]))
    expect(page.locator(".rv-state")).to_have_text("ended; waiting for the last lines")
    expect(page.locator(".rv-state")).to_have_text("not complete: its end never came")
    expect(page.get_by_label("Pause (p)")).to_be_hidden()
    # What comes in time completes it.
    logs.lost.add("late")
    page.goto(logs.put("late", [records({"n": 1, "m": "one\n"})]))
    expect(page.locator(".rv-state")).to_have_text("ended; waiting for the last lines")
    logs.add("late", records({"n": 2, "m": "two\n"}, {"n": 3, "s": "sys", "end": True}), ended=True)
    expect(page.locator(".rv-state")).to_have_text("complete")
    expect(page.locator(".rv-lines")).to_have_text("2 lines")


def test_a_log_that_may_not_be_read_on_says_so_and_what_to_do(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("empty", chunked([])))
    expect(page.locator(".rv-state")).to_have_text("complete")
    page.evaluate(
        """async () => {
          const { createLogView } = await import("/web/log/view.js");
          const error = Object.assign(new Error("the key is revoked"), { code: "KEY_REVOKED", hint: "Ask an admin." });
          const host = document.getElementById("host");
          host.replaceChildren();
          createLogView(host, { executionId: "x", readChunk: async () => { throw error; }, lastChunk: async () => 3,
            ended: () => true, status: () => ({}) });
        }"""
    )
    expect(page.locator(".rv-told")).to_have_text("The log cannot be read on: the key is revoked Ask an admin.")
    expect(page.locator(".rv-state")).to_have_text("stopped")


def test_a_view_that_is_gone_reads_nothing_more(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("gone", [], ended=False))
    add = writer(logs, "gone")
    add(3)
    eventually(lambda: len(rows(page)) == 3)
    page.evaluate("view.destroy()")
    assert page.locator(".rv-log").count() == 0
    time.sleep(0.2)
    logs.requests.clear()
    add(3)
    page.keyboard.press("/")
    page.keyboard.press("n")
    time.sleep(0.5)
    assert logs.requests == []
    logs.add("gone", ended=True)
