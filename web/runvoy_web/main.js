/** The frame: who is signed in, which page is shown, and what is wrong with the network or the key. */
import { accessView } from "./access.js";
import { Client } from "./api.js";
import { announce, fill, h, icon, problem } from "./dom.js";
import { formView } from "./form.js";
import { loadIdentity, onOtherTab } from "./identity.js";
import { locksView } from "./locks.js";
import { applyTheme } from "./prefs.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { applyZone, isAlwaysUtc, otherZone, shortZone, switchZone, time, zone } from "./times.js";

const VIEWS = { runs: runsView, locks: locksView, new: formView, access: accessView };
const TITLES = { runs: "Runs", locks: "Locks", new: "New run", access: "This browser" };
const POLL_MS = { local: 1_500, remote: 5_000 };
const MAY_KILL = ["developer", "operator", "admin"];

class App {
  client = null;
  whoami = null;
  token = null;
  afterToken = null;
  draft = null; // of a command
  sent = null; // the form's last request, which can be changed if it is refused
  call = null; // of a playbook, for the form that is shown next
  left = null; // the table of runs as it was left: whoever goes back finds it so
  onHash = null; // what the page that is shown makes of another line in its address
  #view = null; // the AbortController of the page that is shown
  #address = null; // of the page that is shown, but for its hash

  constructor() {
    this.host = document.getElementById("view");
    this.banner = document.getElementById("banner");
    addEventListener("popstate", () => this.#moved());
    addEventListener("hashchange", () => this.#takeToken() && this.#show());
    document.addEventListener("click", (event) => this.#onClick(event));
    this.#takeToken();
    document.addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("storage", () => {
      applyTheme();
      applyZone();
    });
    this.zone = document.getElementById("zone");
    this.zone.addEventListener("click", () => this.#switchZone());
    document.addEventListener("zone", () => this.#showZone());
    this.#showZone();
    onOtherTab(() => this.start());
  }

  /** Back and forward, or another hash. Where only that has changed, what is shown stays: a form may be half filled in. */
  #moved() {
    if (location.search !== this.#address) return this.#show(true);
    return this.onHash?.(location.hash);
  }

  /** Begin, or begin anew with another key, or without one. */
  async start(address) {
    if (address !== undefined) history.replaceState(null, "", address);
    const identity = await loadIdentity();
    this.client = identity && new Client(identity);
    this.whoami = null;
    fill(this.banner);
    this.#frame();
    if (this.client) this.#watch();
    if (this.client && !(await this.#learnWho()) && this.token) {
      this.client = null; // its key is good for nothing, and here is a new one
    } else if (this.client && this.token) {
      announce(`This browser is set up already, as ${this.whoami?.user ?? "somebody"}`, true);
      this.token = null;
      if (this.afterToken) history.replaceState(null, "", this.afterToken);
    }
    this.#view?.abort(); // keeps what is left half done, for the way back: not with another key
    this.draft = this.sent = this.call = this.left = null;
    this.#show();
  }

  /** A token in the address is taken out of it before anything else: it must not stay in the history. */
  #takeToken() {
    const token = /^#claim=(rvc1_[A-Za-z0-9_=-]+)$/.exec(location.hash)?.[1];
    if (!token) return false;
    this.token = token;
    this.afterToken = location.search || "?";
    history.replaceState(null, "", location.pathname + location.search);
    return true;
  }

  #watch() {
    const { client } = this;
    client.addEventListener("lost", () => this.#tellLost(client));
    client.addEventListener("reached", () => {
      fill(this.banner);
      announce("Connected again", true);
      if (!this.whoami) this.#learnWho();
    });
    client.addEventListener("denied", (event) => this.#tellDenied(event.detail));
  }

  #tellLost(client) {
    const { host } = new URL(client.identity.endpoint);
    fill(this.banner, h("p", { class: "warning", role: "alert" }, h("strong", {}, `No answer from ${host}.`), " What you see is as it was at ", time(new Date(client.reachedAt).toISOString()), ". It goes on by itself as soon as there is one."));
    const again = async () => {
      if (!client.isLost || client !== this.client) return;
      await client.call("GET", "/whoami").catch((error) => { if (!error.code) throw error; });
      if (client.isLost) setTimeout(again, 2_000);
    };
    setTimeout(again, 1_000);
  }

  #tellDenied(error) {
    const what = { KEY_EXPIRED: "This browser's key has expired.", KEY_REVOKED: "This browser's key was revoked.", WRONG_DEPLOYMENT: "This is another deployment than this browser was set up for." };
    fill(
      this.banner,
      h("p", { class: "warning", role: "alert" }, h("strong", {}, what[error.code] ?? "The deployment does not know this browser's key."), " Run ", h("code", {}, "runvoy web"), " on your machine, or forget this browser and use another key. ", h("a", { href: "?view=access" }, "This browser")),
    );
  }

  async #learnWho() {
    try {
      this.whoami = await this.client.call("GET", "/whoami");
    } catch (error) {
      if (!error.code) throw error;
      return !error.isOfTheKey;
    }
    this.#frame();
    return true;
  }

  get pollMs() {
    const { hostname } = new URL(this.client.identity.endpoint);
    return ["127.0.0.1", "localhost", "[::1]"].includes(hostname) ? POLL_MS.local : POLL_MS.remote;
  }

  /** Whether to offer something. The deployment decides; this only spares people a refusal. */
  may(what, run) {
    const role = this.whoami?.role;
    if (what === "request" && role) return ["operator", "admin"].includes(role) || run?.owner === this.whoami.user;
    return what === "kill" || what === "run" ? !role || MAY_KILL.includes(role) : true;
  }

  runAddress(executionId) {
    return `?execution_id=${executionId}`;
  }

  navigate(address) {
    history.pushState(null, "", address);
    this.#show();
    scrollTo(0, 0);
  }

  replaceParameters(changes) {
    const parameters = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) value ? parameters.set(name, value) : parameters.delete(name);
    history.replaceState(null, "", `?${parameters}`);
    this.#address = location.search;
  }

  replaceHash(hash) {
    history.replaceState(null, "", location.pathname + location.search + hash);
  }

  #frame() {
    const link = (address, words, view) => h("a", { href: address, dataset: { view } }, words);
    const known = this.client ? [link("?", "Runs", "runs"), link("?view=locks", "Locks", "locks"), this.may("run") ? link("?view=new", "New run", "new") : null] : [];
    fill(document.getElementById("pages"), known);
    const me = this.whoami ? [h("b", {}, this.whoami.user), h("span", {}, this.whoami.role)] : this.client ? "…" : null;
    this.zone.hidden = !me || isAlwaysUtc;
    fill(document.getElementById("me"), me ? h("a", { href: "?view=access", class: "me", dataset: { view: "access" }, title: "This browser" }, me) : null);
    this.#mark();
  }

  #showZone() {
    fill(this.zone, shortZone());
    this.zone.title = `Times are in ${zone()}. Show them in ${otherZone()} (z)`;
  }

