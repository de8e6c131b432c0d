"""What becomes of a log's text on the page: by the rules of the command line, in the styles of a terminal, and never as markup."""

from __future__ import annotations

import base64
import os
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, chunked

from runvoy_cli.following.output import Lines
from runvoy_cli.terminal.sanitize import Sanitizer
from runvoy_protocol.logs import decode_chunk

SEED = int(os.environ.get("RUNVOY_TEST_SEED", "20260527"))  # fixed: the same checkout gives the same verdict
SGR = re.compile(r"\x1b\[[0-9;:]*m")
HOSTILE_LOGS = 10_000
AT_ONCE = 100

PIECES = [
    "<script>globalThis.ran = 1</script>", "<img src=x onerror='globalThis.ran = 1'>", "<svg/onload=globalThis.ran=1>",
    "\"><script>globalThis.ran=1</script>", "javascript:globalThis.ran=1", "</div></section><iframe srcdoc='<script>parent.ran=1'>",
    "<style>*{display:none}</style>", "<!--", "-->", "<a href=//example.com>", "&lt;b&gt;", "&#60;", "{{7*7}}", "${globalThis.ran=1}",
    "`", "'", '"', "\\u003cscript>", "plain words", "0", "漢字", "שלום", "🎉", "é́́́́", "\t", "  ", "\u2028", "\u00ad", "\ufeff",
    "\x1b[31m", "\x1b[0m", "\x1b[1;38;5;196m", "\x1b[38;2;1;2;3m", "\x1b[48:2::9:8:7m", "\x1b[8m", "\x1b[7m", "\x1b[2J", "\x1b[1;1H",
    "\x1b]0;title\x07", "\x1b]8;;https://example.com\x1b\\", "\x1b]52;c;aGk=\x07", "\x1b]never ended", "\x1bP1$r\x1b\\", "\x1b[",
    "\x1b", "\x1bc", "\x1b[?1049h", "\x1b[999999999999m", "\x1b[38;5m", "\x1b[;;;m", "\x9b31m", "\x90x\x9c", "\x07", "\x08", "\x00",
    "\x7f", "\x85", "\u202e", "\u2066", "\u2069", "\u200f", "\u061c", "\r", "\r\r", "progress 1%\rprogress 2%", "\x0b", "\x0c",
]  # fmt: skip


@pytest.fixture(scope="module")
def logs() -> Iterator[LogServer]:
    server = LogServer()
    yield server
    server.close()


@pytest.fixture
def module_page(page: Any, logs: LogServer) -> Any:
    """A page under the viewer's policy, where its modules can be imported."""
    page.goto(logs.put("empty", chunked([])))
    return page


def shown(line: bytes) -> str:
    """What of a line the view shows: what the command line lets through, without styles; of overwritten text the last."""
    text = SGR.sub("", Sanitizer().feed(line + b"\n").decode())
    return next((part for part in reversed(text.split("\n")) if part), "")


def hostile_bytes(source: random.Random) -> bytes:
    parts = []
    if source.random() < 0.05:
        parts.append(source.choice(PIECES).encode() * 300)
    for _ in range(source.randrange(1, 12)):
        kind = source.random()
        if kind < 0.75:
            parts.append(source.choice(PIECES).encode())
        elif kind < 0.85:
            parts.append(source.randbytes(source.randrange(1, 6)))
        else:
            parts.append(b"\n")
    return b"".join(parts)


def hostile_log(source: random.Random) -> list[bytes]:
    """Chunks of a log of at most a dozen lines, whose streams and records are cut anywhere."""
    output = [(source.choice(["out", "out", "err"]), hostile_bytes(source)) for _ in range(source.randrange(1, 4))]
    kept: list[tuple[str, bytes]] = []
    lines = 0
    for stream, data in output:
        lines += data.count(b"\n") + 1
        if lines > 12:
            break
        kept.append((stream, data))
    return chunked(kept, chunk_bytes=source.choice([1, 40, 1 << 20]), step_ms=source.choice([0, 200]))


def expected_lines(chunks: Sequence[bytes]) -> list[str]:
    lines = Lines()
    found = [line for chunk in chunks for record in decode_chunk(chunk) for line in lines.feed(record)]
    return [shown(line.data) for line in sorted(found + lines.rest())]


