// What is around a client in a page: a microphone that says recordings when told, and ears on whatever it receives.
//
// The client is not touched: it asks for a microphone and makes its peer connection as always.

const BLOCK = 256; // samples of one report of what is played, 5 ms
const EAR = `
registerProcessor("ear", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(${BLOCK});
    this.filled = 0;
  }
  process([[samples]]) {
    this.block.set(samples ?? new Float32Array(128), this.filled);
    this.filled += 128;
    if (this.filled === ${BLOCK}) {
      this.port.postMessage({ samples: this.block, endsAt: currentTime + 128 / sampleRate });
      this.block = new Float32Array(${BLOCK});
      this.filled = 0;
    }
    return true;
  }
});`;

// Every received packet on its way to the jitter buffer: when it came, which time it belongs to, and what is in it.
const TAP = `
onrtctransform = ({ transformer }) => {
  const tap = new TransformStream({
    transform(frame, controller) {
      const at = performance.timeOrigin + performance.now();
      const rtp = frame.getMetadata().rtpTimestamp ?? frame.timestamp;
      postMessage({ at, rtp, data: frame.data.slice(0) });
      controller.enqueue(frame);
    },
  });
  transformer.readable.pipeThrough(tap).pipeTo(transformer.writable);
};`;

const asUrl = (script) => URL.createObjectURL(new Blob([script], { type: "text/javascript" }));

export class Room {
  // `onSound(samples, rate, at)`: what is played, and when that began on the clock of the page.
  static async open(onSound, { tapsPackets = false } = {}) {
    const room = new Room();
    room.onSound = onSound;
    room.packets = [];
    room.stretches = [];
    room.context = new AudioContext({ sampleRate: 48_000 });
    await room.context.audioWorklet.addModule(asUrl(EAR));
    room.mouth = room.context.createMediaStreamDestination();
    navigator.mediaDevices.getUserMedia = async () => room.mouth.stream.clone();
    room.worker = tapsPackets ? new Worker(asUrl(TAP)) : null;
    if (room.worker) room.worker.onmessage = ({ data }) => room.packets.push(data);
    const Native = window.RTCPeerConnection;
    window.RTCPeerConnection = class extends Native {
      constructor(...settings) {
        super(...settings);
        room.watch(this);
        this.addEventListener("track", ({ track }) => track.kind === "audio" && room.listen(track));
      }
      addTrack(...track) {
        const sender = super.addTrack(...track);
        room.tap(this.getTransceivers().find((transceiver) => transceiver.sender === sender).receiver);
        return sender;
      }
    };
    return room;
  }

  get stream() {
    return this.mouth.stream;
  }

  async say(name) {
    const file = await fetch(`/${name}.wav`);
    const source = this.context.createBufferSource();
    source.buffer = await this.context.decodeAudioData(await file.arrayBuffer());
    source.connect(this.mouth);
    const ended = new Promise((resolve) => source.addEventListener("ended", resolve));
    source.start();
    await ended;
  }

  // Before the offer is made: on a receiver in use Chromium ignores it.
  tap(receiver) {
    if (this.worker) receiver.transform = new RTCRtpScriptTransform(this.worker, {});
  }

  // What the jitter buffer adds to what has arrived (or leaves out) to keep the sound going: [[when, ms]], summed up.
  watch(peer) {
    this.timer = setInterval(async () => {
      for (const entry of (await peer.getStats()).values()) {
        if (entry.type !== "inbound-rtp" || entry.kind !== "audio") continue;
        const { concealedSamples, insertedSamplesForDeceleration, removedSamplesForAcceleration } = entry;
        const samples = concealedSamples + insertedSamplesForDeceleration - removedSamplesForAcceleration;
        this.stretches.push([performance.timeOrigin + performance.now(), samples / 48]);
      }
    }, 50);
  }

  listen(track) {
    const stream = new MediaStream([track]);
    this.element = new Audio(); // Chromium plays a remote track only when an element does
    this.element.muted = true;
    this.element.srcObject = stream;
    this.element.play();
    const ear = new AudioWorkletNode(this.context, "ear");
    let offset = Infinity; // of the page's clock to the context's; a message that came late says too much
    ear.port.onmessage = ({ data: { samples, endsAt } }) => {
      offset = Math.min(offset, performance.timeOrigin + performance.now() - 1000 * endsAt);
      const ms = (1000 * BLOCK) / this.context.sampleRate;
      this.onSound(samples, this.context.sampleRate, 1000 * endsAt - ms + offset);
    };
    this.context.createMediaStreamSource(stream).connect(ear);
    ear.connect(new GainNode(this.context, { gain: 0 })).connect(this.context.destination);
  }

  // What is in the packets that have arrived: [{at, rtp, rms}], silence where nothing is transmitted (DTX).
  async heardPackets() {
    const levels = []; // by number of the packet; timestamps come back rounded
    const decoder = new AudioDecoder({
      output: (audio) => {
        const samples = new Float32Array(audio.numberOfFrames);
        audio.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
        const sum = samples.reduce((total, sample) => total + sample * sample, 0);
        levels[Math.round(audio.timestamp / 20_000)] = Math.sqrt(sum / samples.length);
        audio.close();
      },
      error: (error) => {
        throw error;
      },
    });
    decoder.configure({ codec: "opus", sampleRate: 48_000, numberOfChannels: 1 });
    const voiced = this.packets.filter(({ data }) => data.byteLength > 3);
    voiced.forEach(({ data }, index) =>
      decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: index * 20_000, data })),
    );
    await decoder.flush();
    const found = new Map(voiced.map((packet, index) => [packet, levels[index] ?? 0]));
    return this.packets.map((packet) => ({ at: packet.at, rtp: packet.rtp, rms: found.get(packet) ?? 0 }));
  }

  async close() {
    clearInterval(this.timer);
    this.worker?.terminate();
    await this.context.close();
  }
}
