/** The page that runs a playbook: which there are, the parameters of one, and what it fixes. None of what is typed is kept. */
import { ApiError } from "./api.js";
import { uuid7 } from "./bytes.js";
import { announce, copyButton, facts, fill, h, problem } from "./dom.js";
import { cpuText, duration, memoryText } from "./format.js";
import { allowed, callIn, isTruth, objection, exact, requestOf, valuesOf } from "./playbook_values.js";
import { send, tryOut } from "./submission.js";
import { timeAgo } from "./times.js";
import { maySign, unseenNote } from "./unseen_fields.js";

const MANY = 7; // so many are found without a search

/** What can be run anew: a command that is typed here, or a playbook. `current` is which of them the page shows. */
export function kinds(current) {
  const link = (kind, address, words) => h("a", { href: address, "aria-current": current === kind && "page" }, words);
  return h("nav", { class: "kinds", "aria-label": "What to run" }, link("command", "?view=new", "A command"), link("playbook", "?view=new&playbook=", "A playbook"));
}

/** The call of a published playbook that a signed request is, for the form that shows it; null if it is none. */
export async function publishedCall(app, request, signal) {
  if (!request?.playbook) return null;
  try {
    const { playbooks } = await app.client.call("GET", "/playbooks", { signal });
    const one = playbooks.find(({ playbook }) => playbook.name === request.playbook);
    const call = one && (await callIn(request, one));
    return call ? { ...call, from: request.request_id, ifLocked: request.if_locked, digest: one.digest } : null;
  } catch (error) {
    if (!(error instanceof ApiError) && !signal.aborted) throw error;
    return null;
  }
}

/** `wanted` is the name of the one to begin with; empty for none. */
export function playbookView(app, host, wanted, signal) {
  const { call } = app;
  app.call = null; // it may hold what is nobody else's to see, and is shown once
  return load(app, host, wanted, call, signal);
}

async function load(app, host, wanted, call, signal) {
  const place = h("div", {}, h("p", { class: "muted", role: "status" }, "Loading…"));
  fill(host, h("h1", {}, "New run"), kinds("playbook"), place);
  try {
    const { playbooks } = await app.client.call("GET", "/playbooks", { signal });
    fill(place, playbooks.length ? chooser(app, playbooks, wanted, call) : none(app));
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    const retry = () => load(app, host, wanted, call, signal);
    fill(place, problem(error, h("button", { type: "button", on: { click: retry } }, "Try again")));
  }
}

function none(app) {
  const how = app.whoami?.limits
    ? [h("p", {}, "This browser's key is limited, and sees of the published playbooks those alone that it may run.")]
    : [
        h("p", {}, "A playbook is a file of a project, ", h("code", {}, ".runvoy/NAME.yml"), ", with commands, all that they need, and the few things that its caller chooses. To have them here, run in the project's folder"),
        h("pre", { class: "code" }, "runvoy web"),
        h("p", {}, "which opens this page again, or ", h("code", {}, "runvoy playbook publish"), " on a machine without a browser, and load this page anew."),
      ];
  return h("div", { class: "card narrow" }, h("h2", {}, "No playbooks are published to your browsers"), how);
}

function chooser(app, playbooks, wanted, call) {
  const chosen = h("div", { class: "playbook", tabindex: "-1" });
  const list = h("ul", { "aria-label": "Playbooks" });
  const show = (one, isByHand) => {
    for (const link of list.querySelectorAll("a")) {
      if (link.dataset.name === one.playbook.name) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    fill(chosen, playbookForm(app, one, !isByHand && call?.digest === one.digest ? call : null));
    if (!isByHand) return;
    app.replaceParameters({ playbook: one.playbook.name });
    chosen.querySelector("input, select, button[type=submit]")?.focus({ preventScroll: true });
    chosen.scrollIntoView({ block: "nearest" });
  };
  const entry = (one) => {
    const { name, description } = one.playbook;
    const open = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      show(one, true);
    };
    const address = `?${new URLSearchParams({ view: "new", playbook: name })}`;
    return h("li", {}, h("a", { href: address, dataset: { name }, on: { click: open } }, h("b", {}, name), description ? h("span", {}, description) : null));
  };
  fill(list, playbooks.map(entry));
  const first = playbooks.find((one) => one.playbook.name === wanted) ?? (playbooks.length === 1 ? playbooks[0] : null);
  if (first) show(first, false);
  else fill(chosen, wanted ? problem({ message: `There is no published playbook “${wanted.slice(0, 100)}”.` }) : h("p", { class: "muted" }, "Choose a playbook."));
  return h("div", { class: "playbooks" }, h("div", { class: "playbook-list" }, playbooks.length > MANY ? search(list) : null, list), chosen);
}

