// The rows of one chunk: where each line stands in the chunk's records. Four bytes a line, and no object.

import { styleAfter } from "./ansi.js";

const UNFINISHED_SGR = /\x1b(?:\[[0-9;:]{0,64})?$/;

/** What a log's reader knows after a chunk: the next line's number (0: unknown) and each stream's line that goes on. */
export const BEGINNING = Object.freeze({ next: 1, open: Object.freeze([0, 0, 0]) });

/** The key of a line that goes on in later records. */
export const lineKey = (stream, number) => `${stream}:${number}`;

/**
 * Index the records of one chunk. `before` is what is known after the chunk before it; null if that was not read, so that
 * a first record may turn out later to go on with an earlier line.
 */
export function indexRecords(records, before) {
  const index = new ChunkIndex(records, before);
  for (let at = 0; at < records.length; at++) index.add(at);
  return index.seal();
}

class ChunkIndex {
  rows = 0;
  isLast = false; // the log ends with this chunk
  first = 0; // number of its first line; 0 if it has none
  hasGuessed = false; // something was taken for the rest of a line nobody has seen
  continuations = new Map(); // line key → records of this chunk that go on with it
  begun = []; // keys of the lines that begin here and go on
  size = 0; // of its text, in code units
  #segments = []; // {row, record, lines, gap}: lines of one record, or a row that tells of a gap
  #starts = [];
  #isGuess;
  #hasBegun = [false, false, false]; // streams of which lines were seen
  #heads = []; // each stream's first record, if it is one line: it may be the end of an earlier one

  constructor(records, before) {
    this.records = records;
    this.#isGuess = before === null;
    this.next = before?.next ?? 0;
    this.open = [...(before?.open ?? BEGINNING.open)];
  }

  get after() {
    return { next: this.next, open: this.open };
  }

  add(at) {
    const { n, s, text, goesOn, isEnd } = this.records[at];
    this.size += text.length;
    if (isEnd && !text) {
      this.#expect(n);
      this.isLast = true;
    } else if (this.#isContinuation(this.records[at])) {
      this.#continue(at);
      this.open[s] = goesOn ? n : 0;
    } else if (text || goesOn) {
      this.#expect(n);
      this.first ||= n;
      this.#addLines(at, this.records[at]);
    }
    this.isLast ||= isEnd;
  }

  seal() {
    this.#starts = new Uint32Array(this.rows);
    for (const { row, record, lines } of this.#segments) {
      const text = lines > 1 ? this.records[record].text : "";
      for (let line = 1, end = -1; line < lines; line++) {
        end = text.indexOf("\n", end + 1);
        this.#starts[row + line] = end + 1;
      }
    }
    return this;
  }

  #isContinuation({ n, s, text }) {
    const end = text.indexOf("\n");
    if (end >= 0 && end < text.length - 1) return false; // such a record holds nothing after that line's end
    if (this.open[s]) return this.open[s] === n;
    if (!this.#isGuess || !this.next || n >= this.next || this.#hasBegun[s]) return false;
    this.hasGuessed = true;
    return true;
  }

  #continue(at) {
    const key = lineKey(this.records[at].s, this.records[at].n);
    if (this.continuations.has(key)) this.continuations.get(key).push(at);
    else this.continuations.set(key, [at]);
  }

  /** Lines are numbered without gaps. Where they are not, a row says so. */
  #expect(n) {
    if (this.#isGuess && n > this.next && this.rows && this.rows === this.#heads.length) this.#withdraw();
    if (this.next && n !== this.next) this.#push({ row: this.rows, record: -1, lines: 1, gap: { from: this.next, to: n } });
    this.next = n;
  }

  /** There would be a gap after the first records, one line each: so they are the ends of lines that began before. */
  #withdraw() {
    for (const at of this.#heads) this.#continue(at);
    this.hasGuessed = true;
    this.#segments = [];
    this.begun = [];
    this.rows = this.first = this.next = 0;
  }

  #addLines(at, { n, s, text, goesOn }) {
    let lines = 0;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", end + 1)) lines++;
    if (goesOn || !text.endsWith("\n")) lines++;
    this.#push({ row: this.rows, record: at, lines, gap: null });
    if (lines === 1 && !this.#hasBegun[s]) this.#heads.push(at);
    this.#hasBegun[s] = true;
    this.next = n + lines;
    this.open[s] = goesOn ? this.next - 1 : 0;
    if (goesOn) this.begun.push(lineKey(s, this.next - 1));
  }

  #push(segment) {
    this.#segments.push(segment);
    this.rows += segment.lines;
  }

  #segmentOf(row) {
    let low = 0;
    let high = this.#segments.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#segments[middle].row <= row) low = middle;
      else high = middle - 1;
    }
    return this.#segments[low];
  }

  /** Row `row`: {gap} or {n, t, s, record, start, end, goesOn}; its text is `records[record].text` from start to end. */
  at(row) {
    const segment = this.#segmentOf(row);
    if (segment.gap) return { gap: segment.gap };
    const { n, t, s, text, goesOn } = this.records[segment.record];
    const isLast = row === segment.row + segment.lines - 1;
    const start = this.#starts[row];
    let end = isLast ? text.length : this.#starts[row + 1] - 1;
    if (isLast && end > start && text[end - 1] === "\n") end--;
    return { n: n + row - segment.row, t, s, record: segment.record, start, end, goesOn: isLast && goesOn };
  }

  /** The row of line `n`; -1 if it is not here. */
  rowOf(n) {
    for (const segment of this.#segments) {
      const first = segment.gap ? Infinity : this.records[segment.record].n;
      if (n >= first && n < first + segment.lines) return segment.row + n - first;
    }
    return -1;
  }

  /** {row, lines, record} of each record that begins lines. */
  blocks() {
    return this.#segments.filter((segment) => !segment.gap);
  }
}

/**
 * What records do to the style of their stream's text, as partial styles; null for nothing. `own` has what each does, `before`
 * what those before it did, `total` what all of each stream do. In a record that goes on with another's line, a sequence that
 * was parted between them counts as one.
 */
export async function styleChanges(records, breather) {
  const parted = ["", "", ""];
  const total = [null, null, null];
  const changes = { own: [], before: [], total };
  for (const { s, text, goesOn } of records) {
    const whole = parted[s] + text;
    parted[s] = goesOn ? (UNFINISHED_SGR.exec(whole)?.[0] ?? "") : "";
    const change = whole.includes("\x1b[") ? styleAfter(whole, {}) : {};
    const isChange = Object.keys(change).length > 0;
    changes.before.push(total[s]);
    changes.own.push(isChange ? change : null);
    if (isChange) total[s] = { ...total[s], ...change };
    await breather.rest();
  }
  return changes;
}
