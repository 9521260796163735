// @ts-check
/** The words and controls of the stage: what is happening now, and which buttons mean something. */

import { announceState } from "./announce.js";
import { byId } from "./dom.js";

/** @typedef {import("./call-flow.js").Phase} Phase */
/** @typedef {import("./events.js").Turn} Turn */

const OPENING = {
  headline: "Just talk.",
  lede: "Press the button, speak, and hear an answer. Interrupt whenever you like.",
};

const UNREACHABLE = {
  headline: "Server not reachable",
  lede: "It has stopped, or you are not on its network. This page finds it as soon as it is back.",
};
const OFFLINE = { headline: "You are offline", lede: "There is no network. This page goes on as soon as there is one." };

/** @type {Record<Exclude<Phase, "live">, {headline: string, lede: string, button: string}>} */
const PHASES = {
  idle: { ...OPENING, button: "Start call" },
  asking: { headline: "May we listen?", lede: "Allow the microphone when the browser asks.", button: "Cancel" },
  connecting: { headline: "Connecting", lede: "One moment.", button: "Cancel" },
  waiting: { headline: "Waiting", lede: "The call begins as soon as the server can take it.", button: "Stop waiting" },
  lost: { headline: "Reconnecting", lede: "The connection is silent. Hold on.", button: "Hang up" },
};

/** @type {Record<Turn, {headline: string, lede: string}>} */
const TURNS = {
  listening: { headline: "Listening", lede: "Go ahead." },
  hearing: { headline: "Hearing you", lede: "Pause when you are done." },
  thinking: { headline: "Thinking", lede: "" },
  speaking: { headline: "Speaking", lede: "Talk over it to interrupt." },
};

export class Stage {
  #headline = byId("headline", HTMLElement);
  #lede = byId("lede", HTMLElement);
  #call = byId("call", HTMLButtonElement);
  #label = byId("call-label", HTMLElement);
  #mute = byId("mute", HTMLButtonElement);
  #muteIcon = byId("mute-icon");
  #interrupt = byId("interrupt", HTMLButtonElement);
  #text = byId("composer-text", HTMLInputElement);
  #send = byId("composer-send", HTMLButtonElement);
  #wasLive = false;
  #wasAway = false;

  /**
   * @param {object} state
   * @param {Phase} state.phase
   * @param {Turn} state.turn
   * @param {boolean} state.isMuted
   * @param {boolean} state.canInterrupt
   * @param {boolean} state.hasTalked a call was live on this page: its captions stay in view
   * @param {"unknown" | "here" | "unreachable" | "offline"} state.server
   */
  show({ phase, turn, isMuted, canInterrupt, hasTalked, server }) {
    const isLive = phase === "live";
    const isOver = phase === "idle" && hasTalked;
    const body = document.body.dataset;
    body.phase = phase;
    body.layout = hasTalked ? "call" : "opening";
    toggle("busy", phase !== "idle");
    toggle("muted", isMuted && phase !== "idle");
    if (isLive) body.turn = turn;
    else delete body.turn;

    let { headline, lede } = isLive ? TURNS[turn] : PHASES[phase];
    if (isOver) ({ headline, lede } = { headline: "Call ended", lede: "Call again whenever you like." });
    const isAway = phase === "idle" && (server === "unreachable" || server === "offline");
    if (isAway) ({ headline, lede } = server === "offline" ? OFFLINE : UNREACHABLE);
    toggle("away", isAway);
    if (isLive && isMuted && turn === "listening") ({ headline, lede } = { headline: "Muted", lede: "Nobody hears you." });
    else if (isLive && isMuted) lede = "You are muted.";
    set(this.#headline, headline);
    set(this.#lede, lede);
    set(this.#label, isLive ? "Hang up" : isOver ? "Call again" : PHASES[phase].button);
    document.title = phase === "idle" && !isAway ? "rtc-server" : `${headline} · rtc-server`;

    this.#mute.disabled = phase === "idle";
    this.#mute.setAttribute("aria-pressed", String(isMuted && phase !== "idle"));
    this.#muteIcon.setAttribute("href", isMuted && phase !== "idle" ? "#i-mic-off" : "#i-mic");
    this.#disableInterrupt(!(isLive && canInterrupt));
    this.#text.disabled = this.#send.disabled = !isLive;
    if (isAway && !this.#wasAway) announceState(`${headline}. ${lede}`);
    this.#wasAway = isAway;
    if (isLive && !this.#wasLive) announceState("Connected. Speak now.");
    if (!isLive && this.#wasLive) announceState(phase === "lost" ? "Connection lost, trying again." : "Call ended.");
    this.#wasLive = isLive;
  }

  /** A button that is switched off under the caller's finger must not swallow the keyboard focus. @param {boolean} isOff */
  #disableInterrupt(isOff) {
    if (isOff && document.activeElement === this.#interrupt) this.#call.focus();
    this.#interrupt.disabled = isOff;
  }
}

/** @param {HTMLElement} element @param {string} text */
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {string} name @param {boolean} isOn */
function toggle(name, isOn) {
  if (isOn) document.body.dataset[name] = "";
  else delete document.body.dataset[name];
}