function search(list) {
  const narrow = (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const item of list.children) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
      count += item.hidden ? 0 : 1;
    }
    announce(`${count} of ${list.children.length} playbooks`);
  };
  return h("input", { type: "search", "aria-label": "Search playbooks", placeholder: "Search", autocomplete: "off", on: { input: narrow } });
}

function playbookForm(app, one, call) {
  const { playbook } = one;
  const controls = new Map((playbook.parameters ?? []).map((parameter) => [parameter.name, new Control(parameter, call?.given.get(parameter.name))]));
  const ifLocked = playbook.locks?.length ? h("select", { id: "f-if-locked" }, h("option", { value: "wait" }, "wait for it"), h("option", { value: "fail", selected: call?.ifLocked === "fail" }, "refuse the run")) : null;
  const outcome = h("div");
  const act = async (isDryRun) => {
    const request = read(app, playbook, controls, ifLocked?.value, isDryRun);
    fill(outcome);
    if (!request || (!isDryRun && !(await maySign(form)))) return;
    const buttons = [...form.querySelectorAll("button")];
    buttons.forEach((button) => (button.disabled = true));
    try {
      if (isDryRun) return void fill(outcome, await tryOut(app, request));
      await send(app, request);
      app.navigate(app.runAddress(request.requestId));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(outcome, problem(error));
    } finally {
      buttons.forEach((button) => (button.disabled = false));
      outcome.scrollIntoView({ block: "nearest" });
    }
  };
  const form = h(
    "form",
    { novalidate: true, "aria-label": `Playbook ${playbook.name}`, on: { submit: (event) => { event.preventDefault(); act(false); } } },
    controls.size ? [...controls.values()].map((control) => control.element) : h("p", { class: "muted" }, "It has no parameters."),
    ifLocked ? h("div", { class: "field" }, h("label", { for: "f-if-locked" }, "If a lock is held"), ifLocked) : null,
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Run"), h("button", { type: "button", on: { click: () => act(true) } }, "Dry run")),
    outcome,
  );
  return [
    h("h2", {}, playbook.name),
    playbook.description ? h("p", { class: "described" }, playbook.description) : null,
    h("p", { class: "muted" }, "Published ", timeAgo(one.published_at, app.client.now()), playbook.source ? [" from ", h("code", {}, playbook.source)] : null, "."),
    call ? again(call) : null,
    form,
    fixed(one),
  ];
}

function again({ from, hidden, others }) {
  const link = h("a", { href: `?execution_id=${from}` }, h("code", {}, from));
  return h(
    "div",
    { class: "note" },
    h("p", {}, "Filled in as for ", link, ". Change what you like; nothing is sent before you say so."),
    hidden.length ? h("p", {}, `Secret, and to be typed again: ${hidden.join(", ")}.`) : null,
    others.length ? h("p", {}, `It had ${others.join(", ")} of its own, which a playbook's form has not: here they are the playbook's.`) : null,
  );
}

