// The Agents SDK in a page, with an ephemeral key: run({url, key, model, instructions}) -> report.

import { OpenAIRealtimeWebRTC, RealtimeSession } from "@openai/agents-realtime";

import { callTool, makeAgent } from "./agents_tool.mjs";
import { Room } from "./browser_room.mjs";
import { Dialogue, isClearedAndTruncated, now } from "./dialogue.mjs";

window.run = async (given) => {
  const dialogue = new Dialogue((name) => room.say(name));
  const played = []; // [when, root mean square] of every block
  const room = await Room.open(
    (samples, rate, at) => {
      dialogue.hear(samples, rate, at);
      const sum = samples.reduce((total, sample) => total + sample * sample, 0);
      played.push([at, Math.sqrt(sum / samples.length)]);
    },
    { tapsPackets: true },
  );
  const transport = new OpenAIRealtimeWebRTC({ baseUrl: `${given.url}/v1/realtime/calls` });
  const { agent, calls } = await makeAgent(given.instructions);
  const session = new RealtimeSession(agent, { transport, model: given.model });
  transport.on("*", (event) => dialogue.note(event));
  session.on("error", (error) => dialogue.problems.push(`client error: ${JSON.stringify(error.error ?? String(error))}`));
  try {
    await session.connect({ apiKey: given.key });
    const callId = transport.callId;
    const turns = await dialogue.run(isClearedAndTruncated(dialogue));
    const stopped = await stopReply(session, dialogue, turns.second);
    const tool = await callTool(session, dialogue, calls);
    const packets = await room.heardPackets();
    return dialogue.report({ ...turns, callId, stopped, tool, packets, played, stretches: room.stretches, history: session.history });
  } finally {
    session.close();
    await room.close();
  }
};

// A typed message, and the client's own "stop" in the middle of the reply.
async function stopReply(session, dialogue, previous) {
  await dialogue.until(
    () => dialogue.find("output_audio_buffer.stopped", (event) => event.response_id === previous),
    "the last sound of the reply before",
  );
  await dialogue.until(() => dialogue.heardMs(now() - 500) === 0, "silence");
  const asked = now();
  session.sendMessage("Tell me about the sea.");
  const started = await dialogue.until(
    () => dialogue.find("output_audio_buffer.started", (event) => event.at > asked),
    "the reply to the typed message",
  );
  await dialogue.until(() => dialogue.heardMs(started.at) >= 300, "its sound");
  session.interrupt();
  await dialogue.until(() => isClearedAndTruncated(dialogue)(started.response_id), "the end of that reply");
  return started.response_id;
}
