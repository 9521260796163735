// @ts-check
/**
 * The last seconds of the call as one picture: the caller above the line, the reply below it, time running to the
 * right. The gap between the two colours is the wait, and the page writes its length into it.
 */

const SECONDS = 8;
const COLUMN_MS = 50;
const COLUMNS = (SECONDS * 1_000) / COLUMN_MS;
const BAR_SHARE = 0.62; // of a column's width
const CALM_MS = 500; // with reduced motion the picture moves on twice a second

/** @typedef {{at: number, ms: number}} Gap `at`: when the reply began, performance.now() */

export class Waveform {
  /** @type {HTMLCanvasElement} */ #canvas;
  /** @type {() => {you: number, reply: number}} */ #levels;
  /** @type {{you: Element, reply: Element}} */ #keys;
  /** @type {{at: number, you: number, reply: number}[]} */ #columns = [];
  /** @type {Gap[]} */ #gaps = [];
  #colours = { you: "", reply: "", line: "", text: "", ground: "", font: "" };
  #frame = 0;
  #drawnAt = 0;
  #peak = { you: 0, reply: 0 };
  #isCalm = matchMedia("(prefers-reduced-motion: reduce)");

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{you: Element, reply: Element}} keys the legend; its `::before` has the colours
   * @param {() => {you: number, reply: number}} levels 0 to 1, asked for on every frame
   */
  constructor(canvas, keys, levels) {
    this.#canvas = canvas;
    this.#keys = keys;
    this.#levels = levels;
    new ResizeObserver(() => this.#draw(performance.now())).observe(canvas);
    this.readColours();
  }

  /** Colours come from the style sheet; call this when the theme changed. */
  readColours() {
    const style = getComputedStyle(this.#canvas);
    this.#colours = {
      you: getComputedStyle(this.#keys.you, "::before").color,
      reply: getComputedStyle(this.#keys.reply, "::before").color,
      line: style.borderTopColor,
      text: style.color,
      ground: style.backgroundColor,
      font: `500 11px ${style.fontFamily}`,
    };
    this.#draw(performance.now());
  }

  /** Write the wait before the reply that begins now into the picture. @param {number} ms */
  markGap(ms) {
    this.#gaps.push({ at: performance.now(), ms });
  }

  /** Begin to move. */
  start() {
    if (this.#frame) return;
    this.#columns = [];
    this.#gaps = [];
    const step = (/** @type {number} */ now) => {
      this.#frame = requestAnimationFrame(step);
      this.#measure(now);
      if (!this.#isCalm.matches || now - this.#drawnAt >= CALM_MS) this.#draw(now);
    };
    this.#frame = requestAnimationFrame(step);
  }

  /** Stand still; what is there stays visible. */
  stop() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  /** @param {number} now */
  #measure(now) {
    const { you, reply } = this.#levels();
    this.#peak = { you: Math.max(this.#peak.you, you), reply: Math.max(this.#peak.reply, reply) };
    const last = this.#columns.at(-1);
    if (last && now - last.at < COLUMN_MS) return;
    this.#columns.push({ at: now, ...this.#peak });
    this.#peak = { you: 0, reply: 0 };
    if (this.#columns.length > COLUMNS + 2) this.#columns.shift();
    this.#gaps = this.#gaps.filter((gap) => now - gap.at < SECONDS * 1_000);
  }

  /** @param {number} now */
  #draw(now) {
    this.#drawnAt = now;
    const context = this.#canvas.getContext("2d");
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!context || !width || !height) return;
    const ratio = devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const middle = height / 2;
    const reach = middle - 10;
    const end = this.#frame ? now : (this.#columns.at(-1)?.at ?? now);
    const x = (/** @type {number} */ at) => width - ((end - at) / (SECONDS * 1_000)) * width;
    const barWidth = (width / COLUMNS) * BAR_SHARE;
    context.fillStyle = this.#colours.line;
    context.fillRect(0, middle - 0.5, width, 1);
    for (const { at, you, reply } of this.#columns) {
      bar(context, x(at), barWidth, middle - 2, -you * reach, this.#colours.you);
      bar(context, x(at), barWidth, middle + 2, reply * reach, this.#colours.reply);
    }
    for (const gap of this.#gaps) this.#drawGap(context, gap, x, middle);
  }

  /** @param {CanvasRenderingContext2D} context @param {Gap} gap @param {(at: number) => number} x @param {number} middle */
  #drawGap(context, { at, ms }, x, middle) {
    const from = x(at - ms);
    const to = x(at);
    context.strokeStyle = this.#colours.text;
    context.fillStyle = this.#colours.text;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(from, middle - 5);
    context.lineTo(from, middle + 5);
    context.moveTo(from, middle);
    context.lineTo(to, middle);
    context.moveTo(to, middle - 5);
    context.lineTo(to, middle + 5);
    context.stroke();
    context.font = this.#colours.font;
    context.textAlign = "center";
    const label = `${Math.round(ms)} ms`;
    context.strokeStyle = this.#colours.ground; // a halo: the wait is often narrower than its number
    context.lineWidth = 5;
    context.lineJoin = "round";
    context.strokeText(label, (from + to) / 2, middle - 10);
    context.fillText(label, (from + to) / 2, middle - 10);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x @param {number} width @param {number} y @param {number} height negative goes up
 * @param {string} colour
 */
function bar(context, x, width, y, height, colour) {
  if (Math.abs(height) < 1) return;
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(x - width, Math.min(y, y + height), width, Math.abs(height), width / 2);
  context.fill();
}
