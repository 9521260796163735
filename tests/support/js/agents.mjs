// The Agents SDK over a WebSocket or, with @roamhq/wrtc, over WebRTC:
//   node agents.mjs '{"transport": "websocket" | "webrtc", "url", "key", "model", "instructions", "first", "second"}'

import { Dialogue, isClearedAndTruncated, isTruncated } from "./dialogue.mjs";
import { makeAgent, callTool } from "./agents_tool.mjs";
import { Loudspeaker, Microphone, readWav } from "./node_audio.mjs";

const given = JSON.parse(process.argv[2]);
let microphone;
const dialogue = new Dialogue((name) => microphone.say(readWav(given[name]).samples));
const stops = [];

async function overWebRtc() {
  const { default: wrtc } = await import("@roamhq/wrtc");
  const { RTCPeerConnection, MediaStream, nonstandard } = wrtc;
  Object.assign(globalThis, { RTCPeerConnection, MediaStream });
  const { OpenAIRealtimeWebRTC } = await import("@openai/agents-realtime");
  const source = new nonstandard.RTCAudioSource();
  const audioElement = {
    set srcObject(stream) {
      const sink = new nonstandard.RTCAudioSink(stream.getAudioTracks()[0]);
      sink.ondata = ({ samples, sampleRate }) => dialogue.hear(samples, sampleRate);
      stops.push(() => sink.stop());
    },
  };
  const track = source.createTrack();
  microphone = new Microphone(24_000, 10, (samples) =>
    source.onData({ samples, sampleRate: 24_000, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples.length }),
  );
  stops.push(() => track.stop());
  return new OpenAIRealtimeWebRTC({
    baseUrl: `${given.url}/v1/realtime/calls`,
    mediaStream: new MediaStream([track]),
    audioElement,
  });
}

async function overWebSocket() {
  const { OpenAIRealtimeWebSocket } = await import("@openai/agents-realtime");
  const transport = new OpenAIRealtimeWebSocket({
    url: `${given.url.replace("http", "ws")}/v1/realtime?model=${given.model}`,
  });
  microphone = new Microphone(24_000, 40, (samples) => transport.sendAudio(samples.buffer));
  const loudspeaker = new Loudspeaker(24_000, (samples, rate) => dialogue.hear(samples, rate));
  transport.on("audio", ({ data, responseId }) => loudspeaker.play(responseId, new Int16Array(data)));
  transport.on("audio_interrupted", () => loudspeaker.interrupt());
  stops.push(() => loudspeaker.stop());
  return transport;
}

const isWebRtc = given.transport === "webrtc";
const transport = await (isWebRtc ? overWebRtc() : overWebSocket());
const { RealtimeSession } = await import("@openai/agents-realtime");
const { agent, calls } = await makeAgent(given.instructions);
const session = new RealtimeSession(agent, { transport, model: given.model });
const seen = { interrupted: 0 };
transport.on("*", (event) => dialogue.note(event));
session.on("audio_interrupted", () => seen.interrupted++);
session.on("error", (error) => dialogue.problems.push(`client error: ${JSON.stringify(error.error ?? String(error))}`));

try {
  await session.connect({ apiKey: given.key });
  await dialogue.until(() => dialogue.find("session.updated"), "session.updated");
  const turns = await dialogue.run(isWebRtc ? isClearedAndTruncated(dialogue) : isTruncated(dialogue));
  const tool = await callTool(session, dialogue, calls);
  console.log(JSON.stringify(dialogue.report({ ...turns, tool, ...seen, history: session.history })));
} finally {
  session.close();
  microphone.stop();
  stops.forEach((stop) => stop());
  setTimeout(() => process.exit(), 300); // @roamhq/wrtc keeps threads that end no sooner
}
