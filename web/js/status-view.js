// @ts-check
/** The status document on the page: figures, calls, processes. Nothing that arrives is read as HTML. */

import { byId, el } from "./dom.js";
import { formatMs } from "./latency.js";
import { TurnsPlot, stageLabel } from "./turns-plot.js";

/** Words and colours of what a call does. */
const STATES = {
  connecting: { label: "Connecting", colour: "wait" },
  listening: { label: "Listening", colour: "you" },
  thinking: { label: "Thinking", colour: "think" },
  speaking: { label: "Speaking", colour: "reply" },
  echo: { label: "Echo test", colour: "wait" },
};

/** What the server's words for "not ready" mean. */
const REASONS = {
  engine_not_ready: "The models are loading",
  media_not_ready: "Media workers are starting",
  server_full: "All lines are busy",
};

/** Columns of the calls: heading, class, value. @type {[string, string, (call: any, status: any) => Node | string][]} */
const CALL_COLUMNS = [
  ["Call", "id", (call) => call.call_id],
  ["State", "", (call) => state(STATES[/** @type {keyof STATES} */ (call.state)] ?? { label: call.state, colour: "wait" })],
  ["Age", "number", (call) => formatAge(call.age_seconds)],
  ["Over", "", (call) => (call.transport === "webrtc" ? "WebRTC" : "WebSocket")],
  ["Turns", "number", (call) => String(call.turns)],
  ["Last response", "number", (call) => ms(call.latency_ms)],
  ["Jitter", "number", (call) => ms(call.jitter_ms)],
  ["Jitter buffer", "number", (call) => ms(call.jitter_buffer_ms)],
  ["Loss in", "number", (call) => share(call.loss)],
  ["Loss out", "number", (call) => share(call.remote_loss)],
  ["Round trip", "number", (call) => ms(call.round_trip_ms)],
  ["Process", "number", (call) => String(call.node)],
];

export class StatusView {
  #plot = new TurnsPlot();
  #isShown = false;

  constructor() {
    const heads = CALL_COLUMNS.map(([label, kind]) => el("th", { scope: "col", class: kind === "number" ? kind : "" }, label));
    part("#live-table thead").append(el("tr", {}, ...heads));
  }

  /** @param {any} status the document of `GET /v1/status` */
  show(status) {
    this.#isShown = true;
    byId("notice", HTMLElement).hidden = true;
    byId("status", HTMLElement).hidden = false;
    document.body.removeAttribute("data-stale");
    this.#showServer(status);
    this.#showFigures(status);
    this.#showStages(status.latency);
    this.#showCalls(status);
    this.#showNodes(status.nodes, status.telephony ?? null);
    this.#plot.show(status.turns, status.latency.response?.target_ms ?? null);
  }

  /** Nobody answers: what is shown is the last that is known. */
  showDown() {
    document.body.toggleAttribute("data-stale", this.#isShown);
    this.#server("down", "Server does not answer");
  }

  /** @param {string} title @param {string} text @param {boolean} canEnterKey */
  showProblem(title, text, canEnterKey) {
    document.body.toggleAttribute("data-stale", this.#isShown);
    byId("notice-title").textContent = title;
    byId("notice-text").textContent = text;
    byId("notice-key", HTMLElement).hidden = !canEnterKey;
    byId("notice", HTMLElement).hidden = false;
    this.#server("down", title);
  }

  /** @param {string} level @param {string} text */
  #server(level, text) {
    byId("server", HTMLElement).dataset.state = level;
    const place = byId("server-text");
    if (place.textContent !== text) place.textContent = text; // a screen reader says it when it changes, not each time
  }

  /** @param {any} status */
  #showServer({ ready, reason }) {
    const text = REASONS[/** @type {keyof REASONS} */ (reason)] ?? reason ?? "Ready";
    this.#server(ready ? "ready" : "loading", text);
  }

