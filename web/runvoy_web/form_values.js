/**
 * What stands in the form's fields, and the request that it means: from the one to the other, and back where a run is to be
 * submitted again. Values are texts by the names of the fields.
 */
import { isUtf8, uuid7 } from "./bytes.js";
import { LIFETIME_MS } from "./envelope.js";
import { commandText, durationText, parseDuration } from "./format.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}$/;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,254}$/;
const LONGEST_SECONDS = 604_800; // 7 days
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

/** The request that the fields stand for, and [field, words] for each thing in them that no deployment would take. */
export function requestOf(values, client) {
  const fields = new Fields(values);
  const now = Math.floor(client.now());
  const request = {
    deploymentId: client.identity.deploymentId,
    requestId: uuid7(now),
    issuedAt: now,
    expiresAt: now + LIFETIME_MS,
    command: fields.command(),
    image: fields.text("image"),
    env: fields.pairs("env", ENV_NAME, "variable"),
    secrets: fields.names("secrets", 64),
    locks: fields.names("locks", 8),
    ifLocked: values.ifLocked,
    timeoutSeconds: fields.seconds("timeout", 600),
    queueTimeoutSeconds: fields.seconds("queueTimeout", null),
    cpu: fields.number("cpu"),
    memoryMib: fields.number("memory"),
    git: fields.text("gitRepo") && { repo: values.gitRepo.trim(), ref: values.gitRef.trim(), path: values.gitPath.trim() },
    labels: fields.pairs("labels", NAME, "label"),
    name: fields.text("name"),
    isolation: values.isolation,
  };
  return { request, problems: fields.problems };
}

/** Reads the fields one by one. Of one that is not right something is returned all the same, and `problems` has it. */
class Fields {
  problems = []; // [field, words] each
  #values;

  constructor(values) {
    this.#values = values;
  }

  #wrong(name, words) {
    this.problems.push([name, words]);
  }

  /** What stands there; null for nothing. */
  text(name) {
    return this.#values[name].trim() || null;
  }

  command() {
    const { mode, command } = this.#values;
    const isText = (value) => typeof value === "string";
    let found = command;
    if (mode === "json") {
      found = this.#json("command");
      const isCommand = isText(found) || (Array.isArray(found) && found.length && found.every(isText));
      if (found !== undefined && !isCommand) this.#wrong("command", "This is no list of words.");
    } else if (mode === "words") {
      found = command.split("\n").filter((word, at, all) => word || at < all.length - 1);
    }
    if (!command.trim()) this.#wrong("command", "There is no command.");
    if (!isUtf8(command) || command.includes("\0")) this.#wrong("command", "The command holds a character that cannot be sent.");
    return found;
  }

  /** Names with spaces or commas between them. */
  names(name, most) {
    const found = this.#values[name].split(/[\s,]+/).filter(Boolean);
    if (found.length > most) this.#wrong(name, `At most ${most} ${name}.`);
    if (new Set(found).size < found.length) this.#wrong(name, `The ${name} name one thing twice.`);
    for (const one of found) if (!NAME.test(one)) this.#wrong(name, `“${one.slice(0, 40)}” is no name (letters, digits and ._/:@+-).`);
    return found;
  }

  /** NAME=value a line, or one JSON object. */
  pairs(name, isName, what) {
    if (this.#values[name].trimStart().startsWith("{")) {
      const found = this.#json(name) ?? {};
      for (const [key, value] of Object.entries(found)) if (!isName.test(key) || typeof value !== "string") this.#wrong(name, `“${key.slice(0, 40)}” is no ${what} with a text.`);
      return found;
    }
    const found = new Map();
    for (const line of this.#values[name].split("\n").filter((one) => one.trim())) {
      const at = line.indexOf("=");
      const key = line.slice(0, at).trim();
      if (at < 0 || !isName.test(key)) this.#wrong(name, `“${line.slice(0, 40)}” is no ${what}: write NAME=value.`);
      else found.set(key, line.slice(at + 1));
    }
    return Object.fromEntries(found); // whatever a name is: one that is assigned may be a setter's
  }

  seconds(name, otherwise) {
    const text = this.text(name);
    if (text === null) return otherwise;
    const found = parseDuration(this.#values[name]);
    if (!found || found > LONGEST_SECONDS) this.#wrong(name, `“${this.#values[name]}” is no duration from 1s to 7d.`);
    return found;
  }

  number(name) {
    const text = this.text(name);
    if (text === null) return null;
    if (!/^\d{1,6}$/.test(text)) this.#wrong(name, `“${this.#values[name]}” is no number.`);
    return Number(text);
  }

  #json(name) {
    try {
      return JSON.parse(this.#values[name]);
    } catch {
      this.#wrong(name, "This is no JSON.");
      return undefined;
    }
  }
}
