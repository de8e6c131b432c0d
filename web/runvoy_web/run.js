/** The page of one run: what is known of it, what can be done with it, and its log. */
import { ApiError, pause } from "./api.js";
import { costWords } from "./cost.js";
import { announce, confirm, copyButton, facts, fill, h, icon, problem, prose } from "./dom.js";
import { every } from "./every.js";
import { commandText, cpuText, duration, exitText, hasEnded, imageText, lockText, memoryText, ranSeconds, reasonText, secondsBetween, shortId, stateWord, whatRan } from "./format.js";
import { draftOf } from "./form_values.js";
import { createLogSource, Outbox } from "./log_source.js";
import { createLogView } from "./log/view.js";
import { plural } from "./log/words.js";
import { publishedCall } from "./playbooks.js";
import { SignedRequest } from "./request.js";
import { ago, time, withTimes } from "./times.js";
import { plain } from "./unseen.js";

const DECIDING_MS = 700;
const QUEUE_MS = 3_000;
const RETRY_MS = 2_000;
const KILL_TRIES = 12;
const EXECUTION_ID = /^[0-9a-f]{32}$/;

export function runView(app, host, parameters, signal) {
  const executionId = parameters.get("execution_id").replaceAll("-", "").toLowerCase();
  // Anybody can make a link, and what it names becomes part of addresses that this browser signs.
  if (EXECUTION_ID.test(executionId)) return void new RunPage(app, host, executionId, signal).show();
  const error = { message: "This link is to no run: an execution id has 32 digits and letters.", hint: "It may have been cut in copying." };
  fill(host, problem(error, h("a", { class: "button", href: "?" }, "All runs")));
}

class RunPage {
  constructor(app, host, executionId, signal) {
    Object.assign(this, { app, host, executionId, signal, run: null, log: null, over: new AbortController() });
    this.outbox = new Outbox(app.client, executionId);
    this.signed = new SignedRequest(app, executionId, signal);
    signal.addEventListener("abort", () => this.log?.destroy());
    app.onHash = (hash) => this.log?.show(lineOf(hash) ?? null);
  }

