// A whole call of examples/mobile/node, step by step, with what a phone does to it. The last line is what was seen.
//   node mobile_flow.mjs '{"url": "http://127.0.0.1:8000/v1", "key": null, "say": {"wide": "48k.wav", ...}}'
// Between "LOSE" and "LOST" on the standard streams the test takes the call away.

import { createInterface } from "node:readline";
import { RealtimeCall } from "./realtime_call.mjs";
import { Ear, Microphone, readWav } from "./sound.mjs";

const given = JSON.parse(process.argv[2]);
const microphone = new Microphone();
const ear = new Ear();
const events = [];
const states = [];
const call = new RealtimeCall({
  url: given.url,
  key: given.key,
  track: microphone.track,
  onEvent: (event) => events.push(event),
  onRemoteTrack: (track) => ear.listen(track),
  onState: (state, error) => states.push(error ? `${state}: ${error.message}` : state),
});
const seen = { states };

// The credentials of the relays have always just ended, so each restart asks for others.
let relaysAsked = 0;
const stockFetch = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  const reply = await stockFetch(url, options);
  if (!String(url).endsWith("/ice-servers")) return reply;
  relaysAsked++;
  return new Response(JSON.stringify({ ...(await reply.json()), ttl: 0 }), { status: reply.status });
};

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(what, condition, ms = 20_000) {
  for (const end = performance.now() + ms; performance.now() < end; await wait(20)) if (condition()) return;
  throw new Error(`timed out: ${what}; the latest events: ${events.slice(-5).map(({ type }) => type)}`);
}
const count = (type) => events.filter((event) => event.type === type).length;
const latest = (type) => events.findLast((event) => event.type === type);
const items = (list) => list.filter(({ type }) => type === "conversation.item.done").map(({ item }) => item.id);

/** A spoken turn: how much of the reply was heard, and how long the server thinks that the user spoke. */
async function turn(recording) {
  const [loud, done] = [ear.loud, count("output_audio_buffer.stopped")];
  await microphone.say(recording);
  await until("the reply was heard", () => count("output_audio_buffer.stopped") > done);
  const spoken = latest("input_audio_buffer.speech_stopped").audio_end_ms - latest("input_audio_buffer.speech_started").audio_start_ms;
  return { heardMs: (ear.loud - loud) * 10, spokenMs: spoken };
}

async function patch(type, body, etag) {
  const headers = { "Content-Type": type, "If-Match": etag };
  if (given.key) headers.Authorization = `Bearer ${given.key}`;
  const reply = await fetch(call.callUrl, { method: "PATCH", headers, body });
  const text = await reply.text();
  return { status: reply.status, code: reply.ok ? null : JSON.parse(text).error.code };
}

async function write(text) {
  const done = count("response.done");
  const item = { type: "message", role: "user", content: [{ type: "input_text", text }] };
  call.send({ type: "conversation.item.create", item });
  call.send({ type: "response.create" });
  await until("an answer to the text", () => count("response.done") > done);
}

try {
  await call.start();
  await until("session.created", () => count("session.created") === 1);
  const offered = call.peerConnection.localDescription.sdp;
  seen.turns = { wide: await turn(readWav(given.say.wide)) };

  // ICE restart
  const old = call.etag;
  const ssrc = async () => {
    for (const entry of (await call.peerConnection.getStats()).values()) if (entry.type === "inbound-rtp") return entry.ssrc;
  };
  const source = await ssrc();
  const address = call.callUrl;
  const moving = call.networkChanged();
  await wait(5);
  await call.networkChanged(); // and again another one, while the first request is on its way
  await moving;
  seen.relaysAsked = relaysAsked;
  seen.restart = { newTag: call.etag !== old && call.etag !== null, sameCall: call.callUrl === address, sameSource: (await ssrc()) === source };
  const fragment = `${offered.match(/a=ice-ufrag:.*/)[0].trim()}\r\na=end-of-candidates\r\n`;
  seen.staleTag = await patch("application/trickle-ice-sdpfrag", fragment, old);
  seen.staleOffer = await patch("application/sdp", call.peerConnection.localDescription.sdp, old);
  seen.presentTag = await patch("application/trickle-ice-sdpfrag", "a=end-of-candidates\r\n", call.etag);
  const foreign = call.peerConnection.localDescription.sdp
    .replace(/a=ice-ufrag:.*\r\n/g, "a=ice-ufrag:somebody\r\n")
    .replace(/a=ice-pwd:.*\r\n/g, "a=ice-pwd:0123456789012345678901\r\n")
    .replace(/a=fingerprint:.*\r\n/g, `a=fingerprint:sha-256 ${Array(32).fill("AB").join(":")}\r\n`);
  seen.foreign = await patch("application/sdp", foreign, "*");
  seen.turns.narrow = await turn(readWav(given.say.narrow));

  // lost, and gone on with
  await write("Remember 42.");
  await wait(given.settleMs);
  const before = { session: latest("session.created").session.id, items: items(events) };
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  events.length = 0;
  const lost = performance.now();
  console.log("LOSE");
  await lines.next();
  await until("the session went on", () => count("rtc_server.session.resumable") === 1, 60_000);
  await until("the history", () => items(events).length >= latest("rtc_server.session.resumable").num_items);
  await until("live", () => call.state === "live");
  seen.resumed = {
    seconds: (performance.now() - lost) / 1_000,
    sameSession: latest("session.created").session.id === before.session,
    itemsBefore: before.items,
    items: items(events),
    otherCall: call.callUrl !== address,
  };
  seen.turns.middle = await turn(readWav(given.say.middle));

  // over
  const token = call.resumeToken;
  await call.hangUp();
  const late = new RealtimeCall({ url: given.url, key: given.key, track: microphone.track });
  const refused = await late.start(token).then(() => null, (error) => error);
  seen.late = { status: refused?.status, code: refused?.code, message: refused?.message, state: late.state };
  console.log(JSON.stringify(seen));
} finally {
  await call.hangUp();
  microphone.stop();
  ear.stop();
  setTimeout(() => process.exit(), 200); // libwebrtc's threads
}
