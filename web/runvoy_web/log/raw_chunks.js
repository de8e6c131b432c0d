// A log's chunks as they lie where the log lies: read, several at once where that is known to be wanted, and kept while there is room.

const MOST_BYTES = 160e6; // of what is kept, so that few are asked for twice
const LEAST_KEPT = 4; // chunks that are kept whatever they weigh
const AHEAD = 4; // chunks that are read at once: a browser has six connections to a bucket, and the view wants some of them

export class RawChunks {
  #source;
  #signal;
  #kept = new Map(); // number → gzip bytes; those that were wanted last come last
  #coming = new Map(); // number → a promise of them
  #bytes = 0;

  constructor(source, signal) {
    this.#source = source;
    this.#signal = signal;
  }

  /** Keep the bytes of a chunk that somebody else has read. */
  give(number, raw) {
    this.#bytes += raw.length - (this.#kept.get(number)?.length ?? 0);
    this.#kept.delete(number);
    this.#kept.set(number, raw);
    this.#trim();
  }

  /** The gzip bytes of a chunk; null if there are none. They are kept. */
  async read(number) {
    const kept = this.#kept.get(number);
    if (!kept) return this.#fetch(number);
    this.give(number, kept);
    return kept;
  }

  #fetch(number) {
    if (!this.#coming.has(number)) {
      const coming = this.#source.readChunk(number, { signal: this.#signal }).then((raw) => {
        if (raw) this.give(number, raw);
        return raw;
      });
      this.#coming.set(number, coming.finally(() => this.#coming.delete(number)));
    }
    return this.#coming.get(number);
  }

  /**
   * Begin to read chunks that will be wanted soon, in this order: the logs of runs that print now and then have thousands of small
   * ones, and each takes a bucket as long as a large one. It looks at so many of `numbers` as are read at once, and no further than to
   * one that `isThere` denies; those that `isRead` are left out. What goes wrong is told to whoever then asks for the chunk.
   */
  prefetch(numbers, isThere, isRead) {
    let left = AHEAD;
    for (const number of numbers) {
      if (left-- === 0 || !isThere(number)) return;
      if (!isRead(number) && !this.#kept.has(number)) this.#fetch(number).catch(() => {});
    }
  }

  /** The bytes of all chunks, in order; null for one that is missing. Some are read ahead, and none is kept for that. `last` tells
   * how many there are by now. */
  async *all(last) {
    const coming = [];
    for (let number = 1; number <= last(); number++) {
      for (let next = number + coming.length; coming.length < AHEAD && next <= last(); next++) {
        const kept = this.#kept.get(next);
        coming.push(kept ? Promise.resolve(kept) : this.#source.readChunk(next, { signal: this.#signal }));
        coming.at(-1).catch(() => {}); // told when it is its turn
      }
      yield await coming.shift();
    }
  }

  #trim() {
    if (this.#bytes <= MOST_BYTES) return;
    for (const [number, raw] of this.#kept) {
      if (this.#bytes <= MOST_BYTES * 0.8 || this.#kept.size <= LEAST_KEPT) return;
      this.#bytes -= raw.length;
      this.#kept.delete(number);
    }
  }
}

/** `number` and all after it: what is prefetched for who goes on. */
export function* onwards(number) {
  for (;;) yield number++;
}
