"""The log view in a real browser: reading, scrolling, searching, linking and taking away."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.log_pages import MISSING, LogServer, chunked, records
from tests.browser.log_steps import eventually, near_line, rows, scroller, searched, settled, top, writer
from tests.browser.test_log_text import SEED, SGR

from runvoy_cli.terminal.sanitize import Sanitizer

MILLION = 1_000_000
MOST_NODES = 1_500


@pytest.fixture(scope="module")
def million(logs: LogServer) -> str:
    """The address of a log of a million lines, in some twenty chunks."""
    lines = [b"line %d of the log, and some more words\n" % number for number in range(1, MILLION + 1)]
    output = (("out", b"".join(lines[start : start + 1000])) for start in range(0, MILLION, 1000))
    return logs.put("million", chunked(output, step_ms=5))


# Much


def test_a_big_log_opens_at_its_end_and_reads_no_more_than_that(page: Any, logs: LogServer, million: str) -> None:
    logs.requests.clear()
    page.goto(million)
    expect(page.locator(".rv-row").last).to_contain_text("line 1000000 of")
    assert rows(page)[-1][0] == MILLION
    assert page.locator(".rv-lines").inner_text() == "1,000,000 lines"
    count = len(logs.chunks["million"])
    assert {number for _, number in logs.requests} <= {count - 1, count}


def test_a_million_lines_scroll_with_few_elements_and_each_line_where_it_belongs(page: Any, million: str) -> None:
    page.goto(million)
    settled(page)
    for share in (0.0, 0.25, 0.5, 0.77, 1.0, 0.5):
        scroller(page).evaluate(
            "(one, share) => (one.scrollTop = share * (one.scrollHeight - one.clientHeight))", share
        )
        near_line(page, share * MILLION, MILLION / 100)
        for number, text in settled(page):
            assert text == f"line {number} of the log, and some more words"
        assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES
    # A turn of the wheel moves by what it says, however far the bar moves for it.
    scroller(page).hover()
    first = top(page)
    page.mouse.wheel(0, 400)
    eventually(lambda: top(page) == first + 20)
    scroller(page).press("Home")
    eventually(lambda: settled(page)[0][0] == 1)
    scroller(page).press("PageDown")
    assert top(page) > 15
    scroller(page).press("End")
    eventually(lambda: settled(page)[-1][0] == MILLION)


def test_where_a_reader_scrolls_holds_though_the_bar_was_about_to_be_put_right(page: Any, million: str) -> None:
    """The bar is put right once it rests: by then a reader may have scrolled on, and no event has told of it yet."""
    page.goto(million)
    settled(page)
    for share in (0.25, 0.75) * 10:
        scroller(page).evaluate(
            """async (one, share) => {
                const to = (share) => (one.scrollTop = share * (one.scrollHeight - one.clientHeight));
                const told = new Promise((resolve) => one.addEventListener("scroll", resolve, { once: true }));
                to(0.5);
                await told;
                const until = performance.now() + 250;
                while (performance.now() < until);
                to(share);
            }""",
            share,
        )
        near_line(page, share * MILLION, MILLION / 100)


def test_more_lines_than_a_browser_has_pixels_for(page: Any, logs: LogServer) -> None:
    count = 3_000_000  # 60 million pixels; Chromium's tallest element has 33
    chunks = chunked([("out", b"".join(b"%d\n" % number for number in range(1, count + 1)))])
    page.goto(logs.put("tall", chunks))
    assert settled(page)[-1] == (count, str(count))
    for _ in range(3):
        scroller(page).press("k")
    assert rows(page)[-1][0] < count
    scroller(page).evaluate("(one) => (one.scrollTop = one.scrollHeight / 2)")
    eventually(lambda: abs(settled(page)[0][0] - count / 2) < count / 20)
    assert all(text == str(number) for number, text in rows(page))
    scroller(page).hover()
    for step in (1, -1):
        first = top(page)
        page.mouse.wheel(0, step * 200)
        near_line(page, first + step * 10, 1)


def test_a_line_of_ten_megabytes_is_cut_is_found_and_does_not_freeze(page: Any, logs: LogServer) -> None:
    long = b"x" * 5_000_000 + b"needle" + b"y" * 5_000_000
    page.goto(logs.put("long", chunked([("out", b"before\n" + long + b"\nafter\n")])))
    seen = settled(page)
    assert [number for number, _ in seen] == [1, 2, 3]
    assert len(seen[1][1]) < 5_000
    page.get_by_text("show more").click()
    eventually(lambda: 30_000 < len(rows(page)[1][1]) < 40_000)
    assert searched(page, "needle") == "1"
    page.locator(".rv-field").press("Enter")
    expect(page.locator("mark.rv-current")).to_have_text("needle")
    assert "characters before" in rows(page)[1][1]
    assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES


# Gaps and what is broken


def test_what_is_missing_or_broken_is_shown_where_it_is(page: Any, logs: LogServer) -> None:
    chunks = [
        records(
            {"n": 1, "m": "one\n"},
            {"n": 2, "s": "sys", "m": "runvoy: 1,024 bytes of output were lost\n"},
            {"n": 3, "m": "three\n"},
        ),
        records({"n": 10, "m": "ten\n"}, {"n": 4, "m": "back again\n"}),
        b"no chunk at all",
        records({"n": 5, "m": "five\n"}, {"n": 6, "t": "late", "m": "bad\n"}),
        records({"n": 7, "s": "err", "b": "/v8gYnJva2VuCg=="}, {"n": 8, "s": "sys", "end": True}),
    ]
    page.goto(logs.put("broken", chunks))
    assert [text for _, text in settled(page)] == [
        "one", "runvoy: 1,024 bytes of output were lost", "three", "lines 4 to 9 are missing", "ten",
        "line numbers go back from 11 to 4", "back again", "chunk 3 of the log cannot be read: it is cut off or no gzip",
        "chunk 4 of the log cannot be read: it holds a record that is none", "�� broken",
    ]  # fmt: skip
    assert page.locator(".rv-sys").count() == 1
    assert page.locator(".rv-notice").count() == 4
    expect(page.locator(".rv-err .rv-mark")).to_have_attribute("aria-label", "stderr")


def test_a_chunk_that_never_came_is_a_gap(page: Any, logs: LogServer) -> None:
    chunks = [
        records({"n": 1, "m": "first\n"}),
        MISSING,
        records({"n": 8, "m": "last\n"}, {"n": 9, "s": "sys", "end": True}),
    ]
    page.goto(logs.put("cut", chunks))
    eventually(lambda: [text for _, text in settled(page)] == ["first", "chunk 2 of the log is missing", "last"])


def test_lines_cut_anywhere_are_put_together(page: Any, logs: LogServer) -> None:
    source = random.Random(SEED)
    print(f"RUNVOY_TEST_SEED={SEED}")
    for round_ in range(8):
        output = [
            (source.choice(["out", "err"]), source.choice([b"a", b"bc\n", b"\n", b"d\ne", b"fgh\nij\n", "é".encode()[:1], "é".encode()[1:]]))
            for _ in range(40)
        ]  # fmt: skip
        chunks = chunked(output, chunk_bytes=source.choice([1, 5, 20]), step_ms=source.choice([0, 200]))
        page.goto(logs.put(f"parts{round_}", chunks))
        expect(page.locator(".rv-state")).to_have_text("complete")
        expected = []
        for stream in ("out", "err"):
            text = b"".join(data for name, data in output if name == stream)
            expected += text.split(b"\n") if text and not text.endswith(b"\n") else text.split(b"\n")[:-1]
        texts = sorted(line.decode(errors="replace") for line in expected)
        # The numbers of rows, and with them what is in view, are guesses until all chunks around are read.
        seen = read_through(page, len(texts))
        assert sorted(seen.values()) == texts
        assert sorted(seen) == list(range(1, len(texts) + 1))


def read_through(page: Any, count: int) -> dict[int, str]:
    """A few pages from the beginning on, until so many lines were seen: their texts by their numbers."""

    def read() -> dict[int, str]:
        seen: dict[int, str] = {}
        scroller(page).press("Home")
        for _ in range(4):
            seen |= dict(settled(page))
            scroller(page).press("PageDown")
        return seen if len(seen) == count else {}

    found: dict[int, str] = eventually(read)
    return found


def test_overwritten_text_is_folded_and_can_be_seen(page: Any, logs: LogServer) -> None:
    progress = b"".join(b"\rstep %d" % step for step in range(1, 51))
    page.goto(logs.put("progress", chunked([("out", progress + b"\r\ndone\r\n")])))
    assert [text for _, text in settled(page)] == ["step 50↻ 50", "done"]
    page.get_by_text("↻ 50").click()
    eventually(lambda: page.locator(".rv-segment").count() == 50)
    page.get_by_text("fold").click()
    eventually(lambda: page.locator(".rv-segment").count() == 0)


# Searching


def test_a_search_counts_what_is_there(page: Any, logs: LogServer) -> None:
    source = random.Random(SEED)
    print(f"RUNVOY_TEST_SEED={SEED}")
    words = [
        "error",
        "Error",
        "ERROR",
        "er\x1b[31mror",
        "deploy",
        "a.b*c",
        "aaaa",
        "é",
        "漢",
        "\x1b]0;error\x07",
        "x\ry",
        "\t",
        "\u202e",
    ]
    output = [
        (source.choice(["out", "err"]), "".join(source.choice([*words, " ", " ", "\n"]) for _ in range(400)).encode())
        for _ in range(60)
    ]  # fmt: skip
    page.goto(logs.put("search", chunked(output, chunk_bytes=20_000, step_ms=50)))
    settled(page)
    texts = []
    for stream in ("out", "err"):
        data = b"".join(data for name, data in output if name == stream)
        texts.append(SGR.sub("", Sanitizer().feed(data + b"\n").decode()))
    for wanted in ("error", "deploy", "a.b*c", "aa", "é", "漢", "xy", "no such thing", "e"):
        found = sum(len(re.findall(re.escape(wanted), text, re.IGNORECASE)) for text in texts)
        assert searched(page, wanted) == f"{found:,}", wanted
    page.get_by_label("Match case").click()
    assert searched(page, "Error") == f"{sum(text.count('Error') for text in texts):,}"


def test_a_search_goes_on_in_what_comes_later(page: Any, logs: LogServer) -> None:
    page.goto(logs.put("later", [], ended=False))
    add = writer(logs, "later")
    add(10)
    eventually(lambda: len(rows(page)) == 10)
    assert searched(page, "line") == "10"
    logs.add("later", records({"n": 11, "m": "line and li", "p": True}))
    expect(page.locator(".rv-count")).to_have_text("11")
    logs.add("later", records({"n": 11, "m": "ne"}, {"n": 12, "s": "sys", "end": True}), ended=True)
    expect(page.locator(".rv-count")).to_have_text("12")


def test_matches_are_marked_and_gone_through_in_their_order(page: Any, million: str) -> None:
    page.goto(million)
    settled(page)
    assert searched(page, "99 of the") == "10,000"
    field = page.locator(".rv-field")
    scroller(page).press("Home")
    eventually(lambda: top(page) == 1)
    seen = []
    for press in ("Enter", "Enter", "Enter", "Shift+Enter", "Shift+Enter", "Shift+Enter"):
        field.press(press)
        expect(page.locator("mark.rv-current")).to_have_count(1)
        expect(page.locator(".rv-count")).not_to_have_text(seen[-1][0] if seen else "10,000")
        number = page.locator(".rv-row:has(mark.rv-current)").get_attribute("data-n")
        seen.append((page.locator(".rv-count").inner_text(), int(number)))
    assert seen == [
        ("1 of 10,000", 99), ("2 of 10,000", 199), ("3 of 10,000", 299), ("2 of 10,000", 199), ("1 of 10,000", 99),
        ("10,000 of 10,000", 999_999),
    ]  # fmt: skip
    field.press("Escape")
    expect(page.locator("mark")).to_have_count(0)


def test_the_first_error_is_jumped_to(page: Any, logs: LogServer) -> None:
    quiet = b"all is well, 0 errors\nno failures: 0\n" * 500
    output = [
        ("err", b"progress on stderr\n"),
        ("out", quiet),
        ("out", b"step 3: FAILED to deploy\n"),
        ("out", quiet),
        ("err", b"ValueError: x\n"),
    ]
    page.goto(logs.put("errors", chunked(output, chunk_bytes=10_000)))
    settled(page)
    for expected in ("step 3: FAILED to deploy", "ValueError: x"):
        page.get_by_label("First error (e)").click()
        expect(page.locator(".rv-marked .rv-text")).to_have_text(expected)
    page.get_by_label("First error (e)").click()
    expect(page.locator(".rv-told")).to_have_text("No further error.")
    page.goto(logs.put("well", chunked(output[:2])))
    settled(page)
    page.get_by_label("First error (e)").click()
    expect(page.locator(".rv-marked .rv-text")).to_have_text("progress on stderr")


# Lines and taking away


def test_a_link_to_lines_shows_and_marks_them(page: Any, million: str) -> None:
    page.goto(f"{million}#L500000-L500002")
    eventually(lambda: page.locator(".rv-marked").count() == 3)
    assert [number for number, _ in settled(page) if 499_998 < number < 500_005] == [*range(499_999, 500_005)]
    page.locator('.rv-row[data-n="500004"] .rv-n').click()
    assert page.evaluate("location.hash") == "#L500004-L500004"
    page.locator('.rv-row[data-n="500001"] .rv-n').click(modifiers=["Shift"])
    assert page.evaluate("location.hash") == "#L500001-L500004"
    eventually(lambda: page.locator(".rv-marked").count() == 4)
    scroller(page).press("Shift+J")
    eventually(lambda: page.locator(".rv-marked").count() == 5)
    scroller(page).press("Escape")
    eventually(lambda: page.locator(".rv-marked").count() == 0)
    assert page.evaluate("lines.at(-1)") is None


def test_marked_and_selected_lines_are_copied_as_they_read(new_context: Callable[..., Any], million: str) -> None:
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{million}#L250000-L260000")
    eventually(lambda: page.locator(".rv-marked").count() > 3)
    page.get_by_label("Copy the marked lines (c)").click()
    expect(page.locator(".rv-told")).to_have_text("Copied 10,001 lines.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "".join(f"line {number} of the log, and some more words\n" for number in range(250_000, 260_001))
    # A selection goes on over rows that are no longer in the page.
    scroller(page).hover()
    first = top(page) + 5
    page.evaluate(
        """(number) => { const text = document.querySelector(`.rv-row[data-n="${number}"] .rv-text`).firstChild;
           document.getSelection().setBaseAndExtent(text, 5, text, 7); }""",
        first,
    )
    page.mouse.wheel(0, 2_000)
    eventually(lambda: top(page) > first + 50)
    last = top(page) + 5
    page.evaluate(
        """(number) => { const text = document.querySelector(`.rv-row[data-n="${number}"] .rv-text`).firstChild;
           document.getSelection().extend(text, 4); }""",
        last,
    )
    page.keyboard.press("Control+c")
    lines = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert lines[0] == f"line {first} of the log, and some more words"[5:]
    assert lines[1:-1] == [f"line {number} of the log, and some more words" for number in range(first + 1, last)]
    assert lines[-1] == "line"


def test_a_download_is_what_was_printed_byte_for_byte(page: Any, logs: LogServer, tmp_path: Path) -> None:
    source = random.Random(SEED)
    print(f"RUNVOY_TEST_SEED={SEED}")
    output = [("out", source.randbytes(source.randrange(1, 3_000))) for _ in range(200)]
    page.goto(logs.put("bytes", chunked(output, chunk_bytes=50_000, step_ms=150)))
    settled(page)
    with page.expect_download() as download:
        page.get_by_label("Download all of the log").click()
    assert download.value.suggested_filename == "bytes.log"
    download.value.save_as(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"".join(data for _, data in output)


# Looks, keys, names


def test_long_lines_wrap_and_the_list_still_knows_where_it_is(page: Any, logs: LogServer) -> None:
    source = random.Random(4)
    lines = [f"{number} " + "word " * source.randrange(0, 200) for number in range(1, 5_001)]
    page.goto(logs.put("wrap", chunked([("out", "".join(f"{line}\n" for line in lines).encode())])))
    assert settled(page)[-1][0] == 5_000
    scroller(page).press("w")
    expect(page.locator(".rv-wraps")).to_be_visible()
    bottom = "document.querySelector('.rv-scroller').getBoundingClientRect().bottom"
    last = "document.querySelector('.rv-rows > .rv-row:last-child').getBoundingClientRect().bottom"
    eventually(lambda: rows(page)[-1][0] == 5_000 and abs(page.evaluate(f"{bottom} - {last}")) < 2)
    assert scroller(page).evaluate("(one) => one.scrollWidth <= one.clientWidth")
    scroller(page).press("Home")
    eventually(lambda: top(page) == 1)
    seen = set()
    for _ in range(60):
        seen |= {number for number, _ in rows(page)}
        scroller(page).press("PageDown")
    assert seen >= set(range(1, max(seen) - 40))  # no line is jumped over
    before = top(page)
    for _ in range(10):
        scroller(page).press("PageDown")
    for _ in range(10):
        scroller(page).press("PageUp")
    assert top(page) == before
    page.reload()
    expect(page.locator(".rv-wraps")).to_be_visible()  # preferences are kept


def test_keys_do_what_the_list_of_keys_says(page: Any, million: str) -> None:
    page.goto(million)
    settled(page)
    page.keyboard.press("/")
    expect(page.locator(".rv-field")).to_be_focused()
    page.keyboard.press("Escape")
    expect(scroller(page)).to_be_focused()
    page.keyboard.press("Control+f")
    expect(page.locator(".rv-field")).to_be_focused()
    scroller(page).focus()
    for key, name in (("l", "rv-without-n"), ("t", "rv-without-t")):
        before = page.locator(f".{name}").count()
        page.keyboard.press(key)
        assert page.locator(f".{name}").count() == 1 - before
        page.keyboard.press(key)
    page.keyboard.press("g")
    eventually(lambda: settled(page)[0][0] == 1)
    page.keyboard.press("j")
    eventually(lambda: top(page) == 2)
    page.keyboard.press("k")
    eventually(lambda: top(page) == 1)
    page.evaluate("globalThis.others = []; document.addEventListener('keydown', (event) => others.push(event.key))")
    page.keyboard.press("n")
    page.keyboard.press("u")
    assert searched(page, "7 of the") == "100,000"
    scroller(page).focus()
    page.keyboard.press("n")
    expect(page.locator("mark.rv-current")).to_have_count(1)
    assert page.evaluate("others") == ["n", "u"]  # the page's keys are its own, but for what the log takes
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("dialog.rv-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    eventually(lambda: settled(page)[-1][0] == MILLION)


def test_nobody_is_shut_out(new_context: Callable[..., Any], logs: LogServer) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    colours = "".join(f"\x1b[{code}mcolour {code}\x1b[0m " for code in [*range(31, 37), *range(91, 97)])
    output = [
        ("out", f"{colours}\nplain\n".encode()),
        ("err", b"to stderr\n"),
        ("sys", b"runvoy: words\n"),
        ("out", b"a\rb\n"),
    ]
    chunks = chunked(output)
    for scheme in ("light", "dark"):
        page = new_context(color_scheme=scheme).new_page()
        page.goto(logs.put("axe", chunks))
        settled(page)
        assert searched(page, "plain") == "1"
        results = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
        serious = [one for one in results.response["violations"] if one["impact"] in ("serious", "critical")]
        assert serious == [], json.dumps(serious, indent=1)[:3_000]
