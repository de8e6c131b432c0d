/** A day of runs as bars side by side, and amounts by day as columns. */
import { h, s } from "./dom.js";
import { duration, stateWord, whatRan } from "./format.js";
import { clock, shortZone } from "./times.js";

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
const SPANS_MS = [HOUR_MS, 6 * HOUR_MS, DAY_MS];
const MOST_LANES = 10;
const LANE = 9;
const WIDTH = 1440;
const LEAST_BAR = 4;
const PARTS = [0, 1, 2, 3, 4, 5, 6]; // of six

const beginOf = (run) => Date.parse(run.started_at ?? run.admitted_at);

/** The shortest span that shows all of the last day: an hour of work is no dot at the end of 24. */
export function spanOf(runs, to) {
  const oldest = Math.min(...runs.map(beginOf).filter((begin) => begin >= to - DAY_MS), to);
  return SPANS_MS.find((span) => oldest > to - span) ?? DAY_MS;
}

/**
 * The runs of the `span` that ends at `to` (milliseconds). Bars are links for who points at them; the table below has the
 * same runs for everybody else, so the drawing is told as one sentence.
 */
export function timeline(runs, to, span, now, addressOf) {
  const from = to - span;
  const bars = runs
    .map((run) => ({ run, begin: beginOf(run), end: run.ended_at ? Date.parse(run.ended_at) : now }))
    .filter(({ begin, end }) => end >= from && begin < to)
    .sort((one, other) => one.begin - other.begin);
  const free = []; // when each lane is free again, in units
  let hidden = 0;
  const drawn = [];
  for (const { run, begin, end } of bars) {
    const x = Math.min(WIDTH - LEAST_BAR, Math.max(0, ((begin - from) / span) * WIDTH));
    const width = Math.min(WIDTH - x, Math.max(LEAST_BAR, ((end - Math.max(begin, from)) / span) * WIDTH));
    let lane = free.findIndex((until) => until <= x);
    if (lane < 0) lane = free.length;
    if (lane >= MOST_LANES) {
      hidden += 1;
      continue;
    }
    free[lane] = x + width + 1;
    const { name, text } = whatRan(run);
    const title = `${name ?? text.slice(0, 120)}: ${stateWord(run.state)}, ${clock(begin)}, ${duration((end - begin) / 1000)}`;
    drawn.push(
      s(
        "a",
        { href: addressOf(run), tabindex: -1 },
        s("rect", { x, y: lane * LANE + 1, width, height: LANE - 2, rx: 1.5, class: `bar ${run.state}` }, s("title", {}, title)),
      ),
    );
  }
  const height = Math.max(3, free.length) * LANE;
  const failed = bars.filter(({ run }) => ["FAILED", "TIMED_OUT", "UNKNOWN"].includes(run.state)).length;
  const words = `${bars.length} ${bars.length === 1 ? "run" : "runs"}, ${failed} failed, from ${clock(from)} to ${clock(to)} ${shortZone()}`;
  const lines = PARTS.slice(1, -1).map((part) => s("line", { x1: part * 240, x2: part * 240, y1: 0, y2: height, class: "grid" }));
  return h(
    "figure",
    { class: "timeline" },
    h("figcaption", { class: "visually-hidden" }, words),
    s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", height: height * 1.2 }, lines, drawn),
    h("div", { class: "axis", "aria-hidden": "true" }, PARTS.map((part) => h("span", {}, clock(from + (part * span) / 6)))),
    hidden ? h("p", { class: "help" }, `${hidden} more at the same time`) : null,
  );
}

/** Amounts by day: [{day, amount, text}], oldest first. */
export function columns(days, title) {
  const most = Math.max(...days.map((day) => day.amount), Number.EPSILON);
  const step = 12;
  const drawn = days.map((day, at) =>
    s(
      "rect",
      { x: at * step + 1, width: step - 2, y: 40 - (day.amount / most) * 38, height: Math.max(0.5, (day.amount / most) * 38), class: "column" },
      s("title", {}, `${day.day}: ${day.text}`),
    ),
  );
  return h(
    "figure",
    { class: "columns" },
    h("figcaption", {}, title),
    s("svg", { viewBox: `0 0 ${days.length * step} 40`, preserveAspectRatio: "none", "aria-hidden": "true", height: 56 }, drawn),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}, days[0].day.slice(5)), h("span", {}, days.at(-1).day.slice(5))),
    // In a box of its own: a table is as wide as what it holds, seen or not.
    h(
      "div",
      { class: "visually-hidden" },
      h(
        "table",
        {},
        h("caption", {}, title),
        h("tbody", {}, days.map((day) => h("tr", {}, h("th", { scope: "row" }, day.day), h("td", {}, day.text)))),
      ),
    ),
  );
}
