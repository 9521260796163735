// @ts-check
/**
 * The caller's way through a call: microphone, connecting, waiting for a busy or loading server, talking, the end.
 * Decides; shows nothing. Events: `change` (phase, waiting, muted), `failure`, `server`, `remote`, `call` (a call began).
 *
 *   idle -> asking -> connecting -> live <-> lost
 *                        |  ^                  any -> idle (hang-up, failure)
 *                        v  |
 *                      waiting
 *
 * A call that is lost for good is made anew with its session: the phase stays `lost` until that call is live.
 */

import { Call } from "./call.js";
import { checkSurroundings } from "./devices.js";
import { CallFailure } from "./failures.js";
import { IceServers } from "./ice-servers.js";
import { address, fetchReadiness } from "./server.js";

const READY_POLL_SECONDS = 2;
const LOADING_PATIENCE_SECONDS = 600; // a large model from a slow disk
const FULL_TRIES = 12; // two minutes at the server's usual Retry-After of 10 s; then the caller decides
const DEFAULT_RETRY_SECONDS = 10;
const MAX_RETRY_SECONDS = 60;
const RESUME_WAITS_SECONDS = [0, 1, 2, 4, 8, 15, 15, 15, 15]; // before each try; the server keeps a lost session for 90 s

/** @typedef {"idle" | "asking" | "connecting" | "waiting" | "live" | "lost"} Phase */
/** @typedef {{kind: "not-ready" | "server-full", detail: string, seconds: number}} Waiting `seconds`: left, or so far */

export class CallFlow extends EventTarget {
  /** @type {Phase} */
  phase = "idle";
  /** @type {Waiting | null} */
  waiting = null;
  /** Date.now() when the call went live; 0 before. */
  liveSince = 0;
  /** @type {import("./devices.js").Microphone} */ #microphone;
  /** @type {AbortController | null} */ #attempt = null;
  /** @type {Call | null} */ #call = null;
  /** @type {(() => void) | null} */ #tryNow = null;
  #iceServers = new IceServers();

  /** @param {import("./devices.js").Microphone} microphone */
  constructor(microphone) {
    super();
    this.#microphone = microphone;
    microphone.addEventListener("stream", () => {
      const track = microphone.stream?.getAudioTracks()[0];
      if (track) this.#call?.replaceTrack(track);
    });
  }

  get isBusy() {
    return this.phase !== "idle";
  }

  get isMuted() {
    return this.#microphone.isMuted;
  }

  set isMuted(value) {
    this.#microphone.isMuted = value;
    this.dispatchEvent(new Event("change"));
  }

  /** Make a call; resolves when it is live or has failed (see `failure`). */
  async start() {
    if (this.isBusy) return;
    const attempt = new AbortController();
    this.#attempt = attempt;
    try {
      checkSurroundings();
      this.#enter("asking");
      this.#microphone.isMuted = false;
      const stream = await this.#microphone.open();
      attempt.signal.throwIfAborted();
      this.#call = await this.#connect(stream, attempt.signal);
      this.liveSince = Date.now();
      this.#enter("live");
    } catch (error) {
      if (attempt.signal.aborted) {
        // The caller hung up and `hangUp` has tidied; but the browser may have opened the microphone since.
        if (!this.isBusy) this.#microphone.release();
        return;
      }
      this.#finish();
      if (!(error instanceof CallFailure)) throw error;
      this.#fail(error);
    }
  }

  /** End the call or the attempt. */
  hangUp() {
    this.#attempt?.abort(new DOMException("The caller hung up.", "AbortError"));
    this.#call?.hangUp();
    this.#finish();
  }

  /** The page goes away. */
  unload() {
    this.#attempt?.abort(new DOMException("The page was closed.", "AbortError"));
    this.#call?.hangUpOnUnload();
    this.#finish();
  }

  /** The page slept, or its network may be another: a call that does not live any more goes on at once.
   * @param {number} asleepMs in which no script ran */
  wake(asleepMs) {
    if (this.phase === "lost" && !this.#call) this.tryNow();
    this.#call?.check(asleepMs);
  }

  /** While waiting: do not wait any longer. */
  tryNow() {
    this.#tryNow?.();
  }

  /** @param {object} event */
  send(event) {
    return this.#call?.send(event) ?? false;
  }

  /** @param {MediaStream} stream @param {AbortSignal} signal @returns {Promise<Call>} */
  async #connect(stream, signal) {
    for (let tries = 1; ; tries += 1) {
      this.#enter("connecting");
      const call = await this.#newCall(stream);
      try {
        await call.connect(signal);
        return call;
      } catch (error) {
        if (!(error instanceof CallFailure)) throw error;
        if (error.kind === "not-ready") await this.#waitUntilReady(error, signal);
        else if (error.kind === "server-full" && tries < FULL_TRIES) await this.#waitForLine(error, signal);
        else throw error;
      }
    }
  }