  #switchZone() {
    if (isAlwaysUtc) return;
    switchZone();
    announce(`Times are in ${zone()}`, true);
  }

  #mark() {
    for (const link of document.querySelectorAll("header [data-view]")) {
      if (link.dataset.view === this.viewName) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  /** Show the page that the address names; `isBack`: by the browser's way back or forward. */
  #show(isBack = false) {
    this.#view?.abort();
    this.#view = new AbortController();
    this.#address = location.search;
    this.onHash = null;
    this.isBack = isBack;
    const parameters = new URLSearchParams(location.search);
    const asked = parameters.has("execution_id") ? "run" : (parameters.get("view") ?? "runs");
    const isReady = this.client && !this.token;
    this.viewName = isReady ? (Object.hasOwn(VIEWS, asked) || asked === "run" ? asked : "runs") : "access";
    const view = this.viewName === "run" ? runView : VIEWS[this.viewName];
    document.title = `${TITLES[this.viewName] ?? "Run"} · runvoy`;
    document.body.dataset.view = this.viewName;
    const host = h("div");
    fill(this.host, host);
    this.#mark();
    view(this, host, parameters, this.#view.signal);
  }

  /** Links within the page change the address without loading it anew. */
  #onClick(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const address = link.getAttribute("href") ?? "";
    if (address === "#view") {
      event.preventDefault(); // the address keeps what it has: a line of a log
      return this.host.focus();
    }
    if (!address.startsWith("?") || link.hasAttribute("download") || link.target) return;
    event.preventDefault();
    this.navigate(address);
    this.host.focus({ preventScroll: true });
  }

  #onKey(event) {
    if (event.target.matches("input, select, textarea, [contenteditable]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || !this.client) return;
    if (event.key === "/" && this.viewName === "runs") {
      event.preventDefault();
      this.host.querySelector("input[name=text]")?.focus();
    } else if (event.key === "n" && this.viewName !== "new" && this.may("run")) {
      event.preventDefault();
      this.navigate("?view=new");
    } else if (event.key === "z") {
      this.#switchZone();
    } else if (event.key === "u" && this.viewName !== "runs") {
      event.preventDefault();
      this.navigate("?");
    }
  }
}

// A deployment's headers have browsers frame nothing; whoever else serves the files may not send them, and no text of a page can say it.
const FRAMED = { message: "The viewer is not shown within another page.", hint: "What is pressed there may not be what it looks like: open it in a tab of its own." };

/** Why this browser cannot hold a key; null if it can. */
async function lack() {
  const needs = { message: "This browser cannot be used with runvoy.", hint: "" };
  if (!isSecureContext) return { ...needs, hint: "Open the page over https, or on this machine by 127.0.0.1: elsewhere browsers do not sign." };
  try {
    await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
    await loadIdentity();
    return null;
  } catch (error) {
    return { ...needs, hint: `It must have Ed25519 in WebCrypto, and keep what IndexedDB holds: ${error.message} A newer browser, or a window that is not private, has both.` };
  }
}

applyTheme();
fill(document.getElementById("mark"), icon("SUCCEEDED"));
if (top !== self) fill(document.getElementById("view"), problem(FRAMED));
else {
  const app = new App();
  const missing = await lack();
  if (missing) fill(app.host, problem(missing));
  else await app.start();
}
