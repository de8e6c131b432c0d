/** The page of all runs: a table that updates itself, with filters, and the day above it. */
import { announce, fill, h, icon, problem } from "./dom.js";
import { costByDay, costText } from "./cost.js";
import { commandText, duration, exitText, hasEnded, imageText, ranSeconds, shortId, STATES, stateWord, whatRan } from "./format.js";
import { every } from "./every.js";
import { RunStore } from "./run_store.js";
import { DAY_MS, HOUR_MS, spanOf, timeline } from "./timeline.js";
import { ago, day, timeAgo } from "./times.js";

const GROUPS = { active: ["QUEUED", "STARTING", "RUNNING", "TERMINATING"], failed: ["FAILED", "TIMED_OUT", "UNKNOWN"] };
const HEADS = { State: "", Command: "", Who: "", Image: "image", When: "", Duration: "number" };
const MOST_FOR_A_DAY = 1_000;
const MOST_FOR_A_TEXT = 2_000;

export function runsView(app, host, parameters, signal) {
  new RunsPage(app, host, parameters, signal).show();
}

class RunsPage {
  constructor(app, host, parameters, signal) {
    this.app = app;
    this.host = host;
    this.signal = signal;
    this.filters = {
      mine: parameters.has("mine"),
      state: parameters.get("state") ?? "",
      label: parameters.get("label") ?? "",
      text: parameters.get("text") ?? "",
    };
    this.address = location.search;
    this.dayOffset = 0;
    this.rows = new Map(); // execution id → {row, version}
    this.isLoading = false;
  }