/** The request that the fields stand for; null if they are not right, which is told at each. */
function read(app, playbook, controls, ifLocked, isDryRun) {
  const given = new Map();
  for (const control of controls.values()) if (control.text !== null) given.set(control.parameter.name, control.text);
  const { values, problems } = valuesOf(playbook, given, isDryRun);
  const wrong = new Map(problems);
  for (const [name, control] of controls) control.tell(wrong.get(name) ?? "");
  if (problems.length) {
    controls.get(problems[0][0]).input.focus();
    announce(`${problems.length === 1 ? "One field is" : `${problems.length} fields are`} not right`);
    return null;
  }
  const now = Math.floor(app.client.now());
  return requestOf(playbook, values, { deploymentId: app.client.identity.deploymentId, requestId: uuid7(now), now, ifLocked });
}

/** The field of one parameter. */
class Control {
  /** `given` is the value to begin with, in place of the default. */
  constructor(parameter, given) {
    this.parameter = parameter;
    // Prefixed: a name such as `elements` would hide the form's own.
    this.id = `f-param-${parameter.name}`;
    this.input = this.#made(given ?? parameter.default ?? "");
    this.wrong = h("p", { class: "wrong", id: `${this.id}-wrong`, hidden: true });
    const help = this.#help();
    const helpId = `${this.id}-help`;
    const described = [help ? helpId : null, this.wrong.id].filter(Boolean).join(" ");
    const attributes = { id: this.id, name: `param_${parameter.name}`, autocomplete: "off", "aria-describedby": described, "aria-required": parameter.required && !this.isCheckbox ? "true" : null };
    for (const [name, value] of Object.entries(attributes)) if (value && !this.input.hasAttribute(name)) this.input.setAttribute(name, value);
    if (this.#holdsText) this.unseen = unseenNote(() => this.input, { isSecret: parameter.secret });
    this.#listen();
    const label = h("label", { for: this.id }, parameter.name, parameter.required ? h("span", { class: "muted" }, " required") : null);
    this.element = h("div", { class: this.isCheckbox ? "field tick" : "field" }, this.isCheckbox ? [this.input, label] : [label, this.input], help ? h("p", { class: "help", id: helpId }, help) : null, this.unseen?.note, this.wrong);
  }

  get #holdsText() {
    return !allowed(this.parameter) && this.parameter.type !== "int";
  }

  get isCheckbox() {
    return isTruth(this.parameter) && this.parameter.default !== undefined;
  }

  #made(value) {
    const { parameter } = this;
    if (this.isCheckbox) return h("input", { type: "checkbox", checked: value === "true" });
    const few = allowed(parameter);
    // One that must be chosen begins with no choice: the first of a list is nobody's decision.
    if (few) {
      const empty = parameter.default === undefined ? h("option", { value: "" }, parameter.required ? "Choose…" : "(none)") : null;
      return h("select", {}, empty, few.map((one) => h("option", { value: one, selected: one === value }, one)));
    }
    if (parameter.secret) return h("input", { type: "password", autocomplete: "new-password", spellcheck: "false" });
    if (parameter.type === "int") return h("input", { type: "number", step: "1", inputmode: "numeric", value });
    if (value.includes("\n")) return area(value);
    const input = h("input", { type: "text", spellcheck: "false", value });
    // A line would lose the line breaks of what is pasted into it, unseen.
    if (!parameter.pattern) input.addEventListener("paste", (event) => this.#onPaste(event));
    return input;
  }

