// A microphone and a loudspeaker for clients in Node: real time, without devices.

import { readFileSync } from "node:fs";

// Samples and rate of a 16-bit mono WAV file.
export function readWav(path) {
  const file = readFileSync(path);
  for (let at = 12, rate = 0; at < file.length; at += 8 + file.readUInt32LE(at + 4)) {
    const name = file.toString("latin1", at, at + 4);
    if (name === "fmt ") rate = file.readUInt32LE(at + 12);
    if (name === "data") {
      const bytes = file.subarray(at + 8, at + 8 + file.readUInt32LE(at + 4));
      return { rate, samples: new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)) };
    }
  }
  throw new Error(`${path} is not a WAV file`);
}

// Hands `onChunk` the next milliseconds of sound at the pace of the clock: what is being said, else silence.
export class Microphone {
  constructor(rate, chunkMs, onChunk) {
    this.size = (rate * chunkMs) / 1000;
    this.onChunk = onChunk;
    this.saying = null;
    this.start = performance.now();
    this.chunks = 0;
    this.timer = setInterval(() => {
      while (this.chunks * chunkMs < performance.now() - this.start) {
        this.chunks++;
        this.onChunk(this.next());
      }
    }, chunkMs);
  }

  next() {
    const chunk = new Int16Array(this.size);
    if (this.saying) {
      chunk.set(this.saying.samples.subarray(this.saying.at, this.saying.at + this.size));
      this.saying.at += this.size;
      if (this.saying.at >= this.saying.samples.length) {
        this.saying.done();
        this.saying = null;
      }
    }
    return chunk;
  }

  say(samples) {
    return new Promise((done) => {
      this.saying = { samples, at: 0, done };
    });
  }

  stop() {
    clearInterval(this.timer);
  }
}

// Plays int16 PCM in real time, as an application over a WebSocket has to; `onPlayed` gets every 20 ms that sound.
export class Loudspeaker {
  constructor(rate, onPlayed) {
    this.rate = rate;
    this.onPlayed = onPlayed;
    this.queue = [];
    this.playedMs = 0; // of the current item
    this.item = null;
    this.start = performance.now();
    this.frames = 0;
    this.timer = setInterval(() => {
      while (this.frames * 20 < performance.now() - this.start) {
        this.frames++;
        this.tick();
      }
    }, 20);
  }

  get isPlaying() {
    return this.queue.length > 0;
  }

  play(itemId, samples) {
    const size = this.rate / 50;
    for (let at = 0; at < samples.length; at += size) this.queue.push({ itemId, samples: samples.subarray(at, at + size) });
  }

  tick() {
    const next = this.queue.shift();
    if (!next) return;
    if (next.itemId !== this.item) {
      this.item = next.itemId;
      this.playedMs = 0;
    }
    this.playedMs += (1000 * next.samples.length) / this.rate;
    this.onPlayed(next.samples, this.rate);
  }

  // Silence at once. What was being played, and for how long.
  interrupt() {
    this.queue = [];
    return { itemId: this.item, playedMs: Math.floor(this.playedMs) };
  }

  stop() {
    clearInterval(this.timer);
  }
}

export const toBase64 = (samples) => Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength).toString("base64");

export function fromBase64(text) {
  const bytes = Buffer.from(text, "base64");
  return new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}