  show() {
    this.failure = h("div");
    this.count = h("p", { class: "muted", id: "run-count" });
    this.body = h("tbody");
    this.table = h("table", { class: "runs", "aria-label": "Runs", "aria-describedby": "run-count" }, h("thead", {}, this.#headRow()), this.body);
    this.more = h("div", { class: "more" });
    this.day = h("div");
    this.costs = h("div");
    fill(
      this.host,
      h("h1", { class: "visually-hidden" }, "Runs"),
      this.failure,
      h("section", { class: "overview", "aria-label": "The day" }, this.#dayHead(), this.day, this.costs),
      this.#filterBar(),
      this.table,
      this.more,
    );
    document.addEventListener("keydown", (event) => this.#onKey(event), { signal: this.signal });
    document.addEventListener("zone", () => this.shown && (this.#tick(), this.#drawDay()), { signal: this.signal });
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.#loadMore(), { rootMargin: "600px" }).observe(this.more);
    const { isBack, left } = this.app;
    if (isBack && left?.address === this.address) this.#restore(left);
    else this.#reload();
    this.signal.addEventListener("abort", () => this.#leave());
    every(this.app.pollMs, this.signal, () => this.#refresh());
    every(1_000, this.signal, () => this.#tick());
    this.#showCosts();
  }

  #headRow() {
    this.hasCost = false;
    this.costHead = h("th", { scope: "col", class: "number", hidden: true }, "Cost");
    return h("tr", {}, Object.entries(HEADS).map(([head, kind]) => h("th", { scope: "col", class: kind }, head)), this.costHead);
  }

  #dayHead() {
    this.dayName = h("h2", {}, "The day");
    const move = (days) => () => {
      this.dayOffset = Math.min(0, this.dayOffset + days);
      this.#drawDay();
      this.#loadMore();
    };
    this.later = h("button", { type: "button", class: "quiet small", "aria-label": "A day later", on: { click: move(1) } }, "›");
    const earlier = h("button", { type: "button", class: "quiet small", "aria-label": "A day earlier", on: { click: move(-1) } }, "‹");
    return h("div", { class: "row" }, this.dayName, earlier, this.later, h("span", { class: "grow" }), this.#legend());
  }

  #legend() {
    const known = ["SUCCEEDED", "FAILED", "RUNNING", "QUEUED"];
    return h("span", { class: "legend", "aria-hidden": "true" }, known.map((state) => h("span", {}, h("i", { class: `dot ${state}` }), stateWord(state))));
  }

  #filterBar() {
    const { filters } = this;
    const changed = (name, value) => {
      filters[name] = value;
      this.app.replaceParameters({ view: null, mine: filters.mine ? "1" : null, state: filters.state, label: filters.label, text: filters.text });
      this.address = location.search;
      if (name === "text") this.#draw();
      else this.#reload();
      this.#loadMore();
    };
    const text = h("input", { type: "search", name: "text", value: filters.text, placeholder: "Filter by text  ( / )", "aria-label": "Filter by text", on: { input: (event) => changed("text", event.target.value) } });
    const label = h("input", { type: "search", name: "label", value: filters.label, placeholder: "label=value", "aria-label": "Filter by label", size: 14, on: { change: (event) => changed("label", event.target.value.trim()) } });
    const options = [["", "All states"], ["active", "Not ended"], ["failed", "Gone wrong"], ...STATES.map((state) => [state, stateWord(state)])];
    const state = h(
      "select",
      { name: "state", "aria-label": "Filter by state", on: { change: (event) => changed("state", event.target.value) } },
      options.map(([value, words]) => h("option", { value, selected: value === filters.state }, words)),
    );
    const mine = h("input", { type: "checkbox", name: "mine", checked: filters.mine, on: { change: (event) => changed("mine", event.target.checked) } });
    this.textField = text;
    return h("form", { class: "filters", role: "search", "aria-label": "Runs", on: { submit: (event) => event.preventDefault() } }, text, state, label, h("label", { class: "check" }, mine, "Mine"), h("span", { class: "grow" }), this.count);
  }

  #onKey(event) {
    if (event.target.matches("input, select, textarea, dialog *") || event.ctrlKey || event.metaKey || event.altKey) return;
    const links = [...this.body.querySelectorAll("a.command")];
    const at = links.indexOf(document.activeElement);
    const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
    if (event.key in steps && links.length && (at >= 0 || event.key.length === 1)) {
      event.preventDefault();
      links[Math.min(links.length - 1, Math.max(0, at + steps[event.key]))].focus();
    }
  }

  get #states() {
    return this.filters.state ? (GROUPS[this.filters.state] ?? [this.filters.state]) : null;
  }

  /** Keep what was loaded, how far it was scrolled, and the run that was gone to. */
  #leave() {
    if (!this.store?.size) return;
    const { store, address } = this;
    this.app.left = { store, address, y: scrollY, focused: document.activeElement?.closest?.(".runs a")?.getAttribute("href") };
  }

  #restore({ store, y, focused }) {
    this.store = store;
    this.#draw();
    const link = [...this.body.querySelectorAll("a.command")].find((one) => one.getAttribute("href") === focused);
    link?.focus({ preventScroll: true });
    // After the browser has put back what it thinks right.
    requestAnimationFrame(() => scrollTo(0, y));
    this.#refresh();
  }

  async #reload() {
    const { mine, label } = this.filters;
    this.store = new RunStore(this.app.client, { owner: mine ? "me" : "", label, status: this.#states?.join(",") ?? "" });
    this.isFirst = true;
    await this.#loadMore();
    this.isFirst = false;
  }

  /** Older runs, where the end of the table is near, the day is not covered, or too few hold the text. */
  async #loadMore() {
    if (this.isLoading || !this.store || this.store.isComplete) return;
    this.isLoading = true;
    const { store } = this;
    try {
      do {
        if (store.size === 0) fill(this.more, h("p", { class: "muted" }, "Loading…"));
        await store.loadMore(this.signal);
        if (store !== this.store) break;
        this.#draw();
      } while (!store.isComplete && this.#wantsMore());
      fill(this.failure);
    } catch (error) {
      this.#failed(error);
    } finally {
      this.isLoading = false;
      if (store !== this.store && !this.signal.aborted) this.#loadMore();
    }
  }

  #wantsMore() {
    const { store } = this;
    const oldest = Date.parse(store.runs.at(-1)?.admitted_at ?? 0);
    if (oldest > this.#dayEnd - DAY_MS && store.size < MOST_FOR_A_DAY) return true;
    if (this.filters.text && this.shown.length < 50) return store.size < MOST_FOR_A_TEXT;
    return this.more.getBoundingClientRect().top < innerHeight + 600;
  }

  async #refresh() {
    if (this.isFirst || !this.store) return;
    const { store } = this;
    try {
      await store.refresh(this.signal);
      fill(this.failure);
      if (store === this.store) this.#draw();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** A lost network has a line of its own at the top of the page, and a key that is no good its own page. */
  #failed(error) {
    if (this.signal.aborted || this.app.client.isLost) return;
    if (!this.shown) fill(this.more);
    if (!error.isOfTheKey) fill(this.failure, problem(error));
  }

  #draw() {
    const text = this.filters.text.trim().toLowerCase();
    const states = this.#states;
    this.shown = this.store.runs.filter((run) => (!states || states.includes(run.state)) && (!text || holds(run, text)));
    if (!this.hasCost && this.shown.some(costText)) {
      this.hasCost = true;
      this.costHead.hidden = false;
      this.rows.clear();
    }
    this.table.classList.toggle("no-image", !this.shown.some(imageText));
    this.#place(this.shown.map((run) => this.#rowOf(run)));
    for (const id of this.rows.keys()) if (!this.shown.some((run) => run.execution_id === id)) this.rows.delete(id);
    const words = `${this.shown.length} ${this.shown.length === 1 ? "run" : "runs"}${this.store.isComplete ? "" : ", and older ones"}`;
    if (this.count.textContent !== words) this.count.textContent = words;
    const isFiltered = text || states || this.filters.mine || this.filters.label;
    const empty = isFiltered ? "No run fits these filters." : "Nothing has run yet. Submit one with “New run”, or with runvoy run on the command line.";
    fill(this.more, h("p", { class: "muted" }, this.store.isComplete ? (this.shown.length ? "That is all." : empty) : "Older runs load as you scroll."));
    this.#drawDay();
  }

  /** Put rows in order, moving only those that are out of place: what has the focus keeps it. */
  #place(rows) {
    let next = this.body.firstChild;
    for (const row of rows) {
      if (row === next) next = next.nextSibling;
      else this.body.insertBefore(row, next);
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  #rowOf(run) {
    const known = this.rows.get(run.execution_id);
    if (known?.version === run.record_version) return known.row;
    const cells = this.#cells(run);
    const row = known?.row ?? h("tr", {}, cells);
    row.className = run.state;
    if (known) {
      if (hasEnded(run)) announce(`${run.name ?? shortId(run.execution_id)}: ${stateWord(run.state)}`);
      // All but the link, which somebody may be pressing just now, and which never changes.
      cells.forEach((cell, at) => cell?.className === "what" || row.children[at]?.replaceWith(cell));
    }
    this.rows.set(run.execution_id, { row, version: run.record_version });
    return row;
  }

  #cells(run) {
    const now = this.app.client.now();
    const at = run.started_at ?? run.admitted_at;
    const exit = run.state === "FAILED" && run.exit_code !== undefined ? ` ${exitText(run)}` : "";
    const labels = Object.entries(run.labels ?? {}).map(([name, value]) => h("span", { class: "label" }, `${name}=${value}`));
    const locks = (run.locks ?? []).map((lock) => h("span", { class: "label lock" }, icon("lock", "lock"), lock.name));
    const what = whatRan(run);
    return [
      h("td", { class: "state" }, h("span", { class: `pill ${run.state}` }, icon(run.state), stateWord(run.state) + exit)),
      h(
        "td",
        { class: "what" },
        h("a", { class: "command", href: this.app.runAddress(run.execution_id) }, what.name ? [h("b", {}, what.name), " "] : null, h("code", {}, what.text.slice(0, 300))),
        labels.length || locks.length ? h("span", { class: "labels" }, locks, labels) : null,
      ),
      h("td", { class: "who" }, run.owner),
      h("td", { class: "image" }, imageText(run)),
      h("td", { class: "when" }, timeAgo(at, now, run.started_at ? "Started" : "Accepted")),
      h("td", { class: "number ran" }, duration(ranSeconds(run, now))),
      this.hasCost ? h("td", { class: "number cost" }, costText(run)) : null,
    ];
  }

  #tick() {
    const now = this.app.client.now();
    for (const run of this.shown ?? []) {
      const row = this.rows.get(run.execution_id)?.row;
      const time = row?.querySelector("time");
      if (!time) continue;
      setText(time, ago(time.dateTime, now));
      if (!hasEnded(run)) setText(row.querySelector(".ran"), duration(ranSeconds(run, now)));
    }
  }

