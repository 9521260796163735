// A call as a phone app makes it, through libwebrtc: the stack inside the WebRTC SDKs of iOS and Android.
//
// ../ios/RealtimeCall.swift and ../android/RealtimeCall.kt have the same steps under the same names. This one is run by
// tests/clients/test_mobile.py against the real server; what an app has to do beside it is in docs/mobile.md.

import wrtc from "@roamhq/wrtc";

const REQUEST_MS = 15_000;
const CONNECT_MS = 15_000; // the server gives up after the same time
const WATCH_MS = 300;
const SILENT_MS = 1_200; // three of the packets that the server sends in silence: the network is gone
const PATCH_MS = 1_000; // a request may have gone out over the network that is gone, and never be answered
const PATCH_TRIES = 8; // the server keeps a call that it does not hear for 8.5 to 10 s
const RECOVER_MS = 4_000; // from the answer of an ICE restart to the first packet
const RESUME_WAITS_MS = [0, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]; // the server keeps a lost session for 90 s

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The server's "no": `status`, and `code` and `message` of its error. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(`${status} ${code}: ${message}`);
    Object.assign(this, { status, code });
  }
}

export class RealtimeCall {
  #pc;
  #channel;
  #callUrl = null;
  #etag = null; // of the ICE session; null while the server has not told it
  #candidates = []; // ours, which the server does not know yet
  #trickling = null;
  #resumeToken = null;
  #relaysUntil = 0; // when the credentials of the TURN servers end, `performance.now()`
  #packets = 0;
  #packetAt = 0;
  #recovering = null;
  #news = new AbortController(); // another one each time that the system has news of the network
  #watcher;
  #state = "new";

  /**
   * `url` ends with "/v1"; `track` is the microphone. `onEvent(event)` gets every event of the server,
   * `onRemoteTrack(track)` its sound, also that of a connection made later, and `onState(state, error)` one of
   * "connecting", "live", "lost", "ended"; with an error when the user did not end it.
   */
  constructor({ url, key, track, onEvent = () => {}, onRemoteTrack = () => {}, onState = () => {} }) {
    Object.assign(this, { url, key, track, onEvent, onRemoteTrack, onState });
  }

  get state() {
    return this.#state;
  }

  get callUrl() {
    return this.#callUrl;
  }

  get etag() {
    return this.#etag;
  }

  get resumeToken() {
    return this.#resumeToken;
  }

  get peerConnection() {
    return this.#pc;
  }

  /** Make the call; with a token, go on with the session of one that was lost. Throws Refused, or what went wrong. */
  async start(resumeToken = null) {
    this.#resumeToken = resumeToken;
    this.#enter("connecting");
    try {
      await this.#connect(resumeToken);
    } catch (error) {
      await this.hangUp();
      throw error;
    }
    this.#watcher = setInterval(() => this.#watch(), WATCH_MS);
    this.#enter("live");
  }

