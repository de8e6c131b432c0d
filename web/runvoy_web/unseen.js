/** Letters that nobody sees: what would hide or turn text around is written out, so that a command reads as it runs. */

// Controls but tabs and newlines, and what Unicode has fonts leave out: what turns the order of letters around, or has no width. What
// joins letters or chooses between their forms is left to those that have them, once each: emoji, and the scripts of many languages.
// And so are the flags of England, Scotland and Wales, which are spelt in letters that nobody sees; those hold no other text.
const FLAGS = "\\u{e0067}\\u{e0062}(?:\\u{e0065}\\u{e006e}\\u{e0067}|\\u{e0073}\\u{e0063}\\u{e0074}|\\u{e0077}\\u{e006c}\\u{e0073})\\u{e007f}";
const UNSEEN = new RegExp(
  [
    "[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029]",
    `(?![\\u180b-\\u180f\\u200c\\u200d\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}])\\p{Default_Ignorable_Code_Point}(?<!\\u{1f3f4}(?=${FLAGS})[\\u{e0061}-\\u{e007f}]{1,6})`,
    "(?<![\\u1820-\\u18aa])[\\u180b-\\u180f]", // Mongolian's own
    "(?<![^\\0-\\x7f\\p{Default_Ignorable_Code_Point}]\\ufe0f?)[\\u200c\\u200d]",
    "(?<![^\\0-\\x7f\\p{Default_Ignorable_Code_Point}])(?!(?<=[0-9#*])\\ufe0f\\u20e3)[\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}]",
  ].join("|"),
  "gu",
);
const TURNS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/;
const CONTROLS = /[\0-\x1f\x7f-\x9f\u2028\u2029]/;
const AROUND = 40; // letters before and after the first, where a text is long

/** A text as it is shown to people: nothing in it is unseen, or puts other letters elsewhere. */
export const plain = (text) =>
  text.replace(UNSEEN, (one) => {
    const code = one.codePointAt(0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  });

/** The text without them. */
export const withoutUnseen = (text) => text.replace(UNSEEN, "");

/** What of a text a field does not show: {count, words, excerpt}, the excerpt as the text reads; null if there is nothing. */
export function unseenIn(text) {
  const found = [...text.matchAll(UNSEEN)];
  if (!found.length) return null;
  const kinds = new Map(found.map(([one]) => [one, kindOf(one)]));
  const words = [...kinds].slice(0, 4).map(([one, kind]) => `${plain(one)} ${kind}`).join(", ");
  const [first] = found;
  const from = text.lastIndexOf("\n", first.index) + 1;
  const end = text.indexOf("\n", first.index);
  // What stands before is as it is: cut where it joins letters it would count as unseen.
  const before = text.slice(Math.max(from, first.index - AROUND), first.index).replace(/^[\udc00-\udfff]/, "");
  const line = before + plain(text.slice(first.index, end < 0 ? text.length : end));
  const excerpt = [...line].slice(0, 3 * AROUND).join("");
  const isCut = first.index - AROUND > from;
  return { count: found.length, words: kinds.size > 4 ? `${words} and others` : words, excerpt: `${isCut ? "…" : ""}${excerpt}${excerpt.length < line.length ? "…" : ""}` };
}

const kindOf = (one) => (TURNS.test(one) ? "turns letters around" : CONTROLS.test(one) ? "is a control character" : "has no width");
