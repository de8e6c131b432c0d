// The view of one log: what is in view, what a reader asks for, and what comes meanwhile. See log_source.js for the seam.

import { preferences, setPreference } from "../prefs.js";
import { zone } from "../times.js";
import { PLAIN } from "./ansi.js";
import { createControls, relabel } from "./controls.js";
import { keyActions } from "./keys.js";
import { Live } from "./live.js";
import { Marks } from "./marks.js";
import { printing } from "./print.js";
import { DEFAULT_LOOK, createRow, lookAt, nextLook } from "./row.js";
import { Scroller } from "./scroller.js";
import { findError } from "./search.js";
import { SearchBox } from "./search_box.js";
import { LogStore } from "./store.js";
import { Taking } from "./take.js";
import { Teller } from "./teller.js";
import { grouped, plural } from "./words.js";

const PREFERENCES = "log";
const READS_AT_ONCE = 2;
const MOVES = /^(?: |Arrow.*|Page.*|Home|End)$/; // keys that move whatever has the focus

export function createLogView(host, source, options = {}) {
  const view = new LogView(host, source, options);
  view.begin();
  return { destroy: () => view.destroy(), show: (line) => view.show(line) };
}

class LogView {
  #ui = createControls();
  #ending = new AbortController();
  #source;
  #options;
  #store;
  #live;
  #scroller;
  #search;
  #marks;
  #teller;
  #taking;
  #preferences = { wrap: false, numbers: true, times: false, matchCase: false, ...preferences(PREFERENCES) };
  #isFollowing = true;
  #linesLeft = 0; // lines there were when the reader left the end
  #floor = null; // where the log was cleared
  #looks = new Map(); // key of a row → what of it is shown
  #reading = new Set(); // chunks that are being read for the view
  #error = null; // the error that was jumped to last

