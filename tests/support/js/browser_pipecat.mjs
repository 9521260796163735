// Pipecat's client with its small-webrtc transport in a page: run({url, key}) -> report.
//
// Its usual media manager loads code from Daily's servers when it starts; the transport takes another one, and this one
// has a microphone and nothing else.

import { PipecatClient, RTVIEvent } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";

import { Room } from "./browser_room.mjs";
import { Dialogue } from "./dialogue.mjs";

class MicrophoneOnly {
  setClientOptions() {}
  async initialize() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  }
  async connect() {
    if (!this.stream) await this.initialize();
  }
  async disconnect() {
    this.stream?.getTracks().forEach((track) => track.stop());
  }
  tracks() {
    return { local: { audio: this.stream?.getAudioTracks()[0] } };
  }
  enableMic() {}
  enableCam() {}
  enableScreenShare() {}
  get isMicEnabled() {
    return true;
  }
  get isCamEnabled() {
    return false;
  }
  get isSharingScreen() {
    return false;
  }
  get supportsScreenShare() {
    return true;
  }
}

window.run = async (given) => {
  const dialogue = new Dialogue((name) => room.say(name));
  const room = await Room.open((samples, rate, at) => dialogue.hear(samples, rate, at));
  const messages = []; // [type, text] of what the client was told
  const told = (type) => (data) => messages.push([type, String(data?.text ?? "")]);
  const headers = new Headers(given.key ? { Authorization: `Bearer ${given.key}` } : {});
  const client = new PipecatClient({
    transport: new SmallWebRTCTransport({ mediaManager: new MicrophoneOnly() }),
    enableMic: true,
    enableCam: false,
    callbacks: {
      onBotReady: (data) => messages.push(["bot-ready", data.version]),
      onUserStartedSpeaking: told("user-started-speaking"),
      onUserStoppedSpeaking: told("user-stopped-speaking"),
      onUserTranscript: ({ text, final }) => final && messages.push(["user-transcription", text]),
      onBotStartedSpeaking: told("bot-started-speaking"),
      onBotStoppedSpeaking: told("bot-stopped-speaking"),
      onBotLlmText: told("bot-llm-text"),
      onBotTtsText: told("bot-tts-text"),
      onBotOutput: told("bot-output"),
      onError: (message) => dialogue.problems.push(`error: ${JSON.stringify(message.data)}`),
      onMessageError: (message) => dialogue.problems.push(`message error: ${JSON.stringify(message?.data)}`),
    },
  });
  client.on(RTVIEvent.DeviceError, (error) => dialogue.problems.push(`device error: ${error.message}`));
  try {
    if (given.start) await client.startBotAndConnect({ endpoint: `${given.url}/start`, headers, requestData: {} });
    else await client.connect({ webrtcRequestParams: { endpoint: `${given.url}/api/offer`, headers } });
    const turns = await dialogue.runBySound();
    const typed = messages.length;
    await client.sendText("What is the capital of Italy?");
    await dialogue.until(
      () => messages.slice(typed).some(([type, text]) => type === "bot-llm-text" && text),
      "a reply to the typed message",
    );
    return dialogue.report({ ...turns, messages });
  } finally {
    await client.disconnect();
    await room.close();
  }
};
