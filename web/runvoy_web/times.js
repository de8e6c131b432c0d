/**
 * Moments as a reader has them: in the time zone of this machine or, by a switch that the browser keeps, in UTC. The tooltip of each
 * has both. Where the machine's own zone is UTC there is nothing to switch.
 */
import { h } from "./dom.js";
import { preference, setPreference } from "./prefs.js";

const HERE = usableZone(new Intl.DateTimeFormat().resolvedOptions().timeZone);
const UTC_NAMES = /^(?:Etc\/)?(?:UTC|UCT|GMT|Zulu|Universal|Greenwich)$/;
const PREFERENCE = "zone";
const DAY = { day: "numeric", month: "short" };
const MINUTE = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }; // as logs and the command line have it
const WHOLE = { ...DAY, year: "numeric", ...MINUTE, second: "2-digit", timeZoneName: "short" };

/** A machine may have none (Etc/Unknown), or one that the browser cannot reckon with. */
function usableZone(name = "UTC") {
  try {
    new Intl.DateTimeFormat(undefined, { timeZone: name });
    return name;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return "UTC";
  }
}

export const isAlwaysUtc = UTC_NAMES.test(HERE);
const wantsUtc = () => isAlwaysUtc || preference(PREFERENCE, "local") === "utc";
let isUtc = wantsUtc(); // looked up once: each row of a log asks

/** The zone that times are shown in, by its name: Europe/Berlin, UTC. */
export const zone = () => (isUtc ? "UTC" : HERE);

/** The other one of the two. */
export const otherZone = () => (isUtc ? HERE : "UTC");

/** As `zone`, but as short as a reader's language has it, at this time of the year: CEST, GMT-5, UTC. */
export const shortZone = () => formatter({ timeZoneName: "short" }).formatToParts(Date.now()).find(({ type }) => type === "timeZoneName").value;

/** Show times in the other zone, from now on. */
export function switchZone() {
  isUtc = !isUtc;
  setPreference(PREFERENCE, isUtc ? "utc" : null);
  tell();
}

/** The preference may have been changed elsewhere. */
export function applyZone() {
  if (isUtc === wantsUtc()) return;
  isUtc = !isUtc;
  tell();
}

/** What is shown follows at once; who draws times otherwise than as `time` hears of it: the document's event `zone`. */
function tell() {
  for (const one of document.querySelectorAll("time[data-moment]")) one.textContent = moment(one.dateTime);
  document.dispatchEvent(new Event("zone"));
}

const formatters = new Map(); // one takes longer to make than to use

function formatter(parts, timeZone = zone()) {
  const name = `${timeZone} ${Object.entries(parts)}`;
  if (!formatters.has(name)) formatters.set(name, new Intl.DateTimeFormat(undefined, { ...parts, timeZone }));
  return formatters.get(name);
}

/** A moment to the second, with the name of its zone; empty for none. */
export const moment = (at) => (at ? formatter(WHOLE).format(new Date(at)) : "");

/** What a moment's tooltip says: it in both zones, where they are two. */
export const bothZones = (at) => (isAlwaysUtc ? ["UTC"] : [HERE, "UTC"]).map((one) => formatter(WHOLE, one).format(new Date(at))).join("\n");

/** The same as an element, which follows the zone; null for none. */
export const time = (at) => (at ? h("time", { datetime: at, title: bothZones(at), dataset: { moment: "" } }, moment(at)) : null);

const TOLD = /(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| UTC))/;

/** Words of the deployment, with the moments that they tell in UTC as such elements. */
export function withTimes(words) {
  return words.split(TOLD).map((part, at) => {
    const iso = part.replace(" UTC", "Z").replace(" ", "T");
    return at % 2 && !Number.isNaN(Date.parse(iso)) ? time(iso) : part;
  });
}

/** How long ago it was, as an element whose tooltip has the moment, and `what` was then; of what is days ago the day. */
export const timeAgo = (at, now, what = "") => h("time", { datetime: at, title: [what, bothZones(at)].filter(Boolean).join("\n") }, ago(at, now));

/** As the text of such an element. */
export function ago(at, now) {
  const seconds = Math.max(0, (now - Date.parse(at)) / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)}s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ago`;
  return formatter(DAY).format(new Date(at));
}

/** The day of a moment, with its name. */
export const day = (at) => formatter({ weekday: "short", ...DAY }).format(new Date(at));

/** Hours and minutes of a moment. */
export const clock = (at) => formatter(MINUTE).format(new Date(at));

/** Hours to milliseconds of a moment in ms since 1970, as a log has them: 14:03:07.250. */
export function preciseClock(ms) {
  const offset = isUtc ? 0 : new Date(ms).getTimezoneOffset() * 60_000;
  return new Date(ms - offset).toISOString().slice(11, 23);
}
