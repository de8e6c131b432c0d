// The log's toolbar, footer and list of keys: elements and their names, no behaviour.

const SVG = "http://www.w3.org/2000/svg";
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
  ["x, Shift+J, Shift+K", "mark the line on top; mark more, fewer"],
  ["c", "copy what is marked"],
  ["Esc", "end the search; unmark"],
  ["?", "this list"],
];

/** Every control by its name; `root` holds them, and the scroller is to be put into `body`. */
export function createControls() {
  const ui = {};
  const button = (name, icon, label, words = "") => {
    const made = make("button", "rv-button", icon ? drawing(icon) : "", words && make("span", "rv-words", words));
    made.type = "button";
    made.title = label;
    made.setAttribute("aria-label", label);
    return (ui[name] = made);
  };
  const toggle = (...parts) => {
    const made = button(...parts);
    made.setAttribute("aria-pressed", "false");
    return made;
  };

  ui.field = make("input", "rv-field");
  Object.assign(ui.field, { type: "search", placeholder: "Search the log", spellcheck: false, autocomplete: "off" });
  ui.field.setAttribute("aria-label", "Search the log");
  ui.count = make("span", "rv-count");
  const search = make("div", "rv-search", drawing("search"), ui.field, ui.count,
    toggle("matchCase", "", "Match case", "Aa"), button("previous", "up", "Previous match (Shift+Enter)"),
    button("next", "down", "Next match (Enter)"));
  search.setAttribute("role", "search");
  const reading = make("div", "rv-group", button("error", "error", "First error (e)", "First error"),
    button("pause", "pause", "Pause (p)", "Pause"));
  const looks = make("div", "rv-group", toggle("wrap", "wrap", "Wrap long lines (w)"),
    toggle("numbers", "numbers", "Line numbers (l)"), toggle("times", "clock", "Times, in UTC (t)"));
  const taking = make("div", "rv-group", button("copy", "copy", "Copy the marked lines (c)"),
    button("download", "download", "Download all of the log"), button("clear", "clear", "Clear what is shown"),
    button("help", "help", "Keys (?)"));
  const bar = make("div", "rv-bar", search, make("div", "rv-space"), reading, looks, taking);
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "What to do with the log");

  ui.cleared = make("div", "rv-cleared");
  ui.cleared.hidden = true;
  ui.clearedWords = ui.cleared.appendChild(make("span"));
  ui.restore = ui.cleared.appendChild(make("button", "rv-link", "show them"));
  ui.restore.type = "button";
  ui.empty = make("p", "rv-empty");
  ui.jump = make("button", "rv-jump");
  ui.jump.type = "button";
  ui.jump.hidden = true;
  ui.body = make("div", "rv-body", ui.empty, ui.jump);
  ui.state = make("span", "rv-state");
  ui.lines = make("span", "rv-lines");
  ui.told = make("span", "rv-told");
  ui.live = make("span", "rv-hearable"); // for screen readers: a summary, not the flood
  ui.live.setAttribute("role", "status");
  const foot = make("div", "rv-foot", ui.state, ui.told, make("div", "rv-space"), ui.lines, ui.live);
  ui.keys = keyList();
  ui.root = make("div", "rv-log", bar, ui.cleared, ui.body, foot, ui.keys);
  return ui;
}

function keyList() {
  const list = make("dl", "rv-keys");
  for (const [keys, does] of KEYS) list.append(make("dt", "", keys), make("dd", "", does));
  const close = make("button", "rv-button", "Close");
  close.type = "submit";
  const form = make("form", "", make("h2", "", "Keys"), list, close);
  form.method = "dialog";
  const dialog = make("dialog", "rv-dialog", form);
  dialog.setAttribute("aria-label", "Keys");
  return dialog;
}

/** Put another icon and other words on a button. */
export function relabel(button, icon, label, words) {
  button.firstElementChild.replaceWith(drawing(icon));
  button.querySelector(".rv-words").textContent = words;
  button.title = label;
  button.setAttribute("aria-label", label);
}

function drawing(icon) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "rv-icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[icon]);
  svg.append(path);
  return svg;
}

function make(name, className = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children.filter(Boolean));
  return element;
}
