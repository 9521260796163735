// @ts-check
/**
 * Stands in for web/js/call.js where a picture or a test needs a state that no server can be held in: a call without
 * network that says what it is told to. `window.scripted` steers it from outside the page.
 */

import { CallFailure } from "./failures.js";

const SYLLABLE_HZ = 4.3; // how fast speech swells and fades

/** @type {any} */
const scripted = { call: null, sent: [], prelude: [], holds: false, failure: null };
/** @type {any} */ (window).scripted = scripted;

export class Call extends EventTarget {
  callId = "rtc_scripted";
  #context = new AudioContext();
  /** @type {GainNode} */ #voice;
  #stream;

  /** @param {{stream: MediaStream}} options */
  constructor({ stream: _ }) {
    super();
    const target = this.#context.createMediaStreamDestination();
    this.#voice = new GainNode(this.#context, { gain: 0 });
    const swell = new GainNode(this.#context, { gain: 0.5 });
    const hum = new OscillatorNode(this.#context, { type: "sawtooth", frequency: 140 });
    for (const [hz, gain] of [[SYLLABLE_HZ, 0.35], [SYLLABLE_HZ / 3.1, 0.3], [SYLLABLE_HZ * 1.7, 0.2]]) {
      const wave = new OscillatorNode(this.#context, { frequency: hz });
      wave.connect(new GainNode(this.#context, { gain })).connect(swell.gain);
      wave.start();
    }
    hum.connect(swell).connect(this.#voice).connect(target);
    hum.start();
    this.#stream = target.stream;
    scripted.call = this;
  }

  /** @param {AbortSignal} signal */
  async connect(signal) {
    if (scripted.failure) throw new CallFailure(scripted.failure);
    if (scripted.holds) {
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    this.#emit("remote", this.#stream);
    this.say([{ type: "session.created", session: {} }, ...scripted.prelude]);
  }

  /** Server events, in order. @param {object[]} events */
  say(events) {
    for (const event of events) this.#emit("server", event);
  }

  /** @param {boolean} isOn */
  sound(isOn) {
    this.#voice.gain.setTargetAtTime(isOn ? 0.3 : 0, this.#context.currentTime, 0.03);
  }

  /** @param {any} kind */
  end(kind) {
    this.#emit("ended", new CallFailure(kind));
  }

  lose() {
    this.dispatchEvent(new Event("lost"));
  }

  /** @param {object} event */
  send(event) {
    scripted.sent.push(event);
    return true;
  }

  async replaceTrack() {}

  hangUp() {
    this.#context.close();
  }

  hangUpOnUnload() {}

  /** @param {string} kind @param {unknown} detail */
  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
