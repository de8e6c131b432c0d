/**
 * Who this browser is: a private key that WebCrypto keeps and never gives out, and the deployment it is for.
 *
 * It lies in IndexedDB, which holds keys as objects. What is in localStorage (prefs.js) names nobody.
 *
 * @typedef {object} Identity
 * @property {CryptoKey} privateKey  Not extractable: no script can read it, only sign with it while the page is open.
 * @property {Uint8Array} publicKey
 * @property {string} keyId
 * @property {string} endpoint  Scheme, host and port.
 * @property {string} deploymentId
 * @property {boolean} isOwn  The key was made in this browser, and lies nowhere else: forgetting it is its end.
 */
import { concat, crc32, fromBase64url, same, sha256, toBase32 } from "./bytes.js";
import { decodeTexts, encode } from "./msgpack.js";

const API_KEY_PREFIX = "rvk1_";
const TOKEN_PREFIX = "rvc1_";
const SEED_BYTES = 32;
// RFC 8410: the ASN.1 around the 32 bytes of an Ed25519 seed.
const PKCS8_HEAD = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20);
const DATABASE = "runvoy";
const STORE = "identity";
const CURRENT = "current";

/** A text that is no whole API key or claim token. The text itself is never part of the message. */
export class DamagedText extends Error {}

async function keyIdOf(publicKey) {
  return toBase32((await sha256(publicKey)).subarray(0, 20));
}

/** {privateKey, publicKey, keyId} of an API key's text. */
export async function keyOfText(text) {
  const trimmed = text.trim();
  if (!trimmed.startsWith(API_KEY_PREFIX)) throw new DamagedText("This is not a runvoy API key: one begins with rvk1_.");
  const raw = trimmed.length === 53 ? fromBase64url(trimmed.slice(API_KEY_PREFIX.length)) : null;
  const seed = raw?.subarray(0, SEED_BYTES);
  if (!raw || !same(raw.subarray(SEED_BYTES), crc32(seed))) {
    throw new DamagedText("The API key is damaged: its checksum does not match. It may have lost characters in copying.");
  }
  const pkcs8 = concat(PKCS8_HEAD, seed);
  // WebCrypto computes a public half only for whoever may export; so once to learn it, once to keep.
  const open = await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", true, ["sign"]);
  const { x } = await crypto.subtle.exportKey("jwk", open);
  const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", false, ["sign"]);
  pkcs8.fill(0);
  raw.fill(0);
  const publicKey = fromBase64url(`${x}=`);
  return { privateKey, publicKey, keyId: await keyIdOf(publicKey) };
}

/** A new key, which nobody ever sees. */
export async function makeKey() {
  const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  const publicKey = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return { privateKey: pair.privateKey, publicKey, keyId: await keyIdOf(publicKey) };
}

/** {secret, endpoint, deploymentId} of a claim token's text. */
export function parseToken(text) {
  const damaged = new DamagedText("The claim token is damaged. Paste the whole of it, as it was printed.");
  const trimmed = text.trim();
  if (!trimmed.startsWith(TOKEN_PREFIX) || trimmed.length > 4096) {
    throw new DamagedText("This is not a runvoy claim token: one begins with rvc1_.");
  }
  const encoded = trimmed.slice(TOKEN_PREFIX.length);
  const raw = fromBase64url(encoded + "=".repeat((4 - (encoded.length % 4)) % 4));
  if (!raw || raw.length < 5 || !same(raw.subarray(0, 4), crc32(raw.subarray(4)))) throw damaged;
  try {
    const body = raw.subarray(4);
    const values = decodeTexts(body);
    const [secret, endpoint, deploymentId] = values;
    if (values.length !== 3 || secret.length !== 32 || !same(encode(values), body)) throw damaged;
    return { secret, endpoint: new URL(endpoint).origin, deploymentId };
  } catch {
    throw damaged;
  }
}

/** @returns {Promise<Identity|null>} */
export const loadIdentity = async () => (await inStore("readonly", (store) => store.get(CURRENT))) ?? null;

export const saveIdentity = (identity) => changed((store) => store.put(identity, CURRENT));

export const forgetIdentity = () => changed((store) => store.delete(CURRENT));

// Other tabs hold the key as well, and would go on with one that was forgotten here.
const otherTabs = new BroadcastChannel("runvoy.identity");

async function changed(act) {
  await inStore("readwrite", act);
  otherTabs.postMessage("changed");
}

/** Calls `act` whenever another tab has kept or forgotten a key. */
export function onOtherTab(act) {
  otherTabs.onmessage = () => act();
}

async function inStore(mode, act) {
  const database = await promised(openDatabase());
  try {
    const transaction = database.transaction(STORE, mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const found = await promised(act(transaction.objectStore(STORE)));
    await done;
    return found;
  } finally {
    database.close();
  }
}

function openDatabase() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return request;
}

const promised = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
