// @ts-check
/** Response time by stage: what `rtc_server.turn.metrics` says, put in order and to scale. No DOM. */

export const SHOWN_TURNS = 8;
const KEPT_TURNS = 100;

/** The stages in the order in which they happen; `kind` picks the colour: greys wait, colours compute. */
export const STAGES = [
  { name: "jitter_buffer", label: "Receive", kind: "wait", about: "Packets are put in order and decoded." },
  { name: "endpoint", label: "End of turn", kind: "wait", about: "Silence, until it is certain that you have finished." },
  { name: "queue", label: "Queue", kind: "wait", about: "The request waits for the engine." },
  { name: "recognition", label: "Recognition", kind: "hear", about: "Your speech becomes text." },
  { name: "first_text", label: "First words", kind: "think", about: "The language model begins its answer." },
  { name: "first_audio", label: "First sound", kind: "speak", about: "The first words become speech." },
  { name: "playout", label: "Play-out", kind: "wait", about: "Finished sound waits for its moment to leave." },
];

/**
 * @typedef {object} Stage
 * @property {string} name
 * @property {string} label
 * @property {string} kind
 * @property {string} about
 * @property {number} startMs relative to the end of your last word
 * @property {number} endMs
 */

/**
 * @typedef {object} TurnLatency
 * @property {number} number 1 is the first turn of the page
 * @property {number} totalMs
 * @property {boolean} isTyped nothing was spoken: counted from the request
 * @property {boolean} isSpeculated work began before the end of the turn was certain
 * @property {Stage[]} stages
 */

export class LatencyHistory {
  /** @type {TurnLatency[]} newest first */
  turns = [];
  #count = 0;

  /** Take in one `rtc_server.turn.metrics` event; null if it carries nothing to show. @param {any} event */
  add(event) {
    /** @type {Stage[]} */
    const stages = [];
    for (const stage of STAGES) {
      const times = event.stages?.[stage.name];
      if (!Number.isFinite(times?.start_ms) || !Number.isFinite(times?.end_ms)) continue;
      stages.push({ ...stage, startMs: times.start_ms, endMs: Math.max(times.start_ms, times.end_ms) });
    }
    const isTyped = !Number.isFinite(event.response_latency_ms);
    if (isTyped && stages.length === 0) return null;
    const totalMs = isTyped ? Math.max(...stages.map((stage) => stage.endMs)) : event.response_latency_ms;
    this.#count += 1;
    const turn = { number: this.#count, totalMs, isTyped, isSpeculated: event.speculated === true, stages };
    this.turns.unshift(turn);
    this.turns.length = Math.min(this.turns.length, KEPT_TURNS);
    return turn;
  }

  /** Median of the spoken turns in ms; null without any. */
  get medianMs() {
    return median(this.turns.filter((turn) => !turn.isTyped).map((turn) => turn.totalMs));
  }
}

/** @param {number[]} values */
export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * One time axis for several turns: from the earliest start to the latest end, with ticks at round numbers.
 * @param {TurnLatency[]} turns
 * @returns {{startMs: number, endMs: number, ticks: number[], percent: (ms: number) => number}}
 */
export function timeScale(turns) {
  const stages = turns.flatMap((turn) => turn.stages);
  const startMs = Math.min(0, ...stages.map((stage) => stage.startMs));
  const endMs = Math.max(100, ...stages.map((stage) => stage.endMs), ...turns.map((turn) => turn.totalMs + startMs));
  const step = [50, 100, 200, 250, 500, 1_000, 2_000, 5_000, 10_000].find((size) => endMs / size <= 4) ?? 20_000;
  const ticks = [];
  for (let tick = 0; tick <= endMs; tick += step) ticks.push(tick);
  const percent = (/** @type {number} */ ms) => ((ms - startMs) / (endMs - startMs)) * 100;
  return { startMs, endMs, ticks, percent };
}

/** 612.3 -> "612 ms"; 2345 -> "2.35 s". @param {number} ms */
export function formatMs(ms) {
  return Math.abs(ms) < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(2)} s`;
}
