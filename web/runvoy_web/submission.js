/** What becomes of a request that was made in the page: sent, or tried out. */
import { ApiError } from "./api.js";
import { toBase64 } from "./bytes.js";
import { dollars } from "./cost.js";
import { h, problem } from "./dom.js";
import { encodeRunRequest, MAX_ENVELOPE_BYTES, RUN_REQUEST, seal } from "./envelope.js";
import { duration, lockText } from "./format.js";

/** Send a request; resolves once it is durable. Throws ApiError. */
export async function send(app, request) {
  const { client } = app;
  const sealed = await seal(RUN_REQUEST, encodeRunRequest(request), client.identity);
  if (sealed.length > MAX_ENVELOPE_BYTES) {
    throw new ApiError({ code: "TOO_LARGE", message: `The request has ${sealed.length.toLocaleString()} bytes; at most 262,144 are allowed.` });
  }
  await client.upload(`requests/${client.identity.keyId}/${request.requestId}`, sealed);
}

/** What would become of a request, to be shown; nothing is submitted. Throws ApiError. */
export async function tryOut(app, request) {
  const answer = await app.client.call("POST", "/dry-run", { body: { request: toBase64(encodeRunRequest(request)) } });
  return verdict(app, answer);
}

/** The deployment's judgement in words. */
function verdict(app, answer) {
  if (answer.refused) return problem(answer.refused);
  const found = answer.resolved ?? {};
  const facts = [
    found.image ? `image ${found.image_name ?? found.image}` : null,
    found.isolation === "process" ? "a process of the machine" : null,
    found.timeout_seconds ? `at most ${duration(found.timeout_seconds)}` : null,
    answer.most_nanodollars ? `at most ${dollars(answer.most_nanodollars)}` : null,
    ...(answer.secrets ?? []).map((secret) => `${secret.env_name} from ${secret.name}`),
  ];
  const now = app.client.now();
  return h(
    "div",
    { class: "note", role: "status" },
    h("p", {}, h("strong", {}, answer.waits ? "It would be accepted, and wait." : "It would be accepted, and start."), ` ${facts.filter(Boolean).join(", ")}`),
    (answer.locks ?? []).filter((lock) => lock.position).map((lock) => h("p", {}, `${lock.name}: ${lockText(lock, { state: "QUEUED" }, now)}`)),
  );
}
