// A log in memory: chunks that are read when they are wanted, in any order, and the rows they make. A row is a line, or a
// note where something is missing. Rows of chunks that were not read are estimated, so that the whole has a length at once.

import { PLAIN, styleAfter } from "./ansi.js";
import { Breather } from "./breathe.js";
import { BadChunk, decodeChunk } from "./chunk.js";
import { ContinuedLines } from "./continued.js";
import { BEGINNING, indexRecords, lineKey, styleChanges } from "./lines.js";
import { RawChunks } from "./raw_chunks.js";

const MOST_TEXT = 120e6; // code units of decoded chunks in memory; one byte each for text in Latin-1
const CHUNK_COST = 4e3; // of a decoded chunk beside its text
const MOST_ROWS = 16e6; // of one chunk: what 32 MiB of escaped newlines are
const ROWS_IN_KEY = 2 ** 25;

const NO_CHANGES = Object.freeze({ own: [], before: [], total: [null, null, null] });

const UNREAD = 0; // never read: its rows are an estimate
const KNOWN = 1; // read once; its text may be gone again
const BROKEN = 2; // cannot be read; one row says why

/**
 * `onChange(number, hasChanged)` is called when a chunk was read: its rows are known now; those of the chunks around it may
 * have changed, and `hasChanged` says that this one's were shown otherwise before.
 */
export class LogStore {
  isComplete = false; // the log's last record was read
  #raws;
  #signal;
  #onChange;
  #entries = [null]; // from 1, as chunks are counted
  #offsets = [0, 0]; // rows before each chunk
  #validTo = 1; // offsets up to this chunk are right
  #continued = new ContinuedLines();
  #clock = 0;
  #textCost = 0;

  constructor(source, signal, onChange) {
    this.#raws = new RawChunks(source, signal);
    this.#signal = signal;
    this.#onChange = onChange;
  }

  /** How many chunks there are, as far as is known. */
  get chunks() {
    return this.#entries.length - 1;
  }

  get rows() {
    return this.#offset(this.chunks + 1);
  }

  /** How many lines there are: by the last number, for all before it are somewhere. */
  get lines() {
    const last = this.#entries[this.chunks];
    return last?.after?.next ? last.after.next - 1 : this.rows;
  }

  grow(chunks) {
    if (chunks <= this.chunks) return;
    while (this.chunks < chunks) this.#entries.push(newEntry(this.#entries.length));
    this.#estimate();
  }

  isLoaded(number) {
    return Boolean(this.#entries[number]?.index || this.#entries[number]?.state === BROKEN);
  }

  /** Keep the bytes of a chunk that was read to see whether it is there. */
  give(number, raw) {
    this.grow(number);
    this.#raws.give(number, raw);
  }

  /** Begin to read chunks that will be wanted soon, in this order. */
  prefetch(numbers) {
    this.#raws.prefetch(numbers, (number) => number >= 1 && number <= this.chunks, (number) => this.isLoaded(number));
  }

  /** The gzip bytes of each chunk, in order; null for one that is missing. */
  raws() {
    return this.#raws.all(() => this.chunks);
  }

  /** Read a chunk, if it is not in memory; whether it is now. `raw` is given by whoever has read it already. */
  load(number, raw = null) {
    this.grow(number);
    const entry = this.#entries[number];
    entry.used = ++this.#clock;
    if (this.isLoaded(number)) return Promise.resolve(true);
    entry.loading ??= this.#load(entry, raw).finally(() => (entry.loading = null));
    return entry.loading;
  }

  async #load(entry, raw) {
    if (raw) this.#raws.give(entry.number, raw);
    raw ??= await this.#raws.read(entry.number);
    if (raw === null) return this.#break(entry, `chunk ${entry.number} of the log is missing`);
    try {
      const records = await decodeChunk(raw);
      const breather = new Breather();
      entry.changes ??= await styleChanges(records, breather);
      for (const record of records) record.bytes = null; // whoever wants them decodes anew
      this.#signal.throwIfAborted();
      this.#index(entry, records);
    } catch (error) {
      if (!(error instanceof BadChunk)) throw error;
      return this.#break(entry, `chunk ${entry.number} of the log cannot be read: ${error.message}`);
    }
    this.#trim();
    return true;
  }

