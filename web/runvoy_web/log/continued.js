// Lines that are longer than their chunk: where each begins, and which chunks go on with it. Chunks are read in any order, so
// this grows as they come. Lines are known by their keys (lines.js), chunks by their numbers.

const NOTHING = Object.freeze({ continues: [], begun: [] });

export class ContinuedLines {
  #chunks = new Map(); // line → chunks that go on with it, sorted
  #versions = new Map(); // line → how often one was added to those
  #homes = new Map(); // line → the chunk where it begins
  #found = new Map(); // chunk → lines that it goes on with, and lines that begin in it and go on; kept when its text is not

  /** Take in what a chunk's index says. */
  add(number, { continuations, begun }) {
    const continues = [...continuations.keys()];
    for (const key of continues) {
      const numbers = this.#chunks.get(key) ?? [];
      numbers.push(number);
      if (numbers.at(-2) > number) numbers.sort((a, b) => a - b);
      this.#chunks.set(key, numbers);
      this.#versions.set(key, this.version(key) + 1);
    }
    for (const key of begun) if (!this.#homes.has(key)) this.#homes.set(key, number);
    this.#found.set(number, { continues, begun });
  }

  /** Take back what `add` said of a chunk, if it was ever read. */
  remove(number) {
    const { continues, begun } = this.#found.get(number) ?? NOTHING;
    for (const key of continues) {
      const numbers = this.#chunks.get(key).filter((one) => one !== number);
      if (numbers.length) this.#chunks.set(key, numbers);
      else this.#chunks.delete(key);
    }
    for (const key of begun) if (this.#homes.get(key) === number) this.#homes.delete(key);
    this.#found.delete(number);
  }

  /** The chunks that go on with a line, in order. */
  chunksOf(key) {
    return this.#chunks.get(key) ?? [];
  }

  /** Where the lines begin that a chunk goes on with, as far as that was read. */
  homesOf(number) {
    const { continues } = this.#found.get(number) ?? NOTHING;
    return new Set(continues.map((key) => this.#homes.get(key)).filter(Boolean));
  }

  /** Changes when more of a line was found. */
  version(key) {
    return this.#versions.get(key) ?? 0;
  }
}
