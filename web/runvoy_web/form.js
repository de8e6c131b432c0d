/** The page that submits a run: the command line's options as a form. */
import { isUtf8, uuid7 } from "./bytes.js";
import { ApiError } from "./api.js";
import { field, fill, h, problem } from "./dom.js";
import { LIFETIME_MS } from "./envelope.js";
import { commandText, durationText, parseDuration } from "./format.js";
import { kinds, playbookView } from "./playbooks.js";
import { send, tryOut } from "./submission.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}$/;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,254}$/;
const SHOWN_COMMAND = 4_096; // a longer one is cut in a status

/**
 * The form's fields for a run that is to be submitted again: all that was signed; or, where `request` is null because of what
 * `missing` says, what the status `run` tells of it.
 */
export function draftOf(run, { request, missing }) {
  const asked = request ?? statusAsRequest(run);
  return {
    from: run.execution_id,
    missing: request ? "" : missing || "the deployment does not say why",
    isCut: !request && commandText(asked.command).length >= SHOWN_COMMAND,
    playbook: asked.playbook,
    ...commandFields(asked.command),
    image: asked.image ?? "",
    name: asked.name ?? "",
    locks: asked.locks.join(" "),
    ifLocked: asked.if_locked,
    secrets: asked.secrets.join(" "),
    env: pairsText(asked.env),
    labels: pairsText(asked.labels),
    timeout: durationText(asked.timeout_seconds),
    queueTimeout: durationText(asked.queue_timeout_seconds),
    cpu: asked.cpu ? String(asked.cpu) : "",
    memory: asked.memory_mib ? String(asked.memory_mib) : "",
    gitRepo: asked.git?.repo ?? "",
    gitRef: asked.git?.ref ?? "",
    gitPath: asked.git?.path ?? "",
    isolation: asked.isolation,
  };
}

/** A status does not tell variables, secrets and how long to wait; its size may be its image's, and is left to that. */
const statusAsRequest = (run) => ({
  command: run.command ?? "",
  image: run.image_name ?? run.image,
  name: run.name,
  playbook: run.playbook,
  locks: (run.locks ?? []).map((lock) => lock.name),
  if_locked: "wait",
  secrets: [],
  env: {},
  labels: run.labels ?? {},
  timeout_seconds: run.timeout_seconds,
  git: run.git,
  isolation: run.image ? "" : run.isolation === "process" ? "process" : "",
});

/** A command as the form holds it: what a field of lines would change is JSON. */
function commandFields(command) {
  const isPlain = (text) => !text.includes("\r");
  if (typeof command === "string" && isPlain(command)) return { mode: "line", command };
  const isWords = Array.isArray(command) && command.every((word) => isPlain(word) && !word.includes("\n")) && command.at(-1) !== "";
  return isWords ? { mode: "words", command: command.join("\n") } : { mode: "json", command: JSON.stringify(command, null, 1) };
}

/** NAME=value a line; as JSON where a value has several. */
function pairsText(pairs) {
  const entries = Object.entries(pairs);
  if (entries.some(([, value]) => /[\r\n]/.test(value))) return JSON.stringify(pairs, null, 1);
  return entries.map(([name, value]) => `${name}=${value}`).join("\n");
}

export function formView(app, host, parameters, signal) {
  if (parameters.has("playbook")) return void playbookView(app, host, parameters.get("playbook"), signal);
  const draft = app.draft ?? {};
  const failure = h("div");
  const form = h("form", { class: "run-form", novalidate: true, on: { submit: (event) => { event.preventDefault(); submit(app, form, failure); } } }, fields(draft, () => submit(app, form, failure, true)));
  fill(host, h("h1", {}, "New run"), kinds("command"), draft.from ? again(draft) : null, failure, form);
  suggest(app, form, signal);
  form.elements.command.focus();
}

