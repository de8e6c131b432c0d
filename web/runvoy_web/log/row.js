// The element of one row. Text from elsewhere gets into the page here and nowhere else: as text nodes, with classes for its
// style and colours by custom properties.

import { bothZones, preciseClock } from "../times.js";
import { addressesIn } from "./addresses.js";
import { PLAIN, paletteColour, parseLine, safeCut, strip } from "./ansi.js";
import { ERR, SYS } from "./chunk.js";
import { grouped } from "./words.js";

const MOST_SEGMENTS = 200; // of a progress line that is shown whole
const CUTS = [4_000, 32_000, 256_000]; // code units of a line that are shown at once: at first, then on demand
const MOST_RUNS = 250; // of one style each; what comes after them in a line is text without style
const READ_WHOLE = 32_000; // a line up to this length is read to its end, of a longer one only what is shown
const FLAGS = ["bold", "dim", "italic", "underline", "blink", "hidden", "strike", "overline"];
const MARKS = { [ERR]: ["!", "stderr"], [SYS]: ["*", "runvoy"] };

/** What a reader asked to see of one line: `from`, a level of `CUTS`, and whether all states of a progress line. */
export const DEFAULT_LOOK = Object.freeze({ from: 0, cut: 0, isWhole: false });

/**
 * One row. `line` is what LogStore.row gave (null: not read yet), `number` its line's number if it is known. `context` has
 * what the row needs of the view: `text()`, `style()`, `look`, `query` (a RegExp or null), `current` (which of the line's
 * matches is the current one, from 0; -1: none), `isMarked`.
 */
export function createRow(line, context) {
  const row = element("div", "rv-row");
  if (!line) {
    row.classList.add("rv-unread");
    row.append(element("span", "rv-n"), element("span", "rv-t"), element("span", "rv-mark"), element("span", "rv-text", "…"));
    return row;
  }
  if (line.gap || line.words) return notice(row, line.words ?? gapWords(line.gap));
  const stream = MARKS[line.s];
  if (stream) row.classList.add(line.s === ERR ? "rv-err" : "rv-sys");
  row.classList.toggle("rv-marked", context.isMarked);
  row.dataset.n = line.n;
  const number = element("a", "rv-n", String(line.n));
  number.href = `#L${line.n}`;
  number.tabIndex = -1;
  const time = element("time", "rv-t", preciseClock(line.t));
  time.dateTime = new Date(line.t).toISOString();
  time.title = bothZones(line.t);
  const mark = element("span", "rv-mark", stream?.[0] ?? "");
  if (stream) {
    mark.title = stream[1];
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", stream[1]);
  }
  row.append(number, time, mark, content(context));
  return row;
}

function notice(row, words) {
  row.classList.add("rv-notice");
  row.append(element("span", "rv-n"), element("span", "rv-t"), element("span", "rv-mark", "*"), element("span", "rv-text", words));
  return row;
}

function gapWords({ from, to }) {
  if (to < from) return `line numbers go back from ${from} to ${to}`;
  return to - from === 1 ? `line ${from} is missing` : `lines ${from} to ${to - 1} are missing`;
}

function content({ text, style, look, query, current }) {
  const whole = element("span", "rv-text");
  const size = CUTS[look.cut];
  const raw = text(Math.max(look.from + size, READ_WHOLE) + 1);
  const isShort = !look.from && raw.length <= READ_WHOLE;
  const end = isShort ? raw.length : safeCut(raw, look.from + size);
  const before = raw.slice(0, look.from);
  const { segments } = parseLine(raw.slice(look.from, end), look.from ? parseLine(before, style()).style : style());
  if (look.from) whole.append(button("rv-more", "earlier", `◂ ${grouped(look.from)} characters before`));
  const isCut = end < raw.length || (!look.isWhole && segments.length > 0 && textOf(segments.at(-1)).length > size);
  const painter = new Painter(query, current, look.from && current >= 0 ? count(strip(before), query) : 0, isCut);
  if (look.isWhole) {
    const shown = segments.slice(-MOST_SEGMENTS);
    segments.slice(0, -MOST_SEGMENTS).forEach((runs) => painter.skip(runs));
    for (const runs of shown) whole.append(painter.paint(runs, element("span", "rv-segment")));
  } else if (segments.length) {
    segments.slice(0, -1).forEach((runs) => painter.skip(runs));
    painter.paint(cutRuns(segments.at(-1), size), whole);
  }
  if (segments.length > 1) {
    const words = look.isWhole ? "fold" : `↻ ${segments.length}`;
    const fold = button("rv-more", "fold", words);
    fold.title = "What a carriage return overwrote";
    fold.setAttribute("aria-expanded", String(look.isWhole));
    (whole.querySelector(".rv-segment") ?? whole).append(fold);
  }
  if (isCut) whole.append(button("rv-more", "more", "… show more"));
  return whole;
}

function cutRuns(runs, size) {
  const kept = [];
  for (const run of runs) {
    if (size <= 0) break;
    const text = run.text.slice(0, safeCut(run.text, size));
    kept.push({ ...run, text });
    size -= text.length;
  }
  return kept;
}

