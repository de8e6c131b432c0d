// Terminal text as text: colours and the like (SGR) become styles, everything else that a terminal would obey is taken out.
// The rules are those of the command line (cli/runvoy_cli/terminal/sanitize.py); both are held against each other by tests.

const BIDI = "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"; // they show text in another order than it has
const SUSPICIOUS = new RegExp(`[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f${BIDI}]`);
const TOKEN = new RegExp(
  "(\\x1b\\[[0-9;:]{0,64}m)" +
    "|(\\r+\\n?)" +
    "|\\x1b\\[[0-?]*[ -/]*[@-~]?" + // any other CSI; each of these may be broken off, by whatever follows
    "|\\x1b[\\]PX^_][^\\x07\\n\\x18\\x1a\\x1b\\x9c]*(?:[\\x07\\x18\\x1a\\x9c]|\\x1b\\\\)?" + // OSC, DCS, SOS, PM, APC
    "|\\x1b[ -/]*[0-~]?" +
    `|[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1a\\x1c-\\x1f\\x7f-\\x9f${BIDI}]+`,
  "g",
);
const SGR = /\x1b\[([0-9;:]{0,64})m/g;
const RESETS = ["\x1b[0m", "\x1b[m"];

/** How text looks. A colour is null (the default), 0–255 (the palette) or "#rrggbb". */
export const PLAIN = Object.freeze({
  fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, blink: false, inverse: false,
  hidden: false, strike: false, overline: false,
});

const SWITCHES = {
  1: { bold: true }, 2: { dim: true }, 3: { italic: true }, 4: { underline: true }, 5: { blink: true },
  6: { blink: true }, 7: { inverse: true }, 8: { hidden: true }, 9: { strike: true }, 21: { underline: true },
  22: { bold: false, dim: false }, 23: { italic: false }, 24: { underline: false }, 25: { blink: false },
  27: { inverse: false }, 28: { hidden: false }, 29: { strike: false }, 39: { fg: null }, 49: { bg: null },
  53: { overline: true }, 55: { overline: false },
};

/** Whether `text` holds anything but plain text, tabs and newlines. */
const isSuspicious = (text) => SUSPICIOUS.test(text);

/** The text that can be read in `text`, of any number of lines. A return that no newline follows stays, as one "\r". */
export function strip(text) {
  if (!isSuspicious(text)) return text;
  return text.replace(TOKEN, (token, sgr, returns) => (returns ? (token.endsWith("\n") ? "\n" : "\r") : ""));
}

/**
 * One line, without its newline, that begins in `style`: `segments` of runs {text, style}, and the style after it.
 * Each return begins a segment, as progress that overwrites itself does; segments without text are left out.
 */
export function parseLine(line, style) {
  if (!isSuspicious(line)) return { segments: line ? [[{ text: line, style }]] : [], style };
  const segments = [];
  let runs = [];
  let seen = 0;
  const pass = (until) => {
    if (until <= seen) return;
    const last = runs[runs.length - 1];
    if (last && last.style === style) last.text += line.slice(seen, until);
    else runs.push({ text: line.slice(seen, until), style });
  };
  for (const match of line.matchAll(TOKEN)) {
    pass(match.index);
    seen = match.index + match[0].length;
    if (match[1] !== undefined) style = applySgr(style, match[1].slice(2, -1));
    else if (match[2] !== undefined && runs.length) {
      segments.push(runs);
      runs = [];
    }
  }
  pass(line.length);
  if (runs.length) segments.push(runs);
  return { segments, style };
}

/** The style after `text`, which began in `style`. What stands before the last reset does not matter, and is not read. */
export function styleAfter(text, style) {
  const reset = Math.max(...RESETS.map((sequence) => text.lastIndexOf(sequence)));
  if (reset >= 0) style = PLAIN;
  else if (!text.includes("\x1b[")) return style;
  SGR.lastIndex = Math.max(0, reset);
  for (let match = SGR.exec(text); match; match = SGR.exec(text)) style = applySgr(style, match[1]);
  return style;
}

/** Where in `text` that stands which stands at `at` in what can be read of it. */
export function rawOffset(text, at) {
  let removed = 0;
  for (const match of isSuspicious(text) ? text.matchAll(TOKEN) : []) {
    if (match.index - removed >= at) break;
    removed += match[0].length - (match[2] ? 1 : 0);
  }
  return at + removed;
}

/** Where `text`, which a limit cuts at `end`, is cut without parting a character or a sequence. */
export function safeCut(text, end) {
  if (end >= text.length) return text.length;
  const escape = text.lastIndexOf("\x1b", end - 1);
  if (escape > 0 && end - escape < 128) return escape;
  return end > 1 && isLeadSurrogate(text.charCodeAt(end - 1)) ? end - 1 : end;
}

const isLeadSurrogate = (unit) => unit >= 0xd800 && unit < 0xdc00;

/** `style` after the parameters of one SGR sequence. What is unknown or cut short changes nothing. */
function applySgr(style, parameters) {
  const next = { ...style };
  const groups = parameters.split(";");
  for (let index = 0; index < groups.length; index++) {
    const parts = groups[index].split(":");
    const code = Number(parts[0]);
    if (code === 0) Object.assign(next, PLAIN);
    else if (code === 4 && parts.length > 1) next.underline = Number(parts[1]) > 0;
    else if (code === 38 || code === 48 || code === 58) {
      const [colour, taken] = parts.length > 1 ? [colourOf(parts.slice(1), true), 0] : followingColour(groups, index);
      index += taken;
      if (colour !== undefined && code !== 58) next[code === 38 ? "fg" : "bg"] = colour; // 58 colours the underline
    } else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code >= 90 && code <= 97) next.fg = code - 82;
    else if (code >= 100 && code <= 107) next.bg = code - 92;
    else Object.assign(next, SWITCHES[code]);
  }
  return isSame(next, PLAIN) ? PLAIN : isSame(next, style) ? style : next;
}

function followingColour(groups, index) {
  const taken = groups[index + 1] === "5" ? 2 : groups[index + 1] === "2" ? 4 : 1;
  return [colourOf(groups.slice(index + 1, index + 1 + taken), false), taken];
}

/** `5, n` or `2, r, g, b`; between colons a colour space may stand before r. */
function colourOf(parts, hasColons) {
  if (parts[0] === "5" && parts.length >= 2) return isByte(parts[1]) ? Number(parts[1]) : undefined;
  const channels = parts.slice(hasColons && parts.length > 4 ? 2 : 1, hasColons && parts.length > 4 ? 5 : 4);
  if (parts[0] !== "2" || channels.length !== 3 || !channels.every(isByte)) return undefined;
  return `#${channels.map((channel) => Number(channel).toString(16).padStart(2, "0")).join("")}`;
}

const isByte = (text) => !text.includes(":") && Number(text) <= 255;

function isSame(one, other) {
  for (const name in PLAIN) if (one[name] !== other[name]) return false;
  return true;
}

const LEVELS = [0, 95, 135, 175, 215, 255];

/** Colours 16–255 of the palette as "#rrggbb": a cube of 6 × 6 × 6, then greys. The first 16 are the page's own. */
export function paletteColour(index) {
  const grey = 8 + (index - 232) * 10;
  const cube = index - 16;
  const channels = index >= 232 ? [grey, grey, grey] : [cube / 36, (cube / 6) % 6, cube % 6].map((at) => LEVELS[Math.trunc(at)]);
  return `#${channels.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
}
