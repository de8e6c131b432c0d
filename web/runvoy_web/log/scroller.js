// A list of which only the rows in view exist. What is in view is said by an anchor (a row, and how far it is scrolled off),
// not by the scrollbar: so rows may have any height, rows before the view may become more or fewer, and there may be more
// of them than a browser's tallest element (33 million pixels in Chromium) has room for. The bar only shows where one is.

const TALLEST = 8_000_000; // px
const IDLE_MS = 150;
const MOST_POOLED = 400;

/**
 * `model` knows the rows, by their place from 0: `count()`, `first()` (the first one shown), `keyOf(at)` and `placeOf(key)`
 * (a name that stays when places change), `isUniform(at)` (one line high), `signature(at)` (changes with what is shown) and
 * `create(at)` (its element). `onView(isAtEnd, byReader)` is called when another part is in view.
 */
export class Scroller {
  rowHeight = 20;
  #model;
  #onView;
  #anchor = { at: 0, off: 0 };
  #elements = new Map(); // key → {element, signature}
  #heights = new Map(); // key → px, of rows that were measured
  #last = 0; // scrollTop as it was seen last
  #viewport = 0;
  #end = null; // the anchor at which the last row ends with the view
  #idle = 0;
  #frame = 0;
  #widest = 0;
  #key = 0; // of the anchor's row
  #sticks = false;
  #selected = new Set(); // rows that a selection begins or ends in
  #observer;

