/** What runs cost, where the deployment says so. Amounts travel as whole nano-dollars. */
import { columns } from "./timeline.js";

const BILLED_AT_LEAST_SECONDS = 60;
const DAYS = 30;
const MOST_PAGES = 10;

/** An amount in nano-dollars: $0.0002, $12.35; `<$0.0001` for what is not nothing and would be shown as that. */
export function dollars(nano) {
  const amount = nano / 1e9;
  if (amount > 0 && amount < 0.00005) return "<$0.0001";
  const decimals = amount < 1 ? 4 : 2;
  return `$${amount.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals })}`;
}

/** The sum as it stands now (milliseconds), in nano-dollars; undefined where no rate is known. */
function nanodollars(cost, now) {
  if (cost.nanodollars !== undefined || cost.billed_from === undefined) return cost.nanodollars;
  const perHour = cost.rate.nanodollars_per_hour;
  if (perHour === null || perHour === undefined || cost.billed_until !== undefined) return undefined;
  return (perHour * Math.max(BILLED_AT_LEAST_SECONDS, Math.ceil((now - Date.parse(cost.billed_from)) / 1000))) / 3600;
}

/** The cost of a run in a table: of what is paid for alone. */
export function costText(run, now = Date.now()) {
  if (!run.cost || run.cost.rate?.basis === "would_have_cost") return "";
  const sum = nanodollars(run.cost, now);
  return sum === undefined ? "" : `${run.cost.rate.basis === "at_most" ? "≤ " : ""}${dollars(sum)}`;
}

/** The cost of a run with what the sum means. */
export function costWords(run, now) {
  const sum = run.cost && nanodollars(run.cost, now);
  if (sum === undefined) return "";
  const words = {
    billed: run.cost.is_final ? "" : "so far",
    at_most: "at most: Spot is cheaper",
    would_have_cost: "is what it would have cost on Fargate",
  };
  return `${dollars(sum)} ${words[run.cost.rate.basis] ?? ""}`.trim();
}

/** The last days' costs as a chart; null where there are none, the deployment has no such call, or the reader no right to it. */
export async function costByDay(client, signal) {
  const now = client.now();
  const names = Array.from({ length: DAYS }, (_, at) => new Date(now - (DAYS - 1 - at) * 86_400_000).toISOString().slice(0, 10));
  const sums = new Map(names.map((day) => [day, 0]));
  const bases = new Set();
  let after = "";
  for (let pages = 0; pages < MOST_PAGES; pages += 1) {
    let page;
    try {
      page = await client.call("GET", "/cost", { query: { by: "day", since: `${names[0]}T00:00:00Z`, after }, signal });
    } catch (error) {
      if (["NOT_FOUND", "FORBIDDEN", "INVALID_REQUEST"].includes(error.code)) return null;
      throw error;
    }
    for (const group of page.groups) sums.set(group.key, (sums.get(group.key) ?? 0) + (group.nanodollars ?? 0));
    for (const basis of page.bases ?? []) bases.add(basis);
    after = page.after;
    if (!after) break;
  }
  const days = names.map((day) => ({ day, amount: sums.get(day), text: dollars(sums.get(day)) }));
  const total = days.reduce((sum, day) => sum + day.amount, 0);
  if (!total) return null;
  const isOwnMachine = bases.size === 1 && bases.has("would_have_cost");
  const what = isOwnMachine ? "What Fargate would have cost" : `Cost${bases.has("at_most") ? " at most" : ""}`;
  return columns(days, `${what} by day, the last ${DAYS} days${after ? " (of the newest runs)" : ""}: ${dollars(total)}`);
}