  /** @param {any} status */
  #showFigures(status) {
    const { calls, max_calls: most, engine, latency } = status;
    set("calls", String(calls));
    set("max-calls", `of ${most}`);
    set("capacity-text", calls >= most ? "no line is free" : `${most - calls} free`);
    const used = most > 0 ? Math.min(100, (100 * calls) / most) : 100;
    byId("capacity-used").setAttribute("width", `${used}%`);
    byId("capacity").setAttribute("data-level", used >= 100 ? "full" : used >= 80 ? "high" : "low");
    const response = latency.response;
    set("p50", response ? formatMs(response.p50_ms) : "–");
    set("p50-more", response ? `of ${count(response.count, "turn")}` : "no turn yet");
    set("p95", response ? formatMs(response.p95_ms) : "–");
    set("p95-more", response?.target_ms ? `target ${formatMs(response.target_ms)}` : "");
    byId("p95").setAttribute("data-level", isOver(response) ? "over" : "");
    set("engine", engine.ready ? "Ready" : "Not ready");
    byId("engine").setAttribute("data-level", engine.ready ? "" : "over");
    set("engine-more", `${engine.model ?? engine.backend}, ${count(engine.restarts, "restart")}`);
    set("uptime", formatAge(status.uptime_seconds));
    set("version", `version ${status.version}`);
  }

  /** @param {Record<string, any>} latency */
  #showStages(latency) {
    const rows = Object.entries(latency).map(([name, numbers]) => {
      const label = el("th", { scope: "row" }, ...stageLabel(name));
      const p95 = el("td", { class: "number", "data-level": isOver(numbers) ? "over" : "" }, ms(numbers.p95_ms));
      if (isOver(numbers)) p95.append(el("span", { class: "visually-hidden" }, ", over its target"));
      return el(
        "tr",
        { "data-stage": name },
        label,
        el("td", { class: "number" }, ms(numbers.p50_ms)),
        p95,
        el("td", { class: "number" }, ms(numbers.target_ms)),
      );
    });
    part("#stages-table tbody").replaceChildren(...rows);
  }

  /** @param {any} status */
  #showCalls(status) {
    const rows = status.live_calls.map((/** @type {any} */ call) => {
      const cells = CALL_COLUMNS.map(([label, kind, value], index) => {
        const attributes = { class: kind, "data-label": label };
        const shown = value(call, status);
        if (index === 0) return el("th", { ...attributes, scope: "row", role: "rowheader" }, shown);
        return el("td", { ...attributes, role: "cell" }, shown);
      });
      return el("tr", { "data-call": call.call_id, role: "row" }, ...cells);
    });
    part("#live-table tbody").replaceChildren(...rows);
    byId("live-table", HTMLElement).hidden = rows.length === 0;
    byId("live-empty", HTMLElement).hidden = rows.length > 0;
    set("live-count", rows.length > 0 ? count(rows.length, "call") : "");
  }

  /** @param {any[]} nodes @param {any} telephony null where no telephones can call */
  #showNodes(nodes, telephony) {
    const rows = nodes.map((node) => {
      const name = node.kind === "worker" ? `Media worker ${node.index}` : "Server";
      const word = !node.answers ? "No answer" : node.ready ? "Ready" : "Not ready";
      const colour = !node.answers ? "stop" : node.ready ? "go" : "warn";
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, name),
        el("td", {}, state({ label: word, colour })),
        el("td", { class: "number" }, String(node.calls)),
        el("td", { class: "number" }, String(node.restarts)),
      );
    });
    if (telephony !== null) {
      rows.push(
        el(
          "tr",
          { "data-process": "telephony" },
          el("th", { scope: "row" }, "Telephone adapter"),
          el("td", {}, state({ label: telephonyLabel(telephony), colour: telephony.ready ? "go" : "stop" })),
          el("td", { class: "number" }, String(telephony.answered)),
          el("td", { class: "number" }, String(telephony.restarts)),
        ),
      );
    }
    part("#nodes-table tbody").replaceChildren(...rows);
  }
}

/** @param {string} selector @returns {HTMLElement} */
function part(selector) {
  const found = document.querySelector(selector);
  if (!(found instanceof HTMLElement)) throw new Error(`The page has no ${selector}.`);
  return found;
}

/** @param {string} id @param {string} text */
function set(id, text) {
  byId(id).textContent = text;
}

/** A word with a dot in its colour. @param {{label: string, colour: string}} what */
function state({ label, colour }) {
  return el("span", { class: "state", "data-colour": colour }, label);
}

/** "Ready, 1 ringing, 2 called in". @param {any} telephony */
function telephonyLabel(telephony) {
  const counts = /** @type {[number, string][]} */ ([
    [telephony.ringing, "ringing"],
    [telephony.calling, "being called"],
    [telephony.answered_in, "called in"],
    [telephony.answered_out, "called out"],
  ]);
  const words = counts.filter(([num]) => num > 0).map(([num, word]) => `${num} ${word}`);
  return [telephony.ready ? "Ready" : "Not ready", ...words].join(", ");
}

/** The 95th percentile is over its target. @param {any} numbers */
function isOver(numbers) {
  return Boolean(numbers?.target_ms && numbers.p95_ms > numbers.target_ms);
}

/** @param {number | null} value */
function ms(value) {
  return value === null ? "–" : value < 10 && value > 0 ? `${value.toFixed(1)} ms` : formatMs(value);
}

/** @param {number | null} value */
function share(value) {
  return value === null ? "–" : `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

/** @param {number} num @param {string} word */
function count(num, word) {
  return `${num} ${word}${num === 1 ? "" : "s"}`;
}

/** 75 -> "1:15"; 4000 -> "1 h 06 min"; days from two on. @param {number} seconds */
export function formatAge(seconds) {
  const whole = Math.floor(seconds);
  const pad = (/** @type {number} */ value) => String(value).padStart(2, "0");
  if (whole < 3_600) return `${Math.floor(whole / 60)}:${pad(whole % 60)}`;
  if (whole < 172_800) return `${Math.floor(whole / 3_600)} h ${pad(Math.floor((whole % 3_600) / 60))} min`;
  return `${Math.floor(whole / 86_400)} days`;
}
