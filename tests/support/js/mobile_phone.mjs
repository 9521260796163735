// A phone with the call of examples/mobile/node that does what it is told: a JSON command per line on standard input, a
// JSON answer per line on standard output. tests/support/phone.py is its other end.
//   node mobile_phone.mjs '{"url": "http://127.0.0.1:8000/v1", "key": null}'

import { createInterface } from "node:readline";
import { RealtimeCall } from "./realtime_call.mjs";
import { Ear, Microphone, readWav } from "./sound.mjs";

const LATEST = 5;

const given = JSON.parse(process.argv[2]);
const microphone = new Microphone();
const ear = new Ear();
const states = [];
let events = [];
const call = new RealtimeCall({
  ...given,
  track: microphone.track,
  onEvent: (event) => events.push(event),
  onRemoteTrack: (track) => ear.listen(track),
  onState: (state, error) => states.push(error ? `${state}: ${error.message}` : state),
});

async function until(what, condition, ms = 20_000) {
  for (const end = performance.now() + ms; performance.now() < end; ) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`timed out: ${what}; states ${states}; events ${events.slice(-LATEST).map(({ type }) => type)}`);
}
const all = (type) => events.filter((event) => event.type === type);
const received = async () => {
  for (const entry of (await call.peerConnection.getStats()).values()) {
    if (entry.type === "inbound-rtp") return entry.packetsReceived;
  }
  return 0; // a connection that was made anew
};
const sender = () => call.peerConnection.getSenders()[0];

const commands = {
  start: ({ token }) => call.start(token),
  say: ({ path }) => microphone.say(readWav(path)),
  send: ({ event }) => ({ sent: call.send(event) }),
  forget: () => void (events = []),
  event: async ({ type, count }) => {
    await until(`${count} of ${type}`, () => all(type).length >= count);
    return all(type)[count - 1];
  },
  items: async () => {
    await until("a session", () => all("rtc_server.session.resumable").length > 0);
    const { num_items: told } = all("rtc_server.session.resumable").at(-1);
    await until("the history", () => all("conversation.item.done").length >= told);
    return { items: all("conversation.item.done").map(({ item }) => item) };
  },
  mute: ({ on }) => void (microphone.track.enabled = !on),
  detach: () => sender().replaceTrack(null),
  attach: () => sender().replaceTrack(microphone.track),
  networkChanged: ({ wait }) => (wait ? call.networkChanged() : void call.networkChanged()),
  until: ({ state }) => until(state, () => call.state === state),
  sound: async () => {
    const since = performance.now();
    await until("a sound", () => ear.heardAt > since);
  },
  heard: ({ ms }) => until(`${ms} ms of sound`, () => ear.loud * 10 >= ms),
  /** After the network was lost: the first packet. Those of the first `drained_ms` count as being from before; statistics
   * are up to 50 ms old. */
  packet: async ({ drained_ms: drained = 200 }) => {
    await new Promise((resolve) => setTimeout(resolve, drained));
    const before = await received();
    let now = before;
    await until("a packet", () => {
      received().then((packets) => (now = packets), () => {});
      return now !== before;
    });
  },
  soundAgain: async (fields) => {
    await commands.packet(fields);
    await commands.sound();
  },
  report: async () => {
    const packets = { received: await received() };
    for (const entry of (await call.peerConnection.getStats()).values()) {
      if (entry.type === "outbound-rtp") packets.sent = entry.packetsSent;
    }
    return { state: call.state, states, url: call.callUrl, token: call.resumeToken, heardMs: ear.loud * 10, packets };
  },
  hangUp: () => call.hangUp(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...fields } = JSON.parse(line);
  let answer;
  try {
    answer = (await commands[command](fields)) ?? {};
  } catch (error) {
    answer = { error: { status: error.status ?? null, code: error.code ?? null, message: error.message } };
  }
  console.log(JSON.stringify(answer));
}
await call.hangUp();
microphone.stop();
ear.stop();
setTimeout(() => process.exit(), 200); // libwebrtc's threads
