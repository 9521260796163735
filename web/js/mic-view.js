// @ts-check
/** The microphone row: choice, level, and a test before the first call. */

import { byId, el } from "./dom.js";

const QUIET_SECONDS = 4; // as long as a caller needs to notice the meter and say something

export class MicView {
  #select = byId("mic-select", HTMLSelectElement);
  #test = byId("mic-test", HTMLButtonElement);
  #meter = byId("meter", HTMLElement);
  #hint = byId("mic-hint", HTMLElement);
  #microphone;
  #shown = -1;
  #heardAt = 0;
  /** @type {number} */ #reportedAt = 0;

  /**
   * @param {import("./devices.js").Microphone} microphone
   * @param {{onSelect: (id: string) => void, onTest: () => void}} on
   */
  constructor(microphone, on) {
    this.#microphone = microphone;
    microphone.addEventListener("devices", () => this.#list());
    this.#select.addEventListener("change", () => on.onSelect(this.#select.value));
    this.#test.addEventListener("click", on.onTest);
  }

  /** @param {boolean} isTesting */
  setTesting(isTesting) {
    this.#test.setAttribute("aria-pressed", String(isTesting));
    this.#test.textContent = isTesting ? "Stop" : "Test";
    this.hint(isTesting ? "Say something: the bar should move." : "");
    this.#heardAt = performance.now();
  }

  /** @param {string} text */
  hint(text) {
    if (this.#hint.textContent !== text) this.#hint.textContent = text;
  }

  /** Draw the level, 0 to 1. Called on every frame. @param {number} level @param {boolean} isTesting */
  level(level, isTesting) {
    const percent = Math.round(level * 100);
    const now = performance.now();
    if (percent !== this.#shown) {
      this.#shown = percent;
      this.#meter.style.setProperty("--level", String(level));
    }
    if (now - this.#reportedAt > 1_000) {
      this.#reportedAt = now; // assistive technology reads this value; once a second is enough
      this.#meter.setAttribute("aria-valuenow", String(percent));
    }
    if (!isTesting) return;
    if (level > 0.25) {
      this.#heardAt = now;
      this.hint("Your microphone works.");
    } else if (now - this.#heardAt > QUIET_SECONDS * 1_000) {
      this.hint("Nothing heard. Is this the right microphone, and is it switched on?");
    }
  }

  #list() {
    const { devices, selectedId } = this.#microphone;
    const options = devices.map(({ id, label }) => el("option", { value: id }, label));
    this.#select.replaceChildren(el("option", { value: "" }, "Default microphone"), ...options);
    this.#select.value = devices.some(({ id }) => id === selectedId) ? selectedId : "";
  }
}
