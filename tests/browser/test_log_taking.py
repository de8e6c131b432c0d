"""What leads out of a log: addresses in it, links to it, and paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, chunked, records
from tests.browser.log_steps import eventually, rows, scroller, searched, settled, top

ADDRESSES = {
    "see https://ci.example.com/runs/42?a=1&b=%20#L3.": ["https://ci.example.com/runs/42?a=1&b=%20#L3"],
    '(http://10.0.0.7:8080/x), "https://a.example"; <https://b.example/>': [
        "http://10.0.0.7:8080/x",
        "https://a.example",
        "https://b.example/",
    ],
    "https://en.example.org/wiki/Log_(disambiguation) and [https://c.example/a[1]]": [
        "https://en.example.org/wiki/Log_(disambiguation)",
        "https://c.example/a[1]",
    ],
    "HTTPS://UPPER.example:443/Path http://[::1]:3000/": ["HTTPS://UPPER.example:443/Path", "http://[::1]:3000/"],
    # Where another host is read than the browser would go to, or none at all.
    "https://bank.example@evil.example/ https://user:pw@evil.example https://evil.example\\@bank.example": [
        "https://evil.example"
    ],
    "https://b\u0430nk.example https://example.com\uff0fa https://exa\u00admple.com http://0x7f.1/ https://%65vil.example": [],
    "javascript:alert(1) data:text/html,x file:///etc/passwd ftp://x.example xhttps://x https:// http:///x": [],
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses_are_links_to_where_they_say(module_page: Any, text: str) -> None:
    script = """async (text) => { const { addressesIn } = await import("/web/log/addresses.js");
      return addressesIn(text).map(({ start, end, href }) => [href, text.slice(start, end)]); }"""
    found = module_page.evaluate(script, text)
    assert [href for href, _ in found] == ADDRESSES[text]
    assert all(href == shown for href, shown in found)


def test_an_address_that_is_cut_is_none(module_page: Any) -> None:
    script = """async ([text, isCut]) => { const { addressesIn } = await import("/web/log/addresses.js");
      return addressesIn(text, isCut).length; }"""
    assert module_page.evaluate(script, ["https://a.example/ https://b.example/lo", True]) == 1
    assert module_page.evaluate(script, ["https://a.example/" + "x" * 3_000, False]) == 0
    assert module_page.evaluate(script, ["https://a.example/ " * 5_000, False]) == 50
    for hostile in (")", ".", "(", "https://", "https://a)", "/"):
        assert module_page.evaluate(script, ["https://a.example" + hostile * (256_000 // len(hostile)), False]) <= 1


def test_an_address_is_opened_beside_the_log_whatever_its_colours(page: Any, logs: LogServer) -> None:
    target = logs.put("target", chunked([("out", b"here\n")]))
    coloured = target.replace("log=", "\x1b[32mlog\x1b[0m=").encode()
    hidden = b"\x1b[8m" + target.encode() + b"\x1b[0m"
    page.goto(logs.put("addresses", chunked([("out", b"open " + coloured + b", please\n" + hidden + b"\n")])))
    settled(page)
    assert searched(page, "html?l") == "2"
    links = page.locator("a.rv-address")
    expect(page.locator("a.rv-address mark, mark a.rv-address").first).to_be_visible()
    assert "".join(links.all_inner_texts()) == target
    assert {link.get_attribute("href") for link in links.all()} == {target}
    assert {link.get_attribute("rel") for link in links.all()} == {"noopener noreferrer"}
    with page.context.expect_page() as opened:
        links.first.press("Enter")
    expect(opened.value.locator(".rv-row")).to_contain_text("here")
    assert opened.value.evaluate("[document.referrer, globalThis.opener]") == ["", None]
    assert rows(page)[0][1] == f"open {target}, please"


def test_an_address_of_which_a_part_cannot_be_read_is_none(page: Any, logs: LogServer) -> None:
    lines = [
        b"https://bank.example\x1b[8m.evil.example\x1b[28m/",
        b"https://bank.example\x1b[38;2;9;9;9;48;2;9;9;9m.evil.example/\x1b[0m",
        b"https://bank.example\x1b[7;48;5;7;38;5;7m.evil.example\x1b[0m/",
        b"\x1b[41mhttps://ci.example/\x1b[0m http://localhost:\x1b[1;36m5173\x1b[0m/",
    ]
    page.goto(logs.put("disguised", chunked([("out", b"\n".join(lines) + b"\n")])))
    settled(page)
    links = page.locator("a.rv-address")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://ci.example/",
        *["http://localhost:5173/"] * 3,
    ]


def test_a_link_to_what_is_marked_is_copied(new_context: Callable[..., Any], logs: LogServer) -> None:
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    address = logs.put("linked", chunked([("out", b"".join(b"%d\n" % number for number in range(1, 2_001)))]))
    page.goto(address)
    settled(page)
    page.locator('.rv-row[data-n="1990"] .rv-n').click()
    page.locator('.rv-row[data-n="1992"] .rv-n').click(modifiers=["Shift"])
    scroller(page).press("y")
    expect(page.locator(".rv-told")).to_have_text("Copied a link to lines 1,990 to 1,992.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{address}#L1990-L1992"
    scroller(page).press("Escape")
    page.get_by_label("Copy a link to the marked lines (y)").click()
    expect(page.locator(".rv-told")).to_have_text("Copied a link to this run.")


def test_all_is_copied_by_the_keys_that_one_knows(new_context: Callable[..., Any], logs: LogServer) -> None:
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    text = "".join(f"line {number}\n" for number in range(1, 5_001))
    page.goto(logs.put("whole", chunked([("out", text.encode())], chunk_bytes=10_000)))
    settled(page)
    scroller(page).press("Control+a")
    expect(page.locator(".rv-told")).to_have_text("5,000 lines marked: c copies them.")
    page.keyboard.press("Control+c")
    expect(page.locator(".rv-told")).to_have_text("Copied 5,000 lines.")
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.keyboard.press("Escape")
    expect(page.locator(".rv-marked")).to_have_count(0)


def test_all_is_copied_of_a_log_whose_beginning_is_lost_or_whose_numbers_go_back(
    new_context: Callable[..., Any], logs: LogServer
) -> None:
    page = new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
    chunks = chunked([("out", b"".join(b"line %d" % number + b"." * 90 + b"\n" for number in range(1, 20_001)))], 1_000)
    assert len(chunks) > 10
    # Of each line there is more than one row: what is held against its number alone ends before the last.
    back = records(*({"n": number, "m": f"again {number}\n"} for _ in range(50) for number in range(1, 101)))
    for name, log, last in (
        ("headless", [b"no chunk", *chunks[1:]], "line 20000" + "." * 90),
        ("back", [chunks[0], *[back] * 3, *chunks[1:]], "line 20000" + "." * 90),
    ):
        page.goto(logs.put(name, log))
        settled(page)
        scroller(page).press("Control+a")
        expect(page.locator(".rv-told")).to_contain_text("lines marked")
        page.keyboard.press("c")
        expect(page.locator(".rv-told")).to_contain_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()").splitlines()
        assert len(copied) > 19_000, name
        assert copied[-1] == last, name


def printed(page: Any) -> list[str]:
    """What is on paper of the log, as the browser prints it: a note, then the rows."""
    page.evaluate(
        """addEventListener("beforeprint", () => {
            globalThis.paper = [...document.querySelector(".rv-sheet").children]
              .map((one) => (one.querySelector(".rv-text") ?? one).textContent); })"""
    )
    page.pdf()
    found: list[str] = page.evaluate("paper")
    assert page.locator(".rv-sheet > *").count() == 0
    return found


def test_paper_has_all_of_a_log_and_of_a_long_one_what_one_was_at(page: Any, logs: LogServer) -> None:
    lines = [f"line {number} " + "word " * 60 for number in range(1, 301)]
    page.goto(logs.put("paper", chunked([("out", "".join(f"{line}\n" for line in lines).encode())])))
    settled(page)
    assert printed(page) == ["All of the log", *lines]
    page.locator('.rv-row[data-n="298"] .rv-n').click()
    scroller(page).press("Shift+J")
    scroller(page).press("Home")
    eventually(lambda: top(page) == 1)
    assert printed(page) == ["Lines 298 to 299 of 300", *lines[297:299]]
    page.goto(
        logs.put("book", chunked([("out", b"".join(b"%d\n" % number for number in range(1, 20_001)))])) + "#L9000"
    )
    expect(page.locator(".rv-marked")).to_have_count(1)
    scroller(page).press("Escape")
    eventually(lambda: page.locator(".rv-marked").count() == 0)
    first = top(page)
    assert printed(page) == [f"Lines {first:,} to {first + 4_999:,} of 20,000", *map(str, range(first, first + 5_000))]


def test_paper_has_no_lines_but_those_that_are_marked_where_the_first_of_them_is_lost(
    page: Any, logs: LogServer
) -> None:
    lost = records(*({"n": number, "m": f"line {number}\n"} for number in (*range(1, 11), *range(15, 21))))
    page.goto(logs.put("torn", [lost]) + "#L12-L16")
    expect(page.locator(".rv-marked")).to_have_count(2)
    assert [line for line in printed(page)[1:] if line.startswith("line ")] == ["line 15", "line 16"]
