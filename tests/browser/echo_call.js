// A browser's call to the echo test, for tests of the media path: window.echoCall.* from Playwright.

window.echoCall = {
  async start({ relayPort = null, record = false, key = { name: "ECDSA", namedCurve: "P-256" } } = {}) {
    const constraints = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const local = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    if (key.publicExponent) key.publicExponent = new Uint8Array(key.publicExponent);
    const pc = new RTCPeerConnection({ certificates: [await RTCPeerConnection.generateCertificate(key)] });
    this.pc = pc;
    this.local = local;
    const [track] = local.getAudioTracks();
    this.sender = pc.addTrack(track, local);
    const remote = new Promise((resolve) => pc.addEventListener("track", (event) => resolve(event.streams[0]), { once: true }));
    await pc.setLocalDescription();
    const reply = await fetch("/api/echo", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ type: "offer", sdp: pc.localDescription.sdp }),
    });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(JSON.stringify(answer));
    this.id = answer.pc_id;
    this.answer = answer.sdp;
    const port = /a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 (\d+)/.exec(answer.sdp)[1];
    const sdp = relayPort === null ? answer.sdp : answer.sdp.replaceAll(` 127.0.0.1 ${port} `, ` 127.0.0.1 ${relayPort} `);
    await pc.setRemoteDescription({ type: "answer", sdp });
    await this.until(() => pc.connectionState === "connected");
    this.audio = new Audio();
    this.audio.srcObject = await remote;
    this.audio.play();
    if (record) await this.record(await remote);
    return Number(port);
  },

  async until(condition, timeout = 10000) {
    const end = performance.now() + timeout;
    while (!(await condition())) {
      if (performance.now() > end) throw new Error("timed out");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },

  async record(remote) {
    this.context = new AudioContext({ sampleRate: 16000 });
    const merger = this.context.createChannelMerger(2);
    this.context.createMediaStreamSource(this.local).connect(merger, 0, 0);
    this.context.createMediaStreamSource(remote).connect(merger, 0, 1);
    const node = this.context.createScriptProcessor(1024, 2, 1);
    this.recorded = [[], []];
    node.onaudioprocess = (event) => {
      for (const channel of [0, 1]) this.recorded[channel].push(event.inputBuffer.getChannelData(channel).slice());
    };
    merger.connect(node);
    node.connect(this.context.destination);
    this.node = node;
  },

  recording() {
    return this.recorded.map((chunks) => chunks.flatMap((chunk) => Array.from(chunk, (x) => Math.round(x * 32767))));
  },

  async stats() {
    const found = {};
    const all = await this.pc.getStats();
    for (const entry of all.values()) {
      if (["inbound-rtp", "outbound-rtp", "remote-inbound-rtp", "transport"].includes(entry.type)) found[entry.type] = entry;
      if (entry.type === "codec") (found.codecs ??= []).push(entry);
    }
    const pair = all.get(found.transport?.selectedCandidatePairId);
    if (pair) found.pair = { ...pair, remotePort: all.get(pair.remoteCandidateId)?.port };
    return found;
  },

  async restartIce() {
    this.pc.restartIce();
    await this.pc.setLocalDescription();
    const reply = await fetch(`/v1/realtime/calls/${this.id}`, {
      method: "PATCH",
      headers: { "Content-Type": "application/sdp" },
      body: this.pc.localDescription.sdp,
    });
    const body = await reply.text();
    if (!reply.ok) throw new Error(`HTTP ${reply.status}: ${body}`);
    await this.pc.setRemoteDescription({ type: "answer", sdp: body });
    return body;
  },

  async stop() {
    this.context?.close();
    for (const track of this.local.getTracks()) track.stop();
    this.pc.close();
    await fetch(`/v1/realtime/calls/${this.id}`, { method: "DELETE" });
  },
};
