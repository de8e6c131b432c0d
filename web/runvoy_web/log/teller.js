// What the log says in words: in its footer for a moment, and to who hears the page now and then.

import { plural } from "./words.js";

const NEWS_MS = 5_000;
const TELL_MS = 4_000;

export class Teller {
  #ui;
  #store;
  #lines = 0; // that were told of
  #news = 0;
  #told = 0;

  constructor(ui, store) {
    this.#ui = ui;
    this.#store = store;
  }

  /** Something to know; what `stays` is there until there is something else. */
  tell(words, stays = false) {
    clearTimeout(this.#told);
    this.#ui.told.textContent = words;
    this.#ui.live.textContent = words;
    if (!stays) this.#told = setTimeout(() => (this.#ui.told.textContent = ""), TELL_MS);
  }

  /** What is there by now is no news. */
  begin() {
    this.#lines = this.#store.lines;
  }

  /** Say to screen readers in a while how much was printed meanwhile. */
  announceLater() {
    this.#news ||= setTimeout(() => {
      this.#news = 0;
      const fresh = this.#store.lines - this.#lines;
      this.begin();
      if (fresh > 0) this.#ui.live.textContent = plural(fresh, "new line");
    }, NEWS_MS);
  }

  destroy() {
    clearTimeout(this.#news);
    clearTimeout(this.#told);
  }
}
