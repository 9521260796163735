// An agent that can look up the weather, with OpenAI's Agents SDK in Node; it is asked in writing and answers in speech.
//
//   npm install @openai/agents-realtime zod
//   export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
//   node examples/node_agents.mjs "What is the weather in Paris?"
//
// The tool runs here; the server's model decides when to call it and speaks about the result.

import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";
import { z } from "zod";

const question = process.argv[2] ?? "What is the weather in Paris?";
const url = new URL(process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1");
url.protocol = url.protocol.replace("http", "ws");
url.pathname += "/realtime";
url.search = "?model=gpt-realtime";

const weather = tool({
  name: "get_weather",
  description: "The weather in a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    console.log(`tool:   get_weather(${city})`);
    return `It is sunny and 21 degrees in ${city}.`;
  },
});
const agent = new RealtimeAgent({ name: "Guide", instructions: "Answer in one sentence.", tools: [weather] });
const transport = new OpenAIRealtimeWebSocket({ url: url.href });
const session = new RealtimeSession(agent, { transport, model: "gpt-realtime" });

let bytes = 0;
transport.on("audio", ({ data }) => (bytes += data.byteLength));
session.on("error", ({ error }) => {
  console.error(error);
  process.exit(1);
});
const answered = new Promise((resolve) => {
  transport.on("response.output_audio_transcript.done", ({ transcript }) => transcript && resolve(transcript));
});

await session.connect({ apiKey: process.env.OPENAI_API_KEY ?? "none" });
console.log("you:   ", question);
transport.sendMessage(question, {}, { triggerResponse: false });
transport.requestResponse({ tool_choice: "required" }); // a small model forgets its tools; leave it out with a large one
console.log("server:", await answered);
console.log(`heard ${(bytes / 2 / 24_000).toFixed(1)} s`);
session.close();
