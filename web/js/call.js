// @ts-check
/**
 * One WebRTC call: offer and answer over HTTP, sound both ways, JSON events on the data channel. No DOM.
 *
 * A `Call` is used once. `connect` either resolves with the call running or throws CallFailure with everything
 * released; after that it ends by `hangUp` or by itself. Events:
 *   `server`  CustomEvent<object>        one Realtime event from the server
 *   `remote`  CustomEvent<MediaStream>   the server's sound
 *   `lost` / `resumed`                   the connection stalls / goes on, by itself or after an ICE restart
 *   `ended`   CustomEvent<CallFailure>   ended by something other than `hangUp`; sent once
 */

import { authorization, hasKey } from "./credentials.js";
import { CallFailure } from "./failures.js";
import { hasRelay } from "./ice-servers.js";

const CHANNEL = "oai-events";
const GATHER_RELAYS_MS = 3_000; // a relay over TCP takes 600 ms where UDP is blocked; usually all is there at once
const GATHER_MS = 600; // the server also finds a caller without candidates; do not wait for slow interfaces
const POST_MS = 15_000;
const CONNECT_MS = 15_000; // the server gives up after the same time
const LOST_GRACE_MS = 8_000; // Wi-Fi hand-over takes seconds; the server keeps a silent call about this long
const PATCH_MS = 1_000;
const PATCH_WAIT_MS = 100;
const WATCH_MS = 300;
const SILENT_MS = 1_200; // three of the packets that come in silence
const PROBE_MS = 600; // more than the time between two packets
const PROBE_STEP_MS = 50;
const TIME_LIMIT_MARGIN_S = 5;

export class Call extends EventTarget {
  /** @type {RTCPeerConnection} */ #pc;
  /** @type {RTCDataChannel} */ #channel;
  /** @type {RTCRtpSender} */ #sender;
  /** @type {string | null} */ #callUrl = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #lostTimer;
  /** @type {string | null} how another call goes on with this one's session */ #resumeToken = null;
  #endpoint;
  #configuration;
  #renewIceServers;
  #resume;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #watcher;
  #packets = 0;
  #packetAt = 0;
  #isSilent = false;
  #isChecking = false;
  #isRestarting = false;
  #isClosed = false;
  #isConnected = false;
  #expiresAt = Infinity;

