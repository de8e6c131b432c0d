/** The runs that a table shows: pages of older ones as they are asked for, and what changed since. */
import { hasEnded } from "./format.js";

const PAGE = 100;
const NEWS_PAGE = 20;
const MOST_NEWS_PAGES = 5;
const MOST_STATUSES = 300;

export class RunStore {
  #client;
  #filters;
  #runs = new Map();
  #after = null;

  /** @param filters {owner, status, label}: as the deployment takes them; empty ones are not sent. */
  constructor(client, filters) {
    this.#client = client;
    this.#filters = filters;
    this.isComplete = false;
  }

  /** Newest first. */
  get runs() {
    return [...this.#runs.values()].sort(
      (one, other) =>
        Date.parse(other.admitted_at) - Date.parse(one.admitted_at) || (other.execution_id > one.execution_id ? 1 : -1),
    );
  }

  get size() {
    return this.#runs.size;
  }

  /** The next page of older ones. */
  async loadMore(signal) {
    const page = await this.#page(PAGE, this.#after, signal);
    page.executions.forEach((run) => this.#take(run));
    this.#after = page.after ?? null;
    this.isComplete = this.#after === null;
  }

  /**
   * What is new and what went on. Two calls of little work each, whatever the deployment holds: its newest runs, and those
   * that had not ended when they were last seen.
   */
  async refresh(signal) {
    const active = [...this.#runs.values()].filter((run) => !hasEnded(run)).map((run) => run.execution_id);
    let after = null;
    for (let pages = 0; pages < MOST_NEWS_PAGES; pages += 1) {
      const page = await this.#page(NEWS_PAGE, after, signal);
      const isKnown = page.executions.some((run) => this.#runs.has(run.execution_id));
      page.executions.forEach((run) => this.#take(run));
      after = page.after ?? null;
      if (isKnown || after === null) break;
    }
    if (active.length) {
      const body = { execution_ids: active.slice(0, MOST_STATUSES) };
      const found = await this.#client.call("POST", "/executions/statuses", { body, signal });
      for (const { status } of found.executions) if (status) this.#take(status);
    }
  }

  #page(limit, after, signal) {
    return this.#client.call("GET", "/executions", { query: { limit: String(limit), after, ...this.#filters }, signal });
  }

  #take(run) {
    const known = this.#runs.get(run.execution_id);
    if (!known || known.record_version <= run.record_version) this.#runs.set(run.execution_id, run);
  }
}
