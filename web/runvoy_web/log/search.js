// Searching all of a log, also what was not read yet, in slices; and finding its first error.

import { strip } from "./ansi.js";
import { Breather } from "./breathe.js";
import { ERR } from "./chunk.js";
import { onwards } from "./raw_chunks.js";
import { count } from "./row.js";

// An error is what says so. stderr alone is no error: many programs write their progress there.
const ERROR = /(?:error|exception|\bfail(?:ed|ure|ures|s)?\b|\bfatal\b|\bpanic\b|\btraceback\b)/i;
const NO_ERROR = /\b(?:0|no|without) (?:\w+ )?(?:errors?|exceptions?|fail\w*)\b|\b(?:errors?|failures?|failed)["']?\s*[:=]\s*0\b/i;

export function queryOf(text, isCaseSensitive) {
  return text ? new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), isCaseSensitive ? "gu" : "giu") : null;
}

/** Where text matches, chunk by chunk. `onProgress` is called as the search goes on. */
export class Search {
  query = null;
  found = 0; // matches so far
  searched = 0; // chunks
  current = null; // {number, row, nth}: the match that the reader is at
  #store;
  #signal;
  #onProgress;
  #hits = new Map(); // chunk → {rows, counts, total}: the rows that match, in their order, and how often each does
  #waiting = new Set(); // chunks to look through
  #isRunning = false;
  #round = 0;

  constructor(store, signal, onProgress) {
    this.#store = store;
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  get isDone() {
    return this.#waiting.size === 0;
  }

  /** Search anew, from chunk `near` on to the end, and then back from there. */
  start(query, near) {
    this.query = query;
    this.#hits.clear();
    this.#waiting.clear();
    this.current = null;
    this.found = 0;
    this.#round++;
    for (let number = near; query && number <= this.#store.chunks; number++) this.#waiting.add(number);
    for (let number = near - 1; query && number >= 1; number--) this.#waiting.add(number);
    this.#onProgress();
    return this.#run();
  }

  /** A chunk has come, or has other rows now. */
  revisit(number) {
    if (!this.query) return;
    this.#waiting.add(number);
    for (const home of this.#store.homesOf(number)) this.#waiting.add(home);
    this.#run();
  }

  async #run() {
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      while (this.#waiting.size && !this.#signal.aborted) {
        const [number] = this.#waiting;
        const round = this.#round;
        this.#store.prefetch(this.#waiting);
        const hits = await this.#look(number);
        if (round !== this.#round) continue;
        this.#waiting.delete(number);
        this.found += hits.total - (this.#hits.get(number)?.total ?? 0);
        this.#hits.set(number, hits);
        this.#onProgress();
      }
    } finally {
      this.#isRunning = false;
    }
  }

  async #look(number) {
    const hits = { rows: [], counts: [], total: 0 };
    await this.#store.load(number);
    const breather = new Breather();
    const round = this.#round;
    const index = this.#store.index(number);
    for (const { row, lines, record } of index?.blocks() ?? []) {
      if (round !== this.#round) return hits;
      const { text, goesOn } = index.records[record];
      const isCut = goesOn ? row + lines - 1 : -1; // the row whose text goes on elsewhere
      searchBlock(strip(text), this.query, row, isCut, hits);
      if (isCut >= 0) addHits(hits, isCut, count(strip(await this.#store.fullText(number, isCut)), this.query));
      await breather.rest();
    }
    return hits;
  }

  /** Which match the current one is, from 1; 0 if there is none. */
  get ordinal() {
    if (!this.current) return 0;
    let before = 0;
    for (const [number, hits] of this.#hits) {
      if (number < this.current.number) before += hits.total;
      if (number !== this.current.number) continue;
      for (let at = 0; hits.rows[at] < this.current.row; at++) before += hits.counts[at];
    }
    return before + this.current.nth + 1;
  }

  /** Go to the next match after (`step` 1) or before (-1) the current one, or else `from` {number, row}; round and round. */
  move(step, from) {
    if (!this.found) return null;
    const at = this.current ?? { ...from, nth: step > 0 ? -1 : 0 };
    this.current = this.#withinRow(at, step) ?? this.#inOtherRow(at, step);
    return this.current;
  }

  #withinRow({ number, row, nth }, step) {
    const hits = this.#hits.get(number);
    const index = hits ? hits.rows.indexOf(row) : -1;
    const next = nth + step;
    return index >= 0 && next >= 0 && next < hits.counts[index] ? { number, row, nth: next } : null;
  }

  #inOtherRow({ number, row }, step) {
    const here = this.#rowBeside(number, (one) => (step > 0 ? one > row : one < row), step);
    if (here) return here;
    const numbers = [...this.#hits.keys()].filter((one) => this.#hits.get(one).total).sort((a, b) => (a - b) * step);
    const next = numbers.find((one) => (one - number) * step > 0) ?? numbers[0];
    return this.#rowBeside(next, () => true, step);
  }

  #rowBeside(number, isWanted, step) {
    const hits = this.#hits.get(number);
    if (!hits) return null;
    const at = step > 0 ? hits.rows.findIndex(isWanted) : hits.rows.findLastIndex(isWanted);
    return at < 0 ? null : { number, row: hits.rows[at], nth: step > 0 ? 0 : hits.counts[at] - 1 };
  }
}

function addHits(hits, row, times) {
  if (!times) return;
  hits.total += times;
  if (hits.rows.at(-1) === row) hits.counts[hits.counts.length - 1] += times;
  else {
    hits.rows.push(row);
    hits.counts.push(times);
  }
}

/** Matches in the text of rows from `row` on, but for row `except`. */
function searchBlock(text, query, row, except, hits) {
  let end = text.indexOf("\n");
  for (const match of text.matchAll(query)) {
    while (end >= 0 && end < match.index) {
      row++;
      end = text.indexOf("\n", end + 1);
    }
    if (row !== except) addHits(hits, row, 1);
  }
}

/**
 * The next row after `from` {number, row} that tells of an error; else the first one on stderr, where `from` is null.
 * null if there is none. Reads the chunks on its way.
 */
export async function findError(store, from, signal) {
  const breather = new Breather();
  let onStderr = null;
  for (let number = from?.number ?? 1; number <= store.chunks; number++) {
    store.prefetch(onwards(number));
    await store.load(number);
    const index = store.index(number);
    for (const { row, lines, record } of index?.blocks() ?? []) {
      signal.throwIfAborted();
      const { text, s } = index.records[record];
      if (s === ERR && !onStderr) onStderr = { number, row };
      const after = from?.number === number ? from.row : -1;
      const readable = strip(text);
      if (row + lines - 1 > after && ERROR.test(readable)) {
        const at = readable.split("\n").findIndex((line, of) => row + of > after && ERROR.test(line) && !NO_ERROR.test(line));
        if (at >= 0) return { number, row: row + Math.min(at, lines - 1), isError: true };
      }
      await breather.rest();
    }
  }
  return from ? null : onStderr;
}
