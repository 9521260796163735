// `openai` for Node over a WebSocket: node openai_ws.mjs '{"url", "key", "model", "instructions", "first", "second"}'

import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

import { Dialogue, isTruncated } from "./dialogue.mjs";
import { Loudspeaker, Microphone, fromBase64, readWav, toBase64 } from "./node_audio.mjs";

const given = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${given.url}/v1`, apiKey: given.key });
const secret = await client.realtime.clientSecrets.create({ session: { type: "realtime", model: given.model } });
const realtime = await OpenAIRealtimeWS.create(client, { model: given.model });

const microphone = new Microphone(24_000, 40, (samples) => {
  if (realtime.socket.readyState === 1) realtime.send({ type: "input_audio_buffer.append", audio: toBase64(samples) });
});
const dialogue = new Dialogue((name) => microphone.say(readWav(given[name]).samples));
const loudspeaker = new Loudspeaker(24_000, (samples, rate) => dialogue.hear(samples, rate));
const interruptions = [];

realtime.on("event", (event) => dialogue.note(event));
realtime.on("error", (error) => dialogue.problems.push(`client error: ${error.message}`));
realtime.on("response.output_audio.delta", (event) => loudspeaker.play(event.item_id, fromBase64(event.delta)));
realtime.on("input_audio_buffer.speech_started", () => {
  if (!loudspeaker.isPlaying) return;
  const { itemId, playedMs } = loudspeaker.interrupt();
  interruptions.push({ item_id: itemId, played_ms: playedMs });
  realtime.send({ type: "conversation.item.truncate", item_id: itemId, content_index: 0, audio_end_ms: playedMs });
});

try {
  await dialogue.until(() => dialogue.find("session.created"), "session.created");
  realtime.send({
    type: "session.update",
    session: {
      type: "realtime",
      instructions: given.instructions,
      audio: { input: { format: { type: "audio/pcm", rate: 24_000 }, turn_detection: { type: "server_vad" } } },
    },
  });
  await dialogue.until(() => dialogue.find("session.updated"), "session.updated");
  const turns = await dialogue.run(isTruncated(dialogue));
  console.log(JSON.stringify(dialogue.report({ ...turns, interruptions, secret: secret.value.slice(0, 3) })));
} finally {
  microphone.stop();
  loudspeaker.stop();
  realtime.close();
}
