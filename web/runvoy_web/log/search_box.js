// The field that searches the log, its count, and the way from match to match.

import { rawOffset, strip } from "./ansi.js";
import { Search, queryOf } from "./search.js";
import { grouped, plural } from "./words.js";

const DELAY_MS = 150;

export class SearchBox {
  #ui;
  #store;
  #view;
  #search;
  #timer = 0;

  /**
   * `view`: scroller, isCaseSensitive(), guarded(work), and show(place, offset, isOverwritten), which brings a match into view that
   * is at `offset` of its line.
   */
  constructor(ui, store, signal, view) {
    this.#ui = ui;
    this.#store = store;
    this.#view = view;
    this.#search = new Search(store, signal, () => this.show());
    const on = (target, type, does) => target.addEventListener(type, does, { signal });
    on(ui.field, "input", () => this.#later());
    on(ui.field, "keydown", (event) => this.#pressed(event));
    on(ui.next, "click", () => this.move(1));
    on(ui.previous, "click", () => this.move(-1));
  }

  get query() {
    return this.#search.query;
  }

  /** Which match of a row is the current one; -1 if none is. */
  currentIn(number, row) {
    const { current } = this.#search;
    return current && current.number === number && current.row === row ? current.nth : -1;
  }

  revisit(number) {
    this.#search.revisit(number);
  }

  focus() {
    this.#ui.field.focus();
    this.#ui.field.select();
  }

  async start() {
    clearTimeout(this.#timer);
    const query = queryOf(this.#ui.field.value, this.#view.isCaseSensitive());
    if (String(query) === String(this.query)) return this.show();
    const near = this.#store.rows ? this.#store.locate(this.#view.scroller.range[0]).number : 1;
    await this.#view.guarded(() => this.#search.start(query, near));
  }

  async move(step) {
    await Promise.race([this.start(), new Promise((resolve) => setTimeout(resolve, DELAY_MS))]);
    if (!this.#store.rows) return;
    const [first, after] = this.#view.scroller.range;
    const at = step < 0 ? after - 1 : first;
    const from = this.#store.locate(Math.max(0, Math.min(at, this.#store.rows - 1)));
    const place = this.#search.move(step, { ...from, row: from.row - step });
    if (place) await this.#view.guarded(() => this.#showMatch(place));
  }

  end() {
    this.#ui.field.value = "";
    this.start();
    this.#view.scroller.element.focus();
  }

  show() {
    const { query, found, isDone, ordinal } = this.#search;
    const of = `${grouped(found)}${isDone ? "" : " …"}`;
    this.#ui.count.textContent = query ? (ordinal ? `${grouped(ordinal)} of ${of}` : of) : "";
    this.#ui.count.classList.toggle("rv-none", Boolean(query) && isDone && !found);
    this.#ui.root.dataset.search = query ? (isDone ? "done" : "running") : "";
    for (const name of ["previous", "next"]) this.#ui[name].disabled = !found;
    if (query && isDone && ordinal === 0) this.#ui.live.textContent = `${plural(found, "match", "matches")}`;
    this.#view.scroller.invalidate();
  }

  destroy() {
    clearTimeout(this.#timer);
  }

  #later() {
    clearTimeout(this.#timer);
    this.#ui.root.dataset.search = "running";
    this.#timer = setTimeout(() => this.start(), DELAY_MS);
  }

  async #showMatch(place) {
    const raw = await this.#store.fullText(place.number, place.row);
    const offset = rawOffset(raw, [...strip(raw).matchAll(this.query)][place.nth]?.index ?? 0);
    this.#view.show(place, offset, raw.slice(offset).replace(/\r+$/, "").includes("\r"));
    this.show();
    this.#view.scroller.flush();
    const mark = this.#view.scroller.element.querySelector(".rv-current");
    mark?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #pressed(event) {
    if (event.key === "Enter") this.move(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") this.end();
    else return;
    event.preventDefault();
  }
}
