/** The page of locks: who holds each, and who waits for it in which order. */
import { fill, h, icon, problem } from "./dom.js";
import { every } from "./every.js";
import { duration, shortId } from "./format.js";
import { bothZones } from "./times.js";

const MOST_QUEUES = 20;

export function locksView(app, host, parameters, signal) {
  const failure = h("div");
  const list = h("div", { class: "cards" });
  let drawn = "";
  fill(host, h("h1", {}, "Locks"), h("p", { class: "muted" }, "A lock is held by one run at a time, first come first served."), failure, list);

  async function look() {
    try {
      const locks = (await app.client.call("GET", "/locks", { signal })).locks;
      const busy = locks.filter((lock) => lock.length > 1).slice(0, MOST_QUEUES);
      const queues = await Promise.all(
        busy.map((lock) => app.client.call("GET", `/locks/${encodeURIComponent(lock.name)}`, { signal })),
      );
      const whole = new Map(queues.map((queue) => [queue.name, queue]));
      const found = locks.map((lock) => whole.get(lock.name) ?? lock);
      fill(failure);
      const text = JSON.stringify(found);
      if (text === drawn) return tick(list, app.client.now());
      drawn = text;
      fill(list, found.length ? found.map((lock) => card(app, lock)) : h("p", { class: "muted" }, "Nobody holds a lock, and nobody waits for one."));
    } catch (error) {
      if (!signal.aborted && !error.isOfTheKey && !app.client.isLost) fill(failure, problem(error));
    }
  }
  look();
  every(app.pollMs, signal, look);
}

function card(app, lock) {
  const now = app.client.now();
  const [holder] = lock.queue ?? [];
  const isHeld = holder?.granted_at !== undefined;
  const waiters = (lock.queue ?? []).slice(isHeld ? 1 : 0);
  const unseen = lock.length - (lock.queue ?? []).length;
  return h(
    "section",
    { class: "card", "aria-label": `Lock ${lock.name}` },
    h("h2", {}, icon("lock"), lock.name, h("span", { class: "muted" }, `fence ${lock.fence}`)),
    isHeld
      ? h("p", {}, "Held by ", link(app, holder), ` of ${holder.owner} for `, since(holder.granted_at, now))
      : h("p", {}, "Held by nobody: the first in line waits for its other locks."),
    waiters.length
      ? h("ol", { class: "queue" }, waiters.map((entry) => h("li", {}, link(app, entry), ` of ${entry.owner}, waiting for `, since(entry.admitted_at, now))))
      : h("p", { class: "muted" }, unseen > 0 ? "" : "Nobody waits."),
    unseen > 0 ? h("p", { class: "muted" }, `and ${unseen} more in line`) : null,
  );
}

const link = (app, entry) => h("a", { href: app.runAddress(entry.execution_id), title: entry.execution_id }, h("code", {}, shortId(entry.execution_id)));

const since = (at, now) => h("time", { datetime: at, title: bothZones(at), dataset: { since: at } }, duration((now - Date.parse(at)) / 1000));

function tick(list, now) {
  for (const time of list.querySelectorAll("[data-since]")) time.textContent = duration((now - Date.parse(time.dataset.since)) / 1000);
}
