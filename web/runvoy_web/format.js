/** How durations, commands and ends of runs are written for people. */

export const ENDED = new Set(["SUCCEEDED", "FAILED", "STOPPED", "TIMED_OUT", "UNKNOWN"]);
export const STATES = ["QUEUED", "STARTING", "RUNNING", "TERMINATING", ...ENDED];
const REASONS = {
  signal: "A signal ended it that runvoy did not send.",
  exec_failed: "It could not be executed.",
  deadline: "Its deadline passed.",
  queue: "It waited for longer than its queue timeout.",
  start: "It did not begin in time.",
  killed: "Somebody had it killed.",
  revoked: "It lost its right to run, or to what it needs, before it started.",
  launch_failed: "The platform would not run it.",
  setup_failed: "Its surroundings could not be made.",
  lost: "Its task vanished without a result.",
  lock: "It waits for a lock.",
  capacity: "It waits for room.",
};
const SIGNALS = { 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM" };
// What a shell may leave unquoted; all else is quoted, so that what is shown can be pasted.
const PLAIN = /^[A-Za-z0-9_@%+=:,./-]+$/;

export const hasEnded = (run) => ENDED.has(run.state);
/** A state as it is called everywhere, written as a word: TIMED_OUT is "Timed out". */
export const stateWord = (state) => state.charAt(0) + state.slice(1).toLowerCase().replaceAll("_", " ");

/** A command as one would type it. */
export function commandText(command) {
  if (typeof command === "string") return command;
  return command.map((word) => (PLAIN.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

/** What a run is known by: {name, text}, as `runvoy list` has it. What a playbook was made into is long, and nobody wrote it. */
export function whatRan(run) {
  const text = run.playbook ? `playbook ${run.playbook}` : commandText(run.command);
  return { name: run.name === run.playbook ? undefined : run.name, text };
}

/** Seconds as 0.4s, 12s, 3m 07s, 2h 05m, 3d 4h. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const left = Math.max(0, seconds);
  if (left < 9.95) return `${left.toFixed(1)}s`;
  const whole = Math.round(left);
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h ${pad(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d ${Math.floor((whole % 86_400) / 3600)}h`;
}

export const secondsBetween = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;

/** How long the command ran, or runs by now (milliseconds); NaN if it never began. */
export function ranSeconds(run, now) {
  if (!run.started_at) return NaN;
  return ((run.ended_at ? Date.parse(run.ended_at) : now) - Date.parse(run.started_at)) / 1000;
}

export const shortId = (id) => `${id.slice(0, 8)}…${id.slice(-4)}`;

export const imageText = (run) => run.image_name ?? run.image ?? "";

/** How the exit code of an ended run came about; empty if it has none. */
export function exitText(run) {
  if (run.exit_code === undefined) return "";
  if (run.signal) return `${run.exit_code} (${SIGNALS[run.signal] ?? `signal ${run.signal}`})`;
  return String(run.exit_code);
}

/** Why a run ended or waits, in words; empty where its state says all. */
export function reasonText(run) {
  const parts = [];
  if (run.reason === "exit") {
    if (run.state !== "SUCCEEDED") parts.push(`The command exited with code ${run.exit_code}.`);
  } else if (run.explanation?.reason === "interrupted") {
    // Nobody's wish, though its reason is that of one: the message tells.
  } else if (run.reason) parts.push(REASONS[run.reason] ?? `${run.reason}.`);
  if (run.message && !/^killed$/.test(run.message)) parts.push(run.message.replace(/^./, (first) => first.toUpperCase()));
  return parts.join(" ");
}

/** A lock of a run: whether it is held, or who stands before it. */
export function lockText(lock, run, now) {
  if (hasEnded(run)) return lock.fence === undefined ? "not taken" : `was held, fence ${lock.fence}`;
  if (lock.fence !== undefined) return `held, fence ${lock.fence}`;
  if (lock.position === undefined) return "waited for";
  if (lock.position === 0) return "first in line; waits for its other locks";
  const place = lock.position === 1 ? "next" : `place ${lock.position}`;
  if (!lock.held_since) return place;
  return `${place}; held for ${duration((now - Date.parse(lock.held_since)) / 1000)}${lock.holder_owner ? ` by ${lock.holder_owner}` : ""}`;
}

export const cpuText = (units) => (units ? `${units / 1024} vCPU` : "");
export const memoryText = (mib) => (!mib ? "" : mib % 1024 ? `${mib} MiB` : `${mib / 1024} GiB`);

/** Seconds as such a text, exactly; empty for none. */
export function durationText(seconds) {
  if (!seconds) return "";
  const [unit, size] = [["h", 3600], ["m", 60], ["s", 1]].find(([, one]) => seconds % one === 0);
  return `${seconds / size}${unit}`;
}

/** Seconds of a text like 90, 30s, 10m, 1h30m, 7d; null for any other. */
export function parseDuration(text) {
  const units = { s: 1, m: 60, h: 3600, d: 86_400 };
  const trimmed = text.trim().toLowerCase();
  if (/^\d+$/.test(trimmed)) return Number(trimmed);
  if (!/^(\d+[smhd])+$/.test(trimmed)) return null;
  return [...trimmed.matchAll(/(\d+)([smhd])/g)].reduce((sum, [, count, unit]) => sum + Number(count) * units[unit], 0);
}
