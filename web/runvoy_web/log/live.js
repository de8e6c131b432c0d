// Reading a log: where it ends now, and what comes after that.

const TAIL_MS = 10_000; // an ended run's last chunks may come after its status
const PAUSE_MS = 500;

/** Reads chunks into a store as they come. `onState` is called when `state` changes. */
export class Live {
  state = "opening"; // opening | live | paused | done | cut (the run is over, and the end of its log never came) | failed
  #store;
  #source;
  #signal;
  #onState;
  #resume = null;

  constructor(store, source, signal, onState) {
    this.#store = store;
    this.#source = source;
    this.#signal = signal;
    this.#onState = onState;
  }

  /** Find the log's end, and read it. */
  open() {
    return this.#orFail(async () => {
      const last = (await this.#source.lastChunk()) ?? (await this.#seek());
      this.#store.grow(last);
      if (last) await this.#store.load(last);
    });
  }

  /** The last chunk of a log that may still grow: chunks come in order, so that a few looks tell. */
  async #seek() {
    let present = 0;
    let absent = Infinity;
    while (absent - present > 1) {
      const number = absent === Infinity ? Math.max(1, present * 2) : (present + absent) >> 1;
      const raw = await this.#source.readChunk(number, { signal: this.#signal });
      if (raw === null) absent = number;
      else {
        this.#store.give(number, raw);
        present = number;
      }
    }
    return present;
  }

  /** Read on until the log is complete, or an ended run has no more of it. */
  follow() {
    return this.#orFail(async () => {
      this.#set((await this.#readOn()) ? "done" : "cut");
    });
  }

  async #orFail(work) {
    try {
      return await work();
    } catch (error) {
      if (!this.#signal.aborted) this.#set("failed");
      throw error;
    }
  }

  /** Whether all of it was read in the end. */
  async #readOn() {
    let endedAt = 0;
    this.#set(this.#store.isComplete ? "done" : "live");
    while (!this.#store.isComplete) {
      if (this.state === "paused") await new Promise((resolve) => (this.#resume = resolve));
      const next = this.#store.chunks + 1;
      const last = await this.#source.lastChunk();
      if (last !== null && next > last) return true;
      const isEnded = this.#source.ended();
      const raw = await this.#source.readChunk(next, { wait: !isEnded, signal: this.#signal });
      this.#signal.throwIfAborted();
      if (raw !== null) {
        await this.#store.load(next, raw);
        endedAt = 0;
      } else if (isEnded) {
        if (!endedAt) {
          endedAt = performance.now();
          this.#onState(); // what it waits for now is no news of a run that goes on
        }
        if (performance.now() - endedAt > TAIL_MS) return false;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
    return true;
  }

  get isPaused() {
    return this.state === "paused";
  }

  pause(isPaused) {
    if (this.state !== "live" && this.state !== "paused") return;
    this.#set(isPaused ? "paused" : "live");
    if (!isPaused) this.#resume?.();
  }

  #set(state) {
    this.state = state;
    this.#onState();
  }
}
