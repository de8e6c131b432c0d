// The log's toolbar, footer and list of keys: elements and their names, no behaviour.

import { drawing, h } from "../dom.js";

const ICONS = {
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zm3.6-1.4L14 14",
  up: "M4 10l4-4 4 4",
  down: "M4 6l4 4 4-4",
  pause: "M5.5 3v10M10.5 3v10",
  play: "M5 3l8 5-8 5z",
  error: "M8 2.5l6 11H2zM8 6.5v3.5M8 11.8v.4",
  wrap: "M2 4h12M2 8h9.5a2 2 0 0 1 0 4H8m1.8-1.8L8 12l1.8 1.8M2 12h3",
  numbers: "M6 3L4.5 13M11.5 3L10 13M2.5 6h11M2 10h11",
  clock: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 4.5V8l2.5 1.5",
  copy: "M6 5.5h7v8H6zM10 5.5v-3H3v8h3",
  link: "M6.5 9.5l3-3M7 4.5l1-1a3 3 0 0 1 4.5 4.5l-1 1M9 11.5l-1 1A3 3 0 0 1 3.5 8l1-1",
  download: "M8 2v8M4.5 7L8 10.5 11.5 7M2.5 13.5h11",
  clear: "M3 13L13 3M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12z",
  help: "M6 6a2 2 0 1 1 2.6 1.9c-.4.1-.6.5-.6.9v.7M8 11.8v.4M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13z",
};

export const KEYS = [
  ["j k ↓ ↑", "one line down, up"],
  ["Space, Shift+Space", "one page down, up"],
  ["Home g, End G", "to the beginning, to the end"],
  ["← →", "to the side"],
  ["/ or Ctrl+F", "search; once more for the browser's own"],
  ["n N, Enter, Shift+Enter", "next, previous match"],
  ["e", "to the first error, and from there to the next"],
  ["f", "follow the end"],
  ["p", "pause, and go on"],
  ["w", "wrap long lines"],
  ["l t", "line numbers, times"],
  ["z", "times in UTC, and back"],
  ["x, Shift+J, Shift+K", "mark the line on top; mark more, fewer"],
  ["Ctrl+A", "mark all lines"],
  ["c, y", "copy what is marked; copy a link to it"],
  ["Esc", "end the search; unmark"],
  ["?", "this list"],
];

/** Every control by its name; `root` holds them, and the scroller is to be put into `body`. */
export function createControls() {
  const ui = {};
  const button = (name, icon, label, words, attributes) =>
    (ui[name] = h("button", { type: "button", class: "rv-button", title: label, "aria-label": label, ...attributes },
      icon && picture(icon), words && h("span", { class: "rv-words" }, words)));
  const toggle = (name, icon, label, words) => button(name, icon, label, words, { "aria-pressed": "false" });
  const part = (name, classes, ...children) => (ui[name] = h("span", { class: classes }, ...children));
  const group = (...children) => h("div", { class: "rv-group" }, children);
  const space = () => h("div", { class: "rv-space" });

  ui.field = h("input", { class: "rv-field", type: "search", placeholder: "Search the log", spellcheck: "false", autocomplete: "off", "aria-label": "Search the log" });
  const search = h("div", { class: "rv-search", role: "search" }, picture("search"), ui.field, part("count", "rv-count"),
    toggle("matchCase", null, "Match case", "Aa"), button("previous", "up", "Previous match (Shift+Enter)"),
    button("next", "down", "Next match (Enter)"));
  const bar = h("div", { class: "rv-bar", role: "group", "aria-label": "What to do with the log" }, search, space(),
    group(button("error", "error", "First error (e)", "First error"), button("pause", "pause", "Pause (p)", "Pause")),
    group(toggle("wrap", "wrap", "Wrap long lines (w)"), toggle("numbers", "numbers", "Line numbers (l)"),
      toggle("times", "clock", "Times (t)")),
    group(button("copy", "copy", "Copy the marked lines (c)"), button("link", "link", "Copy a link to the marked lines (y)"), button("download", "download", "Download all of the log"),
      button("clear", "clear", "Clear what is shown"), button("help", "help", "Keys (?)")));

  ui.restore = h("button", { type: "button", class: "rv-link" }, "show them");
  ui.cleared = h("div", { class: "rv-cleared", hidden: true }, part("clearedWords", null), ui.restore);
  ui.empty = h("p", { class: "rv-empty" });
  ui.jump = h("button", { type: "button", class: "rv-jump", hidden: true });
  ui.body = h("div", { class: "rv-body" }, ui.empty, ui.jump);
  part("live", "rv-hearable"); // for screen readers: a summary, not the flood
  ui.live.setAttribute("role", "status");
  const foot = h("div", { class: "rv-foot" }, part("state", "rv-state"), part("told", "rv-told"), space(), part("lines", "rv-lines"), ui.live);
  ui.keys = keyList();
  ui.sheet = h("div", { class: "rv-sheet" });
  ui.root = h("div", { class: "rv-log" }, bar, ui.cleared, ui.body, foot, ui.keys, ui.sheet);
  return ui;
}

function keyList() {
  const keys = KEYS.map(([pressed, does]) => [h("dt", {}, pressed), h("dd", {}, does)]);
  const form = h("form", { method: "dialog" }, h("h2", {}, "Keys"), h("dl", { class: "rv-keys" }, keys), h("button", { class: "rv-button" }, "Close"));
  return h("dialog", { class: "rv-dialog", "aria-label": "Keys" }, form);
}

/** Put another icon and other words on a button. */
export function relabel(button, icon, label, words) {
  button.firstElementChild.replaceWith(picture(icon));
  button.querySelector(".rv-words").textContent = words;
  button.title = label;
  button.setAttribute("aria-label", label);
}

const picture = (icon) => drawing(ICONS[icon], { class: "rv-icon", "aria-hidden": "true" });
