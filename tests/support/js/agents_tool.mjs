// An agent with a tool, and the turn in which it is called; in Node and in browsers.

import { RealtimeAgent, tool } from "@openai/agents-realtime";
import { z } from "zod";

export async function makeAgent(instructions) {
  const calls = [];
  const getWeather = tool({
    name: "get_weather",
    description: "The weather in a city.",
    parameters: z.object({ city: z.string() }),
    async execute({ city }) {
      calls.push({ city });
      return `It is sunny and 21 degrees in ${city}.`;
    },
  });
  return { agent: new RealtimeAgent({ name: "Host", instructions, tools: [getWeather] }), calls };
}

// Ask for the weather; the first response has to be a tool call, the SDK answers it, and the result is spoken.
export async function callTool(session, dialogue, calls) {
  const asked = performance.timeOrigin + performance.now();
  session.transport.sendMessage("What is the weather in Paris?", {}, { triggerResponse: false });
  session.transport.requestResponse({ tool_choice: "required" });
  await dialogue.until(() => calls.length > 0, "the tool to be called");
  const called = dialogue.find("response.done", (event) => event.at > asked);
  const spoken = await dialogue.until(
    () =>
      dialogue.find(
        "response.done",
        (event) =>
          event.at > asked && event.response_id !== called?.response_id && spokenText(dialogue, event.response_id),
      ),
    "a spoken reply after the tool",
  );
  await dialogue.until(() => dialogue.heardMs(asked) > 300, "the sound of that reply");
  return { calls, spoken: spokenText(dialogue, spoken.response_id) };
}

function spokenText(dialogue, responseId) {
  return dialogue.find("response.output_audio_transcript.done", (event) => event.response_id === responseId)?.transcript;
}
