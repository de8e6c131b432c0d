// Taking a log away: as a file, or as text on the clipboard.

import { strip } from "./ansi.js";
import { Breather } from "./breathe.js";
import { BadChunk, SYS, decodeChunk } from "./chunk.js";
import { onwards } from "./raw_chunks.js";
import { grouped, plural } from "./words.js";

const PREFIX = "runvoy: ";

/** What a reader takes of a log. `guarded` does what may read of it, and shows what goes wrong. */
export class Taking {
  #store;
  #list;
  #teller;
  #guarded;

  constructor(store, list, teller, guarded) {
    this.#store = store;
    this.#list = list;
    this.#teller = teller;
    this.#guarded = guarded;
  }

  /** Copy a range of lines, or all of them. */
  async copyLines(range) {
    const [from, to] = range ?? [1, this.#store.lines];
    await this.#guarded(async () => {
      const { text, lines } = await textOfLines(this.#store, from, to);
      await navigator.clipboard.writeText(text);
      this.#teller.tell(`Copied ${plural(lines, "line")}.`);
    }).catch((error) => this.#teller.tell(`The browser refused: ${error.message}`));
  }

  /** The address of this page, which names the marked lines. */
  async copyLink(range) {
    try {
      await navigator.clipboard.writeText(location.href);
      const lines = range && (range[0] === range[1] ? `line ${grouped(range[0])}` : `lines ${grouped(range[0])} to ${grouped(range[1])}`);
      this.#teller.tell(`Copied a link to ${lines ?? "this run"}.`);
    } catch (error) {
      this.#teller.tell(`The browser refused: ${error.message}`);
    }
  }

  /** What the browser's own copying takes: the selection; without one in the log the marked lines, of which most are not there. */
  copySelection(event, marked) {
    const part = selectedPart(this.#list.querySelector(".rv-rows"));
    if (!part && marked && event.target === this.#list && document.getSelection().isCollapsed) {
      event.preventDefault();
      return void this.copyLines(marked);
    }
    if (!part) return;
    const text = textOfSelection(this.#store, part);
    event.preventDefault();
    if (text !== null) event.clipboardData.setData("text/plain", text);
    else this.#teller.tell("Some of what is selected is no longer in memory: mark its lines by their numbers to copy them.");
  }

  async download(name) {
    await this.#guarded(async () => {
      const blob = await wholeLog(this.#store, (number, of) => this.#teller.tell(`Reading part ${number} of ${of} …`));
      save(blob, name);
      this.#teller.tell(`Downloaded ${plural(blob.size, "byte")}.`);
    });
  }
}

/** The whole log as `runvoy logs ID` prints it: the command's bytes exactly, and runvoy's own words marked as such. */
async function wholeLog(store, onProgress) {
  const parts = [];
  for await (const raw of store.raws()) {
    const number = parts.length + 1;
    onProgress(number, store.chunks);
    parts.push(raw ? await printed(raw, number) : `${PREFIX}chunk ${number} of the log is missing\n`);
  }
  return new Blob(parts, { type: "text/plain" });
}

async function printed(raw, number) {
  try {
    const records = await decodeChunk(raw);
    return new Blob(records.map(({ s, text, bytes }) => (s === SYS ? marked(text) : (bytes ?? text))));
  } catch (error) {
    if (!(error instanceof BadChunk)) throw error;
    return `${PREFIX}chunk ${number} of the log cannot be read: ${error.message}\n`;
  }
}

const marked = (text) =>
  text.split("\n").filter((line, at, lines) => line || at < lines.length - 1)
    .map((line) => `${line.startsWith(PREFIX) ? "" : PREFIX}${line}\n`).join("");

/** Hand a file to the reader. */
function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** What of a line can be read at first sight: of a progress line its last state. */
function shownText(raw) {
  return strip(raw).split("\r").findLast(Boolean) ?? "";
}

/** The text of lines `from` to `to`, by number, and how many of them there are: the first may be lost. */
async function textOfLines(store, from, to) {
  const start = await store.find(from);
  const lines = [];
  const breather = new Breather();
  // How many rows there are is known of what was read alone.
  for (let at = start ? store.position(start.number, start.row) : 0; at < store.rows; at++) {
    const { number, row } = store.locate(at);
    if (row === 0) store.prefetch(onwards(number));
    await store.load(number);
    const line = store.row(number, row);
    if (line?.n > to) break;
    if (line?.n >= from) lines.push(shownText(line.goesOn ? await store.fullText(number, row) : store.text(number, row)));
    await breather.rest();
  }
  return { text: lines.map((line) => `${line}\n`).join(""), lines: lines.length };
}

/**
 * What is selected in the rows of `list`: {start, end} with `key` of a row and `offset` in its text; null if nothing is.
 */
function selectedPart(list) {
  const selection = document.getSelection();
  if (!selection || selection.isCollapsed) return null;
  const ends = [
    [selection.anchorNode, selection.anchorOffset],
    [selection.focusNode, selection.focusOffset],
  ].map(([node, offset]) => placeIn(list, node, offset));
  if (ends.includes(null)) return null;
  ends.sort((a, b) => a.key - b.key || a.offset - b.offset);
  return { start: ends[0], end: ends[1] };
}

function placeIn(list, node, offset) {
  const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
  const row = element.closest(".rv-row");
  if (row?.parentElement !== list) return null;
  const text = row.querySelector(".rv-text");
  const before = document.createRange();
  before.selectNodeContents(text);
  const isAfter = before.comparePoint(node, offset) > 0;
  if (isAfter) return { key: row.rvKey, offset: Infinity };
  if (before.comparePoint(node, offset) < 0) return { key: row.rvKey, offset: 0 };
  before.setEnd(node, offset);
  return { key: row.rvKey, offset: before.toString().length };
}

/** The text of a selection; null if some of it is not in memory. */
function textOfSelection(store, { start, end }) {
  const places = [start, end].map(({ key }) => store.placeOf(key));
  const [first, last] = places.map(({ number, row }) => store.position(number, row));
  const lines = [];
  for (let at = first; at <= last; at++) {
    const { number, row } = store.locate(at);
    const line = store.row(number, row);
    if (!line) return null;
    if (!line.n) continue;
    const text = shownText(store.text(number, row));
    lines.push(text.slice(at === first ? start.offset : 0, at === last ? end.offset : undefined));
  }
  return lines.join("\n");
}
