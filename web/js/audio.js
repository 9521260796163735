// @ts-check
/** Sound in the page: plays the reply, and measures how loud both sides are. */

const FLOOR_DBFS = -60;
const CEILING_DBFS = -6; // loud speech after the browser's own gain control

/** Measures one stream. Values are from 0 (silent) to 1 (loud). */
export class Meter {
  /** @type {AnalyserNode} */ #analyser;
  /** @type {MediaStreamAudioSourceNode} */ #source;
  /** @type {Float32Array<ArrayBuffer>} */ #samples;

  /** @param {AudioContext} context @param {MediaStream} stream */
  constructor(context, stream) {
    this.#analyser = new AnalyserNode(context, { fftSize: 1024, smoothingTimeConstant: 0 });
    this.#source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    this.#source.connect(this.#analyser); // to no loudspeaker: the <audio> element plays
    this.#samples = new Float32Array(this.#analyser.fftSize);
  }

  get level() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    return loudness(Math.sqrt(sum / this.#samples.length));
  }

  close() {
    this.#source.disconnect();
  }
}

/** Root mean square of samples in [-1, 1] -> 0 to 1 on a scale that follows the ear. @param {number} rms */
export function loudness(rms) {
  const dbfs = 20 * Math.log10(Math.max(rms, 1e-6));
  return Math.min(1, Math.max(0, (dbfs - FLOOR_DBFS) / (CEILING_DBFS - FLOOR_DBFS)));
}

/** Both sides of a call. Event `blocked`: the browser wants a press of a button before it plays. */
export class CallAudio extends EventTarget {
  /** @type {AudioContext | null} */ #context = null;
  /** @type {Meter | null} */ #you = null;
  /** @type {Meter | null} */ #reply = null;
  #element;

  /** @param {HTMLAudioElement} element */
  constructor(element) {
    super();
    this.#element = element;
  }

  get youLevel() {
    return this.#you?.level ?? 0;
  }

  get replyLevel() {
    return this.#reply?.level ?? 0;
  }

  /** The microphone, or null. @param {MediaStream | null} stream */
  setMicrophone(stream) {
    this.#you?.close();
    this.#you = stream && new Meter(this.#running(), stream);
  }

  /** The server's sound: play and measure it. @param {MediaStream} stream */
  async setRemote(stream) {
    this.#reply?.close();
    this.#reply = new Meter(this.#running(), stream);
    this.#element.srcObject = stream;
    await this.play();
  }

  /** Play; call this again from a press of a button after `blocked`. */
  async play() {
    this.#context?.resume();
    try {
      await this.#element.play();
    } catch (error) {
      if (error instanceof DOMException && error.name === "NotAllowedError") this.dispatchEvent(new Event("blocked"));
      else if (!(error instanceof DOMException && error.name === "AbortError")) throw error; // replaced or hung up
    }
  }

  /** The system may have paused it: a telephone call, a locked screen. */
  async recover() {
    if (!this.#element.srcObject) return;
    if (this.#context && this.#context.state !== "running") this.#context.resume(); // iOS: "interrupted"
    if (this.#element.paused) await this.play();
  }

  /** The call is over. */
  stop() {
    this.#you?.close();
    this.#reply?.close();
    this.#you = this.#reply = null;
    this.#element.srcObject = null;
    this.#context?.close();
    this.#context = null;
  }

  #running() {
    this.#context ??= new AudioContext({ latencyHint: "interactive" });
    if (this.#context.state === "suspended") this.#context.resume();
    return this.#context;
  }
}
