// Log chunks (docs/protocol.md): gzip, inside it one JSON record a line. Whoever wrote them may be the command itself, so
// nothing in them is trusted, and a chunk is read whole or not at all.

import { Breather } from "./breathe.js";

export const OUT = 0;
export const ERR = 1;
export const SYS = 2;

const STREAMS = { out: OUT, err: ERR, sys: SYS };
const MAX_CHUNK_BYTES = 32 * 1024 * 1024; // of one chunk, uncompressed
const MAX_TIME_MS = 253_370_764_799_999; // of the year 9998
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** A chunk that is none; its message says why. */
export class BadChunk extends Error {}

/**
 * The records of one chunk: {n: first line, t: ms, s: OUT | ERR | SYS, text, bytes: null | Uint8Array, goesOn, isEnd}.
 * `bytes` is what was printed where that is not UTF-8; then `text` has U+FFFD for what is not.
 */
export async function decodeChunk(raw) {
  const records = [];
  const breather = new Breather();
  for await (const line of linesOf(raw)) {
    records.push(recordOf(line));
    await breather.rest();
  }
  return records;
}

async function* linesOf(raw) {
  const reader = streamOf(raw).pipeThrough(new DecompressionStream("gzip")).getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let size = 0;
  let held = [];
  try {
    for (let part = await read(reader); part; part = await read(reader)) {
      size += part.length;
      if (size > MAX_CHUNK_BYTES) throw new BadChunk(`it is over ${MAX_CHUNK_BYTES / 1024 / 1024} MiB uncompressed`);
      const pieces = decode(decoder, part).split("\n");
      const last = pieces.pop();
      for (const piece of pieces) {
        yield held.join("") + piece;
        held = [];
      }
      held.push(last);
    }
    held.push(decode(decoder));
    if (held.some(Boolean)) yield held.join("");
  } finally {
    reader.cancel().catch(() => {}); // of a stream that failed: said already
  }
}

function streamOf(raw) {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(raw);
      controller.close();
    },
  });
}

async function read(reader) {
  try {
    return (await reader.read()).value;
  } catch {
    throw new BadChunk("it is cut off or no gzip");
  }
}

function decode(decoder, part) {
  try {
    return part ? decoder.decode(part, { stream: true }) : decoder.decode();
  } catch {
    throw new BadChunk("it is not UTF-8");
  }
}

function recordOf(line) {
  let fields;
  try {
    fields = JSON.parse(line);
  } catch {
    throw new BadChunk("it holds something that is no JSON");
  }
  const { n, t, s, m = "", b = "", p = false, end = false } = fields ?? {};
  const isSound =
    Number.isSafeInteger(n) && n >= 1 && Number.isSafeInteger(t) && t >= 0 && t <= MAX_TIME_MS &&
    typeof s === "string" && Object.hasOwn(STREAMS, s) && typeof m === "string" && typeof b === "string" &&
    typeof p === "boolean" && typeof end === "boolean" && !(m && b) && BASE64.test(b);
  if (!isSound) throw new BadChunk("it holds a record that is none");
  const bytes = b ? Uint8Array.from(atob(b), (unit) => unit.charCodeAt(0)) : null;
  const text = bytes ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes) : m;
  return { n, t, s: STREAMS[s], text, bytes, goesOn: p, isEnd: end };
}
