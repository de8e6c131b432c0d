/** The page of who this browser is: first use, claiming a token, settings, forgetting. */
import { claim, Client, health } from "./api.js";
import { toBase64 } from "./bytes.js";
import { confirm, copyButton, facts, field, fill, h, problem } from "./dom.js";
import { sealClaim } from "./envelope.js";
import { DamagedText, forgetIdentity, keyOfText, makeKey, parseToken, saveIdentity } from "./identity.js";
import { applyTheme, forgetPreferences, preference, setPreference } from "./prefs.js";
import { applyZone, isAlwaysUtc, otherZone, switchZone, time, zone } from "./times.js";

export function accessView(app, host, parameters, signal) {
  if (app.token) return takeOver(app, host, app.token);
  if (app.client) return settings(app, host, signal);
  return firstUse(app, host);
}

/** Neither the key's text nor the token's is kept: what stays is a key that only WebCrypto can use. */
async function firstUse(app, host) {
  const failure = h("div");
  const endpoint = h("input", { name: "endpoint", type: "url", value: preference("endpoint", location.origin), required: true, autocomplete: "off", spellcheck: "false" });
  const secret = h("input", { name: "secret", type: "password", required: true, autocomplete: "off", spellcheck: "false", placeholder: "rvk1_… or rvc1_…" });
  const button = h("button", { type: "submit", class: "primary" }, "Use it");
  const form = h(
    "form",
    { class: "card narrow", novalidate: true, on: { submit: (event) => { event.preventDefault(); use(); } } },
    h("h1", {}, "Welcome to runvoy"),
    h("p", {}, "This browser has no key yet. On the machine where you use the command line, ", h("code", {}, "runvoy web"), " sets it up without asking anything."),
    field("Endpoint", endpoint, "Where the deployment answers."),
    field("API key or claim token", secret, "Asked for once. The key is kept where no script can read it, and its text is forgotten."),
    failure,
    h("div", { class: "row" }, button),
  );
  fill(host, form);
  secret.focus();
  const own = await health(location.origin).catch(() => null);
  if (own) {
    // A deployment's own page may call nobody else (its Content-Security-Policy): there is nothing to choose.
    endpoint.value = location.origin;
    endpoint.readOnly = true;
  }

  async function use() {
    const text = secret.value.trim();
    button.disabled = true;
    fill(failure);
    try {
      const origin = originOf(endpoint.value);
      if (text.startsWith("rvc1_")) await saveIdentity((await redeem(parseToken(text), origin)).identity);
      else await connect(origin, { ...(await keyOfText(text)), isOwn: false });
      secret.value = "";
      setPreference("endpoint", origin);
      await app.start("?");
    } catch (error) {
      if (error instanceof DamagedText) secret.value = "";
      else if (!error.code) throw error;
      fill(failure, problem(error));
    } finally {
      button.disabled = false;
    }
  }
}

function originOf(text) {
  try {
    return new URL(text).origin;
  } catch {
    throw new DamagedText("The endpoint is no address: it is like https://host.");
  }
}

/** Keep a key once the deployment has said whose it is. */
async function connect(endpoint, key) {
  const { deployment_id: deploymentId } = await health(endpoint);
  const identity = { ...key, endpoint, deploymentId };
  await new Client(identity).call("GET", "/whoami");
  await saveIdentity(identity);
}

/** Make a key, and have it registered with a token: who this browser would be with it, and the deployment's answer. */
async function redeem(token, endpoint) {
  const key = await makeKey();
  const sealed = await sealClaim(token.deploymentId, token.secret, key);
  const answer = await claim(endpoint, toBase64(sealed));
  return { identity: { ...key, endpoint, deploymentId: token.deploymentId, isOwn: true }, answer };
}

/**
 * `runvoy web` opened this page with a token. Anybody can make a link with a token of their own, so whose it is is shown before
 * this browser acts as them.
 */
