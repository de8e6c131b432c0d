/** A run's request as it was signed, and its receipt: asked for once, and shown beside what is known of the run. */
import { ApiError } from "./api.js";
import { copyButton, facts, fill, h, icon, problem, prose } from "./dom.js";
import { commandText, cpuText, duration, memoryText } from "./format.js";
import { preference, setPreference } from "./prefs.js";
import { time, withTimes } from "./times.js";

const PARAMETER = /^PARAM_/; // a playbook's parameters, some of which may be secret
const OWNERS_ONLY = "A request holds the values of variables: it is shown to its owner, to operators and to admins.";

export class SignedRequest {
  #app;
  #executionId;
  #signal;
  #answer = null; // a promise of what the deployment tells
  #parts = [];

  constructor(app, executionId, signal) {
    this.#app = app;
    this.#executionId = executionId;
    this.#signal = signal;
  }

  /** What was signed and what it was answered, as docs/protocol.md has it. Throws ApiError. */
  ask() {
    this.#answer ??= this.#app.client.call("GET", `/executions/${this.#executionId}/request`, { signal: this.#signal });
    this.#answer.catch(() => (this.#answer = null));
    return this.#answer;
  }

  /** The same for who may do without it: {request, missing}, one of them being null or empty. */
  async askOrSay(run) {
    if (!this.#app.may("request", run)) return { request: null, missing: OWNERS_ONLY };
    try {
      const { request = null, missing = "" } = await this.ask();
      return { request, missing };
    } catch (error) {
      if (!(error instanceof ApiError) && !this.#signal.aborted) throw error;
      return { request: null, missing: error.message };
    }
  }

  /** The two parts of the page. What is closed asks for nothing, and stays closed the next time. */
  parts(run, isRefused = false) {
    if (this.#parts.length) return this.#parts;
    const drawn = { request: h("div"), receipt: h("div") };
    const show = async () => {
      if (!this.#app.may("request", run)) return void Object.values(drawn).forEach((part) => fill(part, h("p", { class: "muted" }, OWNERS_ONLY)));
      try {
        const answer = await this.ask();
        fill(drawn.request, answer.request ? requestFacts(answer) : h("p", { class: "muted" }, `It cannot be shown: ${answer.missing}.`));
        fill(drawn.receipt, answer.receipt ? receiptFacts(answer.receipt) : h("p", { class: "muted" }, "Not decided yet."));
      } catch (error) {
        if (this.#signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        for (const part of Object.values(drawn)) fill(part, problem(error));
      }
    };
    const part = (name, title, isOpen) => {
      const toggled = (event) => {
        if (!isRefused) setPreference(name, event.target.open ? "open" : "closed");
        if (event.target.open) show();
      };
      return h("details", { class: "part", open: isRefused || preference(name, isOpen ? "open" : "closed") === "open", dataset: { part: name }, on: { toggle: toggled } }, h("summary", {}, title), drawn[name]);
    };
    this.#parts = [part("request", "Request", true), part("receipt", "Receipt", false)];
    return this.#parts;
  }
}

const code = (text, what) => [h("code", {}, text), copyButton(text, what)];
const names = (list) => (list.length ? h("span", { class: "labels" }, list.map((name) => h("span", { class: "label" }, name))) : null);

function requestFacts(answer) {
  const { request } = answer;
  const { git } = request;
  const whole = JSON.stringify(request, null, 1);
  return [
    facts([
      ["Command", [h("pre", { tabindex: 0 }, commandText(request.command).trim()), typeof request.command === "string" ? h("span", { class: "muted" }, "a line for /bin/sh") : null]],
      ["Image", request.image ?? h("span", { class: "muted" }, "the deployment's default")],
      ["Variables", variables(request)],
      ["Secrets", names(request.secrets)],
      ["Locks", names(request.locks)],
      ["If held", request.locks.length ? { wait: "wait", fail: "refuse the run" }[request.if_locked] : null],
      ["Timeout", duration(request.timeout_seconds)],
      ["Queue timeout", duration(request.queue_timeout_seconds ?? NaN)],
      ["Size", [cpuText(request.cpu), memoryText(request.memory_mib)].filter(Boolean).join(", ")],
      ["Git", git ? [git.repo, git.ref && ` at ${git.ref}`, git.path && `, in ${git.path}`] : null],
      ["Playbook", request.playbook],
      ["Labels", names(Object.entries(request.labels).map(([name, value]) => `${name}=${value}`))],
      ["Name", request.name],
      ["Runs as", { process: "a process of the machine", container: "a container" }[request.isolation]],
      ["Signed by", code(answer.key_id, "the key's id")],
      ["Issued", time(request.issued_at)],
      ["Good until", time(request.expires_at)],
      ["Digest", code(answer.content_digest, "the digest")],
      ["Batch", answer.batch_id ? code(answer.batch_id, "the batch's id") : null],
    ]),
    h("p", { class: "row end" }, copyButton(whole, "the request as JSON", "Copy as JSON")),
  ];
}

/** Names and values; those of a playbook's parameters are shown when one asks for them. */
function variables(request) {
  const entries = Object.entries(request.env);
  if (!entries.length) return null;
  return h("ul", { class: "variables" }, entries.map(([name, value]) => {
    const shown = h("code", { tabindex: -1 }, `${name}=`, value);
    if (!request.playbook || !PARAMETER.test(name)) return h("li", {}, shown);
    const reveal = (event) => {
      event.currentTarget.replaceWith(shown);
      shown.focus();
    };
    return h("li", {}, h("button", { type: "button", class: "quiet small", title: "Show the value", "aria-label": `Show the value of ${name}`, on: { click: reveal } }, h("code", {}, `${name}=•••`)));
  }));
}

function receiptFacts(receipt) {
  const made = receipt.resolved;
  const isAccepted = receipt.outcome === "accepted";
  const state = isAccepted ? "SUCCEEDED" : "FAILED";
  return facts([
    ["Outcome", h("span", { class: `pill ${state}` }, icon(state), isAccepted ? "Accepted" : `Refused: ${receipt.code}`)],
    ["Why", receipt.message && withTimes(receipt.message)],
    ["What to do", receipt.hint ? prose(receipt.hint) : null],
    ["Decided", time(receipt.at)],
    ["For", made?.owner],
    ["Image", made?.image ? [made.image_name ?? made.image, made.image_name && made.image_name !== made.image ? h("span", { class: "muted" }, ` ${made.image}`) : null] : null],
    ["Runs as", made ? (made.isolation === "container" ? "a container" : "a process of the machine") : null],
    ["Size", made ? [cpuText(made.cpu), memoryText(made.memory_mib), made.platform].filter(Boolean).join(", ") : null],
    ["Task role", made?.task_role],
    ["Timeout", made ? duration(made.timeout_seconds) : null],
    ["Locks", names(made?.locks ?? [])],
    ["Object", code(receipt.object_sha256, "the digest of what was signed")],
  ]);
}
