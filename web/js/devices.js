// @ts-check
/** The microphone: which ones there are, which one is used, and opening it with a reason when that fails. No DOM. */

import { inputsOf, isUnnamed, nextMicrophone } from "./audio-route.js";
import { CallFailure } from "./failures.js";
import { recall, remember } from "./storage.js";

/** The browser removes the reply from the microphone's sound; without that the server would hear itself. */
const PROCESSING = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };

/**
 * Events: `devices` (the list changed), `stream` (another microphone is in use), `lost` (it was unplugged), `switched` (to
 * another one by itself, a headset came or went), `interrupted` and `restored` (the system took it, a telephone call, and
 * gave it back).
 */
export class Microphone extends EventTarget {
  /** @type {MediaStream | null} */
  stream = null;
  /** @type {{id: string, label: string}[]} */
  devices = [];
  /** "" is the system's default. */
  selectedId = recall("microphone") ?? "";
  #wantedId = this.selectedId; // stays while that one is switched off
  #isMuted = false;
  #isOpening = false;
  /** @type {import("./audio-route.js").Inputs} */ #inputs = inputsOf([]);

  constructor() {
    super();
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.#follow());
  }

  /** The track in use, or null. */
  get track() {
    return this.stream?.getAudioTracks()[0] ?? null;
  }

  /** The system has taken it for now. */
  get isInterrupted() {
    return this.track?.muted ?? false;
  }

  get isMuted() {
    return this.#isMuted;
  }

  /** A muted microphone stays open and sends silence. */
  set isMuted(value) {
    this.#isMuted = value;
    for (const track of this.stream?.getAudioTracks() ?? []) track.enabled = !value;
  }

  /** Read the list again; names are only known once the microphone was allowed. */
  async refresh() {
    const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    this.devices = all
      .filter((device) => device.kind === "audioinput" && !isUnnamed(device.deviceId))
      .map((device, index) => ({ id: device.deviceId, label: device.label || `Microphone ${index + 1}` }));
    this.#inputs = inputsOf(all);
    this.dispatchEvent(new Event("devices"));
  }

  /** Devices came or went: an open microphone moves with the system's default, or back to the caller's choice. */
  async #follow() {
    const before = this.#inputs;
    await this.refresh();
    if (!this.stream || this.#isOpening) return;
    const next = nextMicrophone(before, this.#inputs, this.#wantedId, this.selectedId);
    if (next === null) return;
    const [idBefore, labelBefore] = [this.selectedId, this.track?.label];
    this.selectedId = next;
    try {
      this.#use(await this.#request());
      if (this.track && this.track.label !== labelBefore) this.dispatchEvent(new Event("switched"));
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error;
      this.selectedId = idBefore; // the one in use goes on
    }
    this.dispatchEvent(new Event("devices"));
  }

  /** Take the microphone again when the system took it and the page is back. Throws CallFailure. */
  async recover() {
    if (this.stream && !this.#isOpening && this.isInterrupted) this.#use(await this.#request());
  }

  /** Open the chosen microphone, or return it if it is open. Throws CallFailure. @returns {Promise<MediaStream>} */
  async open() {
    const live = this.stream?.getAudioTracks().some((track) => track.readyState === "live");
    if (this.stream && live) return this.stream;
    checkSurroundings();
    const stream = await this.#request();
    this.#use(stream);
    await this.refresh();
    return stream;
  }

  /** Use another microphone from now on; if one is open, it is replaced. Throws CallFailure. @param {string} id */
  async select(id) {
    const before = this.selectedId;
    this.selectedId = id;
    try {
      if (this.stream) this.#use(await this.#request());
      this.#wantedId = id;
      remember("microphone", id);
    } catch (error) {
      this.selectedId = before;
      this.dispatchEvent(new Event("devices"));
      throw error;
    }
  }

  /** Close it: the browser's recording sign goes out. */
  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
  }

  /** @returns {Promise<MediaStream>} */
  async #request() {
    const exact = this.selectedId ? { deviceId: { exact: this.selectedId } } : {};
    this.#isOpening = true; // on iOS a second capture mutes the first
    try {
      return await navigator.mediaDevices.getUserMedia({ audio: { ...PROCESSING, ...exact } });
    } catch (error) {
      const isGone = error instanceof DOMException && ["OverconstrainedError", "NotFoundError"].includes(error.name);
      if (!this.selectedId || !isGone) throw microphoneFailure(error);
      this.selectedId = ""; // the remembered microphone is not plugged in today: take the default
      return await this.#request();
    } finally {
      this.#isOpening = false;
    }
  }

  /** @param {MediaStream} stream */
  #use(stream) {
    this.release();
    this.stream = stream;
    const [track] = stream.getAudioTracks();
    track.enabled = !this.#isMuted;
    track.addEventListener("ended", () => {
      if (this.stream !== stream) return;
      this.stream = null;
      this.dispatchEvent(new Event("lost"));
    });
    const tell = (/** @type {string} */ kind) => {
      if (this.stream === stream && !this.#isOpening) this.dispatchEvent(new Event(kind));
    };
    track.addEventListener("mute", () => tell("interrupted"));
    track.addEventListener("unmute", () => tell("restored"));
    this.dispatchEvent(new Event("stream"));
  }
}

/** Throws CallFailure when this browser, or this address, cannot make calls at all. */
export function checkSurroundings() {
  if (!globalThis.isSecureContext) throw new CallFailure("insecure-origin");
  if (typeof RTCPeerConnection === "undefined" || !navigator.mediaDevices?.getUserMedia) throw new CallFailure("no-webrtc");
}

/** Why getUserMedia failed. @param {unknown} error @returns {CallFailure} */
export function microphoneFailure(error) {
  const name = error instanceof Error ? error.name : "";
  const detail = error instanceof Error ? error.message : String(error);
  switch (name) {
    case "NotAllowedError":
    case "SecurityError":
      if (/dismissed/i.test(detail)) return new CallFailure("permission-dismissed", { detail });
      if (/by system/i.test(detail)) return new CallFailure("permission-system", { detail });
      return new CallFailure("permission-denied", { detail });
    case "NotFoundError":
    case "OverconstrainedError":
      return new CallFailure("no-microphone", { detail });
    case "NotReadableError":
    case "AbortError":
      return new CallFailure("microphone-busy", { detail });
    default:
      return new CallFailure("microphone-failed", { detail });
  }
}
