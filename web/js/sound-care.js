// @ts-check
/** During a call: the microphone that goes and comes back, a telephone call that takes it, a headset that is switched on. */

import { announceState } from "./announce.js";
import { needsHeadset } from "./audio-route.js";
import { CallFailure } from "./failures.js";

const HEADSET_HINT = "This browser does not keep the reply out of your microphone: use a headset.";

export class SoundCare {
  #flow;
  #microphone;
  #audio;
  #micView;
  #notice;
  #fail;
  #isReopening = false;

  /**
   * @param {object} parts
   * @param {import("./call-flow.js").CallFlow} parts.flow
   * @param {import("./devices.js").Microphone} parts.microphone
   * @param {import("./audio.js").CallAudio} parts.audio
   * @param {import("./mic-view.js").MicView} parts.micView
   * @param {import("./notice.js").Notice} parts.notice
   * @param {(failure: CallFailure) => void} parts.fail shows what went wrong
   */
  constructor({ flow, microphone, audio, micView, notice, fail }) {
    this.#flow = flow;
    this.#microphone = microphone;
    this.#audio = audio;
    this.#micView = micView;
    this.#notice = notice;
    this.#fail = fail;
    microphone.addEventListener("stream", () => flow.isBusy && micView.hint(this.#headsetHint()));
    microphone.addEventListener("devices", () => {
      const isSilenced = flow.phase === "live" && !microphone.stream;
      if (isSilenced && microphone.devices.length > 0) this.reopen();
    });
    microphone.addEventListener("lost", () => {
      if (!flow.isBusy) return;
      fail(new CallFailure("microphone-lost"));
      microphone.refresh(); // takes the system's next microphone, if there is one
    });
    microphone.addEventListener("switched", () => this.#sayMicrophone());
    microphone.addEventListener("interrupted", () => flow.isBusy && fail(new CallFailure("microphone-interrupted")));
    microphone.addEventListener("restored", () => this.#goOn());
  }

  /** The call goes on with a microphone again. */
  async reopen() {
    if (this.#isReopening) return;
    this.#isReopening = true;
    try {
      await this.#microphone.open();
      this.#notice.hide();
      this.#sayMicrophone();
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error;
      this.#fail(new CallFailure("microphone-lost")); // the call itself goes on
    } finally {
      this.#isReopening = false;
    }
  }

  /** The page is looked at again: take back what the system took meanwhile, the microphone and the sound. */
  async recover() {
    if (!this.#flow.isBusy) return;
    this.#audio.recover();
    if (!this.#microphone.isInterrupted) return;
    try {
      await this.#microphone.recover();
      if (!this.#microphone.isInterrupted) this.#goOn();
    } catch (error) {
      if (!(error instanceof CallFailure)) throw error; // still taken: what is shown says so
    }
  }

  /** The system gave the microphone back. */
  #goOn() {
    if (!this.#flow.isBusy) return;
    this.#notice.hide();
    announceState("The microphone works again.");
    this.#audio.recover();
  }

  /** Another microphone is in use, which the caller did not choose just now. */
  #sayMicrophone() {
    if (!this.#flow.isBusy || !this.#microphone.track) return;
    const text = `The call goes on with ${this.#microphone.track.label || "another microphone"}.`;
    this.#micView.hint([text, this.#headsetHint()].join(" ").trim());
    announceState(text);
  }

  #headsetHint() {
    const { track } = this.#microphone;
    return track && needsHeadset(track) ? HEADSET_HINT : "";
  }
}
