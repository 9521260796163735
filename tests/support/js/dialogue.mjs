// A conversation of two turns with an interruption, whatever client carries it; in Node and in browsers.
//
// A script builds its client, tells `note` every server event and `hear` how loud the reply is, and calls `run`. What
// happened comes back as plain data; Python judges it (tests/clients/dialogue.py).

export const AUDIBLE = 0.004; // RMS of full scale, -48 dBFS; the codec's comfort noise stays far below
const HEARD_MS = 300; // this much sound is a reply and not a click
const WAIT_MS = 60_000; // the embedded models on a busy machine

export const now = () => performance.timeOrigin + performance.now();
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Root mean square of int16 or float samples, as a share of full scale.
export function loudness(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / Math.max(1, samples.length)) / (samples instanceof Int16Array ? 32768 : 1);
}

// What a server event says, without its audio.
function summary(event) {
  const kept = { type: event.type, at: now() };
  const response = event.response ?? {};
  kept.response_id = event.response_id ?? response.id;
  kept.item_id = event.item_id ?? event.item?.id;
  kept.item_type = event.item?.type;
  kept.status = response.status ?? event.item?.status;
  kept.reason = response.status_details?.reason;
  for (const name of ["transcript", "text", "audio_end_ms", "error", "name", "arguments"]) kept[name] = event[name];
  return kept;
}

export class Dialogue {
  // `say(name)` speaks one of the recordings and resolves when it is said.
  constructor(say) {
    this.say = say;
    this.events = [];
    this.sounds = []; // [when, milliseconds] of what was audible
    this.problems = [];
  }

  note(event) {
    this.events.push(summary(event));
    if (event.type === "error") this.problems.push(`error event: ${JSON.stringify(event.error)}`);
  }

  // `samples` of the reply are being played now.
  hear(samples, rate, at = now()) {
    if (loudness(samples) > AUDIBLE) this.sounds.push([at, (1000 * samples.length) / rate]);
  }

  heardMs(since) {
    return this.sounds.reduce((sum, [at, ms]) => sum + (at >= since ? ms : 0), 0);
  }

  find(type, condition = () => true) {
    return this.events.find((event) => event.type === type && condition(event));
  }

  // Wait until `find` returns something; what it is.
  async until(find, what) {
    for (const end = now() + WAIT_MS; now() < end; await pause(20)) {
      const found = find();
      if (found) return found;
    }
    const types = this.events.map((event) => event.type).join(" ");
    throw new Error(`waited in vain for ${what}; there were: ${types}; problems: ${this.problems.join("; ")}`);
  }

  // Both turns. `isInterrupted(responseId)` tells when the client knows that the reply was stopped.
  async run(isInterrupted) {
    const start = now();
    await this.say("first");
    const first = await this.until(
      () => this.find("response.created", (event) => this.soundOf(event.response_id)),
      "a first reply with sound",
    );
    await this.until(() => this.heardMs(first.at) >= HEARD_MS, "the sound of the first reply");
    const second = now();
    await this.say("second");
    await this.until(() => isInterrupted(first.response_id), "the interruption of the first reply");
    const done = await this.until(
      () =>
        this.find(
          "response.done",
          (event) => event.at > second && event.response_id !== first.response_id && event.status === "completed",
        ),
      "the end of the second reply",
    );
    const created = this.find("response.created", (event) => event.response_id === done.response_id);
    await this.until(() => this.heardMs(created.at) >= HEARD_MS, "the sound of the second reply");
    return {
      first: first.response_id,
      second: done.response_id,
      heardFirstMs: this.heardMs(start) - this.heardMs(second),
      heardSecondMs: this.heardMs(created.at),
    };
  }

  // Both turns for clients that tell nothing: only the sound shows that the reply stops for the second one.
  async runBySound() {
    const start = now();
    await this.say("first");
    await this.until(() => this.heardMs(start) >= HEARD_MS, "the sound of the first reply");
    const second = now();
    await this.say("second");
    const said = now();
    await this.until(() => this.silenceMs(second) >= 1000, "silence while the second turn is spoken");
    await this.until(() => this.heardMs(said) >= HEARD_MS, "the sound of the second reply");
    return {
      heardFirstMs: this.heardMs(start) - this.heardMs(second),
      heardSecondMs: this.heardMs(said),
      silentMs: this.silenceMs(second),
    };
  }

  // The longest silence since then; it lasts longer than any pause between two sentences only after an interruption.
  silenceMs(since) {
    const times = [since, ...this.sounds.map(([at]) => at).filter((at) => at > since), now()];
    return Math.max(...times.slice(1).map((at, index) => at - times[index]));
  }

  // The response has begun to sound: audio over a WebSocket, or its announcement beside RTP.
  soundOf(responseId) {
    const types = ["response.output_audio.delta", "output_audio_buffer.started"];
    return this.events.some((event) => types.includes(event.type) && event.response_id === responseId);
  }

  report(more) {
    return { events: this.events, problems: this.problems, ...more };
  }
}

// Over WebRTC the server stops the sound and says how much of it was played.
export function isClearedAndTruncated(dialogue) {
  return (responseId) => {
    const item = dialogue.find("response.output_item.added", (event) => event.response_id === responseId)?.item_id;
    return (
      dialogue.find("output_audio_buffer.cleared", (event) => event.response_id === responseId) &&
      dialogue.find("conversation.item.truncated", (event) => event.item_id === item)
    );
  };
}

// Over a WebSocket the client stops the sound and tells the server, which confirms.
export function isTruncated(dialogue) {
  return (responseId) => {
    const item = dialogue.find("response.output_item.added", (event) => event.response_id === responseId)?.item_id;
    return dialogue.find("conversation.item.truncated", (event) => event.item_id === item);
  };
}