function again(draft) {
  const link = h("a", { href: `?execution_id=${draft.from}` }, h("code", {}, draft.from));
  const strong = (words) => h("p", {}, h("strong", {}, words));
  return h(
    "div",
    { class: "note" },
    draft.missing
      ? h("p", {}, "This is what the status tells of ", link, `. Its request is not to be had: ${draft.missing.replace(/\.$/, "")}. Variables, secrets, whether it waits for locks and for how long, and a size are missing: fill them in if it had any.`)
      : h("p", {}, "All that was signed for ", link, ". Change what you like; nothing is sent before you say so."),
    draft.isCut ? strong("The command is longer than what is shown of it. Complete it before you submit.") : null,
    draft.playbook ? h("p", {}, `It was a call of the playbook ${draft.playbook}. This would be a run of its own, with what the playbook had made of it.`) : null,
  );
}

function fields(draft, onDryRun) {
  const text = (name, options = {}) => h("input", { name, type: "text", autocomplete: "off", spellcheck: "false", value: draft[name] ?? "", ...options });
  const area = (name, rows, options = {}) => h("textarea", { name, rows, autocomplete: "off", spellcheck: "false", ...options }, draft[name] ?? "");
  const choice = (name, options) => h("select", { name }, options.map(([value, words]) => h("option", { value, selected: (draft[name] ?? "") === value }, words)));
  const mode = choice("mode", [["line", "a line for /bin/sh"], ["words", "an argv, one word a line"], ["json", "an argv, as JSON"]]);
  const more = ["gitRepo", "cpu", "memory", "queueTimeout", "isolation"].some((name) => draft[name]);
  return [
    field("Command", area("command", 4, { required: true, class: "code" })),
    field("The command is", mode),
    h(
      "div",
      { class: "columns-2" },
      field("Image", text("image", { list: "images" }), "Empty: the deployment's default."),
      field("Name", text("name"), "What to know the run by."),
      field("Locks", text("locks", { placeholder: "prod-db prod-dns" }), "Names, by spaces. The run waits until it holds all."),
      field("If a lock is held", choice("ifLocked", [["wait", "wait for it"], ["fail", "refuse the run"]])),
      field("Timeout", text("timeout", { placeholder: "10m" }), "Such as 30s, 10m, 1h30m."),
      field("Secrets", text("secrets", { list: "secrets", placeholder: "db-password" }), "Names, by spaces. The values never reach this page."),
      field("Variables", area("env", 3, { placeholder: "NAME=value", class: "code" }), "One a line; or JSON, for values of several lines."),
      field("Labels", area("labels", 3, { placeholder: "team=data", class: "code" }), "One a line."),
    ),
    h("datalist", { id: "images" }),
    h("datalist", { id: "secrets" }),
    h(
      "details",
      { open: more },
      h("summary", {}, "Repository, size, queue"),
      h(
        "div",
        { class: "columns-2" },
        field("Git repository", text("gitRepo", { placeholder: "https://example.com/infra.git" }), "Cloned before the command, which runs in it."),
        field("Branch, tag or commit", text("gitRef")),
        field("Folder in it", text("gitPath")),
        field("CPU", text("cpu", { inputmode: "numeric", placeholder: "1024" }), "In units; 1024 are one vCPU."),
        field("Memory, MiB", text("memory", { inputmode: "numeric", placeholder: "2048" })),
        field("Queue timeout", text("queueTimeout", { placeholder: "1h" }), "How long it may wait for its locks."),
        field("Runs as", choice("isolation", [["", "the deployment decides"], ["process", "a process of the machine"], ["container", "a container"]])),
      ),
    ),
    h(
      "div",
      { class: "row" },
      h("button", { type: "submit", class: "primary" }, "Run"),
      h("button", { type: "button", name: "dry", on: { click: onDryRun } }, "Dry run"),
    ),
  ];
}

/** What images and secrets there are, for the fields that name them; who may not see them types. */
async function suggest(app, form, signal) {
  const lists = [
    ["images", (answer) => answer.images.map((image) => image.name)],
    ["secrets", (answer) => answer.secrets.map((secret) => secret.name)],
  ];
  for (const [what, namesOf] of lists) {
    try {
      const names = namesOf(await app.client.call("GET", `/${what}`, { signal }));
      fill(form.querySelector(`#${what}`), names.map((value) => h("option", { value })));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
    }
  }
}

