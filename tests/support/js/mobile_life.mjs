// One life of a phone app with the call of examples/mobile/node: it prints a JSON line for each thing it was told to do,
// and then waits to be killed, or hangs up.
//   node mobile_life.mjs '{"url": ..., "key": ..., "token": null, "say": "8k.wav", "write": null}'

import { RealtimeCall } from "./realtime_call.mjs";
import { Ear, Microphone, readWav } from "./sound.mjs";

const given = JSON.parse(process.argv[2]);
const microphone = new Microphone();
const ear = new Ear();
const events = [];
const call = new RealtimeCall({
  url: given.url,
  key: given.key,
  track: microphone.track,
  onEvent: (event) => events.push(event),
  onRemoteTrack: (track) => ear.listen(track),
});

async function until(what, condition, ms = 30_000) {
  for (const end = performance.now() + ms; performance.now() < end; ) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`timed out: ${what}; the latest events: ${events.slice(-5).map(({ type }) => type)}`);
}
const all = (type) => events.filter((event) => event.type === type);
const tell = (found) => console.log(JSON.stringify(found));

try {
  await call.start(given.token);
  await until("a session", () => all("rtc_server.session.resumable").length === 1);
  const { num_items: numItems } = all("rtc_server.session.resumable")[0];
  await until("the history", () => all("conversation.item.done").length >= numItems);
  tell({
    token: call.resumeToken,
    session: all("session.created")[0].session.id,
    items: all("conversation.item.done").map(({ item }) => ({ id: item.id, role: item.role, content: item.content[0] })),
  });
  if (given.say) {
    const saying = microphone.say(readWav(given.say));
    await saying;
    await until("its words", () => all("conversation.item.input_audio_transcription.completed").length > 0);
    await until("a reply", () => ear.loud > 50);
    const { transcript, item_id: item } = all("conversation.item.input_audio_transcription.completed")[0];
    tell({ transcript, item });
    await new Promise(() => {}); // until it is killed
  }
  if (given.write) {
    const item = { type: "message", role: "user", content: [{ type: "input_text", text: given.write }] };
    call.send({ type: "conversation.item.create", item });
    call.send({ type: "response.create" });
    await until("an answer", () => all("response.done").length > 0);
    const { status, usage } = all("response.done")[0].response;
    tell({ status, usage });
  }
} finally {
  await call.hangUp();
  microphone.stop();
  ear.stop();
  setTimeout(() => process.exit(), 200); // libwebrtc's threads
}
