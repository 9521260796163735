// @ts-check
/** The STUN and TURN servers of the calls of this page. Their credentials expire; a running call gets others. No DOM. */

import { fetchIceServers } from "./server.js";

const HURRY_MS = 1_000; // of a call that looks for another way: the servers that it knows may still do

export class IceServers {
  /** `Date.now()` from which the credentials are better replaced: half of their time is over. */
  #oldAt = Infinity;

  /** For a new call. @returns {Promise<RTCIceServer[]>} */
  async forCall() {
    return this.#keep(await fetchIceServers());
  }

  /** For an ICE restart of a running call: null while its own will do, and when nobody answers at once.
   * @returns {Promise<RTCIceServer[] | null>} */
  async renewed() {
    if (Date.now() < this.#oldAt) return null;
    const found = await fetchIceServers(HURRY_MS);
    return found.iceServers.length > 0 ? this.#keep(found) : null;
  }

  /** @param {{iceServers: RTCIceServer[], ttlSeconds: number}} found */
  #keep({ iceServers, ttlSeconds }) {
    const expires = iceServers.some((server) => server.credential);
    this.#oldAt = expires ? Date.now() + (1_000 * ttlSeconds) / 2 : Infinity;
    return iceServers;
  }
}

/** Whether one of them relays: those take longer to be found. @param {RTCIceServer[]} iceServers */
export function hasRelay(iceServers) {
  return iceServers.some(({ urls }) => [urls].flat().some((url) => url.startsWith("turn")));
}
