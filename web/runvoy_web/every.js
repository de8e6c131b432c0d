/**
 * Do something now and then, one time after the other, until `signal` is aborted. While nobody sees the page nothing is done;
 * when it is seen again, or the network is back, at once.
 */
import { pause } from "./api.js";

export async function every(milliseconds, signal, act) {
  while (!signal.aborted) {
    try {
      await pauseUntil(milliseconds, signal);
      await act();
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
  }
}

async function pauseUntil(milliseconds, signal) {
  const woken = new AbortController();
  const wake = () => woken.abort();
  const heard = { signal: AbortSignal.any([signal, woken.signal]) };
  addEventListener("online", wake, heard);
  document.addEventListener("visibilitychange", () => document.hidden || wake(), heard);
  try {
    await pause(milliseconds, heard.signal);
    while (document.hidden) await pause(3_600_000, heard.signal);
  } catch (error) {
    signal.throwIfAborted();
    if (!woken.signal.aborted) throw error;
  } finally {
    woken.abort();
  }
}