/** Draws runs into elements, with matches of the search marked, and addresses as links. */
class Painter {
  #query;
  #current;
  #seen;
  #isCut;

  constructor(query, current, seen, isCut) {
    this.#query = query;
    this.#current = current;
    this.#seen = seen;
    this.#isCut = isCut;
  }

  skip(runs) {
    if (this.#query && this.#current >= 0) this.#seen += count(textOf(runs), this.#query);
  }

  paint(runs, target) {
    if (runs.length > MOST_RUNS) {
      runs = [...runs.slice(0, MOST_RUNS), { text: textOf(runs.slice(MOST_RUNS)), style: PLAIN }];
    }
    const marks = this.#query ? this.#marksIn(textOf(runs)) : [];
    const addresses = addressesIn(textOf(runs), this.#isCut).filter((one) => isReadable(one, runs));
    let at = 0;
    let next = 0;
    for (const { text, style } of runs) {
      const parent = style === PLAIN ? target : target.appendChild(styled(style));
      let from = 0;
      while (from < text.length) {
        const mark = marks[next];
        const start = mark ? Math.max(0, mark.start - at) : Infinity;
        const until = Math.min(start > from ? start : mark.end - at, text.length);
        const into = start > from ? parent : parent.appendChild(element("mark", mark.isCurrent ? "rv-hit rv-current" : "rv-hit"));
        appendLinked(into, text.slice(from, until), at + from, addresses);
        from = until;
        if (start >= until) continue;
        if (mark.end - at <= text.length) next++;
      }
      at += text.length;
    }
    return target;
  }

  #marksIn(text) {
    const marks = [];
    for (const match of text.matchAll(this.#query)) {
      marks.push({ start: match.index, end: match.index + match[0].length, isCurrent: this.#seen === this.#current });
      this.#seen++;
    }
    return marks;
  }
}

/**
 * Whether all of an address can be read, if any of it can: a host that goes on in letters of their background's
 * colour is another than the one that is read. The colour of letters alone always stands out.
 */
function isReadable({ start, end }, runs) {
  const styles = [];
  let at = 0;
  for (const { text, style } of runs) {
    if (at < end && at + text.length > start) styles.push(style);
    at += text.length;
  }
  return styles.every(({ hidden, bg, inverse }) => !hidden && (styles.length === 1 || (bg === null && !inverse)));
}

/** Append text that stands at `at` of its line. */
function appendLinked(parent, text, at, addresses) {
  let done = 0;
  for (const { start, end, href } of addresses) {
    const from = Math.max(start - at, done);
    const until = Math.min(end - at, text.length);
    if (from >= until) continue;
    if (from > done) parent.append(text.slice(done, from));
    const link = element("a", "rv-address", text.slice(from, until));
    Object.assign(link, { href, target: "_blank", rel: "noopener noreferrer" });
    parent.append(link);
    done = until;
  }
  if (done < text.length) parent.append(text.slice(done));
}

const textOf = (runs) => (runs.length === 1 ? runs[0].text : runs.map((run) => run.text).join(""));

export function count(text, query) {
  let found = 0;
  for (const _ of text.matchAll(query)) found++;
  return found;
}

function styled(style) {
  const span = element("span", FLAGS.filter((flag) => style[flag]).map((flag) => `rv-${flag}`).join(" "));
  const [fg, bg] = style.inverse ? [style.bg ?? "bg", style.fg ?? "fg"] : [style.fg, style.bg];
  colour(span, "fg", fg, bg === null);
  colour(span, "bg", bg, false);
  if (bg !== null && fg === null) span.classList.add("rv-on-bg");
  return span;
}

/** `value` is a palette index, "#rrggbb", or the default of the other side, as inverse text has it. */
function colour(span, side, value, isOnDefault) {
  if (value === null) return;
  const ofTheme = { fg: "var(--text)", bg: "var(--rv-log-bg)" }[value] ?? (value < 16 ? `var(--rv-c-${value})` : null);
  span.style.setProperty(`--rv-${side}`, ofTheme ?? (typeof value === "number" ? paletteColour(value) : value));
  span.classList.add(`rv-${side}`);
  if (isOnDefault && !ofTheme) span.classList.add("rv-legible"); // the theme's background is not the one it was chosen for
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(className, action, words) {
  const made = element("button", className, words);
  made.type = "button";
  made.dataset.action = action;
  return made;
}

/** What a reader who asked for `action` of a line sees next. */
export function nextLook(look, action) {
  if (action === "fold") return { ...look, isWhole: !look.isWhole };
  if (action === "earlier") return { ...look, from: Math.max(0, look.from - CUTS[look.cut]) };
  if (look.cut < CUTS.length - 1) return { ...look, cut: look.cut + 1 };
  return { ...look, from: look.from + CUTS[look.cut] };
}

/** The look that shows what stands at `offset` of a line's raw text. */
export const lookAt = (look, offset) =>
  offset >= look.from && offset + 200 < look.from + CUTS[look.cut] ? look : { ...look, from: Math.max(0, offset - 200) };
