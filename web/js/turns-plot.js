// @ts-check
/** The latest turns of all calls: a column for each, its stages to scale, and the same numbers as a table. */

import { byId, el, svg } from "./dom.js";
import { LatencyHistory, STAGES, formatMs, timeScale } from "./latency.js";

/** @typedef {import("./latency.js").TurnLatency} TurnLatency */

const WIDE_TURNS = 40;
const NARROW_TURNS = 14;
const NARROW = matchMedia("(max-width: 51.99rem)");
const HEIGHT_PX = 290; // as in status.css
const TOP_PX = 8;
const LEFT_PERCENT = 7; // for the numbers of the axis
const COLUMN_SHARE = 0.72; // of a column's place; the rest parts it from the next
const MIN_PX = 2; // a stage of half a millisecond is still there to be seen
const MORE = { response: "Whole response", inference: "To first words" };

/** The name of a stage, with its colour in front. @param {string} name @returns {(Node | string)[]} */
export function stageLabel(name) {
  const stage = STAGES.find((each) => each.name === name);
  if (!stage) return [el("span", { class: "swatch" }), MORE[/** @type {keyof MORE} */ (name)] ?? name];
  return [el("span", { class: `swatch swatch--${stage.kind}` }), stage.label];
}

export class TurnsPlot {
  #plot = byId("plot");
  #table = byId("turns-table");
  /** @type {any[]} */
  #latest = [];
  /** @type {number | null} */
  #targetMs = null;

  constructor() {
    const kinds = { wait: "waiting", hear: "recognition", think: "first words", speak: "first sound" };
    const items = Object.entries(kinds).map(([kind, text]) => el("li", {}, el("span", { class: `swatch swatch--${kind}` }), text));
    byId("legend").append(...items);
    const labels = ["When", "Call", "Whole", ...STAGES.map((stage) => stage.label), "Ahead"];
    const heads = labels.map((label, index) => el("th", { scope: "col", class: index > 1 ? "number" : "" }, label));
    this.#table.querySelector("thead")?.append(el("tr", {}, ...heads));
    NARROW.addEventListener("change", () => this.show(this.#latest, this.#targetMs));
  }

  /** @param {any[]} latest as in `/v1/status`, newest first @param {number | null} targetMs of the whole response */
  show(latest, targetMs) {
    this.#latest = latest;
    this.#targetMs = targetMs;
    const shown = latest.slice(0, NARROW.matches ? NARROW_TURNS : WIDE_TURNS);
    byId("turns-empty", HTMLElement).hidden = shown.length > 0;
    byId("turns-plot", HTMLElement).hidden = shown.length === 0;
    byId("turns-count").textContent = shown.length > 0 ? `the last ${shown.length}` : "";
    const history = new LatencyHistory();
    const turns = shown.map((turn) => history.add(turn)).filter((turn) => turn !== null);
    this.#draw(turns.reverse());
    this.#table.querySelector("tbody")?.replaceChildren(...latest.map(tableRow));
  }

  /** @param {TurnLatency[]} turns oldest first */
  #draw(turns) {
    if (turns.length === 0) return this.#plot.replaceChildren();
    const scale = timeScale(turns);
    const y = (/** @type {number} */ ms) => TOP_PX + (HEIGHT_PX - 2 * TOP_PX) * (1 - scale.percent(ms) / 100);
    const lines = scale.ticks.flatMap((tick) => {
      const at = { x1: `${LEFT_PERCENT}%`, x2: "100%", y1: y(tick), y2: y(tick) };
      const text = { x: `${LEFT_PERCENT - 1}%`, y: y(tick) + 4, "text-anchor": "end" };
      const line = svg("line", { class: tick === 0 ? "tick tick--zero" : "tick", ...at });
      return [line, svg("text", { class: "plot__tick", ...text }, String(tick))];
    });
    const place = (100 - LEFT_PERCENT) / Math.max(turns.length, 10);
    const columns = turns.map((turn, index) => {
      const left = 100 - place * (turns.length - index) + (place * (1 - COLUMN_SHARE)) / 2;
      return column(turn, left, place * COLUMN_SHARE, y);
    });
    if (this.#targetMs !== null && this.#targetMs <= scale.endMs) {
      const at = { x1: `${LEFT_PERCENT}%`, x2: "100%", y1: y(this.#targetMs), y2: y(this.#targetMs) };
      lines.push(svg("line", { class: "plot__target", ...at }));
    }
    this.#plot.replaceChildren(...lines, ...columns);
  }
}

/** @param {TurnLatency} turn @param {number} left @param {number} width in percent @param {(ms: number) => number} y */
function column(turn, left, width, y) {
  const lane = width / STAGES.length;
  const bars = turn.stages.map((stage) => {
    const order = STAGES.findIndex((each) => each.name === stage.name);
    const top = y(stage.endMs);
    const height = Math.max(MIN_PX, y(stage.startMs) - top);
    const size = { x: `${left + order * lane}%`, width: `${lane}%`, y: top, height };
    return svg("rect", { class: `bar-${stage.kind}`, ...size });
  });
  const heardMs = Math.max(...turn.stages.map((stage) => stage.endMs));
  const end = svg("line", { class: "plot__heard", x1: `${left}%`, x2: `${left + width}%`, y1: y(heardMs), y2: y(heardMs) });
  const parts = turn.stages.map((stage) => `${stage.label} ${formatMs(stage.endMs - stage.startMs)}`);
  const title = svg("title", {}, `${formatMs(turn.totalMs)}: ${parts.join(", ")}`);
  return svg("g", { class: "plot__turn" }, title, ...bars, end);
}

/** @param {any} turn */
function tableRow(turn) {
  const when = new Date(1e3 * turn.ended_at);
  const stages = STAGES.map(({ name }) => {
    const times = turn.stages[name];
    return el("td", { class: "number" }, times ? formatMs(times.end_ms - times.start_ms) : "–");
  });
  const whole = turn.response_latency_ms === null ? "–" : formatMs(turn.response_latency_ms);
  return el(
    "tr",
    { "data-response": turn.response_id },
    el("td", {}, when.toLocaleTimeString()),
    el("td", { class: "id" }, turn.call_id),
    el("td", { class: "number" }, whole),
    ...stages,
    el("td", { class: "number" }, turn.speculated ? "yes" : "no"),
  );
}