  /** What was told to be wrong is looked at again as it changes. Nothing is told sooner: a field that is left for a button would
   * move that button from under the pointer. */
  #listen() {
    this.input.addEventListener("input", () => {
      if (!this.wrong.hidden) this.#check();
      this.unseen?.look();
    });
  }

  #onPaste(event) {
    const text = event.clipboardData?.getData("text/plain").replaceAll("\r\n", "\n") ?? "";
    if (!text.includes("\n")) return;
    event.preventDefault();
    const { value, selectionStart, selectionEnd } = this.input;
    const larger = area(value.slice(0, selectionStart) + text + value.slice(selectionEnd));
    for (const { name, value: set } of this.input.attributes) if (!["type", "value"].includes(name)) larger.setAttribute(name, set);
    this.input.replaceWith(larger);
    this.input = larger;
    this.#listen();
    this.unseen?.look();
    larger.focus();
  }

  #help() {
    const { description, pattern, secret, type } = this.parameter;
    const parts = [description, pattern ? ["Must match ", h("code", {}, pattern), "."] : null, type === "int" ? "A whole number." : null];
    parts.push(secret ? "Secret: it travels in the signed request, which the deployment keeps, and is not masked in the log." : null);
    const told = parts.filter(Boolean).map((part) => (typeof part === "string" && !/[.!?]$/.test(part) ? `${part}.` : part));
    return told.length ? told.flatMap((part, at) => (at ? [" ", part] : [part])) : null;
  }

  /** What is given, as text; null for nothing. */
  get text() {
    if (this.isCheckbox) return String(this.input.checked);
    const { value, validity } = this.input;
    if (validity?.badInput) return "?"; // a number's field tells no more of what is none
    return value === "" && this.parameter.default === undefined ? null : value;
  }

  #check() {
    const { text, parameter } = this;
    this.tell(text === null ? "" : objection(parameter, exact(parameter, text)));
  }

  /** Show why it is not right; empty if it is. */
  tell(why) {
    this.wrong.hidden = !why;
    this.wrong.textContent = why ? `${parameterWords(this.parameter)} ${why}.` : "";
    if (why) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }
}

const parameterWords = (parameter) => `The parameter ${parameter.name}`;

const area = (value) => {
  const made = h("textarea", { rows: Math.min(12, value.split("\n").length + 1), spellcheck: "false", class: "code" });
  made.value = value;
  return made;
};

/** What its caller does not choose. */
function fixed({ playbook, digest }) {
  const [repo, ref, path] = playbook.git ?? [];
  const code = (texts) => texts.map((text) => h("div", {}, h("code", {}, text)));
  const labels = Object.entries(playbook.labels ?? {}).map(([name, parts]) => `${name}=${parts.map((part) => (typeof part === "string" ? part : `\${{ ${part.parameter} }}`)).join("")}`);
  const rows = [
    ["Image", playbook.image ?? "the deployment's default"],
    ["Locks", playbook.locks?.join(", ")],
    ["Secrets", playbook.secrets?.join(", ")],
    ["Timeout", duration(playbook.timeout_seconds ?? 600)],
    ["Size", [cpuText(playbook.cpu), memoryText(playbook.memory_mib)].filter(Boolean).join(", ")],
    ["Repository", playbook.git ? [h("code", {}, repo), ref ? [" at ", h("code", {}, ref)] : null, path ? [", in ", h("code", {}, path)] : null] : null],
    ["Variables", playbook.env ? code(Object.entries(playbook.env).map(([name, value]) => `${name}=${value}`)) : null],
    ["Labels", labels.length ? code(labels) : null],
    ["Digest", [h("code", { title: digest }, digest.slice(0, 16)), "… ", copyButton(digest, "the digest"), h("div", { class: "muted" }, "What a key is limited to by --only-playbook.")]],
  ];
  return [
    h("section", { class: "facts", "aria-label": "What it fixes" }, h("h3", {}, "What it fixes"), facts(rows)),
    script(playbook.command),
  ];
}

/** Its commands, taken from the text that runs; and all of that text, with the checks of parameters around them. */
function script(text) {
  const commands = [...text.matchAll(/^\/bin\/sh -ec ((?:'[^']*'|"'")+) \|\| exit \$\?$/gm)].map(([, word]) => word.replace(/'([^']*)'|"(')"/g, "$1$2"));
  const pre = (shown, label) => h("pre", { tabindex: "0", "aria-label": label }, shown);
  return [
    commands.length ? h("section", { "aria-label": "Its commands" }, h("h3", {}, "Its commands"), h("ol", { class: "commands" }, commands.map((one, at) => h("li", {}, pre(one.trimEnd(), `Command ${at + 1}`))))) : null,
    h("details", { open: !commands.length }, h("summary", {}, "The whole script"), h("div", { class: "script" }, copyButton(text, "the script"), pre(text, "The whole script"))),
  ];
}
