/** The deployment as the page sees it: signed calls, uploads, reads; and whether it can be reached. */
import { concat, randomBytes, toHex, utf8 } from "./bytes.js";
import { authorization } from "./envelope.js";

const API = "/api/v1";
const CALL_SECONDS = 30;
const READ_SECONDS = 60;
const OF_THE_KEY = new Set(["KEY_UNKNOWN", "KEY_REVOKED", "KEY_EXPIRED", "WRONG_DEPLOYMENT"]);

/** An error that the deployment told (docs/errors.md), or that there was none to tell one (UNAVAILABLE). */
export class ApiError extends Error {
  constructor({ code, message, hint = "", retryable = false, details = {} }) {
    super(message);
    Object.assign(this, { code, hint, retryable, details });
  }

  /** Nothing that this key asks for will be answered. */
  get isOfTheKey() {
    return OF_THE_KEY.has(this.code);
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Calls one deployment with one key. Events: `lost` and `reached` as the network goes and comes, `denied` (detail: the
 * ApiError) where the key is good for nothing any more.
 */
export class Client extends EventTarget {
  #offset = 0; // of the deployment's clock beyond this machine's, in milliseconds
  #isLost = false;
  #reachedAt = Date.now();
  #inboxGrant = null;

  /** @param {import("./identity.js").Identity} identity */
  constructor(identity) {
    super();
    this.identity = identity;
  }

  get isLost() {
    return this.#isLost;
  }

  /** The deployment's time in milliseconds, as well as it is known. */
  now() {
    return Date.now() + this.#offset;
  }

  get clockOffset() {
    return this.#offset;
  }

  /** When the last answer came, as `now` tells the time. A try takes long to find that nobody answers. */
  get reachedAt() {
    return this.#reachedAt + this.#offset;
  }

  reached() {
    this.#reachedAt = Date.now();
    if (!this.#isLost) return;
    this.#isLost = false;
    this.dispatchEvent(new Event("reached"));
  }

  /** A try found nobody. What is a mistake of this page is no such try, and is thrown. */
  lost(error) {
    if (error instanceof ApiError ? !error.retryable : !(error instanceof TypeError || error?.name === "TimeoutError")) {
      throw error;
    }
    if (this.#isLost) return;
    this.#isLost = true;
    this.dispatchEvent(new Event("lost"));
  }

  /** One signed call; the answer's JSON. Throws ApiError. A clock that is off is learned, and the call made once more. */
  async call(method, path, options = {}) {
    try {
      return await this.#signed(method, path, options);
    } catch (error) {
      const told = error.code === "CLOCK_SKEW" ? Date.parse(error.details.server_time) : NaN;
      if (!Number.isNaN(told)) {
        this.#offset = told - Date.now();
        return this.#signed(method, path, options);
      }
      if (error.isOfTheKey) this.dispatchEvent(new CustomEvent("denied", { detail: error }));
      throw error;
    }
  }

  async #signed(method, path, { query, body, signal }) {
    const given = new URLSearchParams(Object.entries(query ?? {}).filter(([, value]) => value)).toString();
    const target = API + path + (given ? `?${given}` : "");
    const raw = body === undefined ? new Uint8Array() : utf8(JSON.stringify(body));
    const { deploymentId, endpoint } = this.identity;
    const signed = { deploymentId, method, target, body: raw, at: Math.floor(this.now()) };
    const headers = { Authorization: await authorization(this.identity, signed) };
    if (raw.length) headers["Content-Type"] = "application/json";
    const answer = await this.#fetch(endpoint + target, { method, headers, body: raw.length ? raw : undefined }, signal);
    return parsed(answer, endpoint);
  }

  async #fetch(url, options, signal, seconds = CALL_SECONDS) {
    const limit = AbortSignal.timeout(seconds * 1000);
    try {
      const answer = await fetch(url, {
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
        ...options,
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
      this.reached();
      return answer;
    } catch (error) {
      signal?.throwIfAborted();
      this.lost(error);
      throw unreachable(url);
    }
  }

  /** One read by a presigned address; throws where nobody answers. */
  read(url, headers, signal) {
    return this.#fetch(url, { headers }, signal, READ_SECONDS);
  }

  /** Put a signed request into the inbox; resolves once it is durable. The same bytes are sent at every try. */
  async upload(objectKey, sealed) {
    for (let tries = 1; ; tries += 1) {
      const isOld = this.#inboxGrant !== null;
      try {
        this.#inboxGrant ??= await this.call("POST", "/grants/inbox");
        const answer = await this.#post(this.#inboxGrant, objectKey, sealed);
        if (answer.ok) return;
        if (answer.status !== 403 || !isOld) throw await uploadError(answer);
        this.#inboxGrant = null; // it has expired
      } catch (error) {
        this.#inboxGrant = null;
        if (!(error instanceof ApiError) || !error.retryable || tries >= 4) throw error;
        await pause(300 * 3 ** (tries - 1));
      }
    }
  }

  #post(grant, objectKey, sealed) {
    const fields = Object.entries({ key: objectKey, "Content-Type": grant.content_type, ...grant.fields });
    const boundary = `runvoy-${toHex(randomBytes(16))}`;
    const lines = fields.map(
      ([name, value]) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`,
    );
    const file = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="request"\r\nContent-Type: ${grant.content_type}\r\n\r\n`;
    const body = concat(utf8(lines.join("") + file), sealed, utf8(`\r\n--${boundary}--\r\n`));
    const headers = { "Content-Type": `multipart/form-data; boundary=${boundary}` };
    return this.#fetch(grant.url, { method: "POST", headers, body });
  }
}

/** What a deployment says of itself to everybody; throws ApiError. */
export async function health(endpoint) {
  return parsed(await fetchOpen(`${endpoint}${API}/health`), endpoint);
}

/** Register a key with a claim token: unsigned, for the claim is signed by the very key. */
export async function claim(endpoint, sealed) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ claim: sealed }) };
  return parsed(await fetchOpen(`${endpoint}${API}/claim`, options), endpoint);
}

async function fetchOpen(url, options) {
  try {
    const signal = AbortSignal.timeout(CALL_SECONDS * 1000);
    return await fetch(url, { cache: "no-store", credentials: "omit", redirect: "error", ...options, signal });
  } catch {
    throw unreachable(url);
  }
}

async function parsed(answer, endpoint) {
  let found;
  try {
    found = await answer.json();
  } catch {
    const is = answer.ok ? "an answer that is none of a deployment" : `status ${answer.status}`;
    throw new ApiError({ code: "UNAVAILABLE", message: `${endpoint} gave ${is}`, retryable: !answer.ok });
  }
  if (answer.ok) return found;
  throw new ApiError(found?.error?.code ? found.error : { code: "UNAVAILABLE", message: `status ${answer.status}`, retryable: true });
}

async function uploadError(answer) {
  const text = (await answer.text()).slice(0, 2000);
  try {
    return new ApiError(JSON.parse(text).error);
  } catch {
    const is = { code: "UNAVAILABLE", message: `the upload was answered with ${answer.status}`, retryable: answer.status >= 500 };
    return new ApiError(is);
  }
}

function unreachable(url) {
  return new ApiError({
    code: "UNAVAILABLE",
    message: `There was no answer from ${new URL(url).host}.`,
    hint: "Check the network and the endpoint.",
    retryable: true,
  });
}
