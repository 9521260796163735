// Many WebRTC calls from one process, over libdatachannel: no browser, no Python, a fraction of a core.
//
// It decides nothing. Python prepares what is sent (packets, and when each copy of each leaves) and reads the log:
//   argv[2]  a JSON file: url, path, calls, durationMs, rampMs, bind, allow[], speech, probe, probes, plan, out
//   packets  u32 count, then per packet u16 length and the Opus payload
//   plan     per call and packet two f32: delay in ms of the packet and of its copy; NaN = not sent
//   out.log  per received packet: u16 call, u16 sequence, u32 timestamp, f64 ms since the start
//   out.sent per packet of a probe call: u16 call, u32 index, f64 ms when it was due, before impairment
//   out.payload  per packet received by a probe call: u16 call, u16 sequence, u32 timestamp, f64 ms, u16 length, payload
// and prints one JSON line at the end.

import fs from "node:fs";
import nd from "node-datachannel";

const config = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
// In the environment, not in the file of settings: a key does not belong on a disk.
const { RTC_SERVER_API_KEY: KEY } = process.env;
const AUTHORIZATION = KEY ? { Authorization: `Bearer ${KEY}` } : {};
const PAYLOAD_TYPE = 111;
const FRAME_MS = 20;
const now = () => performance.now();

function readPackets(file) {
  const data = fs.readFileSync(file);
  const packets = [];
  let position = 4;
  for (let i = 0; i < data.readUInt32LE(0); i++) {
    const length = data.readUInt16LE(position);
    packets.push(data.subarray(position + 2, position + 2 + length));
    position += 2 + length;
  }
  return packets;
}

const speech = readPackets(config.speech);
const probe = readPackets(config.probe);
const numPackets = Math.floor(config.durationMs / FRAME_MS);
const planBytes = fs.readFileSync(config.plan);
const plan = new Float32Array(planBytes.buffer, planBytes.byteOffset, planBytes.byteLength / 4);

const CHUNK = 1 << 20;
class Log {
  constructor(file) {
    this.fd = fs.openSync(file, "w");
    this.buffer = Buffer.alloc(CHUNK);
    this.used = 0;
  }
  room(bytes) {
    if (this.used + bytes > CHUNK) this.flush();
    const at = this.used;
    this.used += bytes;
    return at;
  }
  flush() {
    fs.writeSync(this.fd, this.buffer, 0, this.used);
    this.used = 0;
  }
}
const log = new Log(config.out + ".log");
const sent = new Log(config.out + ".sent");
const payloads = new Log(config.out + ".payload");

const begin = now();
const calls = [];
let lateMax = 0;
let lateTicks = 0;
let ticks = 0;

class Call {
  constructor(index) {
    this.index = index;
    this.packets = index < config.probes ? probe : speech;
    this.ssrc = 0x10000 + index;
    this.sequence = 1 + ((index * 977) % 20000);
    this.timestamp = index * 48000;
    this.next = 0;
    this.startAt = null;
    this.queue = [];
    this.result = { offered: null, answered: null, open: null, firstMedia: null, error: null };
    this.packet = Buffer.alloc(1500);
  }

  fail(error) {
    this.result.error ??= String(error);
  }

  start() {
    this.result.offered = now() - begin;
    const options = { iceServers: [], bindAddress: config.bind, enableIceTcp: false };
    const pc = (this.pc = new nd.PeerConnection(`call-${this.index}`, options));
    pc.onLocalDescription((sdp) => this.signal(sdp).catch((error) => this.fail(error)));
    pc.onStateChange((state) => {
      if (state === "failed" || state === "closed" || state === "disconnected") {
        if (!this.isClosing) this.fail(`connection ${state}`);
      }
    });
    const audio = new nd.Audio("audio", "SendRecv");
    audio.addOpusCodec(PAYLOAD_TYPE);
    audio.addSSRC(this.ssrc, "load");
    this.track = pc.addTrack(audio);
    this.track.onOpen(() => {
      this.result.open = now() - begin;
      this.startAt = now();
    });
    this.track.onMessage((data) => this.receive(data));
    pc.setLocalDescription("offer");
  }

