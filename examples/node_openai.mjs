// Say a WAV file to the server and save what it answers, with OpenAI's client for Node.
//
//   npm install openai ws
//   export OPENAI_BASE_URL=https://localhost:8443/v1 OPENAI_API_KEY=your-key NODE_EXTRA_CA_CERTS=certs/ca.pem
//   node examples/node_openai.mjs examples/question.wav reply.wav
//
// This client opens a WebSocket only over TLS; `certs/ca.pem` is the authority that the server made on its first start.
// Recordings are 24 kHz, mono, 16-bit, as in python_openai.py.

import { readFileSync, writeFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const RATE = 24_000;
const HEADER = 44; // bytes of a plain WAV file
const CHUNK = (RATE / 10) * 2; // 100 ms

const [question, reply] = process.argv.slice(2);
if (!reply) {
  console.error("usage: node node_openai.mjs QUESTION.wav REPLY.wav");
  process.exit(2);
}
const file = readFileSync(question);
if (file.readUInt32LE(24) !== RATE || file.readUInt16LE(22) !== 1 || file.readUInt16LE(34) !== 16) {
  console.error(`${question} is not 24 kHz, mono, 16-bit`);
  process.exit(2);
}

const realtime = await OpenAIRealtimeWS.create(new OpenAI(), { model: "gpt-realtime" });
const sound = [];
let speaking;

realtime.on("session.created", () => {
  realtime.send({ type: "session.update", session: { type: "realtime", instructions: "Answer in one sentence." } });
  // At the pace of a microphone, and then silence: from that the server knows that the question is over.
  let position = HEADER;
  speaking = setInterval(() => {
    const chunk = Buffer.alloc(CHUNK);
    chunk.set(file.subarray(position, position + CHUNK)); // nothing is left at the end: zeros
    position += CHUNK;
    realtime.send({ type: "input_audio_buffer.append", audio: chunk.toString("base64") });
  }, 100);
});
realtime.on("conversation.item.input_audio_transcription.completed", (event) => console.log("you:   ", event.transcript));
realtime.on("response.output_audio.delta", (event) => sound.push(Buffer.from(event.delta, "base64")));
realtime.on("response.output_audio_transcript.done", (event) => console.log("server:", event.transcript));
realtime.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
realtime.on("response.done", () => {
  clearInterval(speaking);
  realtime.close();
  const data = Buffer.concat(sound);
  const header = Buffer.from(file.subarray(0, HEADER));
  header.writeUInt32LE(36 + data.length, 4);
  header.writeUInt32LE(data.length, 40);
  writeFileSync(reply, Buffer.concat([header, data]));
  console.log(`saved ${(data.length / 2 / RATE).toFixed(1)} s as ${reply}`);
});