  constructor(host, source, options) {
    const { signal } = this.#ending;
    this.#source = source;
    this.#options = options;
    this.#store = new LogStore(source, signal, (number, hasChanged) => this.#chunkCame(number, hasChanged));
    this.#live = new Live(this.#store, source, signal, () => this.#stateChanged());
    this.#teller = new Teller(this.#ui, this.#store);
    this.#scroller = new Scroller(this.#model(), (isAtEnd, byReader) => this.#viewChanged(isAtEnd, byReader));
    this.#marks = new Marks(this.#store, this.#scroller, (place, how) => this.#goTo(place, how), options.onLine);
    this.#taking = new Taking(this.#store, this.#scroller.element, this.#teller, (work) => this.#guarded(work));
    this.#search = new SearchBox(this.#ui, this.#store, signal, {
      scroller: this.#scroller,
      isCaseSensitive: () => this.#preferences.matchCase,
      guarded: (work) => this.#guarded(work),
      show: (...match) => this.#showMatch(...match),
    });
    const list = this.#scroller.element;
    list.tabIndex = 0;
    list.setAttribute("role", "log");
    list.setAttribute("aria-live", "off"); // the summary speaks: nobody can listen to the flood
    list.setAttribute("aria-label", "Lines");
    this.#ui.body.prepend(list);
    this.#listen(signal);
    printing(this.#ui.sheet, this.#store, {
      first: () => this.#scroller.range[0], marked: () => this.#marks.range, create: (place) => this.#createRow(place, DEFAULT_LOOK),
    }, signal);
    this.#applyLooks();
    host.append(this.#ui.root);
  }

  async begin() {
    this.#showState();
    await this.#guarded(async () => {
      await this.#live.open();
      if (this.#options.line) await this.#goToLines(this.#options.line);
      else this.#scroller.toEnd();
      this.#teller.begin();
      await this.#live.follow();
    });
  }

  /** The address names other lines now, or none. */
  show(line) {
    this.#options.line = line;
    if (this.#live.state === "opening") return;
    if (line) this.#guarded(() => this.#goToLines(line));
    else this.#marks.set(null, false);
  }

  destroy() {
    this.#ending.abort();
    this.#teller.destroy();
    this.#search.destroy();
    this.#scroller.destroy();
    this.#ui.root.remove();
  }

  /** Do what may read of the log; what goes wrong is shown where the log is. */
  async #guarded(work) {
    try {
      return await work();
    } catch (error) {
      if (this.#ending.signal.aborted) return null;
      const words = [error.message, error.hint].filter(Boolean).join(" ");
      this.#teller.tell(`The log cannot be read on: ${words}`, true);
      if (error.code === undefined) throw error; // a bug is to be seen
      return null;
    }
  }

  // Rows

  #model() {
    const store = this.#store;
    const at = (place) => store.locate(place);
    const look = (place) => this.#looks.get(store.keyOf(place)) ?? DEFAULT_LOOK;
    return {
      count: () => store.rows,
      first: () => (this.#floor ? Math.min(store.rowsBefore(this.#floor), store.rows) : 0),
      keyOf: (place) => store.keyOf(place),
      placeOf: (key) => {
        const { number, row } = store.placeOf(key);
        return store.position(number, row);
      },
      isUniform: (place) => {
        if (this.#preferences.wrap) return !store.isLoaded(at(place).number);
        return !look(place).isWhole;
      },
      signature: (place) => this.#signature(at(place), look(place)),
      create: (place) => this.#createRow(at(place), look(place)),
    };
  }

  #signature({ number, row }, look) {
    const line = this.#store.row(number, row);
    if (!line) return "unread";
    if (!line.n) return line.words ?? `gap ${line.gap.from} ${line.gap.to}`;
    const { query } = this.#search;
    const hit = query ? `${query.source}/${query.flags}/${this.#search.currentIn(number, row)}` : "";
    const style = this.#store.style(number, line);
    const colours = style === PLAIN ? "" : Object.values(style).join();
    return `${zone()} ${line.n} ${look.from} ${look.cut} ${look.isWhole} ${this.#marks.has(line.n)} ${this.#store.version(line)} ${colours} ${hit}`;
  }

  #createRow({ number, row }, look) {
    const line = this.#store.row(number, row);
    return createRow(line, {
      text: (limit) => this.#store.text(number, row, limit),
      style: () => this.#store.style(number, line),
      look,
      query: this.#search.query,
      current: this.#search.currentIn(number, row),
      isMarked: Boolean(line?.n) && this.#marks.has(line.n),
    });
  }

  #chunkCame(number, hasChanged) {
    if (hasChanged) this.#scroller.refresh(true);
    this.#scroller.keep();
    if (this.#isFollowing && this.#live.state !== "opening") this.#scroller.stick();
    this.#search.revisit(number);
    this.#showState();
    if (this.#live.state !== "opening") this.#teller.announceLater();
  }

  /** Read the chunks in view, then those a page before and after it. */
  #readVisible() {
    if (this.#live.state === "opening" || !this.#store.rows) return;
    const [first, after] = this.#scroller.range;
    const near = this.#scroller.page;
    const chunkAt = (at) => this.#store.locate(Math.min(Math.max(at, 0), this.#store.rows - 1)).number;
    const wanted = [...between(chunkAt(first), chunkAt(after - 1)), ...between(chunkAt(first - near), chunkAt(after + near))];
    for (const number of new Set(wanted)) {
      if (this.#reading.size >= READS_AT_ONCE) return;
      if (this.#store.isLoaded(number) || this.#reading.has(number)) continue;
      this.#reading.add(number);
      this.#guarded(() => this.#store.load(number)).then((isRead) => {
        this.#reading.delete(number);
        if (isRead) this.#readVisible();
      });
    }
  }

  #stateChanged() {
    this.#showState();
    this.#readVisible();
  }

  #viewChanged(isAtEnd, byReader) {
    if (byReader && isAtEnd !== this.#isFollowing) this.#follow(isAtEnd, false);
    this.#readVisible();
    this.#showJump(isAtEnd);
  }

  // Following, pausing, clearing

  #follow(isOn, goes = true) {
    this.#isFollowing = isOn;
    if (!isOn) this.#linesLeft = this.#store.lines;
    else if (goes) this.#scroller.toEnd();
    this.#readVisible();
    this.#showState();
  }

  #pause() {
    this.#live.pause(!this.#live.isPaused);
  }

  #clear() {
    this.#floor = this.#store.end;
    this.#ui.clearedWords.textContent = `${plural(this.#store.lines, "line")} cleared from view · `;
    this.#ui.cleared.hidden = false;
    this.#scroller.refresh();
    this.#follow(true);
  }

  #restore() {
    this.#floor = null;
    this.#ui.cleared.hidden = true;
    this.#scroller.refresh();
    this.#follow(true);
    this.#scroller.element.focus();
  }

  // Lines

  async #goToLines([from, to]) {
    this.#marks.set([from, Math.max(from, to ?? from)], false);
    const place = await this.#store.find(from);
    if (!place) return this.#teller.tell(`The log has no line ${grouped(from)}.`);
    return this.#goTo(place);
  }

  #goTo({ number, row }, options) {
    this.#isFollowing = false;
    this.#linesLeft = this.#store.lines;
    const at = this.#store.position(number, row);
    if (this.#floor && at < this.#store.rowsBefore(this.#floor)) this.#restore();
    this.#isFollowing = false;
    this.#scroller.to(at, options);
    this.#viewChanged(this.#scroller.isAtEnd, false);
    this.#showState();
  }

  // Searching

  /** Bring a match into view: of a long line the part where it is, of a progress line all states. */
  #showMatch(place, offset, isOverwritten) {
    const key = this.#store.keyOf(this.#store.position(place.number, place.row));
    const next = lookAt(this.#looks.get(key) ?? DEFAULT_LOOK, offset);
    this.#setLook(key, isOverwritten ? { ...next, isWhole: true } : next);
    this.#goTo(place, { isLazy: true });
  }

  #setLook(key, look) {
    if (look === this.#looks.get(key) || (look === DEFAULT_LOOK && !this.#looks.has(key))) return;
    this.#looks.set(key, look);
    this.#scroller.forgetHeight(key);
    this.#scroller.invalidate();
  }

  async #goToError() {
    await this.#guarded(async () => {
      this.#teller.tell("Looking for errors …");
      const found = await findError(this.#store, this.#error, this.#ending.signal);
      if (!found) {
        this.#teller.tell(this.#error ? "No further error." : "No error found, and nothing on stderr.");
        this.#error = null;
        return;
      }
      this.#error = found;
      this.#goTo(found);
      const line = this.#store.row(found.number, found.row);
      if (line?.n) this.#marks.set([line.n, line.n]);
      this.#teller.tell(found.isError ? `Line ${grouped(line?.n)} tells of an error.` : "No error found; the first line of stderr.");
    });
  }

  // What is shown around the lines

  #applyLooks(isNew = false) {
    const { wrap, numbers, times, matchCase } = this.#preferences;
    this.#ui.root.classList.toggle("rv-wraps", wrap);
    this.#ui.root.classList.toggle("rv-without-n", !numbers);
    this.#ui.root.classList.toggle("rv-without-t", !times);
    for (const [name, isOn] of Object.entries({ wrap, numbers, times, matchCase })) {
      this.#ui[name].setAttribute("aria-pressed", String(isOn));
    }
    if (isNew) setPreference(PREFERENCES, JSON.stringify(this.#preferences));
    this.#scroller.refresh(true);
  }

  #toggle(name) {
    this.#preferences[name] = !this.#preferences[name];
    const wasAtEnd = this.#isFollowing;
    this.#applyLooks(true);
    if (name === "matchCase") this.#search.start();
    else if (wasAtEnd) this.#scroller.toEnd();
  }

  #showState() {
    const { state } = this.#live;
    const live = this.#source.ended() ? "ended; waiting for the last lines" : this.#isFollowing ? "live · following" : "live";
    const status = { opening: "opening …", live, paused: "paused", done: "complete", cut: "not complete: its end never came", failed: "stopped" }[state];
    this.#ui.state.textContent = status;
    this.#ui.state.dataset.state = state;
    this.#ui.pause.hidden = state !== "live" && state !== "paused";
    if (state === "paused") relabel(this.#ui.pause, "play", "Resume (p)", "Resume");
    else relabel(this.#ui.pause, "pause", "Pause (p)", "Pause");
    const { rows, lines } = this.#store;
    this.#ui.lines.textContent = rows ? plural(lines, "line") : "";
    this.#ui.empty.hidden = rows > 0;
    this.#ui.empty.textContent = { opening: "", done: "Nothing was printed.", cut: "Nothing of it came." }[state] ?? "Nothing was printed yet.";
    this.#ui.root.style.setProperty("--rv-digits", String(Math.max(3, String(lines).length)));
    this.#showJump(rows === 0 || this.#scroller.isAtEnd);
  }

  #showJump(isAtEnd) {
    this.#ui.jump.hidden = isAtEnd || this.#isFollowing;
    const fresh = this.#store.lines - this.#linesLeft;
    this.#ui.jump.textContent = fresh > 0 ? `↓ ${plural(fresh, "new line")}` : "↓ End";
  }

  // What a reader does

  #listen(signal) {
    const ui = this.#ui;
    const on = (target, type, does) => target.addEventListener(type, does, { signal });
    const clicks = {
      pause: () => this.#pause(), error: () => this.#goToError(), copy: () => this.#taking.copyLines(this.#marks.range),
      link: () => this.#taking.copyLink(this.#marks.range), download: () => this.#taking.download(`${this.#source.executionId}.log`), clear: () => this.#clear(), help: () => ui.keys.showModal(),
      restore: () => this.#restore(), jump: () => this.#follow(true),
    };
    for (const [name, does] of Object.entries(clicks)) on(ui[name], "click", does);
    for (const name of ["wrap", "numbers", "times", "matchCase"]) on(ui[name], "click", () => this.#toggle(name));
    on(this.#scroller.element, "click", (event) => this.#clicked(event));
    on(document, "zone", () => this.#scroller.invalidate());
    on(document, "copy", (event) => this.#taking.copySelection(event, this.#marks.range));
    const actions = keyActions({
      scroller: this.#scroller, move: (step) => this.#search.move(step), error: () => this.#goToError(),
      follow: () => this.#follow(!this.#isFollowing), pause: () => this.#pause(), toggle: (name) => this.#toggle(name),
      markTop: () => this.#marks.top(), markMore: (step) => this.#marks.more(step), copy: () => this.#taking.copyLines(this.#marks.range),
      link: () => this.#taking.copyLink(this.#marks.range), help: () => ui.keys.showModal(), search: () => this.#search.focus(), end: () => this.#follow(true),
      escape: () => (this.#search.query ? this.#search.end() : this.#marks.set(null)),
    });
    // Before the page's own keys: what the log takes is not theirs as well.
    document.addEventListener("keydown", (event) => this.#keyPressed(event, actions), { signal, capture: true });
  }

  /** Keys count in the log, and where nothing else on the page has the focus. */
  #keyPressed(event, actions) {
    const isHere = this.#scroller.element.contains(event.target) || (event.target === document.body && !MOVES.test(event.key));
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const pressed = event.ctrlKey || event.metaKey ? event.key : "";
    if (pressed === "f" && event.target !== this.#ui.field) {
      event.preventDefault();
      return this.#search.focus();
    }
    if (pressed === "a" && event.target === this.#scroller.element) {
      event.preventDefault(); // the browser would take the rows in view for all there are
      this.#marks.all();
      return this.#teller.tell(`${plural(this.#store.lines, "line")} marked: c copies them.`);
    }
    if (!isHere || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("button")) return;
    if (/^n$/i.test(event.key) && !this.#search.query) return; // then it is the page's
    const action = actions[event.shiftKey && event.key === " " ? "Shift+Space" : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  #clicked(event) {
    const row = event.target.closest(".rv-row");
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (row && action) {
      const isAtEnd = this.#isFollowing;
      this.#setLook(row.rvKey, nextLook(this.#looks.get(row.rvKey) ?? DEFAULT_LOOK, action));
      if (isAtEnd) this.#follow(false);
    } else if (row && event.target.closest(".rv-n") && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      if (row.dataset.n) this.#marks.to(Number(row.dataset.n), event.shiftKey);
    }
  }
}

function* between(first, last) {
  for (let number = first; number <= last; number++) yield number;
}