  get #dayEnd() {
    return this.app.client.now() + this.dayOffset * DAY_MS;
  }

  #drawDay() {
    const now = this.app.client.now();
    const end = this.#dayEnd;
    this.later.disabled = this.dayOffset === 0;
    const begins = day(end - DAY_MS);
    const runs = this.shown ?? [];
    const span = this.dayOffset === 0 ? spanOf(runs, end) : DAY_MS;
    const hours = span / HOUR_MS;
    this.dayName.textContent = this.dayOffset ? `24 hours from ${begins}` : hours === 1 ? "Last hour" : `Last ${hours} hours`;
    fill(this.day, timeline(runs, end, span, now, (run) => this.app.runAddress(run.execution_id)));
  }

  async #showCosts() {
    try {
      const chart = await costByDay(this.app.client, this.signal);
      if (chart && !this.signal.aborted) fill(this.costs, chart);
    } catch (error) {
      this.#failed(error);
    }
  }
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function holds(run, text) {
  const parts = [run.execution_id, run.name, run.owner, whatRan(run).text, commandText(run.command), imageText(run)];
  const labels = Object.entries(run.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const locks = (run.locks ?? []).map((lock) => lock.name);
  return [...parts, ...labels, ...locks].some((part) => part?.toLowerCase().includes(text));
}
