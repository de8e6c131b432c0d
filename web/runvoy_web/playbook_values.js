/**
 * Compiled playbooks (docs/protocol.md): the values of their parameters, and the request they make. Both are what
 * `runvoy playbook run` has: the same values are right, in the same words, and the request has the same digest.
 */
import { isUtf8, sha256, toHex, utf8 } from "./bytes.js";
import { encodeRunRequest, LIFETIME_MS } from "./envelope.js";
import { longest, matches } from "./patterns.js";

const INTEGER = /^(0|-?[1-9][0-9]{0,17})$/;
const TRUTHS = new Map(Object.entries({ true: ["true", "yes", "on", "1"], false: ["false", "no", "off", "0"] }).flatMap(([value, texts]) => texts.map((text) => [text, value])));

export const isTruth = (parameter) => parameter.type === "bool";
export const allowed = (parameter) => (isTruth(parameter) ? ["true", "false"] : parameter.enum);
const mayBeEmpty = (parameter) => !parameter.required && parameter.default === undefined;

const variableOf = ({ name }) => `PARAM_${name.toUpperCase()}`;

/** What a value must be, in words; empty if it may be anything. */
export function rule(parameter) {
  const few = allowed(parameter);
  if (few) return `must be ${few.join(" or ")}`;
  if (parameter.type === "int") return "must be a whole number such as 42 or -1, of 18 digits at most";
  return parameter.pattern ? `must match ${parameter.pattern} as a whole` : "";
}

/** The value that a text stands for: `yes` is `true`. */
export const exact = (parameter, text) => (isTruth(parameter) && TRUTHS.get(text.toLowerCase())) || text;

/** Why an exact value is none of the parameter's, in words; empty if it is one. */
export function objection(parameter, value) {
  if (!isUtf8(value)) return "holds a character that cannot be sent";
  if (!value && mayBeEmpty(parameter)) return "";
  const few = allowed(parameter);
  const most = parameter.pattern ? longest(parameter.pattern) : Infinity;
  if (utf8(value).length > most) return `has more than ${most} bytes, too many to be held against its pattern`;
  const isRight = (few ? few.includes(value) : true)
    && (parameter.type !== "int" || INTEGER.test(value))
    && (!parameter.pattern || matches(parameter.pattern, value));
  if (!isRight) return rule(parameter);
  return value.includes("\0") ? "holds a NUL character" : "";
}

/**
 * The value of every parameter, and [name, words] for each that is missing or not as declared. `given` maps names to texts;
 * with `withoutSecrets` no secret one is missing, and none is in the values.
 */
export function valuesOf(playbook, given, withoutSecrets = false) {
  const values = {};
  const problems = [];
  for (const parameter of playbook.parameters ?? []) {
    const { name } = parameter;
    values[name] = parameter.default ?? "";
    if (withoutSecrets && parameter.secret) continue;
    if (given.has(name)) {
      values[name] = exact(parameter, given.get(name));
      const why = objection(parameter, values[name]);
      if (why) problems.push([name, why]);
    } else if (parameter.required) {
      problems.push([name, rule(parameter) ? `is needed: it ${rule(parameter)}` : "is needed"]);
    }
  }
  return { values, problems };
}

/** The request of a playbook with the value of each parameter, as envelope.js encodes it. */
export function requestOf(playbook, values, { deploymentId, requestId, now, ifLocked = "wait" }) {
  const [repo, ref, path] = playbook.git ?? [];
  const variables = (playbook.parameters ?? []).map((parameter) => [variableOf(parameter), values[parameter.name]]);
  const label = (parts) => parts.map((part) => (typeof part === "string" ? part : values[part.parameter])).join("");
  return {
    deploymentId,
    requestId,
    issuedAt: now,
    expiresAt: now + LIFETIME_MS,
    command: playbook.command,
    image: playbook.image ?? null,
    env: Object.fromEntries([...Object.entries(playbook.env ?? {}), ...variables]),
    secrets: playbook.secrets ?? [],
    locks: playbook.locks ?? [],
    ifLocked,
    timeoutSeconds: playbook.timeout_seconds ?? 600,
    queueTimeoutSeconds: null,
    cpu: playbook.cpu ?? null,
    memoryMib: playbook.memory_mib ?? null,
    git: playbook.git ? { repo, ref, path } : null,
    playbook: playbook.name,
    labels: Object.fromEntries(Object.entries(playbook.labels ?? {}).map(([name, parts]) => [name, label(parts)])),
    name: playbook.name,
    isolation: "",
  };
}

/**
 * The playbook's call that a signed request (docs/protocol.md) is: {given, hidden, others}, or null if it is none of this
 * published playbook, or one that its form cannot hold. `given` maps names to values, but for those that are `hidden`: names of
 * secret parameters that had one. `others` names what the call had otherwise than the form makes it.
 */
export async function callIn(request, { playbook, digest }) {
  const parameters = playbook.parameters ?? [];
  if (request.playbook !== playbook.name || (await digestOf(request, parameters)) !== digest) return null;
  const found = new Map(parameters.map((parameter) => [parameter.name, request.env[variableOf(parameter)]]));
  const { values, problems } = valuesOf(playbook, found);
  // A field changes a carriage return.
  if (problems.length || [...found.values()].some((value) => value.includes("\r"))) return null;
  const made = requestOf(playbook, values, {});
  const isSame = (one, other) => JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort());
  const others = [isSame(request.labels, made.labels) ? "" : "labels", request.name === made.name ? "" : "a name", request.queue_timeout_seconds ? "a queue timeout" : ""];
  const secret = parameters.filter((parameter) => parameter.secret).map(({ name }) => name);
  const hidden = secret.filter((name) => found.get(name));
  for (const name of secret) found.delete(name);
  return { given: found, hidden, others: others.filter(Boolean) };
}

/** requests.playbook_digest of a signed request; empty if it lacks one of the parameters. */
async function digestOf(request, parameters) {
  const env = { ...request.env };
  for (const parameter of parameters) {
    if (typeof env[variableOf(parameter)] !== "string") return "";
    delete env[variableOf(parameter)];
  }
  const template = { deploymentId: "", requestId: "", issuedAt: 0, expiresAt: 0, env, labels: {}, name: null };
  const { command, image, secrets, locks, git, playbook, isolation, cpu } = request;
  const fixed = { command, image, secrets, locks, git, playbook, isolation, cpu, timeoutSeconds: request.timeout_seconds, memoryMib: request.memory_mib };
  return toHex(await sha256(encodeRunRequest({ ...fixed, ...template })));
}