async function submit(app, form, failure, isDryRun = false) {
  const values = Object.fromEntries(new FormData(form));
  const { request, problems } = read(values, app);
  for (const control of form.elements) control.removeAttribute?.("aria-invalid");
  if (problems.length) {
    for (const [name] of problems) form.elements[name].setAttribute("aria-invalid", "true");
    fill(failure, problem(new Error(problems.map(([, words]) => words).join(" "))));
    form.elements[problems[0][0]].focus();
    return;
  }
  app.draft = { ...values, requestId: request.requestId };
  const buttons = [...form.querySelectorAll("button")];
  buttons.forEach((button) => (button.disabled = true));
  try {
    if (isDryRun) return void fill(failure, await tryOut(app, request));
    await send(app, request);
    app.navigate(app.runAddress(request.requestId));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    fill(failure, problem(error));
    failure.scrollIntoView({ block: "nearest" });
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

/** The request that the form describes, and [field, words] for each thing that no deployment would take. */
export function read(values, app) {
  const problems = [];
  const wrong = (name, words) => problems.push([name, words]);
  const names = (name, most) => {
    const found = values[name].split(/[\s,]+/).filter(Boolean);
    if (found.length > most) wrong(name, `At most ${most} ${name}.`);
    if (new Set(found).size < found.length) wrong(name, `The ${name} name one thing twice.`);
    for (const one of found) if (!NAME.test(one)) wrong(name, `“${one.slice(0, 40)}” is no name (letters, digits and ._/:@+-).`);
    return found;
  };
  const json = (name) => {
    try {
      return JSON.parse(values[name]);
    } catch {
      return void wrong(name, "This is no JSON.");
    }
  };
  const pairs = (name, isName, what) => {
    if (values[name].trimStart().startsWith("{")) {
      const found = json(name);
      for (const [key, value] of Object.entries(found ?? {})) if (!isName.test(key) || typeof value !== "string") wrong(name, `“${key.slice(0, 40)}” is no ${what} with a text.`);
      return found ?? {};
    }
    const found = {};
    for (const line of values[name].split("\n").filter((one) => one.trim())) {
      const at = line.indexOf("=");
      const key = line.slice(0, at).trim();
      if (at < 0 || !isName.test(key)) wrong(name, `“${line.slice(0, 40)}” is no ${what}: write NAME=value.`);
      else found[key] = line.slice(at + 1);
    }
    return found;
  };
  const seconds = (name, otherwise) => {
    if (!values[name].trim()) return otherwise;
    const found = parseDuration(values[name]);
    if (!found || found > 604_800) wrong(name, `“${values[name]}” is no duration from 1s to 7d.`);
    return found;
  };
  const number = (name) => {
    if (!values[name].trim()) return null;
    if (!/^\d{1,6}$/.test(values[name].trim())) wrong(name, `“${values[name]}” is no number.`);
    return Number(values[name]);
  };
  const argv = values.mode === "json" ? json("command") : null;
  const isText = (value) => typeof value === "string";
  if (argv !== null && argv !== undefined && !isText(argv) && !(Array.isArray(argv) && argv.length && argv.every(isText))) wrong("command", "This is no list of words.");
  const command = values.mode === "json" ? argv : values.mode === "words" ? values.command.split("\n").filter((word, at, all) => word || at < all.length - 1) : values.command;
  if (!values.command.trim()) wrong("command", "There is no command.");
  if (!isUtf8(values.command) || values.command.includes("\0")) wrong("command", "The command holds a character that cannot be sent.");
  const now = Math.floor(app.client.now());
  const request = {
    deploymentId: app.client.identity.deploymentId,
    requestId: uuid7(now),
    issuedAt: now,
    expiresAt: now + LIFETIME_MS,
    command,
    image: values.image.trim() || null,
    env: pairs("env", ENV_NAME, "variable"),
    secrets: names("secrets", 64),
    locks: names("locks", 8),
    ifLocked: values.ifLocked,
    timeoutSeconds: seconds("timeout", 600),
    queueTimeoutSeconds: seconds("queueTimeout", null),
    cpu: number("cpu"),
    memoryMib: number("memory"),
    git: values.gitRepo.trim() ? { repo: values.gitRepo.trim(), ref: values.gitRef.trim(), path: values.gitPath.trim() } : null,
    labels: pairs("labels", NAME, "label"),
    name: values.name.trim() || null,
    isolation: values.isolation,
  };
  return { request, problems };
}
