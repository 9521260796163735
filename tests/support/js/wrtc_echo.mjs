// A libwebrtc client of the echo test: talks a tone, restarts ICE in the middle, prints what it saw as one JSON line.
//   node wrtc_echo.mjs http://127.0.0.1:8000

import wrtc from "@roamhq/wrtc";

const url = process.argv[2];
const { RTCPeerConnection, nonstandard } = wrtc;
const source = new nonstandard.RTCAudioSource();
const track = source.createTrack();
const pc = new RTCPeerConnection({ iceServers: [] });
const seen = { states: [], loud: 0, frames: 0, ports: [] };
pc.addEventListener("connectionstatechange", () => seen.states.push(pc.connectionState));
pc.addTrack(track);
pc.addEventListener("track", (event) => {
  const sink = new nonstandard.RTCAudioSink(event.track);
  sink.ondata = ({ samples }) => {
    seen.frames++;
    if (samples.some((sample) => Math.abs(sample) > 2000)) seen.loud++;
  };
  seen.sink = sink;
});

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition) {
  for (let i = 0; i < 500; i++) {
    if (await condition()) return;
    await wait(20);
  }
  throw new Error("timed out");
}
async function gathered() {
  await pc.setLocalDescription(await pc.createOffer(seen.restart ? { iceRestart: true } : {}));
  await until(() => pc.iceGatheringState === "complete");
  return pc.localDescription.sdp;
}
async function stats() {
  const found = {};
  for (const entry of (await pc.getStats()).values()) {
    if (entry.type === "codec" && entry.mimeType === "audio/opus") (found.lines ??= []).push(entry.sdpFmtpLine);
    if (["inbound-rtp", "outbound-rtp", "transport"].includes(entry.type)) found[entry.type] = entry;
  }
  return found;
}

let position = 0;
const timer = setInterval(() => {
  const samples = new Int16Array(480);
  for (let i = 0; i < 480; i++) samples[i] = 12000 * Math.sin((2 * Math.PI * 440 * position++) / 48000);
  source.onData({ samples, sampleRate: 48000, bitsPerSample: 16, channelCount: 1, numberOfFrames: 480 });
}, 10);

try {
  const reply = await fetch(`${url}/api/echo`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ type: "offer", sdp: await gathered() }),
  });
  const answer = await reply.json();
  if (!reply.ok) throw new Error(JSON.stringify(answer));
  await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
  await until(() => pc.connectionState === "connected");
  await until(() => seen.loud > 50);
  const before = await stats();
  seen.restart = true;
  const restart = await fetch(`${url}/v1/realtime/calls/${answer.pc_id}`, {
    method: "PATCH",
    headers: { "Content-Type": "application/sdp" },
    body: await gathered(),
  });
  const second = await restart.text();
  if (!restart.ok) throw new Error(second);
  await pc.setRemoteDescription({ type: "answer", sdp: second });
  await wait(1500);
  const middle = seen.loud;
  await until(() => seen.loud > middle + 50);
  const after = await stats();
  await fetch(`${url}/v1/realtime/calls/${answer.pc_id}`, { method: "DELETE" });
  const port = (sdp) => /a=candidate:\S+ 1 udp \d+ \S+ (\d+)/.exec(sdp)[1];
  console.log(
    JSON.stringify({
      lines: before.lines,
      state: pc.connectionState,
      states: seen.states,
      ports: [port(answer.sdp), port(second)],
      newCredentials: /ice-ufrag:(\S+)/.exec(answer.sdp)[1] !== /ice-ufrag:(\S+)/.exec(second)[1],
      sameSource: before["inbound-rtp"].ssrc === after["inbound-rtp"].ssrc,
      received: after["inbound-rtp"].packetsReceived,
    }),
  );
} finally {
  clearInterval(timer);
  seen.sink?.stop();
  track.stop();
  pc.close();
  setTimeout(() => process.exit(), 200);
}
