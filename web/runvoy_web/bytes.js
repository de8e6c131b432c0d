/** Bytes and the texts that stand for them. */

const encoder = new TextEncoder();
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

export const utf8 = (text) => encoder.encode(text);

/** Text in a form that its bytes give back; a lone surrogate has none, and would become U+FFFD unseen. */
export const isUtf8 = (text) => text.isWellFormed?.() ?? !/\p{Surrogate}/u.test(text);

export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

export function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

/** Padded, as the deployment writes and reads it. */
export const toBase64url = (bytes) => toBase64(bytes).replaceAll("+", "-").replaceAll("/", "_");

const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

/** The bytes that `text` is the padded base64url of; null for any other text, such as one with bits that no byte has. */
export function fromBase64url(text) {
  if (!/^[A-Za-z0-9_=-]*$/.test(text)) return null;
  try {
    const bytes = fromBase64(text.replaceAll("-", "+").replaceAll("_", "/"));
    return toBase64url(bytes) === text ? bytes : null;
  } catch {
    return null;
  }
}

export function toBase32(bytes) {
  const bits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
  return bits.match(/.{5}/g).map((five) => BASE32[parseInt(five, 2)]).join("");
}

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  crc = (crc ^ 0xffffffff) >>> 0;
  return Uint8Array.of(crc >>> 24, crc >>> 16, crc >>> 8, crc);
}

export const same = (left, right) => left.length === right.length && left.every((byte, at) => byte === right[at]);

export const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

export const randomBytes = (count) => crypto.getRandomValues(new Uint8Array(count));

/** A UUIDv7 (RFC 9562) of a time in milliseconds, as 32 hex digits. */
export function uuid7(milliseconds) {
  const id = concat(new Uint8Array(6), randomBytes(10));
  new DataView(id.buffer).setUint16(0, Math.floor(milliseconds / 2 ** 32));
  new DataView(id.buffer).setUint32(2, milliseconds % 2 ** 32);
  id[6] = (id[6] & 0x0f) | 0x70;
  id[8] = (id[8] & 0x3f) | 0x80;
  return toHex(id);
}
