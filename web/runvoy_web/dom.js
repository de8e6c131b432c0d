/**
 * Building the page: elements and text nodes only. Nothing here takes markup, so no text can become any; and what would hide or
 * turn text around is written out (unseen.js).
 */
import { plain } from "./unseen.js";

const SVG = "http://www.w3.org/2000/svg";
// Paths for a 16 × 16 box, drawn with a stroke.
const ICONS = {
  QUEUED: "M8 4.5V8l2.3 1.6M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z",
  STARTING: "M8 2a6 6 0 1 1-5.2 3",
  RUNNING: "M8 2a6 6 0 1 1-5.2 3",
  TERMINATING: "M8 2a6 6 0 1 1-5.2 3",
  SUCCEEDED: "M3.2 8.4l3.1 3.1 6.5-7",
  FAILED: "M4 4l8 8M12 4l-8 8",
  STOPPED: "M4.5 4.5h7v7h-7z",
  TIMED_OUT: "M8 5v3.4l2.2 1.3M6.5 1.7h3M8 3.4a5.3 5.3 0 1 0 0 10.6A5.3 5.3 0 0 0 8 3.4Z",
  UNKNOWN: "M5.8 6a2.2 2.2 0 1 1 3.2 2c-.7.4-1 .8-1 1.6M8 12.2v.1",
  lock: "M4 7.5h8v6H4zM5.5 7.5V5.4a2.5 2.5 0 0 1 5 0v2.1",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  again: "M13 3v3.5H9.5M12.7 6.3A5.3 5.3 0 1 0 13.2 9.5",
  kill: "M4.5 4.5h7v7h-7z",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6ZM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
};

/**
 * An element. `attributes`: strings and numbers as they are, true as an empty attribute, false, null and undefined left out;
 * `on` is a map of listeners, `dataset` one of data attributes, `class` a text. Children are nodes or texts, at any depth;
 * null and false are left out.
 */
export function h(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function s(name, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}

function build(element, { on = {}, dataset = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  Object.assign(element.dataset, dataset);
  // What stands in a field is sent again, to the letter.
  element.append(...(element.localName === "textarea" ? children : flat(children)));
  return element;
}

const flat = (children) =>
  children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false).map((child) => (typeof child === "string" ? plain(child) : child));

/** Put these children in place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

export function icon(name, label) {
  const known = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const spins = name === "STARTING" || name === "RUNNING" || name === "TERMINATING";
  return drawing(ICONS[name], { class: spins ? "icon spins" : "icon", ...known });
}

/** A path in a 16 × 16 box. */
export const drawing = (d, attributes) => s("svg", { viewBox: "0 0 16 16", ...attributes }, s("path", { d }));

/** A label, its field, and what to know of it; the field is found by its `name`. */
export function field(label, control, help) {
  const id = `f-${control.name}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    control,
    help ? h("p", { class: "help", id: `${id}-help` }, help) : null,
  );
}

/** Say something to who does not see the page; and, where it `shows`, to everybody for a moment. */
export function announce(text, shows = false) {
  const live = document.getElementById("live");
  live.textContent = "";
  // A text that is the same as before is read again only if it was gone in between.
  requestAnimationFrame(() => (live.textContent = text));
  if (!shows) return;
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => (toast.hidden = true), 3_000);
}

/** Names and their values, {text or nodes}; those without a value are left out. */
export function facts(rows) {
  const shown = rows.filter(([, value]) => value && value.length !== 0);
  return h("dl", {}, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A button that copies a text, or what a function gives then. Without `words` it is an icon. */
export function copyButton(text, what, words) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
      announce(`Copied ${what}`, true);
    } catch {
      announce(`The browser does not let this page copy ${what}`, true);
    }
  };
  return h("button", { type: "button", class: "quiet small", title: `Copy ${what}`, "aria-label": words ? null : `Copy ${what}`, on: { click: copy } }, icon("copy"), words);
}

/** Ask in a dialog; resolves to whether it was confirmed. Escape and the first button are no. */
export function confirm(title, text, action) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", on: { close: () => { dialog.remove(); resolve(dialog.returnValue === "yes"); } } },
      h("h2", { id: "dialog-title" }, title),
      h("p", {}, text),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", on: { click: () => dialog.close("no") } }, "Cancel"),
        h("button", { type: "button", class: "danger", on: { click: () => dialog.close("yes") } }, action),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Words of the deployment, in which `commands` stand between backticks. */
export const prose = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

/** An error as people are told of it: what happened, and what to do. */
export function problem(error, ...actions) {
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("p", {}, h("strong", {}, text), error.code ? h("span", { class: "code" }, error.code) : null),
    error.hint ? h("p", {}, prose(error.hint)) : null,
    actions.length ? h("div", { class: "row" }, ...actions) : null,
  );
}
