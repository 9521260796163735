// Ask the question of a WAV file, as a phone app would, and print what both sides say. In between the network changes.
//
//   npm install @roamhq/wrtc
//   export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
//   node talk.mjs ../../question.wav

import { RealtimeCall } from "./realtime_call.mjs";
import { Ear, Microphone, readWav } from "./sound.mjs";

const [question] = process.argv.slice(2);
if (!question) {
  console.error("usage: node talk.mjs QUESTION.wav");
  process.exit(2);
}
const microphone = new Microphone();
const ear = new Ear();
const answered = {};
const reply = new Promise((resolve, reject) => Object.assign(answered, { resolve, reject }));
const call = new RealtimeCall({
  url: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  key: process.env.OPENAI_API_KEY,
  track: microphone.track,
  onRemoteTrack: (track) => ear.listen(track),
  onState: (state, error) => {
    console.log(`state: ${state}`);
    if (error) answered.reject(error);
  },
  onEvent: (event) => {
    if (event.type === "conversation.item.input_audio_transcription.completed") console.log(`you: ${event.transcript}`);
    if (event.type === "response.output_audio_transcript.done") console.log(`server: ${event.transcript}`);
    if (event.type === "output_audio_buffer.stopped") answered.resolve();
    if (event.type === "error") answered.reject(new Error(event.error.message));
  },
});
try {
  await call.start();
  await call.networkChanged(); // as if the phone had left its Wi-Fi
  await microphone.say(readWav(question));
  await reply;
  console.log(`heard: ${(ear.loud / 100).toFixed(1)} s of sound`);
} finally {
  await call.hangUp();
  microphone.stop();
  ear.stop();
  setTimeout(() => process.exit(), 200); // libwebrtc's threads
}