SHOW_ALL = """async (logs) => {
  const { createLogView } = await import("/web/log/view.js");
  const hosts = logs.map((chunks) => {
    const host = document.createElement("div");
    host.className = "log-host";
    document.getElementById("host").parentNode.append(host);
    const raw = chunks.map((text) => Uint8Array.from(atob(text), (unit) => unit.charCodeAt(0)));
    const view = createLogView(host, {
      executionId: "x", readChunk: async (number) => raw[number - 1] ?? null, lastChunk: async () => raw.length,
      ended: () => true, status: () => ({}),
    });
    return { host, view };
  });
  const isReady = ({ host }) => host.querySelector("[data-state=done]") && !host.querySelector(".rv-unread");
  const giveUpAt = performance.now() + 120_000;
  while (performance.now() < giveUpAt && !hosts.every(isReady)) await new Promise((resolve) => setTimeout(resolve, 5));
  const late = hosts.map(isReady).filter((one) => !one).length;
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  const allowed = new Set(["DIV", "SPAN", "A", "TIME", "MARK", "BUTTON"]);
  const found = hosts.map(({ host }) => ({
    lines: [...host.querySelectorAll(".rv-rows > .rv-row")].map((row) => {
      const text = row.querySelector(".rv-text").cloneNode(true);
      for (const button of text.querySelectorAll("button")) button.remove();
      return text.textContent;
    }),
    strange: [...host.querySelectorAll(".rv-rows *")].map((one) => one.tagName).filter((name) => !allowed.has(name)),
  }));
  for (const { host, view } of hosts) { view.destroy(); host.remove(); }
  return { found, late, ran: globalThis.ran ?? null };
}"""


@pytest.mark.timeout(600)
def test_hostile_logs_are_text_and_nothing_else(module_page: Any) -> None:
    print(f"RUNVOY_TEST_SEED={SEED}")
    source = random.Random(SEED)
    for start in range(0, HOSTILE_LOGS, AT_ONCE):
        batch = [hostile_log(source) for _ in range(AT_ONCE)]
        answer = module_page.evaluate(
            SHOW_ALL, [[base64.b64encode(one).decode() for one in chunks] for chunks in batch]
        )
        assert (answer["ran"], answer["late"]) == (None, 0)
        for number, (chunks, seen) in enumerate(zip(batch, answer["found"], strict=True), start):
            assert seen["strange"] == [], f"log {number}"
            # The page cuts a very long line; the rest is behind a button.
            assert [line[:3_000] for line in seen["lines"]] == [line[:3_000] for line in expected_lines(chunks)], (
                f"log {number}"
            )


def test_text_is_read_by_the_rules_of_the_command_line(module_page: Any) -> None:
    print(f"RUNVOY_TEST_SEED={SEED}")
    source = random.Random(SEED)
    lines = [hostile_bytes(source).decode(errors="replace").replace("\n", " ") for _ in range(3_000)]
    stripped = module_page.evaluate(
        "async (lines) => { const { strip } = await import('/web/log/ansi.js'); return lines.map((line) => strip(line)); }",
        lines,
    )
    for line, found in zip(lines, stripped, strict=True):
        readable = [part for part in found.split("\r") if part]
        sanitized = SGR.sub("", Sanitizer().feed(line.encode() + b"\n").decode())
        assert readable == [part for part in sanitized.split("\n") if part], repr(line)


BRIGHT = [
    "brightblack",
    "brightred",
    "brightgreen",
    "brightbrown",
    "brightblue",
    "brightmagenta",
    "brightcyan",
    "brightwhite",
]
NAMES = ["black", "red", "green", "brown", "blue", "magenta", "cyan", "white"]


def _terminal_colour(colour: str) -> int | str | None:
    """pyte's word for a colour as the view has it: a place in the palette, or #rrggbb."""
    colour = colour.replace("bfight", "bright")  # as pyte spells one of them
    if colour == "default":
        return None
    if colour in NAMES:
        return NAMES.index(colour)
    if colour in BRIGHT:
        return BRIGHT.index(colour) + 8
    return f"#{colour}"


def _sequence(source: random.Random) -> str:
    simple = [
        0,
        1,
        3,
        4,
        5,
        7,
        9,
        22,
        23,
        24,
        25,
        27,
        29,
        39,
        49,
        *range(30, 38),
        *range(40, 48),
        *range(90, 98),
        *range(100, 108),
    ]
    parts = []
    for _ in range(source.randrange(1, 4)):
        kind = source.random()
        if kind < 0.7:
            parts.append(str(source.choice(simple)))
        elif kind < 0.85:
            parts.append(f"{source.choice([38, 48])};5;{source.randrange(256)}")
        else:
            parts.append(";".join(map(str, (source.choice([38, 48]), 2, *(source.randrange(256) for _ in range(3))))))
    return f"\x1b[{';'.join(parts)}m"


