// @ts-check
/** Which device plays the reply, where the browser lets pages choose (`setSinkId`). */

import { isUnnamed } from "./audio-route.js";
import { byId, el } from "./dom.js";
import { recall, remember } from "./storage.js";

const DEFAULT = "Default loudspeaker";

export class Loudspeaker {
  #row = byId("output", HTMLElement);
  #select = byId("output-select", HTMLSelectElement);
  #element;
  #wantedId = recall("loudspeaker") ?? "";
  #usedId = "";

  /** @param {HTMLAudioElement} element what plays */
  constructor(element) {
    this.#element = element;
    if (!("setSinkId" in element)) return;
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.refresh());
    this.#select.addEventListener("change", () => {
      this.#wantedId = this.#select.value;
      remember("loudspeaker", this.#wantedId);
      this.#use(this.#wantedId);
    });
  }

  /** Read the list again; names are only known once the microphone was allowed. Shown when there is a choice. */
  async refresh() {
    if (!("setSinkId" in this.#element)) return;
    const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    const outputs = all.filter(({ kind, deviceId }) => kind === "audiooutput" && !isUnnamed(deviceId));
    const options = outputs.map(({ deviceId, label }, at) => el("option", { value: deviceId }, label || `Loudspeaker ${at + 1}`));
    this.#select.replaceChildren(el("option", { value: "" }, DEFAULT), ...options);
    this.#row.hidden = outputs.length < 2;
    // One that was switched off leaves its place to the default, and takes it again when it is back.
    await this.#use(outputs.some(({ deviceId }) => deviceId === this.#wantedId) ? this.#wantedId : "");
  }

  /** @param {string} id */
  async #use(id) {
    this.#select.value = id;
    if (id === this.#usedId) return;
    try {
      await this.#element.setSinkId(id);
      this.#usedId = id;
    } catch {
      this.#select.value = this.#usedId; // not allowed, or gone again: what plays goes on
    }
  }
}
