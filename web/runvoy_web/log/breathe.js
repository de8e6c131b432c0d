// Long work in slices: between them the page scrolls, paints and answers.

const SLICE_MS = 8;

const pause = () =>
  globalThis.scheduler?.yield ? globalThis.scheduler.yield() : new Promise((resolve) => setTimeout(resolve, 0));

/** `await rest()` within a loop gives way whenever the work has gone on for a slice. */
export class Breather {
  #since = performance.now();

  rest() {
    return performance.now() - this.#since < SLICE_MS ? undefined : this.#pause();
  }

  async #pause() {
    await pause();
    this.#since = performance.now();
  }
}