def test_styles_are_those_of_a_terminal(module_page: Any) -> None:
    pyte = pytest.importorskip("pyte")
    print(f"RUNVOY_TEST_SEED={SEED}")
    source = random.Random(SEED)
    lines = ["".join(_sequence(source) + source.choice("abcdef") for _ in range(20)) for _ in range(500)]
    seen = module_page.evaluate(
        """async (lines) => {
          const { PLAIN, paletteColour, parseLine, styleAfter } = await import("/web/log/ansi.js");
          const plain = (colour) => (typeof colour === "number" && colour > 15 ? paletteColour(colour) : colour);
          let style = PLAIN;
          return lines.map((line) => {
            const { segments, style: after } = parseLine(line, style);
            const jumped = styleAfter(line, style);
            style = after;
            return { isSame: JSON.stringify(jumped) === JSON.stringify(after), cells: segments.flat().flatMap((run) =>
              [...run.text].map((text) => ({ text, ...run.style, fg: plain(run.style.fg), bg: plain(run.style.bg) }))) };
          });
        }""",
        lines,
    )
    screen = pyte.Screen(20, 1)
    stream = pyte.Stream(screen)
    for line, found in zip(lines, seen, strict=True):
        stream.feed("\r" + line)
        assert found["isSame"], repr(line)
        for column, cell in enumerate(found["cells"]):
            there = screen.buffer[0][column]
            for side in ("fg", "bg"):
                if isinstance(cell[side], int) and getattr(there, side).replace("bfight", "bright") not in (
                    *NAMES,
                    *BRIGHT,
                ):
                    cell[side] = (
                        f"#{pyte.graphics.FG_BG_256[cell[side]]}"  # the first 16 of the palette, chosen by number
                    )
            ours = (
                cell["text"],
                cell["fg"],
                cell["bg"],
                cell["bold"],
                cell["italic"],
                cell["underline"],
                cell["strike"],
            )
            theirs = (there.data, _terminal_colour(there.fg), _terminal_colour(there.bg), there.bold, there.italics)
            assert ours == (*theirs, there.underscore, there.strikethrough), repr(line)
            assert (cell["inverse"], cell["blink"]) == (there.reverse, there.blink), repr(line)


def test_a_colour_goes_on_until_it_is_reset_over_lines_chunks_and_the_other_stream(page: Any, logs: LogServer) -> None:
    output = [
        ("out", b"\x1b[32mgreen begins\n"), ("err", b"plain\n"), ("out", b"still green\n" * 3), ("err", b"\x1b[1;4mbold\n"),
        ("out", b"x" * 100 + b"\n"), ("out", b"green to here \x1b[0mand no more\n"), ("err", b"bold yet\n"), ("out", b"plain\n"),
    ]  # fmt: skip
    page.goto(logs.put("colours", chunked(output, chunk_bytes=30)))
    expect(page.locator(".rv-rows > .rv-row:not(.rv-unread)")).to_have_count(10)
    styles = page.evaluate(
        "[...document.querySelectorAll('.rv-rows .rv-text')].map((text) => text.querySelector('span'))"
        ".map((span) => span ? span.className + span.style.getPropertyValue('--rv-fg') : '')"
    )
    green, bold = "rv-fgvar(--rv-c-2)", "rv-bold rv-underline"
    assert styles == [green, "", green, green, green, bold, green, green, bold, ""]


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const luminance = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (one) => {
    const found = getComputedStyle(one).backgroundColor;
    return /^rgba\\(.*, 0\\)$/.test(found) ? backgroundOf(one.parentElement) : found;
  };
  return [...document.querySelectorAll(".rv-row span.rv-fg, .rv-row .rv-n, .rv-row .rv-mark")].map((one) => {
    const [dark, light] = [luminance(getComputedStyle(one).color), luminance(backgroundOf(one))].sort((a, b) => a - b);
    return [one.textContent, one.closest(".rv-row").className, (light + 0.05) / (dark + 0.05)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_terminals_can_be_read_wherever_it_stands(
    new_context: Any, logs: LogServer, scheme: str
) -> None:
    """By WCAG's measure of text, 4.5 : 1; on the plain background, and on those of stderr, of runvoy's words and of marked lines."""
    colours = "".join(f"\x1b[{code}m{code}\x1b[0m" for code in [*range(30, 38), *range(90, 98)]).encode() + b"\n"
    page = new_context(color_scheme=scheme).new_page()
    chunks = chunked([("out", colours), ("out", colours), ("err", colours), ("sys", colours)])
    page.goto(logs.put("contrast", chunks) + "#L2")
    expect(page.locator(".rv-marked")).to_have_count(1)
    found = page.evaluate(CONTRASTS)
    assert {row for _, row, _ in found} == {"rv-row", "rv-row rv-marked", "rv-row rv-err", "rv-row rv-sys"}
    assert len([text for text, _, _ in found if len(text) == 2]) == 4 * 16
    assert [one for one in found if one[2] < 4.5 and one[0].strip()] == []