  #break(entry, words) {
    Object.assign(entry, { state: BROKEN, words, rows: 1, after: null, changes: NO_CHANGES });
    this.#touched(entry.number);
    this.#onChange(entry.number, false);
    return true;
  }

  /** What is known after the chunk before `number`; null if that was not read. */
  #before(number) {
    return number === 1 ? BEGINNING : (this.#entries[number - 1].after ?? null);
  }

  #index(entry, records) {
    const before = this.#before(entry.number);
    const rowsBefore = entry.state === KNOWN ? entry.rows : -1;
    this.#continued.remove(entry.number);
    const index = indexRecords(records, before);
    if (!entry.index) this.#textCost += costOf(index);
    entry.index = index;
    entry.before = before;
    this.#continued.add(entry.number, index);
    if (index.isLast) this.isComplete = true;
    const was = entry.after;
    Object.assign(entry, { state: KNOWN, rows: index.rows, first: index.first, after: index.after });
    if (entry.changes.total.some(Boolean)) this.#forgetStyles(entry.number);
    this.#touched(entry.number);
    this.#onChange(entry.number, rowsBefore >= 0 && rowsBefore !== index.rows);
    if (!isSameState(was, entry.after)) this.#relink(this.#entries[entry.number + 1]);
  }

  /** The chunk before `entry` is known now, or is known to be other than it was thought. */
  #relink(entry) {
    if (!entry?.index || isSameState(entry.before, this.#before(entry.number))) return;
    const before = this.#before(entry.number);
    const isAsGuessed = entry.before === null && !entry.index.hasGuessed && before.next === entry.first;
    if (isAsGuessed && before.open.every((line) => line === 0)) entry.before = before;
    else this.#index(entry, entry.index.records);
  }

  /** Where the lines begin that chunk `number` goes on with: numbers of chunks. */
  homesOf(number) {
    return this.#continued.homesOf(number);
  }

  // Rows

  #touched(number) {
    this.#validTo = Math.min(this.#validTo, number);
    this.#estimate();
  }

  /** Share the lines between what is known out among the chunks between. */
  #estimate() {
    for (let at = 1; at <= this.chunks; at++) {
      if (this.#entries[at].state !== UNREAD) continue;
      let end = at;
      while (end < this.chunks && this.#entries[end + 1].state === UNREAD) end++;
      const from = this.#before(at)?.next ?? 0;
      const to = this.#entries[end + 1]?.first ?? 0;
      const count = end - at + 1;
      // One row at least, or nobody would ever see that there is something to read.
      const total = from && to ? Math.min(Math.max(to - from, count), count * MOST_ROWS) : count;
      for (let one = 0; one < count; one++) {
        const rows = Math.trunc(((one + 1) * total) / count) - Math.trunc((one * total) / count);
        if (this.#entries[at + one].rows === rows) continue;
        this.#entries[at + one].rows = rows;
        this.#validTo = Math.min(this.#validTo, at + one);
      }
      at = end;
    }
  }

  #offset(number) {
    for (; this.#validTo < number; this.#validTo++) {
      this.#offsets[this.#validTo + 1] = this.#offsets[this.#validTo] + this.#entries[this.#validTo].rows;
    }
    return this.#offsets[number];
  }

  /** The chunk that row `at` of the whole log is in, and which row it is there. */
  locate(at) {
    this.#offset(this.chunks + 1);
    let low = 1;
    let high = this.chunks;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#offsets[middle] <= at) low = middle;
      else high = middle - 1;
    }
    return { number: low, row: at - this.#offsets[low] };
  }

  /** Where a chunk's row stands in the whole log; of a row that is not there (any more), its nearest. */
  position(number, row) {
    return this.#offset(number) + Math.min(row, Math.max(0, this.#entries[number].rows - 1));
  }

  /** Where the log ends now. */
  get end() {
    return { number: Math.max(1, this.chunks), row: this.#entries[this.chunks]?.rows ?? 0 };
  }

  /** How many rows stand before a place that `end` gave. */
  rowsBefore({ number, row }) {
    return number > this.chunks ? 0 : this.#offset(number) + row;
  }

  keyOf(at) {
    const { number, row } = this.locate(at);
    return number * ROWS_IN_KEY + row;
  }

  placeOf(key) {
    return { number: Math.trunc(key / ROWS_IN_KEY), row: key % ROWS_IN_KEY };
  }

  /** A row of the log: {n, t, s, goesOn, …}, {gap}, {words} of a chunk that cannot be read, or null if it is not in memory. */
  row(number, row) {
    const entry = this.#entries[number];
    entry.used = ++this.#clock;
    if (entry.state === BROKEN) return { words: entry.words };
    return entry.index && row < entry.rows ? entry.index.at(row) : null;
  }

  index(number) {
    return this.#entries[number].index;
  }

  // Text and styles

  /** The text of a line, escape sequences and all: what is in memory of its first `limit` code units at least. */
  text(number, row, limit = Infinity) {
    const entry = this.#entries[number];
    const line = entry.index.at(row);
    const head = entry.index.records[line.record].text.slice(line.start, line.end);
    if (!line.goesOn || head.length >= limit) return head;
    return head + this.#rest(lineKey(line.s, line.n), number, limit - head.length);
  }

  #rest(key, home, limit) {
    const parts = [];
    for (const number of this.#continued.chunksOf(key)) {
      const index = this.#entries[number].index;
      if (number < home || !index) continue;
      for (const record of index.continuations.get(key) ?? []) {
        const text = index.records[record].text;
        parts.push(text.endsWith("\n") ? text.slice(0, -1) : text);
        limit -= text.length;
        if (limit <= 0) return parts.join("");
      }
    }
    return parts.join("");
  }

  /** Changes when more of a line that goes on was found. */
  version(line) {
    return line.goesOn ? this.#continued.version(lineKey(line.s, line.n)) : 0;
  }

  /** The whole text of a line, wherever its parts are. */
  async fullText(number, row) {
    await this.load(number);
    const line = this.#entries[number].index.at(row);
    const key = lineKey(line.s, line.n);
    if (line.goesOn) for (const other of this.#continued.chunksOf(key)) await this.load(other);
    await this.load(number);
    return this.text(number, row);
  }

  /** The style in which a line begins. */
  style(number, line) {
    const entry = this.#entries[number];
    const before = entry.changes.before[line.record];
    const into = this.#styleInto(number, line.s);
    const style = before ? { ...into, ...before } : into;
    if (!entry.changes.own[line.record]) return style;
    // Rows are shown one after the other: what was read up to the last one need not be read again.
    const seen = entry.seen;
    const goesOn = seen?.record === line.record && seen.start <= line.start;
    const text = entry.index.records[line.record].text.slice(goesOn ? seen.start : 0, line.start);
    const result = styleAfter(text, goesOn ? seen.style : style);
    entry.seen = { record: line.record, start: line.start, style: result };
    return result;
  }

  #styleInto(number, stream) {
    let from = number;
    while (from > 1 && !this.#entries[from].styles[stream] && this.#entries[from - 1].state !== UNREAD) from--;
    let style = this.#entries[from].styles[stream] ?? PLAIN;
    for (; from < number; from++) {
      const entry = this.#entries[from];
      entry.styles[stream] = style;
      if (entry.changes.total[stream]) style = { ...style, ...entry.changes.total[stream] };
    }
    return (this.#entries[number].styles[stream] = style);
  }

  #forgetStyles(number) {
    for (let at = number + 1; at <= this.chunks && this.#entries[at].state !== UNREAD; at++) {
      this.#entries[at].styles = [null, null, null];
      this.#entries[at].seen = null;
    }
  }

  // Memory

  #trim() {
    if (this.#textCost <= MOST_TEXT) return;
    // The newest four stay whatever they cost: they are what is shown, and the parts of a line.
    for (const entry of this.#entries.slice(1).sort((a, b) => a.used - b.used).slice(0, -4)) {
      if (!entry.index) continue;
      if (this.#textCost <= MOST_TEXT * 0.8) break;
      this.#textCost -= costOf(entry.index);
      entry.index = entry.seen = null;
    }
  }

  // Lines

  /** Find line `n`: {number, row}, reading what has to be read; null if it is not there. */
  async find(n) {
    for (let tries = 0; tries < 2 * this.chunks + 2; tries++) {
      const number = this.#candidate(n, tries);
      if (!number) return null;
      await this.load(number);
      const row = this.#entries[number].index?.rowOf(n) ?? -1;
      if (row >= 0) return { number, row };
      if (this.#entries[number].looked === n) return null;
      this.#entries[number].looked = n;
    }
    return null;
  }

  /** The chunk that holds line `n`, or the unread one that most likely does. */
  #candidate(n, tries) {
    let low = 1;
    for (let at = 1; at <= this.chunks; at++) {
      const entry = this.#entries[at];
      if (entry.state !== KNOWN || !entry.first) continue;
      if (entry.first <= n && n < entry.after.next) return at;
      if (entry.first <= n) low = at + 1;
      else return this.#between(low, at - 1, n, entry.first, tries);
    }
    return this.#between(low, this.chunks, n, 0, tries);
  }

  #between(low, high, n, next, tries) {
    const unread = [];
    for (let at = low; at <= high; at++) if (this.#entries[at].state === UNREAD) unread.push(at);
    if (!unread.length) return 0;
    const from = this.#before(unread[0])?.next ?? 1;
    const share = next > from && tries % 3 < 2 ? (n - from) / (next - from) : 0.5;
    return unread[Math.min(unread.length - 1, Math.max(0, Math.trunc(share * unread.length)))];
  }
}

function newEntry(number) {
  return {
    number, state: UNREAD, rows: 1, first: 0, after: null, before: null, index: null, changes: null,
    styles: [null, null, null], seen: null, loading: null, used: 0, words: "", looked: 0,
  };
}

const costOf = (index) => index.size + CHUNK_COST;

const isSameState = (one, other) =>
  one === other || (one && other && one.next === other.next && one.open.every((line, at) => line === other.open[at]));
