// @ts-check
/** What the page asks the server outside a call: what it is, and whether it can take a call. */

import { authorization } from "./credentials.js";

const TIMEOUT_MS = 5_000;

/**
 * @typedef {object} ServerInfo
 * @property {string | null} model
 * @property {string} backend
 * @property {string} description
 * @property {boolean} [ready]
 * @property {number} calls
 * @property {number} max_calls
 * @property {number | null} [https_port]
 * @property {boolean} [auth_required] calls need a key
 */

/** Addresses are relative to the page, so that it also works under a path of a reverse proxy. @param {string} path */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** `GET /v1/info`; null when the server cannot be reached or answers nonsense. @returns {Promise<ServerInfo | null>} */
export async function fetchInfo() {
  const reply = await get("v1/info");
  return reply?.ok ? reply.json().catch(() => null) : null;
}

/**
 * `GET /readyz`: "ready", "loading" (the models are not warm), "full", or "down" (no answer).
 * @returns {Promise<"ready" | "loading" | "full" | "down">}
 */
export async function fetchReadiness() {
  const reply = await get("readyz");
  if (!reply) return "down";
  if (reply.ok) return "ready";
  const body = await reply.json().catch(() => null);
  return body?.reason === "server_full" ? "full" : "loading";
}

/**
 * `GET /v1/realtime/ice-servers`: the STUN and TURN servers for the next call, and for how long their credentials are good;
 * none when the server names none, or does not answer: most calls need none.
 * @param {number} [timeoutMs] @returns {Promise<{iceServers: RTCIceServer[], ttlSeconds: number}>}
 */
export async function fetchIceServers(timeoutMs = TIMEOUT_MS) {
  const reply = await get("v1/realtime/ice-servers", authorization(), timeoutMs);
  const body = reply?.ok ? await reply.json().catch(() => null) : null;
  return { iceServers: Array.isArray(body?.iceServers) ? body.iceServers : [], ttlSeconds: Number(body?.ttl) || 0 };
}

/**
 * What came of asking for the status: the document, a refusal in the server's words, or nobody answered.
 * @typedef {{kind: "status", status: any} | {kind: "refused", code: number, message: string} | {kind: "down"}} StatusReply
 */

/** `GET /v1/status`, with the key where there is one. @returns {Promise<StatusReply>} */
export async function fetchStatus() {
  const reply = await get("v1/status", authorization());
  const body = await reply?.json().catch(() => null);
  if (!reply || !body) return { kind: "down" };
  if (reply.ok) return { kind: "status", status: body };
  return { kind: "refused", code: reply.status, message: body.error?.message ?? reply.statusText };
}

/** @param {string} path @param {Record<string, string>} [headers] @param {number} [timeoutMs]
 * @returns {Promise<Response | null>} */
async function get(path, headers = {}, timeoutMs = TIMEOUT_MS) {
  try {
    return await fetch(address(path), { headers, cache: "no-store", signal: AbortSignal.timeout(timeoutMs) });
  } catch {
    return null; // fetch rejects for one reason that matters here: nobody answered
  }
}