  /**
   * @param {object} options
   * @param {MediaStream} options.stream the microphone
   * @param {string} options.endpoint absolute URL of `/v1/realtime/calls`
   * @param {RTCIceServer[]} [options.iceServers]
   * @param {() => Promise<RTCIceServer[] | null>} [options.renewIceServers] asked before an ICE restart, when the
   *   credentials may have expired; null: go on with those that there are
   * @param {boolean} [options.relayOnly] go through a TURN server even where the direct way works
   * @param {string | null} [options.resume] the `resumeToken` of a call that was lost
   */
  constructor({ stream, endpoint, iceServers = [], renewIceServers, relayOnly = false, resume = null }) {
    super();
    this.#endpoint = endpoint;
    this.#resume = resume;
    this.#renewIceServers = renewIceServers ?? (async () => null);
    /** @type {RTCConfiguration & {iceServers: RTCIceServer[]}} */
    this.#configuration = { iceServers, iceTransportPolicy: relayOnly ? "relay" : "all", bundlePolicy: "max-bundle" };
    this.#pc = new RTCPeerConnection(this.#configuration);
    this.#sender = this.#pc.addTrack(stream.getAudioTracks()[0], stream);
    this.#channel = this.#pc.createDataChannel(CHANNEL);
    this.#channel.addEventListener("message", (event) => this.#onMessage(event.data));
    this.#channel.addEventListener("close", () => this.#end("ended-by-server"));
    this.#pc.addEventListener("track", (event) => {
      this.#emit("remote", event.streams[0] ?? new MediaStream([event.track]));
    });
    this.#pc.addEventListener("connectionstatechange", () => this.#onConnectionState());
  }

  /** The id that the server gave the call; null before the answer. */
  get callId() {
    return this.#callUrl?.split("/").pop() ?? null;
  }

  /** What the next call shows to go on with this one's session, when this one was lost; null when there is nothing. */
  get resumeToken() {
    return this.#resumeToken;
  }

  /** Set up the call. `signal` cancels it. Throws CallFailure, or the signal's reason. @param {AbortSignal} signal */
  async connect(signal) {
    try {
      await this.#pc.setLocalDescription();
      await this.#gathered();
      signal.throwIfAborted();
      const answer = await this.#post(this.#pc.localDescription?.sdp ?? "");
      signal.throwIfAborted();
      try {
        await this.#pc.setRemoteDescription({ type: "answer", sdp: answer });
      } catch (error) {
        throw new CallFailure("bad-answer", { detail: String(error) });
      }
      await this.#connected(signal);
      this.#isConnected = true;
      this.#watcher = setInterval(() => this.#watch(), WATCH_MS);
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  /** Send one client event; false when the channel is not open. @param {object} event */
  send(event) {
    if (this.#channel.readyState !== "open") return false;
    this.#channel.send(JSON.stringify(event));
    return true;
  }

  /** Send another microphone's sound from now on. @param {MediaStreamTrack} track */
  async replaceTrack(track) {
    await this.#sender.replaceTrack(track);
  }

  /**
   * The page slept, or its network may be another: find out now whether the connection is alive, not when the silence has
   * lasted. After a longer sleep it is taken for dead: what still comes in then has lain in the system's buffers.
   * @param {number} asleepMs in which no script ran
   */
  async check(asleepMs) {
    if (this.#isChecking || this.#isClosed || !this.#isConnected) return;
    this.#isChecking = true;
    try {
      const isAlive = asleepMs < LOST_GRACE_MS && (await this.#hears());
      if (isAlive) return;
      this.#isSilent = true; // this restart is for the silence that the watch may be about to notice
      await this.#restartIce();
    } finally {
      this.#isChecking = false;
    }
  }

  /** End the call. Safe to repeat. */
  hangUp() {
    this.#close();
  }

  /** End the call while the page goes away: the request outlives the page. */
  hangUpOnUnload() {
    if (this.#callUrl && !this.#isClosed) {
      // A beacon cannot carry a key.
      const hangUp = { method: "POST", keepalive: true, headers: authorization() };
      if (hasKey()) fetch(`${this.#callUrl}/hangup`, hangUp).catch(() => undefined);
      else navigator.sendBeacon(`${this.#callUrl}/hangup`);
    }
    this.#callUrl = null;
    this.#close();
  }

  /** @returns {Promise<void>} */
  #gathered() {
    return new Promise((resolve) => {
      if (this.#pc.iceGatheringState === "complete") return resolve();
      setTimeout(resolve, hasRelay(this.#configuration.iceServers) ? GATHER_RELAYS_MS : GATHER_MS);
      this.#pc.addEventListener("icegatheringstatechange", () => {
        if (this.#pc.iceGatheringState === "complete") resolve();
      });
    });
  }

  /**
   * Post the offer; the answer. A cancelled call still waits for the reply here, so that its slot can be given back.
   * @param {string} offer @returns {Promise<string>}
   */
  async #post(offer) {
    let reply;
    try {
      const query = this.#resume ? `?resume=${encodeURIComponent(this.#resume)}` : "";
      reply = await fetch(this.#endpoint + query, {
        method: "POST",
        headers: { "Content-Type": "application/sdp", ...authorization() },
        body: offer,
        signal: AbortSignal.timeout(POST_MS),
      });
    } catch {
      throw new CallFailure("unreachable");
    }
    const body = await reply.text().catch(() => "");
    if (!reply.ok) throw refusal(reply, body);
    const location = reply.headers.get("Location");
    if (location) this.#callUrl = callAddress(this.#endpoint, location);
    if (!body.startsWith("v=0")) throw new CallFailure("bad-answer");
    return body;
  }

  /** Wait until media and events flow. @param {AbortSignal} signal @returns {Promise<void>} */
  #connected(signal) {
    return new Promise((resolve, reject) => {
      const check = () => {
        const isUp = this.#pc.connectionState === "connected" && this.#channel.readyState === "open";
        if (isUp) settle(resolve);
        else if (this.#pc.connectionState === "failed") settle(() => reject(new CallFailure("ice-failed")));
        else if (this.#channel.readyState === "closed") settle(() => reject(new CallFailure("ended-by-server")));
      };
      const onAbort = () => settle(() => reject(signal.reason));
      const timer = setTimeout(() => settle(() => reject(new CallFailure("ice-failed"))), CONNECT_MS);
      const sources = [
        /** @type {const} */ ([this.#pc, "connectionstatechange"]),
        /** @type {const} */ ([this.#channel, "open"]),
        /** @type {const} */ ([this.#channel, "close"]),
      ];
      /** @param {() => void} then */
      const settle = (then) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        for (const [target, kind] of sources) target.removeEventListener(kind, check);
        then();
      };
      for (const [target, kind] of sources) target.addEventListener(kind, check);
      signal.addEventListener("abort", onAbort);
      check();
    });
  }

  /** @param {unknown} data */
  #onMessage(data) {
    if (typeof data !== "string" || this.#isClosed) return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return; // not ours; the call goes on
    }
    if (typeof event?.type !== "string") return;
    if (event.type === "session.created") this.#expiresAt = event.session?.expires_at ?? Infinity;
    if (event.type === "rtc_server.session.resumable") this.#resumeToken = event.resume_token;
    this.#emit("server", event);
  }

  /** A network that is gone is noticed by its silence, seconds before the browser says so: the server sends something
   * every 400 ms, whoever speaks. One restart for each silence. */
  async #watch() {
    if (this.#isClosed) return;
    const packets = await this.#received();
    const now = performance.now();
    if (packets !== this.#packets) {
      [this.#packets, this.#packetAt, this.#isSilent] = [packets, now, false];
    } else if (packets > 0 && !this.#isSilent && now - this.#packetAt > SILENT_MS) {
      this.#isSilent = true;
      if (!this.#isClosed && this.#lostTimer === undefined) this.#restartIce();
    }
  }

  /** Whether something comes in just now. @returns {Promise<boolean>} */
  async #hears() {
    const before = await this.#received();
    for (let waited = 0; waited < PROBE_MS && !this.#isClosed; waited += PROBE_STEP_MS) {
      await new Promise((resolve) => setTimeout(resolve, PROBE_STEP_MS));
      if ((await this.#received()) > before) return true;
    }
    return false;
  }

  /** Packets of sound so far. @returns {Promise<number>} */
  async #received() {
    let packets = 0;
    for (const entry of (await this.#pc.getStats()).values()) {
      if (entry.type === "inbound-rtp") packets += entry.packetsReceived ?? 0;
    }
    return packets;
  }

  #onConnectionState() {
    const state = this.#pc.connectionState;
    if (!this.#isConnected || this.#isClosed) return;
    if (state === "disconnected" && this.#lostTimer === undefined) {
      this.dispatchEvent(new Event("lost"));
      this.#lostTimer = setTimeout(() => this.#end("connection-lost"), LOST_GRACE_MS);
      this.#restartIce();
    } else if (state === "connected" && this.#lostTimer !== undefined) {
      clearTimeout(this.#lostTimer);
      this.#lostTimer = undefined;
      this.dispatchEvent(new Event("resumed"));
    } else if (state === "failed") {
      this.#end("connection-lost");
    }
  }

  /** Look for another way to the server. One that no longer has the call says so, which saves the rest of the wait. */
  async #restartIce() {
    if (this.#isRestarting || this.#isClosed) return;
    this.#isRestarting = true;
    try {
      const iceServers = await this.#renewIceServers();
      if (this.#isClosed) return;
      if (iceServers) {
        this.#configuration = { ...this.#configuration, iceServers };
        this.#pc.setConfiguration(this.#configuration);
      }
      this.#pc.restartIce();
      await this.#pc.setLocalDescription();
      await this.#gathered();
      if (this.#isClosed || !this.#callUrl) return;
      const reply = await this.#offerAgain(this.#pc.localDescription?.sdp ?? "");
      if (!reply) return;
      if (reply.status === 404 || reply.status === 410) return this.#end("connection-lost");
      if (!reply.ok) return;
      const sdp = await reply.text();
      if (!this.#isClosed) await this.#pc.setRemoteDescription({ type: "answer", sdp });
    } catch {
      // No network at the moment, or the call was closed meanwhile: the timer decides.
    } finally {
      this.#isRestarting = false;
    }
  }

  /** The first request may go out on a connection over the network that is gone, and never be answered.
   * @param {string} body @returns {Promise<Response | null>} */
  async #offerAgain(body) {
    const headers = { "Content-Type": "application/sdp", ...authorization() };
    for (let left = LOST_GRACE_MS; left > 0 && !this.#isClosed && this.#callUrl; left -= PATCH_MS) {
      try {
        return await fetch(this.#callUrl, { method: "PATCH", headers, body, signal: AbortSignal.timeout(PATCH_MS) });
      } catch {
        await new Promise((resolve) => setTimeout(resolve, PATCH_WAIT_MS));
      }
    }
    return null;
  }

  /** @param {"ended-by-server" | "connection-lost"} kind */
  #end(kind) {
    if (this.#isClosed || !this.#isConnected) return;
    // A hang-up would end the session, and somebody may go on with it.
    if (kind === "connection-lost" && this.#resumeToken) this.#callUrl = null;
    const isTimeUp = kind === "ended-by-server" && Date.now() / 1000 > this.#expiresAt - TIME_LIMIT_MARGIN_S;
    if (kind === "ended-by-server") this.#callUrl = null; // nothing left to hang up
    this.#close();
    this.#emit("ended", new CallFailure(isTimeUp ? "time-limit" : kind));
  }

  #close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#lostTimer);
    clearInterval(this.#watcher);
    if (this.#callUrl) {
      // Nobody waits for this: if it is lost, the closed connection tells the server as well, a little later.
      fetch(this.#callUrl, { method: "DELETE", keepalive: true, headers: authorization() }).catch(() => undefined);
    }
    this.#pc.close();
  }

  /** @param {string} kind @param {unknown} detail */
  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/** The failure that an HTTP refusal means. @param {Response} reply @param {string} body */
export function refusal(reply, body) {
  let error;
  try {
    error = JSON.parse(body).error;
  } catch {
    // Not our server's error body: a proxy's page, for example.
  }
  const detail = typeof error?.message === "string" ? error.message : `The server answered with status ${reply.status}.`;
  const retryAfter = Number(reply.headers.get("Retry-After")) || 0;
  if (reply.status === 401) return new CallFailure("unauthorized", { detail });
  if (reply.status === 503 && error?.code === "not_ready") return new CallFailure("not-ready", { detail, retryAfter });
  if (reply.status === 503 && error?.code === "server_full") return new CallFailure("server-full", { detail, retryAfter });
  if ([502, 503, 504].includes(reply.status) && !error) return new CallFailure("unreachable", { detail });
  return new CallFailure("refused", { detail });
}

/**
 * The call's own address. The server names a path from its root; the page may stand behind a proxy's prefix.
 * @param {string} endpoint @param {string} location
 */
export function callAddress(endpoint, location) {
  const id = new URL(location, endpoint).pathname.split("/").pop();
  return `${endpoint}/${id}`;
}
