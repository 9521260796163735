// A microphone that says WAV files, and an ear, in place of a phone's: both in real time, 10 ms at a time.

import { readFileSync } from "node:fs";
import wrtc from "@roamhq/wrtc";

const { RTCAudioSource, RTCAudioSink } = wrtc.nonstandard;
const AUDIBLE = 130; // RMS of 16-bit samples: -48 dBFS

/** Mono, 16-bit samples and their rate. */
export function readWav(path) {
  const file = readFileSync(path);
  if (file.readUInt16LE(22) !== 1 || file.readUInt16LE(34) !== 16) throw new Error(`${path} is not mono, 16-bit`);
  const data = file.indexOf("data") + 8;
  const samples = new Int16Array((file.length - data) >> 1);
  for (let i = 0; i < samples.length; i++) samples[i] = file.readInt16LE(data + 2 * i);
  return { samples, rate: file.readUInt32LE(24) };
}

/** Silent until `say`. It captures at the rate of what it says: 48 kHz, or 8 or 16 as with a Bluetooth headset. */
export class Microphone {
  #source = new RTCAudioSource();
  #saying = { samples: new Int16Array(0), rate: 48_000 };
  #position = 0;
  #done = () => {};

  constructor() {
    this.track = this.#source.createTrack();
    let frames = 0;
    const begun = performance.now();
    this.timer = setInterval(() => {
      const due = (performance.now() - begun) / 10;
      if (due - frames > 20) frames = Math.floor(due) - 1; // the process was stopped: nothing was captured
      for (; frames < due; frames++) this.#capture();
    }, 10);
  }

  /** Resolves when it has been said. @param {{samples: Int16Array, rate: number}} recording */
  say(recording) {
    [this.#saying, this.#position] = [recording, 0];
    return new Promise((resolve) => (this.#done = resolve));
  }

  stop() {
    clearInterval(this.timer);
    this.track.stop();
  }

  #capture() {
    const { samples, rate } = this.#saying;
    const numberOfFrames = rate / 100;
    const frame = new Int16Array(numberOfFrames);
    frame.set(samples.subarray(this.#position, this.#position + numberOfFrames));
    this.#position += numberOfFrames;
    if (this.#position >= samples.length) this.#done();
    this.#source.onData({ samples: frame, sampleRate: rate, bitsPerSample: 16, channelCount: 1, numberOfFrames });
  }
}

/** Hears one track after the other: `loud` frames of 10 ms so far, and when the latest was (`performance.now()`). */
export class Ear {
  loud = 0;
  heardAt = 0;
  #sink = null;

  listen(track) {
    this.stop();
    this.#sink = new RTCAudioSink(track);
    this.#sink.ondata = ({ samples }) => {
      let sum = 0;
      for (const sample of samples) sum += sample * sample;
      if (Math.sqrt(sum / samples.length) < AUDIBLE) return;
      this.loud++;
      this.heardAt = performance.now();
    };
  }

  stop() {
    this.#sink?.stop();
    this.#sink = null;
  }
}
