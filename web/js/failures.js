// @ts-check
/** Everything that can go wrong, by name, and what to say about it: what happened and what to do. No DOM. */

/**
 * @typedef {"insecure-origin" | "no-webrtc" | "no-microphone" | "permission-denied" | "permission-dismissed"
 *   | "permission-system" | "microphone-busy" | "microphone-lost" | "microphone-interrupted" | "microphone-failed"
 *   | "server-full" | "not-ready" | "unreachable" | "refused" | "bad-answer" | "ice-failed" | "connection-lost"
 *   | "ended-by-server" | "unauthorized" | "time-limit"} FailureKind
 */

/**
 * @typedef {object} Message
 * @property {string} title
 * @property {string} text
 * @property {string[]} steps
 * @property {"stop" | "wait" | "calm"} tone
 * @property {{label: string, href: string}} [link]
 */

/** A call that could not begin, or did not go on. `kind` decides what the page says. */
export class CallFailure extends Error {
  /**
   * @param {FailureKind} kind
   * @param {{detail?: string, retryAfter?: number}} [more] `detail`: the server's or browser's own words;
   *   `retryAfter`: seconds
   */
  constructor(kind, more = {}) {
    super(more.detail ? `${kind}: ${more.detail}` : kind);
    this.name = "CallFailure";
    this.kind = kind;
    this.detail = more.detail ?? "";
    this.retryAfter = more.retryAfter ?? 0;
  }
}

/**
 * @typedef {object} Surroundings
 * @property {string} hostname
 * @property {string} pathname
 * @property {number | null} httpsPort from `/v1/info`; null when unknown
 */

/**
 * The message for a failure.
 * @param {CallFailure} failure
 * @param {Surroundings} here
 * @returns {Message}
 */
export function explain(failure, here) {
  const { detail } = failure;
  switch (failure.kind) {
    case "insecure-origin": {
      const message = stop("This address cannot use the microphone", "Browsers only allow it on https and on this machine itself.");
      if (here.httpsPort === null) {
        return { ...message, steps: ["Open this page with https, or on the server's own machine as http://localhost."] };
      }
      const href = secureAddress(here);
      return {
        ...message,
        steps: ["Open the secure address below. The first time, the browser may ask whether you trust its certificate."],
        link: { label: `Open ${href.replace(/\/$/, "")}`, href },
      };
    }
    case "no-webrtc":
      return stop("This browser cannot make calls", "It has no WebRTC, or an extension has switched it off.", [
        "Use a current Firefox, Chrome, Edge or Safari.",
        "If you block WebRTC with an extension, allow it for this page.",
      ]);
    case "no-microphone":
      return stop("No microphone found", "The call needs one to hear you.", [
        "Plug in a microphone or a headset, or switch it on.",
        "Then press the button again.",
      ]);
    case "permission-denied":
      return stop("The microphone is blocked for this page", "You or the browser said no, so the call cannot hear you.", [
        "Open the site settings at the left of the address bar and allow the microphone.",
        "Then press the button again.",
      ]);
    case "permission-dismissed":
      return stop("The question about the microphone was closed", "The call cannot hear you without it.", [
        "Press the button again and choose “Allow”.",
      ]);
    case "permission-system":
      return stop("The system keeps the microphone from the browser", "The browser itself has no permission.", [
        "Allow your browser under the privacy settings of this computer or phone.",
        "Then press the button again.",
      ]);
    case "microphone-busy":
      return stop("The microphone does not start", "Another program may be using it.", [
        "Close other programs that record or make calls, or choose another microphone.",
        "Then press the button again.",
      ]);
    case "microphone-lost":
      return stop("The microphone is gone", "It was unplugged or switched off. The call goes on, but it cannot hear you.", [
        "Plug it in again or choose another microphone. You can type meanwhile.",
      ]);
    case "microphone-interrupted":
      return wait("Something else has the microphone", "A telephone call, perhaps. Nobody hears you until it is over; the call goes on.");
    case "microphone-failed":
      return stop("The microphone does not start", detail || "The browser did not say why.", [
        "Choose another microphone, or restart the browser.",
      ]);
    case "server-full":
      return wait("All lines are busy", "The server takes only so many calls at once.");
    case "not-ready":
      return wait("The models are loading", "This takes up to a minute after the server starts. The call begins by itself.");
    case "unreachable":
      return stop("The server does not answer", "It may have stopped, or your network is down.", [
        "Check that the server is running and that you are on its network.",
      ]);
    case "refused":
      return stop("The server refused the call", detail || "It did not say why.", ["Reload the page and try again."]);
    case "unauthorized":
      return stop("The server wants a key", detail || "It takes calls only from people who have one.", [
        "Ask whoever runs the server for a key: `rtc-server keys add NAME` makes one.",
      ]);
    case "bad-answer":
      return stop("The server's answer makes no sense", "The browser could not use it. Is this really an rtc-server?", [
        "Reload the page, so that page and server have the same version.",
        "If a proxy stands in between, check that it passes /v1/realtime/calls unchanged.",
      ]);
    case "ice-failed":
      return stop("No sound gets through to the server", "The page reaches it, but the audio connection (UDP) does not.", [
        "Check that no firewall or VPN blocks UDP between you and the server.",
        "If the server runs in a container or behind NAT, set webrtc.host_addresses to an address that you can reach.",
      ]);
    case "connection-lost":
      return stop("The connection was lost", "Nothing has arrived from the server for a while.", [
        "Check your network, then call again.",
      ]);
    case "time-limit":
      return calm("The call reached its time limit", "The server ends every call after a while. You can call again.");
    case "ended-by-server":
      return calm("The server ended the call", "It may be restarting. You can call again.");
    default:
      return stop("The call failed", detail, ["Try again."]);
  }
}

/** The same page on the server's https port. @param {Surroundings} here */
export function secureAddress(here) {
  const port = here.httpsPort === null || here.httpsPort === 443 ? "" : `:${here.httpsPort}`;
  return `https://${here.hostname}${port}${here.pathname}`;
}

/** @param {string} title @param {string} text @param {string[]} [steps] @returns {Message} */
function stop(title, text, steps = []) {
  return { title, text, steps, tone: "stop" };
}

/** @param {string} title @param {string} text @returns {Message} */
function wait(title, text) {
  return { title, text, steps: [], tone: "wait" };
}

/** @param {string} title @param {string} text @returns {Message} */
function calm(title, text) {
  return { title, text, steps: [], tone: "calm" };
}
