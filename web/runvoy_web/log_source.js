/**
 * Where the log view gets a log from: the seam between the viewer's page of one run and `log/view.js`.
 *
 * @typedef {object} LogSource
 * @property {string} executionId
 * @property {(number: number, options?: {wait?: boolean, signal?: AbortSignal}) => Promise<Uint8Array|null>} readChunk
 *   The gzip bytes of chunk `number` (from 1); null when it is not there (yet). With `wait` the answer may take up to 25 s
 *   and comes as soon as there is news. It waits out an absent network by itself, and never rejects for that; it rejects with
 *   an `AbortError` when `signal` is aborted, and with an ApiError when the deployment refuses for good.
 * @property {() => Promise<number|null>} lastChunk
 *   How many chunks the log has, once that is known: the run has ended and its log is complete. Else null.
 * @property {() => boolean} ended  Whether the run is over. Its last chunks may still be on their way.
 * @property {() => object} status  The newest status.json that the page has read.
 *
 * `log/view.js` exports
 *   createLogView(host: HTMLElement, source: LogSource, options?: {
 *     line?: [number, number],              // the line or range that the address names: shown and marked first
 *     onLine?: (line: [number, number]|null) => void,  // the reader marked a line or range: the page puts it in its address
 *   }) → {destroy(): void, show(line: [number, number]|null): void}  // `show`: the address names other lines now, or none
 * and `log/log.css`, which index.html links. It takes its colours from the custom properties in style.css.
 */
import { ApiError, pause } from "./api.js";

const WAIT_SECONDS = 20;
const GRANT_MARGIN_MS = 20_000;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 3_000;
const CHUNKS_PER_GRANT = 64; // until a grant tells

/** The reads of one execution: its status and the chunks of its log, under grants that are renewed as they run out. */
export class Outbox {
  #client;
  #executionId;
  #grants = new Map(); // first chunk of a grant → the grant
  #asking = null; // the grant that is being asked for
  #perGrant = CHUNKS_PER_GRANT;

  constructor(client, executionId) {
    this.#client = client;
    this.#executionId = executionId;
  }

  /** The grant that covers a chunk. One that is `fresh` was asked for just now. */
  async grantFor(chunk, { signal, fresh = false } = {}) {
    if (fresh) this.#grants.clear();
    // One at a time: chunks are read several at once, and mostly lie in the same grant.
    while (!this.#known(chunk) && this.#asking) await this.#asking.catch(() => {});
    const known = this.#known(chunk);
    if (known) return known;
    // From the same chunks on whoever asks: those who go back through a log would need one for each chunk otherwise.
    const from = chunk - ((chunk - 1) % this.#perGrant);
    this.#asking = this.#ask(from, signal).finally(() => (this.#asking = null));
    const grant = await this.#asking;
    return !grant.status_url || covers(grant, chunk) ? grant : this.#ask(chunk, signal);
  }

  #known(chunk) {
    for (const [first, grant] of this.#grants) {
      if (Date.parse(grant.expires_at) - GRANT_MARGIN_MS < this.#client.now()) this.#grants.delete(first);
      else if (covers(grant, chunk)) return grant;
    }
    return null;
  }

  async #ask(from, signal) {
    const body = { execution_id: this.#executionId, from_chunk: from };
    const grant = await this.#client.call("POST", "/grants/outbox", { body, signal });
    if (grant.status_url) this.#grants.set(grant.from_chunk ?? 1, grant);
    this.#perGrant = grant.chunk_urls?.length || this.#perGrant;
    return grant;
  }

  /**
   * Read one object: {status, body, etag}, status being 200, 304 or 404. `urlOf` picks its address from a grant.
   * Waits out a lost network; asks once for a new grant where the old one is refused.
   */
  async read(chunk, urlOf, { etag = "", waitSeconds = 0, signal } = {}) {
    let rest = FIRST_PAUSE_MS;
    for (let refused = 0; ; ) {
      try {
        const url = urlOf(await this.grantFor(chunk, { signal, fresh: refused > 0 }));
        if (!url) return { status: 404, body: null, etag: "" };
        const headers = {};
        if (etag) headers["If-None-Match"] = etag;
        if (waitSeconds) headers.Prefer = `wait=${waitSeconds}`;
        const answer = await this.#client.read(url, headers, signal);
        if ([200, 304, 404].includes(answer.status)) {
          const body = answer.status === 200 ? new Uint8Array(await answer.arrayBuffer()) : null;
          this.#client.reached();
          return { status: answer.status, body, etag: answer.headers.get("ETag") ?? "" };
        }
        refused += 1;
        if (refused > 3) throw new ApiError({ code: "UNAVAILABLE", message: `a read was answered with ${answer.status}` });
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof ApiError && !error.retryable) throw error;
        this.#client.lost(error);
      }
      await pause(rest, signal);
      rest = Math.min(rest * 2, LONGEST_PAUSE_MS);
    }
  }

  chunk(number, { wait = false, signal } = {}) {
    const urlOf = (grant) => grant.chunk_urls?.[number - (grant.from_chunk ?? 1)];
    return this.read(number, urlOf, { waitSeconds: wait ? WAIT_SECONDS : 0, signal });
  }

  status({ etag = "", wait = false, signal } = {}) {
    return this.read(1, (grant) => grant.status_url, { etag, waitSeconds: wait ? WAIT_SECONDS : 0, signal });
  }
}

function covers(grant, chunk) {
  const first = grant.from_chunk ?? 1;
  return chunk >= first && chunk < first + (grant.chunk_urls?.length ?? 0);
}

/**
 * @returns {LogSource} `statusOf` gives the newest status that the page has read; `over` is a signal that is aborted when the run
 *   has ended: who waits for a chunk then is told at once that there is none yet.
 */
export function createLogSource(outbox, executionId, statusOf, over) {
  return {
    executionId,
    async readChunk(number, { wait = false, signal } = {}) {
      if (!wait || over.aborted) return (await outbox.chunk(number, { signal })).body;
      const until = AbortSignal.any(signal ? [signal, over] : [over]);
      try {
        const began = performance.now();
        const answer = await outbox.chunk(number, { wait, signal: until });
        // S3 does not wait: whoever asks again at once would ask a thousand times a minute.
        if (answer.status !== 200 && performance.now() - began < 1_000) await pause(1_000, until);
        return answer.body;
      } catch (error) {
        if (!over.aborted || signal?.aborted) throw error;
        return null;
      }
    },
    async lastChunk() {
      const run = statusOf();
      // What was never started has no log, and nobody says so in numbers.
      return run?.chunks ?? (run?.ended_at && !run.starting_at ? 0 : null);
    },
    ended: () => statusOf()?.ended_at !== undefined,
    status: statusOf,
  };
}
