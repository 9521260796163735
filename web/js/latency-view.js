// @ts-check
/** The response-time panel: figures, a Gantt chart of one turn as a table, and a strip for each recent turn. */

import { byId, el, svg } from "./dom.js";
import { LatencyHistory, SHOWN_TURNS, formatMs, timeScale } from "./latency.js";

/** @typedef {import("./latency.js").TurnLatency} TurnLatency */

const STRIP_LANE_PX = 4; // seven stages, one lane each, in 28 px
const BAR_PX = 10;
const MIN_PERCENT = 0.8; // a stage of half a millisecond is still there to be seen

export class LatencyView {
  #history = new LatencyHistory();
  #root = byId("latency", HTMLElement);
  #empty = byId("latency-empty", HTMLElement);
  #count = byId("latency-count", HTMLElement);
  #figures = el("dl", { class: "figures" });
  #chart = el("div");
  #readout = el("p", { class: "readout", id: "latency-readout" });
  #strips = el("ol");
  /** @type {TurnLatency | null} chosen by click or Enter; null follows the newest */
  #chosen = null;
  /** @type {TurnLatency | null} in the chart now */
  #shown = null;

  constructor() {
    const title = el("h3", { class: "strips__title" }, "Recent turns, newest first");
    this.#root.append(this.#figures, this.#chart, this.#readout, title, this.#strips);
  }

  /** Take in one `rtc_server.turn.metrics` event; the turn, or null. @param {object} event */
  add(event) {
    const turn = this.#history.add(event);
    if (turn) {
      this.#chosen = this.#isStudied() ? this.#shown : null;
      this.#draw();
    }
    return turn;
  }

