/**
 * The msgpack of signed messages, canonical as the deployment makes it: smallest integers, map keys sorted, times as the
 * timestamp extension. Values: null, booleans, integers, strings, Uint8Array, arrays, Map (text to text), Time.
 */
import { concat, utf8 } from "./bytes.js";

/** An instant to the microsecond: what the deployment's times hold. */
export class Time {
  constructor(milliseconds, microseconds = 0) {
    this.seconds = Math.floor(milliseconds / 1000);
    this.nanoseconds = (milliseconds - this.seconds * 1000) * 1_000_000 + microseconds * 1000;
  }
}

export function encode(value) {
  if (value === null || value === undefined) return Uint8Array.of(0xc0);
  if (value === false || value === true) return Uint8Array.of(value ? 0xc3 : 0xc2);
  if (typeof value === "number") return integer(value);
  if (typeof value === "string") {
    const raw = utf8(value);
    return concat(head(raw.length, 0xa0, 31, [0xd9, 0xda, 0xdb]), raw);
  }
  if (value instanceof Uint8Array) return concat(head(value.length, 0, -1, [0xc4, 0xc5, 0xc6]), value);
  if (Array.isArray(value)) return concat(head(value.length, 0x90, 15, [null, 0xdc, 0xdd]), ...value.map(encode));
  if (value instanceof Map) {
    const names = [...value.keys()].sort(byCodePoint);
    const entries = names.flatMap((name) => [encode(name), encode(value.get(name))]);
    return concat(head(value.size, 0x80, 15, [null, 0xde, 0xdf]), ...entries);
  }
  if (value instanceof Time) return timestamp(value);
  throw new TypeError(`no msgpack for ${typeof value}`);
}

/** Not as JavaScript sorts by itself, which is by UTF-16 units: U+1F600 would come before U+FF00. */
function byCodePoint(left, right) {
  const [a, b] = [utf8(left), utf8(right)];
  const differs = a.findIndex((byte, at) => byte !== b[at]);
  return differs < 0 ? a.length - b.length : a[differs] - (b[differs] ?? -1);
}

function head(size, small, most, [one, two, four]) {
  if (size <= most) return Uint8Array.of(small | size);
  if (one !== null && size < 0x100) return Uint8Array.of(one, size);
  if (size < 0x10000) return Uint8Array.of(two, size >> 8, size);
  return Uint8Array.of(four, size >>> 24, size >>> 16, size >>> 8, size);
}

function integer(value) {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} stands in no signed message`);
  if (value < 0x80) return Uint8Array.of(value);
  if (value < 0x100) return Uint8Array.of(0xcc, value);
  if (value < 0x10000) return Uint8Array.of(0xcd, value >> 8, value);
  if (value < 2 ** 32) return Uint8Array.of(0xce, value >>> 24, value >>> 16, value >>> 8, value);
  const view = new DataView(new ArrayBuffer(9));
  view.setUint8(0, 0xcf);
  view.setBigUint64(1, BigInt(value));
  return new Uint8Array(view.buffer);
}

/** https://github.com/msgpack/msgpack/blob/master/spec.md#timestamp-extension-type, for times from 1970 on. */
function timestamp({ seconds, nanoseconds }) {
  if (nanoseconds === 0 && seconds < 2 ** 32) {
    const view = new DataView(new ArrayBuffer(6));
    view.setUint16(0, 0xd6ff);
    view.setUint32(2, seconds);
    return new Uint8Array(view.buffer);
  }
  if (seconds >= 2 ** 34) throw new RangeError("a time after the year 2514");
  const view = new DataView(new ArrayBuffer(10));
  view.setUint16(0, 0xd7ff);
  view.setBigUint64(2, (BigInt(nanoseconds) << 34n) | BigInt(seconds));
  return new Uint8Array(view.buffer);
}

/** Read an array of byte strings and texts: all that a claim token is made of. Throws for anything else. */
export function decodeTexts(raw) {
  let at = 0;
  const take = (count) => {
    if (at + count > raw.length) throw new RangeError("cut off");
    at += count;
    return raw.subarray(at - count, at);
  };
  const count = take(1)[0] - 0x90;
  if (count < 0 || count > 15) throw new TypeError("no short array");
  const values = [];
  for (let number = 0; number < count; number += 1) {
    const first = take(1)[0];
    const isText = first >= 0xa0 && first <= 0xbf;
    if (!isText && ![0xc4, 0xc5, 0xd9, 0xda].includes(first)) throw new TypeError("neither bytes nor text");
    const width = first === 0xc5 || first === 0xda ? 2 : 1;
    const size = isText ? first - 0xa0 : take(width).reduce((sum, byte) => sum * 256 + byte, 0);
    const bytes = take(size).slice();
    values.push(first === 0xc4 || first === 0xc5 ? bytes : new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  }
  if (at !== raw.length) throw new RangeError("it goes on after its end");
  return values;
}
