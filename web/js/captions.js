// @ts-check
/** The captions on the page: one list item per caption, kept at the newest unless the reader scrolled up. */

import { byId, el, icon } from "./dom.js";

const NEAR_END_PX = 80;

export class CaptionList {
  #box = byId("captions", HTMLElement);
  #list = byId("captions-list", HTMLOListElement);
  #empty = byId("captions-empty", HTMLElement);
  #latest = byId("captions-latest", HTMLButtonElement);
  /** @type {Map<string, HTMLLIElement>} */
  #rows = new Map();
  #isFollowing = true;

  constructor() {
    this.#box.addEventListener("scroll", () => {
      this.#isFollowing = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < NEAR_END_PX;
      if (this.#isFollowing) this.#latest.hidden = true;
    });
    this.#latest.addEventListener("click", () => this.#scrollToEnd());
    new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd()).observe(this.#box); // a notice takes room
  }

  /** Draw a caption as it is now. @param {import("./events.js").Caption} caption */
  show(caption) {
    if (caption.state === "removed") {
      this.#rows.get(caption.id)?.remove();
      this.#rows.delete(caption.id);
    } else {
      let row = this.#rows.get(caption.id);
      if (!row) {
        row = el("li");
        this.#rows.set(caption.id, row);
        this.#list.append(row);
      }
      fill(row, caption);
    }
    this.#empty.hidden = this.#rows.size > 0;
    if (this.#isFollowing) this.#scrollToEnd();
    else this.#latest.hidden = false;
  }

  #scrollToEnd() {
    this.#isFollowing = true;
    this.#latest.hidden = true;
    this.#box.scrollTop = this.#box.scrollHeight;
  }
}

/** @param {HTMLLIElement} row @param {import("./events.js").Caption} caption */
function fill(row, caption) {
  const isCut = caption.heardMs !== null;
  row.className = `caption caption--${caption.who}${isCut ? " caption--cut" : ""}`;
  const who = el("p", { class: "caption__who" }, caption.who === "you" ? "You" : "Reply");
  if (caption.isTyped) who.append(el("span", { class: "caption__how" }, "typed"));
  const text = el("p", { class: "caption__text" });
  if (caption.state === "pending") {
    const label = caption.who === "you" ? "speaking" : "thinking";
    text.append(el("span", { class: "dots", role: "img", "aria-label": label }, el("span"), el("span"), el("span")));
  } else {
    text.textContent = caption.text;
  }
  row.replaceChildren(who, text);
  if (isCut) row.append(el("p", { class: "caption__cut" }, icon("cut"), cutText(caption)));
}

/** @param {import("./events.js").Caption} caption */
function cutText({ heardMs, text }) {
  if (!heardMs || !text) return "Interrupted before a word was heard";
  return `Interrupted after ${(heardMs / 1000).toFixed(1)} s`;
}
