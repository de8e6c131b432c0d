// The lines that a reader marked: one, or a range.

export class Marks {
  range = null; // [from, to], numbers of lines
  #store;
  #scroller;
  #goTo;
  #onChange;

  /** `goTo` shows a place of the store; `onChange` is told of each range that the reader chose. */
  constructor(store, scroller, goTo, onChange) {
    this.#store = store;
    this.#scroller = scroller;
    this.#goTo = goTo;
    this.#onChange = onChange;
  }

  has(n) {
    return this.range !== null && n >= this.range[0] && n <= this.range[1];
  }

  set(range, isNews = true) {
    this.range = range;
    this.#scroller.invalidate();
    if (isNews) this.#onChange?.(range);
  }

  /** Mark line `n`; with `isRange` all from the one that was marked first; unmark the one that is marked alone. */
  to(n, isRange) {
    if (isRange && this.range) {
      const anchor = this.range.anchor ?? this.range[0];
      this.set(Object.assign([Math.min(anchor, n), Math.max(anchor, n)], { anchor }));
    } else if (this.range?.[0] === n && this.range[1] === n) this.set(null);
    else this.set([n, n]);
  }

  /** All there are by now. No link says so. */
  all() {
    this.set([1, this.#store.lines], false);
  }

  top() {
    const n = this.#lineOnTop();
    if (n) this.to(n, false);
  }

  async more(step) {
    if (!this.range) return this.top();
    const [from, to] = this.range;
    const last = Math.min(Math.max(from, to + step), this.#store.lines);
    this.set([from, last]);
    const place = await this.#store.find(last);
    return place && this.#goTo(place, { isLazy: true });
  }

  #lineOnTop() {
    const [first, after] = this.#scroller.range;
    for (let at = first; at < after; at++) {
      const { number, row } = this.#store.locate(at);
      const line = this.#store.row(number, row);
      if (line?.n) return line.n;
    }
    return 0;
  }
}
