// A log on paper: the list holds the rows in view alone, so what is printed is put beside it while the browser prints.

import { grouped } from "./words.js";

const MOST_ROWS = 5_000; // some hundred pages

/**
 * Fills `sheet` before each printing: with the lines of `marked()`, a range or null; else with all of the log; of a long one with what
 * comes from the first row in view on. `create(place)` makes a row's element. Browsers do not wait: what is not in memory is left out.
 */
export function printing(sheet, store, { first, marked, create }, signal) {
  const fill = () => {
    const range = marked();
    const rows = [];
    const begin = (range && whereIs(store, range[0])) ?? (store.rows > MOST_ROWS ? first() : 0);
    for (let at = begin; at < store.rows && rows.length < MOST_ROWS; at++) {
      const place = store.locate(at);
      if (!store.isLoaded(place.number)) break;
      const line = store.row(place.number, place.row);
      if (range && line.n > range[1]) break;
      if (range && line.n < range[0]) continue; // the first may be lost
      rows.push(create(place));
    }
    sheet.replaceChildren(words(rows, store), ...rows);
  };
  addEventListener("beforeprint", fill, { signal });
  addEventListener("afterprint", () => sheet.replaceChildren(), { signal });
}

/** The row of line `n`, if it is in memory. */
function whereIs(store, n) {
  for (let number = 1; number <= store.chunks; number++) {
    const row = store.index(number)?.rowOf(n) ?? -1;
    if (row >= 0) return store.position(number, row);
  }
  return null;
}

function words(rows, store) {
  const numbers = rows.map((row) => Number(row.dataset.n)).filter(Boolean);
  const note = document.createElement("p");
  const isAll = rows.length === store.rows;
  note.textContent = !numbers.length
    ? "Nothing of the log was there to be printed."
    : isAll ? "All of the log" : `Lines ${grouped(numbers[0])} to ${grouped(numbers.at(-1))} of ${grouped(store.lines)}`;
  return note;
}
