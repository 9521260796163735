// The Agents SDK in a page, over WebRTC. How to build and open it stands in ../README.md.

import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";
import { z } from "zod";

const $ = (id) => document.getElementById(id);
const clock = tool({
  name: "get_time",
  description: "The time of day.",
  parameters: z.object({}),
  execute: async () => new Date().toLocaleTimeString(),
});
const agent = new RealtimeAgent({ name: "Host", instructions: "Answer in one sentence.", tools: [clock] });
let session;

$("start").onclick = async () => {
  $("start").disabled = true;
  const transport = new OpenAIRealtimeWebRTC({ baseUrl: `${$("server").value}/v1/realtime/calls` });
  session = new RealtimeSession(agent, { transport, model: "gpt-realtime" });
  session.on("history_updated", (history) => {
    const lines = history.map((item) => {
      const line = document.createElement("li");
      const said = item.content?.map(({ transcript, text }) => transcript ?? text ?? "").join(" ");
      line.textContent = item.type === "message" ? `${item.role}: ${said}` : `${item.name}()`;
      return line;
    });
    $("history").replaceChildren(...lines);
  });
  session.on("error", ({ error }) => ($("state").value = error.message ?? JSON.stringify(error)));
  transport.on("connection_change", (state) => ($("state").value = state));
  try {
    await session.connect({ apiKey: $("key").value }); // asks for the microphone
    $("stop").disabled = false;
  } catch (error) {
    $("state").value = error.message;
    $("start").disabled = false;
  }
};

$("stop").onclick = () => {
  session.close();
  $("stop").disabled = true;
  $("start").disabled = false;
};
