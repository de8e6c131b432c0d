// Holds WebCrypto, and a second reader of the formats, to vectors.json: `node vectors.mjs [vectors.json]`.
// No code of runvoy's Python is in here, and no package: a browser could run all of it.
import { readFile } from "node:fs/promises";

const subtle = globalThis.crypto.subtle;
const utf8 = new TextEncoder();
const file = process.argv[2] ?? new URL("vectors.json", import.meta.url);
const vectors = JSON.parse(await readFile(file, "utf8"));
const failures = [];
let checks = 0;

function same(what, found, wanted) {
  checks += 1;
  if (found !== wanted) failures.push(`${what}: ${found}, not ${wanted}`);
}

const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const sha256 = async (bytes) => new Uint8Array(await subtle.digest("SHA-256", bytes));

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function base32(bytes) {
  let bits = "";
  for (const byte of bytes) bits += byte.toString(2).padStart(8, "0");
  return bits.match(/.{5}/g).map((five) => "abcdefghijklmnopqrstuvwxyz234567"[parseInt(five, 2)]).join("");
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

// Only what an envelope is made of: small integers, text, bytes and short arrays.
function readMsgpack(raw) {
  let at = 0;
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  function length(width) {
    const value = width === 1 ? view.getUint8(at) : width === 2 ? view.getUint16(at) : view.getUint32(at);
    at += width;
    return value;
  }
  function bytes(size) {
    if (at + size > raw.length) throw new Error("cut off");
    at += size;
    return raw.slice(at - size, at);
  }
  const text = (size) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes(size));
  function value() {
    const first = length(1);
    if (first <= 0x7f) return first;
    if (first >= 0x90 && first <= 0x9f) return Array.from({ length: first & 15 }, value);
    if (first >= 0xa0 && first <= 0xbf) return text(first & 31);
    if (first >= 0xd9 && first <= 0xdb) return text(length(2 ** (first - 0xd9)));
    if (first >= 0xc4 && first <= 0xc6) return bytes(length(2 ** (first - 0xc4)));
    throw new Error(`0x${first.toString(16)} is no part of an envelope`);
  }
  const whole = value();
  if (at !== raw.length) throw new Error("goes on");
  return whole;
}

function pae(type, payload) {
  const kind = utf8.encode(type);
  return concat(utf8.encode(`DSSEv1 ${kind.length} `), kind, utf8.encode(` ${payload.length} `), payload);
}

// WebCrypto takes seeds as PKCS #8 only, whose DER head is fixed for Ed25519 (RFC 8410).
function keyOf(seed) {
  const der = concat(fromHex("302e020100300506032b657004220420"), seed);
  return subtle.importKey("pkcs8", der, { name: "Ed25519" }, true, ["sign"]);
}

async function publicKeyOf(seed) {
  return toHex(Buffer.from((await subtle.exportKey("jwk", await keyOf(seed))).x, "base64url"));
}

async function parseApiKey(text) {
  const match = /^rvk1_([A-Za-z0-9_-]{48})$/.exec(text.trim());
  if (match === null) return null;
  const raw = new Uint8Array(Buffer.from(match[1], "base64url"));
  const seed = raw.slice(0, 32);
  return crc32(seed) === new DataView(raw.buffer, raw.byteOffset).getUint32(32) ? publicKeyOf(seed) : null;
}

function stamp(bytes, version) {
  bytes[6] = (bytes[6] & 0x0f) | (version << 4);
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return toHex(bytes);
}

const publicKey = await subtle.importKey("raw", fromHex(vectors.key.public_key), { name: "Ed25519" }, true, ["verify"]);
same("the key of the seed", await publicKeyOf(fromHex(vectors.key.seed)), vectors.key.public_key);

let signatures = 0;
for (const vector of vectors.envelopes) {
  if (vector.is_signed === null) continue;
  const [, type, payload, signers] = readMsgpack(fromHex(vector.envelope));
  const signer = signers.find(([keyId]) => keyId === vectors.key.key_id);
  same(vector.what, await subtle.verify("Ed25519", publicKey, signer[1], pae(type, payload)), vector.is_signed);
  signatures += 1;
}
for (const { public_key, key_id } of vectors.key_ids) {
  same(`key id of ${public_key}`, base32((await sha256(fromHex(public_key))).slice(0, 20)), key_id);
}
for (const vector of vectors.pae) {
  same(`PAE of ${vector.type}`, toHex(pae(vector.type, fromHex(vector.payload))), vector.pae);
}
for (const { text, public_key } of vectors.api_keys) same(`API key ${text}`, await parseApiKey(text), public_key);
const signingKey = await keyOf(fromHex(vectors.key.seed));
for (const { text, id } of vectors.uuid8) {
  const signature = await subtle.sign("Ed25519", signingKey, utf8.encode(`runvoy execution id v1\0${text}`));
  same(`id of ${text}`, stamp((await sha256(new Uint8Array(signature))).slice(0, 16), 8), id);
}
for (const { ms, random, id } of vectors.uuid7) {
  same(`id at ${ms}`, stamp(concat(fromHex(ms.toString(16).padStart(12, "0")), fromHex(random)), 7), id);
}

for (const failure of failures) console.error(failure);
console.log(JSON.stringify({ node: process.version, signatures, checks, failures: failures.length }));
process.exitCode = failures.length ? 1 : 0;