  /** @param {MediaStream} stream @param {string | null} [resume] */
  async #newCall(stream, resume = null) {
    const iceServers = await this.#iceServers.forCall(); // each time: TURN credentials expire
    const renewIceServers = () => this.#iceServers.renewed();
    const relayOnly = new URLSearchParams(location.search).get("relay") === "1"; // to find out what is wrong with a relay
    const endpoint = address("v1/realtime/calls");
    const call = new Call({ stream, endpoint, iceServers, renewIceServers, relayOnly, resume });
    const isCurrent = () => this.#call === call || this.#call === null;
    this.dispatchEvent(new Event("call"));
    call.addEventListener("server", (event) => {
      if (isCurrent()) this.#pass("server", event);
    });
    call.addEventListener("remote", (event) => {
      if (isCurrent()) this.#pass("remote", event);
    });
    call.addEventListener("lost", () => this.#enter("lost"));
    call.addEventListener("resumed", () => this.#enter("live"));
    call.addEventListener("ended", (event) => {
      const failure = /** @type {CustomEvent<CallFailure>} */ (event).detail;
      if (failure.kind === "connection-lost" && call.resumeToken) {
        this.#resume(call.resumeToken, failure);
        return;
      }
      this.#finish();
      this.#fail(failure);
    });
    return call;
  }

  /** Go on with the session of a lost call; when that is not possible the call has failed with `failure`.
   * @param {string} token @param {CallFailure} failure */
  async #resume(token, failure) {
    const attempt = new AbortController();
    this.#attempt = attempt;
    this.#call = null;
    this.#enter("lost");
    try {
      for (const wait of RESUME_WAITS_SECONDS) {
        const nudge = new AbortController();
        this.#tryNow = () => nudge.abort();
        for (let left = wait; left > 0 && !nudge.signal.aborted; left -= 1) await second(attempt.signal, nudge.signal);
        const stream = this.#microphone.stream ?? (await this.#microphone.open());
        const call = await this.#newCall(stream, token);
        try {
          await call.connect(attempt.signal);
          this.#call = call;
          this.#tryNow = null;
          this.#enter("live");
          return;
        } catch (error) {
          if (!(error instanceof CallFailure)) throw error;
          if (error.kind === "refused" || error.kind === "unauthorized") break; // the session is gone
        }
      }
    } catch (error) {
      if (attempt.signal.aborted) return; // the caller hung up, and `hangUp` has tidied
      if (!(error instanceof CallFailure)) throw error;
    }
    this.#finish();
    this.#fail(failure);
  }

  /** @param {CallFailure} failure @param {AbortSignal} signal */
  async #waitUntilReady(failure, signal) {
    for (let seconds = 0; seconds < LOADING_PATIENCE_SECONDS; seconds += 1) {
      this.#wait({ kind: "not-ready", detail: failure.detail, seconds });
      await second(signal);
      if (seconds % READY_POLL_SECONDS) continue;
      const readiness = await fetchReadiness();
      signal.throwIfAborted();
      if (readiness !== "loading") return; // ready; full or gone is found out, and explained, by the next attempt
    }
    throw new CallFailure("refused", { detail: "The models did not load within ten minutes." });
  }

  /** @param {CallFailure} failure @param {AbortSignal} signal */
  async #waitForLine(failure, signal) {
    const nudge = new AbortController();
    this.#tryNow = () => nudge.abort();
    const total = Math.min(failure.retryAfter || DEFAULT_RETRY_SECONDS, MAX_RETRY_SECONDS);
    for (let seconds = total; seconds > 0 && !nudge.signal.aborted; seconds -= 1) {
      this.#wait({ kind: "server-full", detail: failure.detail, seconds });
      await second(signal, nudge.signal);
    }
    this.#tryNow = null;
  }

  /** @param {Waiting} waiting */
  #wait(waiting) {
    this.waiting = waiting;
    this.phase = "waiting";
    this.dispatchEvent(new Event("change"));
  }

  /** @param {Phase} phase */
  #enter(phase) {
    this.phase = phase;
    this.waiting = null;
    this.dispatchEvent(new Event("change"));
  }

  #finish() {
    this.#attempt = null;
    this.#call = null;
    this.#tryNow = null;
    this.#microphone.release();
    if (this.isBusy) this.#enter("idle");
  }

  /** @param {CallFailure} failure */
  #fail(failure) {
    this.dispatchEvent(new CustomEvent("failure", { detail: failure }));
  }

  /** @param {string} kind @param {Event} event */
  #pass(kind, event) {
    this.dispatchEvent(new CustomEvent(kind, { detail: /** @type {CustomEvent} */ (event).detail }));
  }
}

/**
 * One second; less when `nudge` fires. Rejects with the signal's reason when `signal` fires.
 * @param {AbortSignal} signal @param {AbortSignal} [nudge] @returns {Promise<void>}
 */
function second(signal, nudge) {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      nudge?.removeEventListener("abort", onNudge);
    };
    const onNudge = () => {
      leave();
      resolve();
    };
    const onAbort = () => {
      leave();
      reject(signal.reason);
    };
    const timer = setTimeout(onNudge, 1_000);
    nudge?.addEventListener("abort", onNudge);
    signal.addEventListener("abort", onAbort);
  });
}
