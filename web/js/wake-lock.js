// @ts-check
/** Keeps the screen on while a call goes on: a phone that locks stops the page, and with it the microphone. */

export class ScreenLock {
  #isWanted = false;
  #isAsking = false;
  /** @type {WakeLockSentinel | null} */ #lock = null;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#update()); // the system takes it from a hidden page
  }

  /** Without the API, or where the system says no (little battery), nothing happens. @param {boolean} isWanted */
  hold(isWanted) {
    if (this.#isWanted === isWanted) return;
    this.#isWanted = isWanted;
    this.#update();
  }

  async #update() {
    if (!this.#isWanted) {
      this.#lock?.release();
      this.#lock = null;
      return;
    }
    const isHeld = this.#lock !== null && !this.#lock.released;
    if (isHeld || this.#isAsking || document.hidden || !navigator.wakeLock) return;
    this.#isAsking = true;
    try {
      this.#lock = await navigator.wakeLock.request("screen");
    } catch {
      // Asked again when the page is looked at again.
    } finally {
      this.#isAsking = false;
    }
    if (!this.#isWanted) this.#update(); // hung up meanwhile
  }
}