async function takeOver(app, host, text) {
  app.token = null;
  const card = h("section", { class: "card narrow" }, h("h1", {}, "Setting up this browser"), h("p", { class: "muted" }, "One moment…"));
  fill(host, card);
  let redeemed;
  try {
    const token = parseToken(text);
    const own = await health(location.origin).catch(() => null);
    redeemed = await redeem(token, own?.deployment_id === token.deploymentId ? location.origin : token.endpoint);
  } catch (error) {
    if (!(error instanceof DamagedText) && !error.code) throw error;
    const hint = { message: error.message, code: error.code, hint: "A link of `runvoy web` is good once, and for two minutes: run it again." };
    return void fill(card, h("h1", {}, "This link is not good any more"), problem(hint), h("div", { class: "row" }, h("a", { class: "button", href: "?view=access" }, "Use an API key instead")));
  }
  const { identity, answer } = redeemed;
  const accept = async () => {
    await saveIdentity(identity);
    await app.start(app.afterToken ?? "?");
  };
  const refuse = async () => {
    await new Client(identity).call("DELETE", `/keys/${identity.keyId}`).catch((error) => { if (!error.code) throw error; });
    await app.start("?view=access");
  };
  const yes = h("button", { type: "button", class: "primary", on: { click: accept } }, `Continue as ${answer.key.user}`);
  fill(
    card,
    h("h1", {}, "Use runvoy in this browser?"),
    h("p", {}, "It will act as ", h("b", {}, answer.key.user), ` (${answer.role}) of `, h("code", {}, identity.deploymentId), " at ", h("code", {}, new URL(identity.endpoint).host), "."),
    h("p", { class: "muted" }, answer.key.expires_at ? ["Its own key, made here just now, lasts until ", time(answer.key.expires_at), "."] : "Its own key was made here just now."),
    h("div", { class: "row" }, yes, h("button", { type: "button", on: { click: refuse } }, "No")),
  );
  yes.focus();
}

function settings(app, host, signal) {
  const { identity } = app.client;
  const me = app.whoami;
  const failure = h("div");
  const theme = h(
    "select",
    { name: "theme", on: { change: (event) => { setPreference("theme", event.target.value === "auto" ? null : event.target.value); applyTheme(); } } },
    [["auto", "as the system"], ["light", "light"], ["dark", "dark"]].map(([value, words]) => h("option", { value, selected: preference("theme", "auto") === value }, words)),
  );
  const zones = isAlwaysUtc ? null : zoneField(signal);
  const offset = Math.round(app.client.clockOffset / 1000);
  const rows = [
    ["You are", me ? `${me.user} (${me.role})` : ""],
    ["Key", [h("code", {}, identity.keyId), copyButton(identity.keyId, "the key's id")]],
    ["Expires", me?.key_expires_at ? time(me.key_expires_at) : me ? "never" : ""],
    ["Deployment", h("code", {}, identity.deploymentId)],
    ["Endpoint", h("code", {}, identity.endpoint)],
    ["Version", me?.version],
    ["Clock", Math.abs(offset) > 1 ? `${Math.abs(offset)} s ${offset > 0 ? "behind" : "ahead of"} the deployment's; allowed for` : ""],
  ];
  fill(
    host,
    h("h1", {}, "This browser"),
    failure,
    h("section", { class: "card narrow facts" }, facts(rows), field("Colours", theme), zones),
    h(
      "section",
      { class: "card narrow" },
      h("h2", {}, "Forget this browser"),
      h("p", { class: "muted" }, identity.isOwn ? "Revokes the key, which lies here alone, and removes it with all preferences." : "Removes the key and all preferences from this browser. The key stays good elsewhere."),
      h("div", { class: "row" }, h("button", { type: "button", class: "danger", on: { click: () => forget(app, failure) } }, "Forget this browser")),
    ),
  );
}

/** Which zone times are shown in: the page's head has the same switch. */
function zoneField(signal) {
  const [here, utc] = [zone(), otherZone()].sort((one) => (one === "UTC" ? 1 : -1));
  const select = h("select", { name: "zone", on: { change: () => switchZone() } }, [here, utc].map((one) => h("option", { value: one }, one)));
  const show = () => (select.value = zone());
  show();
  document.addEventListener("zone", show, { signal });
  return field("Times", select, "The tooltip of each has both.");
}

export async function forget(app, failure) {
  const { identity } = app.client;
  if (!(await confirm("Forget this browser?", "To come back you need an API key, a claim token, or `runvoy web`.", "Forget"))) return;
  if (identity.isOwn) {
    try {
      await app.client.call("DELETE", `/keys/${identity.keyId}`);
    } catch (error) {
      if (!error.code) throw error;
      const goes = error.isOfTheKey || (await confirm("Forget it all the same?", `The key could not be revoked: ${error.message} Revoke it with: runvoy keys revoke ${identity.keyId}`, "Forget"));
      if (!goes) return void fill(failure, problem(error));
    }
  }
  await forgetIdentity();
  forgetPreferences();
  applyTheme();
  applyZone();
  await app.start("?view=access");
}