  /** One event for the server; false while there is no connection. */
  send(event) {
    if (this.#channel?.readyState !== "open") return false;
    this.#channel.send(JSON.stringify(event));
    return true;
  }

  /** The system says that the phone has another network now, or the app is in front again. */
  networkChanged() {
    if (this.#state === "lost") {
      this.#news.abort(); // what is waited for may come at once now
      this.#news = new AbortController();
    }
    return this.#recover();
  }

  /** End the call and its session. Safe to repeat. */
  async hangUp() {
    const url = this.#end();
    if (url) await this.#request("DELETE", url).catch(() => {}); // the closed connection tells the server as well
  }

  // --- 1. offer and answer

  async #connect(resumeToken) {
    const pc = new wrtc.RTCPeerConnection({ iceServers: await this.#iceServers(), bundlePolicy: "max-bundle" });
    const old = this.#pc;
    try {
      pc.addTrack(this.track);
      const channel = pc.createDataChannel("oai-events");
      channel.onmessage = ({ data }) => this.#onMessage(pc, data);
      pc.ontrack = ({ track }) => this.onRemoteTrack(track);
      pc.onicecandidate = ({ candidate }) => this.#onCandidate(pc, candidate);
      const query = resumeToken ? `?resume=${encodeURIComponent(resumeToken)}` : "";
      this.#pc = pc;
      [this.#channel, this.#candidates, this.#etag] = [channel, [], null];
      await pc.setLocalDescription(await pc.createOffer());
      // The offer goes out at once, without candidates; they follow as they are found.
      const target = `${this.url}/realtime/calls${query}`;
      const reply = await this.#request("POST", target, "application/sdp", pc.localDescription.sdp);
      this.#callUrl = new URL(reply.headers.get("Location"), this.url).href;
      this.#resumeToken = reply.headers.get("Resume-Token") ?? this.#resumeToken;
      this.#etag = reply.headers.get("ETag");
      await pc.setRemoteDescription({ type: "answer", sdp: await reply.text() });
      this.#trickle();
      await this.#connected(pc, channel);
      this.#packetAt = performance.now();
    } catch (error) {
      pc.close();
      this.#pc = old;
      throw error;
    }
    // Not before: a connection that is closed says goodbye, and that would end the session.
    old?.close();
  }

  async #iceServers(ms = REQUEST_MS) {
    const reply = await this.#request("GET", `${this.url}/realtime/ice-servers`, undefined, undefined, undefined, ms);
    const { iceServers, ttl } = await reply.json();
    this.#relaysUntil = performance.now() + ttl * 1_000;
    return iceServers;
  }

  async #connected(pc, channel) {
    const deadline = performance.now() + CONNECT_MS;
    while (pc.connectionState !== "connected" || channel.readyState !== "open") {
      const isOver = pc.connectionState === "failed" || channel.readyState === "closed";
      if (isOver || performance.now() > deadline) throw new Error("no media path to the server");
      await wait(20);
    }
  }

  // --- 2. trickle (RFC 8840, with the tags of RFC 9725 section 4.3)

  #onCandidate(pc, candidate) {
    if (pc !== this.#pc) return;
    this.#candidates.push(candidate?.candidate ? `a=${candidate.candidate}` : "a=end-of-candidates");
    this.#trickle();
  }

  /** One request at a time; what is found meanwhile goes with the next. */
  #trickle() {
    if (this.#trickling || this.#etag === null || this.#candidates.length === 0) return;
    const [etag, candidates] = [this.#etag, this.#candidates];
    this.#candidates = [];
    const sdp = this.#pc.localDescription.sdp;
    const line = (name) => sdp.match(new RegExp(`a=${name}:.*`))[0].trim();
    const session = [line("ice-ufrag"), line("ice-pwd"), "m=audio 9 UDP/TLS/RTP/SAVPF 0", line("mid")];
    const body = [...session, ...candidates, ""].join("\r\n");
    this.#trickling = this.#request("PATCH", this.#callUrl, "application/trickle-ice-sdpfrag", body, etag)
      .catch(() => {}) // 412: of an ICE session that is over. Lost: the server also finds a phone by its checks
      .finally(() => {
        this.#trickling = null;
        this.#trickle();
      });
  }

  // --- 3. events

  #onMessage(pc, data) {
    if (pc !== this.#pc || this.#state === "ended") return;
    const event = JSON.parse(data);
    if (event.type === "rtc_server.session.resumable") this.#resumeToken = event.resume_token;
    this.onEvent(event);
  }

  // --- 4. notice that the network is gone: seconds before ICE does, and in whatever silence

  async #watch() {
    const pc = this.#pc;
    const stats = await pc.getStats();
    let packets = 0;
    for (const entry of stats.values()) if (entry.type === "inbound-rtp") packets += entry.packetsReceived ?? 0;
    if (pc !== this.#pc || this.#state === "ended") return;
    const now = performance.now();
    if (packets !== this.#packets) [this.#packets, this.#packetAt] = [packets, now];
    else if (now - this.#packetAt > SILENT_MS || pc.connectionState === "failed") this.#recover();
  }

  // --- 5. find another way: an ICE restart, and where the call is gone, another call with the same session

  #recover() {
    this.#recovering ??= this.#recoverOnce().finally(() => (this.#recovering = null));
    return this.#recovering;
  }

  async #recoverOnce() {
    if (this.#state !== "live") return;
    this.#enter("lost");
    try {
      if (!(await this.restartIce())) await this.resume();
      if (this.#state === "lost") this.#enter("live");
    } catch (error) {
      this.#end(error);
    }
  }

  /** True when the server is heard again; false when the call is gone. */
  async restartIce() {
    const [pc, news] = [this.#pc, this.#news];
    const begun = performance.now();
    if (begun > this.#relaysUntil) {
      const iceServers = await this.#iceServers(PATCH_MS).catch(() => null); // without a network: the old ones
      if (iceServers) pc.setConfiguration({ iceServers, bundlePolicy: "max-bundle" });
    }
    [this.#etag, this.#candidates] = [null, []];
    await pc.setLocalDescription(await pc.createOffer({ iceRestart: true }));
    const reply = await this.#offerAgain(pc.localDescription.sdp);
    if (!reply) return false;
    this.#etag = reply.headers.get("ETag");
    await pc.setRemoteDescription({ type: "answer", sdp: await reply.text() });
    this.#trickle();
    while (performance.now() - begun < PATCH_TRIES * PATCH_MS + RECOVER_MS) {
      if (this.#packetAt > begun) return true;
      if (news !== this.#news) return this.restartIce();
      await wait(20);
    }
    return false;
  }

  /** The same offer again is answered with the same answer, so a lost reply does no harm. */
  async #offerAgain(sdp) {
    for (let left = PATCH_TRIES; left > 0 && this.#state !== "ended"; left--) {
      try {
        return await this.#request("PATCH", this.#callUrl, "application/sdp", sdp, "*", PATCH_MS);
      } catch (error) {
        if (error instanceof Refused) return null;
        await this.#pause(100); // no network at the moment
      }
    }
    return null;
  }

  /** Another call goes on with the session. Throws Refused (404, `resume_not_found`) when it is over. */
  async resume() {
    let last;
    for (let tries = 0; tries < RESUME_WAITS_MS.length; tries++) {
      const news = this.#news;
      await this.#pause(RESUME_WAITS_MS[tries]);
      if (this.#state === "ended") return;
      try {
        return await this.#connect(this.#resumeToken);
      } catch (error) {
        if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
        last = error;
      }
      if (news !== this.#news) tries = -1; // there is a network: at once, and with all patience again
    }
    throw last;
  }

  // --- inside

  /** Waits, but no longer than until there is news of the network, or the call is over. */
  async #pause(ms) {
    const [news, end] = [this.#news, performance.now() + ms];
    while (performance.now() < end && news === this.#news && this.#state !== "ended") await wait(20);
  }

  #enter(state, error) {
    this.#state = state;
    this.onState(state, error);
  }

  /** The address to hang up, if there is one. */
  #end(error) {
    if (this.#state === "ended") return null;
    clearInterval(this.#watcher);
    this.#pc?.close();
    this.#enter("ended", error);
    return this.#callUrl;
  }

  async #request(method, url, type, body, etag, ms = REQUEST_MS) {
    const headers = {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (type) headers["Content-Type"] = type;
    if (etag) headers["If-Match"] = etag;
    const signal = AbortSignal.any([AbortSignal.timeout(ms), this.#news.signal]);
    const reply = await fetch(url, { method, headers, body, signal });
    if (reply.ok) return reply;
    const error = await reply.json().then((found) => found.error, () => undefined);
    throw new Refused(reply.status, error?.code ?? "unknown", error?.message ?? "no reason given");
  }
}