  /** Somebody reads the chart with the keyboard: it must not change under the hand. */
  #isStudied() {
    return this.#chart.contains(document.activeElement);
  }

  #draw() {
    const turns = this.#history.turns.slice(0, SHOWN_TURNS);
    const newest = turns[0];
    const { medianMs } = this.#history;
    const num = this.#history.turns.length;
    this.#root.hidden = false;
    this.#empty.hidden = true;
    this.#count.textContent = num === 1 ? "1 turn" : `${num} turns`;
    this.#figures.replaceChildren(figure("Last turn", newest.totalMs));
    if (medianMs !== null) this.#figures.append(figure("Median", medianMs));
    const focused = document.activeElement?.getAttribute("data-turn");
    this.#strips.replaceChildren(...turns.map((turn) => el("li", {}, this.#strip(turn, turns, medianMs))));
    /** @type {HTMLElement | null} */ (focused && this.#strips.querySelector(`[data-turn="${focused}"]`))?.focus();
    if (!this.#isStudied()) this.#show(this.#chosen ?? newest);
  }

  /** Put one turn into the chart. @param {TurnLatency} turn */
  #show(turn) {
    this.#shown = turn;
    const scale = timeScale([turn]);
    const rows = turn.stages.map((stage) => {
      const name = el("button", { type: "button", "aria-describedby": "latency-readout" }, stage.label);
      const x = scale.percent(stage.startMs);
      const width = Math.max(MIN_PERCENT, scale.percent(stage.endMs) - x);
      const size = { x: `${x}%`, y: 10, width: `${width}%`, height: BAR_PX, rx: 3 };
      const bar = svg("rect", { class: `bar-${stage.kind}`, ...size });
      const lane = svg("svg", { "aria-hidden": "true" }, ...gridLines(scale), bar);
      const row = el(
        "tr",
        {},
        el("th", { scope: "row", class: "gantt__name" }, name),
        el("td", { class: "gantt__lane" }, lane),
        el("td", { class: "gantt__ms" }, formatMs(stage.endMs - stage.startMs)),
      );
      const explain = () => this.#explain(turn, stage);
      row.addEventListener("pointerenter", explain);
      row.addEventListener("pointerleave", () => this.#explain(turn));
      name.addEventListener("focus", explain);
      name.addEventListener("blur", () => this.#explain(turn));
      name.addEventListener("click", explain);
      return row;
    });
    const axis = svg("svg", { class: "gantt__axis", height: 18, width: "100%", "aria-hidden": "true" }, ...tickLabels(scale));
    const kind = turn.isTyped ? "typed" : turn.isSpeculated ? "answered ahead" : "spoken";
    const head = el("tr", {}, el("td"), el("td", { class: "gantt__lane" }, axis), el("td"));
    this.#chart.replaceChildren(
      el(
        "table",
        { class: "gantt" },
        el("caption", {}, `Turn ${turn.number}, ${kind}`),
        el("thead", {}, head),
        el("tbody", {}, ...rows),
      ),
    );
    this.#explain(turn);
    for (const strip of this.#strips.querySelectorAll(".strip")) {
      strip.setAttribute("aria-pressed", String(strip.getAttribute("data-turn") === String(turn.number)));
    }
  }

  /** The sentence below the chart. @param {TurnLatency} turn @param {import("./latency.js").Stage} [stage] */
  #explain(turn, stage) {
    if (stage) {
      const span = `${Math.round(stage.startMs)} to ${Math.round(stage.endMs)} ms`;
      this.#readout.replaceChildren(el("strong", {}, `${stage.label}: ${span}. `), stage.about);
      return;
    }
    const start = turn.isTyped ? "Counted from your message" : "0 is the end of your last word";
    const ahead = turn.isSpeculated ? " The answer was prepared while the server made sure that you had finished." : "";
    this.#readout.replaceChildren(`${start}; the first sound left after `, el("strong", {}, formatMs(turn.totalMs)), `.${ahead}`);
  }

  /** @param {TurnLatency} turn @param {TurnLatency[]} turns @param {number | null} medianMs */
  #strip(turn, turns, medianMs) {
    const scale = timeScale(turns);
    const bars = turn.stages.map((stage, lane) => {
      const x = scale.percent(stage.startMs);
      const width = Math.max(MIN_PERCENT, scale.percent(stage.endMs) - x);
      const size = { x: `${x}%`, width: `${width}%`, y: lane * STRIP_LANE_PX, height: STRIP_LANE_PX - 1, rx: 1 };
      return svg("rect", { class: `bar-${stage.kind}`, ...size });
    });
    const lines = [svg("line", { class: "tick tick--zero", ...at(scale.percent(0)), y2: 28 })];
    if (medianMs !== null) {
      const x = scale.percent(medianMs + jitterStart(turn));
      lines.push(svg("line", { class: "median", ...at(x), y2: 28 }));
    }
    const strip = el(
      "button",
      { class: "strip", type: "button", "data-turn": String(turn.number), "aria-pressed": "false" },
      el("span", { class: "strip__number", "aria-hidden": "true" }, String(turn.number)),
      svg("svg", { "aria-hidden": "true" }, ...lines, ...bars),
      el("span", { class: "strip__total" }, formatMs(turn.totalMs)),
    );
    strip.setAttribute("aria-label", `Turn ${turn.number}: ${formatMs(turn.totalMs)}${turn.isTyped ? ", typed" : ""}`);
    const back = () => this.#show(this.#chosen ?? this.#history.turns[0]);
    strip.addEventListener("click", () => {
      this.#chosen = turn;
      this.#show(turn);
    });
    strip.addEventListener("pointerenter", () => this.#show(turn));
    strip.addEventListener("pointerleave", back);
    strip.addEventListener("focus", () => this.#show(turn));
    strip.addEventListener("blur", back);
    return strip;
  }
}

/** Totals begin where the receive buffer does, before zero. @param {TurnLatency} turn */
function jitterStart(turn) {
  return turn.isTyped ? 0 : Math.min(0, ...turn.stages.map((stage) => stage.startMs));
}

/** @param {string} name @param {number} ms */
function figure(name, ms) {
  const [value, unit] = formatMs(ms).split(" ");
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, unit)));
}

/** @param {number} percent */
function at(percent) {
  return { x1: `${percent}%`, x2: `${percent}%`, y1: 0 };
}

/** @param {ReturnType<typeof timeScale>} scale */
function gridLines(scale) {
  return scale.ticks.map((tick) =>
    svg("line", { class: tick === 0 ? "tick tick--zero" : "tick", ...at(scale.percent(tick)), y2: 30 }),
  );
}

/** @param {ReturnType<typeof timeScale>} scale */
function tickLabels(scale) {
  return scale.ticks.map((tick) => {
    const percent = scale.percent(tick);
    const anchor = percent > 98 ? "end" : percent < 2 ? "start" : "middle";
    return svg("text", { x: `${percent}%`, y: 12, "text-anchor": anchor }, String(tick));
  });
}