  async signal(sdp) {
    const reply = await fetch(config.url + config.path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...AUTHORIZATION },
      body: JSON.stringify({ sdp, type: "offer" }),
    });
    if (reply.status !== 200) {
      const text = await reply.text();
      throw new Error(`HTTP ${reply.status}: ${text.slice(0, 300)}`);
    }
    const answer = await reply.json();
    this.result.answered = now() - begin;
    // Media goes nowhere but to the server that was asked for, whatever else it offers.
    const kept = answer.sdp.split("\r\n").filter((line) => {
      const match = /^a=candidate:\S+ \d+ \S+ \d+ (\S+) /.exec(line);
      return !match || config.allow.includes(match[1]);
    });
    if (!kept.some((line) => line.startsWith("a=candidate:"))) throw new Error("no candidate on an allowed address");
    if (!this.isClosing) this.pc.setRemoteDescription(kept.join("\r\n"), "answer");
  }

  receive(data) {
    const second = data[1];
    if (data.length < 12 || (second >= 192 && second <= 223)) return; // RTCP
    const at = now() - begin;
    this.result.firstMedia ??= at;
    const position = log.room(16);
    log.buffer.writeUInt16LE(this.index, position);
    log.buffer.writeUInt16LE(data.readUInt16BE(2), position + 2);
    log.buffer.writeUInt32LE(data.readUInt32BE(4), position + 4);
    log.buffer.writeDoubleLE(at, position + 8);
    if (this.index < config.probes) {
      const start = 12 + 4 * (data[0] & 15);
      const length = data.length - start;
      const p = payloads.room(18 + length);
      payloads.buffer.writeUInt16LE(this.index, p);
      payloads.buffer.writeUInt16LE(data.readUInt16BE(2), p + 2);
      payloads.buffer.writeUInt32LE(data.readUInt32BE(4), p + 4);
      payloads.buffer.writeDoubleLE(at, p + 8);
      payloads.buffer.writeUInt16LE(length, p + 16);
      data.copy(payloads.buffer, p + 18, start);
    }
  }

  tick(time) {
    if (this.startAt === null || this.isClosing) return;
    while (this.next < numPackets && time >= this.startAt + this.next * FRAME_MS) {
      const due = this.startAt + this.next * FRAME_MS;
      const late = time - due;
      ticks++;
      if (late > 5) lateTicks++;
      if (late > lateMax) lateMax = late;
      if (this.index < config.probes) {
        const position = sent.room(14);
        sent.buffer.writeUInt16LE(this.index, position);
        sent.buffer.writeUInt32LE(this.next, position + 2);
        sent.buffer.writeDoubleLE(time - begin, position + 6);
      }
      const entry = (this.index * numPackets + this.next) * 2;
      for (const delay of [plan[entry], plan[entry + 1]]) {
        if (Number.isNaN(delay)) continue;
        if (delay <= 0) this.send(this.next);
        else this.queue.push([time + delay, this.next]);
      }
      this.next++;
    }
    if (this.queue.length) {
      const due = this.queue.filter((item) => item[0] <= time).sort((a, b) => a[0] - b[0]);
      if (due.length) {
        this.queue = this.queue.filter((item) => item[0] > time);
        for (const [, index] of due) this.send(index);
      }
    }
  }

  send(index) {
    const payload = this.packets[index % this.packets.length];
    const packet = this.packet;
    packet[0] = 0x80;
    packet[1] = PAYLOAD_TYPE;
    packet.writeUInt16BE((this.sequence + index) & 0xffff, 2);
    packet.writeUInt32BE((this.timestamp + index * 960) >>> 0, 4);
    packet.writeUInt32BE(this.ssrc, 8);
    payload.copy(packet, 12);
    try {
      this.track.sendMessageBinary(packet.subarray(0, 12 + payload.length));
    } catch (error) {
      this.fail(error);
    }
  }

  close() {
    this.isClosing = true;
    try {
      this.pc?.close();
    } catch {
      // it never opened
    }
  }
}

for (let i = 0; i < config.calls; i++) {
  const call = new Call(i);
  calls.push(call);
  setTimeout(() => {
    try {
      call.start();
    } catch (error) {
      call.fail(error);
    }
  }, i * config.rampMs);
}
console.log(JSON.stringify({ event: "started" }));

const timer = setInterval(() => {
  const time = now();
  for (const call of calls) call.tick(time);
}, 1);

setTimeout(() => {
  const ended = now() - begin;
  clearInterval(timer);
  for (const call of calls) call.close();
  for (const each of [log, sent, payloads]) each.flush();
  const cpu = process.cpuUsage();
  console.log(
    JSON.stringify({
      event: "done",
      endedMs: ended,
      calls: calls.map((call) => call.result),
      lateMaxMs: lateMax,
      lateShare: ticks ? lateTicks / ticks : 0,
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
    }),
  );
  setTimeout(() => {
    nd.cleanup();
    process.exit(0);
  }, 300);
}, config.calls * config.rampMs + config.durationMs + 600);
