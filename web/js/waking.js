// @ts-check
/**
 * Tells when a page that slept is awake again, and when its network may be another one. Phones put a page to sleep without
 * a word: no script runs, and nobody is told. So the gap between two beats counts, and every event that comes with waking
 * makes us look at it.
 */

const BEAT_MS = 1_000;
const GAP_MS = 5_000; // between two beats of a page that is shown: the machine slept, and no event says so

/** `onAwake` gets the milliseconds in which no script ran; about 0 when only the network has changed, or the page was
 * looked at again. @param {(asleepMs: number) => void} onAwake */
export function watchWaking(onAwake) {
  let beatAt = Date.now(); // performance.now() stands still on some systems while the machine sleeps
  setInterval(() => {
    if (!document.hidden && Date.now() - beatAt > GAP_MS) wake(); // timers of hidden pages are slowed down
    beatAt = Date.now();
  }, BEAT_MS);
  const wake = () => {
    const now = Date.now();
    const asleepMs = Math.max(0, now - beatAt - BEAT_MS);
    beatAt = now;
    onAwake(asleepMs);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && wake());
  document.addEventListener("resume", wake); // after `freeze`
  addEventListener("pageshow", (event) => event.persisted && wake()); // after `pagehide` with `persisted`
  addEventListener("online", wake);
  const connection = /** @type {{connection?: EventTarget}} */ (/** @type {unknown} */ (navigator)).connection;
  connection?.addEventListener("change", wake);
}
