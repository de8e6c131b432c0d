/** What is signed (docs/protocol.md): DSSE envelopes in msgpack, and the messages in them. */
import { concat, randomBytes, sha256, toBase64url, utf8 } from "./bytes.js";
import { encode, Time } from "./msgpack.js";

export const CONTROL = "application/vnd.runvoy.control.v1+msgpack";
export const RUN_REQUEST = "application/vnd.runvoy.run-request.v1+msgpack";
export const CLAIM = "application/vnd.runvoy.claim.v1+msgpack";
export const MAX_ENVELOPE_BYTES = 256 * 1024;
export const LIFETIME_MS = 15 * 60_000; // of a run request, until it is admitted

/** DSSE's pre-authentication encoding: the bytes that are signed. */
export function pae(payloadType, payload) {
  const kind = utf8(payloadType);
  return concat(utf8(`DSSEv1 ${kind.length} `), kind, utf8(` ${payload.length} `), payload);
}

/** Sign a payload with a key ({privateKey, keyId}); the envelope's bytes. */
export async function seal(payloadType, payload, key) {
  const signature = await crypto.subtle.sign("Ed25519", key.privateKey, pae(payloadType, payload));
  return encode([1, payloadType, payload, [[key.keyId, new Uint8Array(signature)]]]);
}

/** The Authorization header of one call. `target` is path and query exactly as sent; `at` in milliseconds. */
export async function authorization(key, { deploymentId, method, target, body, at, nonce = randomBytes(16) }) {
  const call = [1, deploymentId, method, target, await sha256(body), new Time(at), nonce];
  return `Runvoy ${toBase64url(await seal(CONTROL, encode(call), key))}`;
}

/** The claim of a key: that its holder wants it registered with a token. */
export const sealClaim = (deploymentId, secret, key) =>
  seal(CLAIM, encode([1, deploymentId, secret, key.publicKey]), key);

/**
 * The canonical bytes of a run request. `command` is an argv, or one line for /bin/sh; `env` and `labels` are plain objects;
 * what is left out has the protocol's default.
 */
export function encodeRunRequest(request) {
  const { git } = request;
  return encode([
    1,
    request.deploymentId,
    request.requestId,
    new Time(request.issuedAt),
    new Time(request.expiresAt),
    request.command,
    request.image ?? null,
    new Map(Object.entries(request.env ?? {})),
    request.secrets ?? [],
    request.locks ?? [],
    request.ifLocked ?? "wait",
    request.timeoutSeconds ?? 600,
    request.queueTimeoutSeconds ?? null,
    request.cpu ?? null,
    request.memoryMib ?? null,
    git ? [git.repo, git.ref ?? "", git.path ?? ""] : null,
    request.playbook ?? null,
    new Map(Object.entries(request.labels ?? {})),
    request.name ?? null,
    request.isolation ?? "",
  ]);
}