  constructor(model, onView) {
    this.#model = model;
    this.#onView = onView;
    this.element = box("rv-scroller");
    this.#spacer = box("rv-spacer");
    this.#layer = box("rv-layer");
    this.#list = box("rv-rows");
    this.#probe = box("rv-probe");
    this.#layer.append(this.#list, this.#probe);
    this.#spacer.append(this.#layer);
    this.element.append(this.#spacer);
    this.element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    document.addEventListener("selectionchange", this.#noteSelection);
    this.#observer = new ResizeObserver(() => this.#resized());
    this.#observer.observe(this.element);
  }

  #spacer;
  #layer;
  #list;
  #probe;

  destroy() {
    this.#observer.disconnect();
    document.removeEventListener("selectionchange", this.#noteSelection);
    clearTimeout(this.#idle);
    cancelAnimationFrame(this.#frame);
  }

  get isAtEnd() {
    const end = this.#endAnchor();
    return this.#anchor.at > end.at || (this.#anchor.at === end.at && this.#anchor.off >= end.off - 2);
  }

  /** The places in view: from the first to after the last. */
  get range() {
    const rows = Math.ceil((this.#viewport + this.#anchor.off) / this.rowHeight);
    return [this.#anchor.at, Math.min(this.#model.count(), this.#anchor.at + rows)];
  }

  /** How many whole rows a page has. */
  get page() {
    return Math.max(1, Math.trunc(this.#viewport / this.rowHeight) - 1);
  }

  /** Rows have other places now, or there are more of them: what is in view stays where it is. */
  keep() {
    this.#end = null;
    if (this.#key) this.#anchor.at = this.#model.placeOf(this.#key);
    this.invalidate();
  }

  /** As `keep`, but the end is what is to be in view. */
  stick() {
    this.#sticks = true;
    this.keep();
  }

  /** Everything may look different: `isShape` if rows may have other heights, too. */
  refresh(isShape = false) {
    if (isShape) {
      this.#heights.clear();
      this.#widest = 0;
      this.#spacer.style.minWidth = "";
    }
    this.#end = null;
    this.invalidate();
  }

  forgetHeight(key) {
    this.#heights.delete(key);
    this.#end = null;
  }

  invalidate() {
    this.#frame ||= requestAnimationFrame(() => {
      if (this.#hasUntold()) this.#scrolled();
      this.flush();
    });
  }

  /** Render now what `invalidate` asked for. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#sticks) this.#anchor = { ...this.#endAnchor() };
    this.#sticks = false;
    this.#render();
    this.#settle();
    this.#onView(this.isAtEnd, false);
  }

  toEnd() {
    this.#end = null;
    this.#anchor = { ...this.#endAnchor() };
    this.flush();
  }

  toStart() {
    this.#anchor = { at: this.#model.first(), off: 0 };
    this.flush();
    this.#onView(this.isAtEnd, true);
  }

  /** Bring a row into view; `share` is how far down it then stands. With `isLazy` not if it stands there already. */
  to(at, { share = 0.3, isLazy = false } = {}) {
    const [first, after] = this.range;
    if (isLazy && at > first && at < after - 2) return this.invalidate();
    this.#anchor = { at, off: 0 };
    this.#walk(-share * this.#viewport);
    this.flush();
  }

  /** Move by pixels, or by rows of one line's height. */
  by(pixels) {
    this.#walk(pixels);
    this.flush();
    this.#onView(this.isAtEnd, true);
  }

  #scrolled() {
    const { scrollTop } = this.element;
    const moved = scrollTop - this.#last;
    this.#last = scrollTop;
    if (Math.abs(moved) < 0.5) return;
    if (moved < 0) this.#sticks = false; // more came in this very moment: who leaves the end is not taken back to it
    const room = this.#room();
    if (Math.abs(moved) <= 2 * this.#viewport) {
      this.#walk(moved);
      const isNearEdge = scrollTop <= 0 ? this.#anchor.at < 3 * this.page : scrollTop >= room - 1 && this.#isNearEnd();
      if (isNearEdge) this.#jump(scrollTop <= 0 ? 0 : 1);
      else if (scrollTop <= 0 || scrollTop >= room - 1) this.#settle();
    } else this.#jump(room > 0 ? Math.min(1, Math.max(0, scrollTop / room)) : 0);
    this.#render();
    this.#onView(this.isAtEnd, true);
    clearTimeout(this.#idle);
    // A timer may come between a scroll and its event: then the reader is on the way elsewhere, and the event follows.
    this.#idle = setTimeout(() => this.#hasUntold() || this.#settle(), IDLE_MS);
  }

  /** Whether the reader has scrolled, and no event has told of it yet. */
  #hasUntold() {
    return Math.abs(this.element.scrollTop - this.#last) >= 0.5;
  }

  #isNearEnd() {
    return this.#anchor.at > this.#endAnchor().at - 3 * this.page;
  }

  #jump(share) {
    const first = this.#model.first();
    const end = this.#endAnchor();
    const whole = first + share * (end.at + end.off / this.#height(end.at) - first);
    const at = Math.min(Math.trunc(whole), end.at);
    this.#anchor = share >= 1 ? { ...end } : { at, off: (whole - at) * this.#height(at) };
  }

  /** Move the anchor by pixels, through rows as tall as they are. */
  #walk(pixels) {
    let { at, off } = this.#anchor;
    const first = this.#model.first();
    const count = this.#model.count();
    const rows = Math.ceil((Math.abs(pixels) + off) / this.rowHeight) + 1;
    if (pixels < 0) this.#measure(Math.max(first, at - rows), at);
    else this.#measure(at, Math.min(count, at + rows));
    off += pixels;
    while (off < 0 && at > first) off += this.#height(--at);
    while (at < count - 1 && off >= this.#height(at)) off -= this.#height(at++);
    this.#anchor = { at, off: Math.max(0, off) };
    this.#clamp();
  }

  #clamp() {
    const first = this.#model.first();
    const end = this.#endAnchor();
    if (this.#anchor.at < first) this.#anchor = { at: first, off: 0 };
    const isPast = this.#anchor.at > end.at || (this.#anchor.at === end.at && this.#anchor.off > end.off);
    if (isPast) this.#anchor = { ...end };
  }

  #endAnchor() {
    if (this.#end) return this.#end;
    const first = this.#model.first();
    const count = this.#model.count();
    let at = count;
    let left = this.#viewport;
    this.#measure(Math.max(first, count - Math.ceil(left / this.rowHeight) - 1), count);
    while (at > first && left > 0) left -= this.#height(--at);
    return (this.#end = { at, off: left < 0 ? -left : 0 });
  }

  #height(at) {
    if (at >= this.#model.count() || this.#model.isUniform(at)) return this.rowHeight;
    return this.#heights.get(this.#model.keyOf(at)) ?? this.rowHeight;
  }

  /** Measure rows that are not one line high; their elements are used again when they are shown. */
  #measure(from, to) {
    const made = [];
    for (let at = from; at < to; at++) {
      if (this.#model.isUniform(at)) continue;
      const key = this.#model.keyOf(at);
      if (this.#heights.has(key)) continue;
      const { element } = this.#elementOf(at, key);
      if (!element.isConnected) this.#probe.append(element);
      made.push([key, element]);
    }
    for (const [key, element] of made) this.#heights.set(key, element.getBoundingClientRect().height);
    this.#probe.replaceChildren();
  }

  #elementOf(at, key) {
    const signature = this.#model.signature(at);
    const kept = this.#elements.get(key);
    if (kept?.signature === signature) return kept;
    if (kept) this.#heights.delete(key);
    const made = { element: this.#model.create(at), signature };
    if (kept?.element.parentNode === this.#list) kept.element.replaceWith(made.element);
    made.element.rvKey = key;
    this.#elements.set(key, made);
    return made;
  }

  #render() {
    this.#viewport = this.element.clientHeight;
    this.#clamp();
    this.#key = this.#anchor.at < this.#model.count() ? this.#model.keyOf(this.#anchor.at) : 0;
    const [first, after] = [this.#anchor.at, Math.min(this.#model.count(), this.#anchor.at + this.#rowsInView())];
    const wanted = new Map();
    for (let at = first; at < after; at++) {
      const key = this.#model.keyOf(at);
      wanted.set(key, this.#elementOf(at, key).element);
    }
    this.#place(wanted);
    this.#list.style.transform = `translateY(${-this.#anchor.off}px)`;
    this.#layer.style.height = `${this.#viewport}px`;
    this.#stretch();
  }

  // Asked for when it changes: a question in every frame would have the browser lay everything out once more.
  #noteSelection = () => {
    this.#selected = selectedRows(this.#list);
    for (const element of this.#list.querySelectorAll(":scope > .rv-pinned")) {
      if (!this.#selected.has(element)) element.remove();
    }
  };

  #rowsInView() {
    return Math.ceil((this.#viewport + this.#anchor.off) / this.rowHeight) + 1;
  }

  /** Put the wanted rows into the list in their order. Rows that a selection begins or ends in stay, out of sight. */
  #place(wanted) {
    const selected = this.#selected;
    for (const element of [...this.#list.children]) {
      if (wanted.get(element.rvKey) === element) continue;
      if (selected.has(element)) element.classList.add("rv-pinned");
      else element.remove();
    }
    let after = null;
    for (const element of [...wanted.values()].reverse()) {
      element.classList.remove("rv-pinned");
      if (element.nextSibling !== after || element.parentNode !== this.#list) this.#list.insertBefore(element, after);
      after = element;
    }
    for (const element of selected) {
      if (!element.classList.contains("rv-pinned")) continue;
      const isBefore = this.#model.placeOf(element.rvKey) < this.#anchor.at;
      if (isBefore && element !== this.#list.firstChild) this.#list.prepend(element);
      else if (!isBefore && element !== this.#list.lastChild) this.#list.append(element);
    }
    if (this.#elements.size > MOST_POOLED) {
      for (const [key, { element }] of this.#elements) if (!element.isConnected) this.#elements.delete(key);
    }
  }

  /** Make the scrollbars say how much there is. */
  #stretch() {
    const rows = this.#model.count() - this.#model.first();
    const height = Math.min(TALLEST, rows * this.rowHeight);
    this.#spacer.style.height = `${Math.max(height, this.#viewport)}px`;
    const { scrollWidth, clientWidth } = this.element;
    if (scrollWidth > clientWidth && scrollWidth > this.#widest) {
      this.#widest = scrollWidth;
      this.#spacer.style.minWidth = `${scrollWidth}px`;
    }
  }

  #room() {
    return this.element.scrollHeight - this.element.clientHeight;
  }

  /** Put the scrollbar where the anchor says that it belongs. */
  #settle() {
    const first = this.#model.first();
    const end = this.#endAnchor();
    const most = end.at + end.off / this.#height(end.at) - first;
    const now = this.#anchor.at + this.#anchor.off / this.#height(this.#anchor.at) - first;
    const target = most > 0 ? Math.min(1, now / most) * this.#room() : 0;
    if (Math.abs(target - this.element.scrollTop) >= 1) this.element.scrollTop = target;
    this.#last = this.element.scrollTop;
  }

  #resized() {
    const wasAtEnd = this.isAtEnd;
    const line = box("rv-row");
    line.append("0");
    this.#probe.append(line);
    this.rowHeight = line.getBoundingClientRect().height || this.rowHeight;
    line.remove();
    this.#viewport = this.element.clientHeight;
    this.refresh(true);
    if (wasAtEnd) this.toEnd();
  }
}

function selectedRows(list) {
  const selection = document.getSelection();
  const rows = new Set();
  if (!selection || selection.isCollapsed) return rows;
  for (const node of [selection.anchorNode, selection.focusNode]) {
    const element = node?.nodeType === Node.ELEMENT_NODE ? node : node?.parentElement;
    const row = element?.closest(".rv-row");
    if (row?.parentNode === list) rows.add(row);
  }
  return rows;
}

function box(name) {
  const element = document.createElement("div");
  element.className = name;
  return element;
}
