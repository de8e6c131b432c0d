/** What runs cost, where the deployment says so. Amounts travel as whole nano-dollars. */
import { columns } from "./timeline.js";

const BILLED_AT_LEAST_SECONDS = 60;
const DAYS = 30;

/** $0.0002, $12.35; `<$0.0001` for what is not nothing and would be shown as that. */
export function dollars(nanodollars) {
  const amount = nanodollars / 1e9;
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

/** The last days' costs as a chart; null where the deployment has no such call, or the reader no right to it. */
export async function costByDay(client, signal) {
  const since = new Date(client.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
  let answer;
  try {
    answer = await client.call("GET", "/cost", { query: { since, by: "day" }, signal });
  } catch (error) {
    if (["NOT_FOUND", "FORBIDDEN", "INVALID_REQUEST"].includes(error.code)) return null;
    throw error;
  }
  const known = new Map((answer.rows ?? []).map((row) => [row.group, row.nanodollars ?? 0]));
  if (![...known.values()].some((amount) => amount > 0)) return null;
  const days = Array.from({ length: DAYS }, (_, at) => new Date(client.now() - (DAYS - 1 - at) * 86_400_000).toISOString().slice(0, 10));
  return columns(days.map((day) => ({ day, amount: known.get(day) ?? 0, text: dollars(known.get(day) ?? 0) })), `Cost by day, the last ${DAYS} days`);
}