  async show() {
    this.failure = h("div");
    this.head = h("header", { class: "run-head" }, h("h1", {}, "Run ", h("code", {}, shortId(this.executionId))), h("p", { class: "muted", role: "status" }, "Loading…"));
    this.side = h("aside", { class: "facts", "aria-label": "About this run" });
    this.logHost = h("section", { class: "log-host", "aria-label": "Log" });
    fill(this.host, this.failure, h("div", { class: "run-page" }, this.head, this.logHost, this.side));
    every(1_000, this.signal, () => this.run && this.#tick());
    try {
      await this.#follow();
    } catch (error) {
      if (this.signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      if (!this.run) this.head.querySelector("[role=status]")?.remove();
      if (error.isOfTheKey) return; // which the head of the page tells
      fill(this.failure, problem(error, h("a", { class: "button", href: "?" }, "All runs")));
    }
  }

  /** Follow the run to its end: first until it is decided, then by its published status. */
  async #follow() {
    while (!(await this.#look())) await pause(DECIDING_MS, this.signal);
    if (!this.run) return;
    let etag = "";
    let lookedAt = Date.now();
    while (!(hasEnded(this.run) && (this.run.chunks !== undefined || !this.run.starting_at))) {
      const began = performance.now();
      const known = this.run.record_version;
      // Of a lock's queue status.json cannot know: whoever waits asks the deployment itself.
      const asks = this.run.state === "QUEUED" && this.run.locks?.length;
      const answer = await this.outbox.status({ etag, wait: !asks, signal: this.signal });
      etag = answer.etag || etag;
      if (answer.body) this.#take(JSON.parse(new TextDecoder().decode(answer.body)));
      if (asks && Date.now() - lookedAt > QUEUE_MS) {
        lookedAt = Date.now();
        await this.#look();
      }
      // S3 does not wait. But after news there may be more at once.
      if (this.run.record_version === known && performance.now() - began < 1_000) await pause(hasEnded(this.run) ? RETRY_MS * 2 : RETRY_MS, this.signal);
      if (hasEnded(this.run) && this.#isOld()) return;
    }
  }

  /** A log that is never completed (its runner was lost) is not waited for without end. */
  #isOld() {
    return this.app.client.now() - Date.parse(this.run.ended_at) > 600_000;
  }

  /** Ask the deployment; whether the request is decided. */
  async #look() {
    let answer;
    try {
      answer = await this.app.client.call("GET", `/executions/${this.executionId}`, { signal: this.signal });
    } catch (error) {
      this.signal.throwIfAborted();
      if (!error.retryable) throw error;
      return false;
    }
    if (answer.status) this.#take(answer.status, true);
    else if (answer.receipt) this.#showRefusal(answer.receipt);
    else fill(this.head, this.#title("Submitted"), h("p", { class: "muted" }, "The deployment has the request and is about to decide on it."));
    return Boolean(answer.status || answer.receipt);
  }

  #title(words, state = "QUEUED") {
    return h("div", { class: "row" }, h("span", { class: `pill big ${state}` }, icon(state), words));
  }

  #showRefusal(receipt) {
    document.title = "Refused · runvoy";
    const error = new ApiError({ code: receipt.code, message: receipt.message, hint: receipt.hint });
    const change = h("button", { type: "button", on: { click: () => (this.app.sent?.requestId === this.executionId ? this.#change() : this.#again()) } }, icon("again"), "Change it and try again");
    fill(this.head, this.#title("Refused", "FAILED"), h("h1", {}, "Run ", h("code", {}, shortId(this.executionId))), problem(error, this.app.may("run") ? change : null));
    this.head.parentElement.classList.add("refused");
    fill(this.side, this.signed.parts({ owner: this.app.whoami?.user }, true));
  }

  #take(run, isWhole = false) {
    const known = this.run;
    if (known && known.record_version > run.record_version) return;
    // What only the deployment itself tells of locks is kept until it is asked again.
    if (!isWhole && known?.state === "QUEUED" && run.state === "QUEUED") run = { ...run, locks: known.locks, explanation: known.explanation };
    this.run = run;
    if (known?.state !== run.state) {
      if (known) announce(`${stateWord(run.state)}${run.exit_code !== undefined ? `, exit code ${exitText(run)}` : ""}`);
      const { name, text } = whatRan(run);
      document.title = `${stateWord(run.state)} · ${plain(name ?? text).slice(0, 60)} · runvoy`;
    }
    this.#draw();
    if (hasEnded(run)) this.over.abort();
    this.log ??= createLogView(this.logHost, createLogSource(this.outbox, this.executionId, () => this.run, this.over.signal), {
      line: lineOf(location.hash),
      onLine: (line) => this.app.replaceHash(line ? `#L${line[0]}${line[1] === line[0] ? "" : `-L${line[1]}`}` : ""),
    });
  }

  /** Buttons are made once: one that is replaced while it is pressed is not pressed. */
  #frame() {
    const button = (action, name, words, act) =>
      h("button", { type: "button", class: action === "kill" ? "danger" : null, dataset: { action }, on: { click: act } }, icon(name), words);
    const { name, text } = whatRan(this.run);
    this.pill = h("span", { class: "row" });
    this.ran = h("span", { class: "muted" });
    this.why = h("div");
    this.killing = button("kill", "kill", "Kill", () => this.#kill());
    const again = this.app.may("run") ? button("again", "again", "Run again", () => this.#again()) : null;
    fill(
      this.head,
      h("div", { class: "row" }, this.pill, this.ran, h("span", { class: "grow" }), this.killing, again),
      h(
        "div",
        { class: text.trim().includes("\n") || (name && text.length > 60) ? "run-title tall" : "run-title" },
        h("h1", {}, name ? h("b", {}, name) : null, " ", h("code", { tabindex: text.length > 400 ? 0 : null }, text.trim())),
        copyButton(commandText(this.run.command), "the command"),
      ),
      this.why,
    );
  }

  #draw() {
    const { run } = this;
    if (!this.killing) this.#frame();
    fill(
      this.pill,
      h("span", { class: `pill big ${run.state}` }, icon(run.state), stateWord(run.state)),
      run.exit_code !== undefined ? h("span", { class: "exit" }, `exit code ${exitText(run)}`) : null,
    );
    fill(this.why, this.#why());
    this.killing.hidden = hasEnded(run) || run.state === "TERMINATING" || !this.app.may("kill");
    this.known ??= h("div");
    fill(this.known, this.#facts());
    this.status ??= h("pre", { tabindex: 0 });
    fill(this.status, JSON.stringify(run, null, 1));
    // Made once: what is open stays open, and what was scrolled stays there.
    if (!this.side.firstChild) fill(this.side, this.known, this.signed.parts(run), h("details", { class: "part" }, h("summary", {}, "Status, as the deployment tells it"), this.status));
    this.#tick();
  }

  #why() {
    const { run } = this;
    const words = run.explanation?.words ? `${run.explanation.words.replace(/^./, (first) => first.toUpperCase())}.` : reasonText(run);
    if (!words) return null;
    const kind = hasEnded(run) && run.state !== "SUCCEEDED" ? "why bad" : "why";
    return h("p", { class: kind }, withTimes(words).map((part) => (part.nodeType ? part : this.#withLinks(part))), run.explanation?.hint ? h("span", { class: "muted" }, " ", prose(run.explanation.hint)) : null);
  }

  /** A run that is named, by its whole id, is one click away. */
  #withLinks(words) {
    return words.split(/\b([0-9a-f]{32})\b/).map((part, at) => (at % 2 ? h("a", { href: this.app.runAddress(part) }, h("code", {}, shortId(part))) : part));
  }

  #facts() {
    const { run } = this;
    const now = this.app.client.now();
    const waited = secondsBetween(run.admitted_at, run.started_at ?? run.ended_at ?? new Date(now).toISOString());
    const rows = [
      ["Who", run.owner],
      ["Id", [h("code", {}, this.executionId), copyButton(this.executionId, "the id")]],
      ["Image", imageText(run) ? [imageText(run), run.image_name && run.image_name !== run.image ? h("span", { class: "muted" }, run.image) : null] : null],
      ["Runs as", run.isolation === "container" ? "a container" : "a process of the machine"],
      ["Size", [cpuText(run.cpu), memoryText(run.memory_mib), run.platform].filter(Boolean).join(", ")],
      ["Task role", run.task_role],
      ["Playbook", run.playbook],
      ["Locks", run.locks?.length ? h("ul", {}, run.locks.map((lock) => this.#lock(lock, now))) : null],
      ["Labels", Object.keys(run.labels ?? {}).length ? h("span", { class: "labels" }, Object.entries(run.labels).map(([name, value]) => h("span", { class: "label" }, `${name}=${value}`))) : null],
      ["Git", run.git ? [run.git.repo, run.git.ref ? `at ${run.git.ref}` : null].filter(Boolean).join(" ") : null],
      ["Submitted", time(run.issued_at)],
      ["Accepted", time(run.admitted_at)],
      ["Started", time(run.started_at)],
      ["Ended", time(run.ended_at)],
      ["Waited", duration(waited)],
      ["Timeout", duration(run.timeout_seconds)],
      ["Cost", costWords(run, now)],
      ["Log", run.lines === undefined ? "" : plural(run.lines, "line")],
      ["Lost output", run.lost_bytes ? plural(run.lost_bytes, "byte") : ""],
    ];
    return facts(rows);
  }

  #lock(lock, now) {
    const holder = lock.holder ? h("a", { href: this.app.runAddress(lock.holder) }, h("code", {}, shortId(lock.holder))) : null;
    return h("li", {}, icon("lock"), h("b", {}, lock.name), h("span", { class: "muted" }, ` ${lockText(lock, this.run, now)} `), holder);
  }

  #tick() {
    const now = this.app.client.now();
    const ran = ranSeconds(this.run, now);
    const ended = hasEnded(this.run) ? `ended ${ago(this.run.ended_at, now)}` : "";
    const parts = Number.isNaN(ran) ? [ended || ago(this.run.admitted_at, now)] : [duration(ran), ended];
    const text = parts.filter(Boolean).join(" · ");
    if (this.ran.textContent !== text) this.ran.textContent = text;
  }

  async #kill() {
    const { name, text: command } = whatRan(this.run);
    const whose = this.run.owner === this.app.whoami?.user ? "" : `, a run of ${this.run.owner}`;
    const what = this.run.started_at ? "the command is sent SIGTERM, and SIGKILL if it goes on. Its log is kept." : "it has not started, and then never will.";
    const text = `${name ?? command.slice(0, 80)}${whose}: ${what}`;
    if (!(await confirm("Kill this run?", text, "Kill"))) return;
    this.killing.disabled = true;
    fill(this.failure);
    try {
      const answer = await this.#askForKill();
      if (answer.status) this.#take(answer.status);
      announce("The run is being killed", true);
    } catch (error) {
      if (this.signal.aborted) return;
      if (!error.code) throw error;
      const isSaid = !error.retryable; // else the answer alone may be lost
      const message = `${isSaid ? "The run was not killed" : "Whether the run is being killed is not known"}: ${error.message}`;
      fill(this.failure, problem({ code: error.code, message, hint: isSaid ? error.hint : "Press Kill again once there is an answer." }));
    } finally {
      this.killing.disabled = false;
    }
  }

  async #askForKill() {
    announce("Killing the run …", true);
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.app.client.call("DELETE", `/executions/${this.executionId}`);
      } catch (error) {
        if (!error.retryable || tries >= KILL_TRIES) throw error;
        await pause(500, this.signal);
      }
    }
  }

  #change() {
    this.app.draft = this.app.sent;
    this.app.navigate("?view=new");
  }

  /** Fill the form; nothing is sent before the reader says so there. */
  async #again() {
    const run = this.run ?? { execution_id: this.executionId, owner: this.app.whoami?.user };
    const signed = await this.signed.askOrSay(run);
    const call = await publishedCall(this.app, signed.request, this.signal);
    if (this.signal.aborted) return;
    if (call) {
      this.app.call = call;
      return void this.app.navigate(`?${new URLSearchParams({ view: "new", playbook: signed.request.playbook })}`);
    }
    this.app.draft = draftOf(run, signed);
    this.app.navigate("?view=new");
  }
}

/** The line or range that an address names: #L12 or #L12-L20. */
function lineOf(hash) {
  const match = /^#L(\d{1,15})(?:-L?(\d{1,15}))?$/.exec(hash);
  if (!match) return undefined;
  const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
  return first <= last ? [first, last] : [last, first];
}
