// @ts-check
/** The box that says what happened and what to do. Shown on the page and, once, to screen readers. */

import { announceAlert, announceState } from "./announce.js";
import { byId, el } from "./dom.js";

/** @typedef {import("./failures.js").Message} Message */
/** @typedef {{label: string, act: () => void}} Action */

export class Notice {
  #box = byId("notice", HTMLElement);
  #title = byId("notice-title", HTMLElement);
  #text = byId("notice-text", HTMLElement);
  #steps = byId("notice-steps", HTMLElement);
  #progress = byId("notice-progress", HTMLElement);
  #actions = byId("notice-actions", HTMLElement);
  #spoken = "";

  /**
   * Show a message. `progress`: what is under way; changing it is not announced again.
   * @param {Message} message
   * @param {Action[]} [actions]
   * @param {string} [progress]
   */
  show(message, actions = [], progress = "") {
    this.#box.hidden = false;
    this.#box.dataset.tone = message.tone;
    this.#title.textContent = message.title;
    this.#text.textContent = progress ? `${message.text} ${progress}` : message.text;
    this.#steps.replaceChildren(...message.steps.map((step) => el("li", {}, step)));
    this.#steps.hidden = message.steps.length === 0;
    this.#progress.hidden = !progress;
    this.#setActions(message, actions);
    const spoken = [message.title, message.text, ...message.steps].join(". ");
    if (spoken === this.#spoken) return;
    this.#spoken = spoken;
    if (message.tone === "stop") announceAlert(spoken);
    else announceState(spoken);
    if (message.tone === "stop") this.#box.scrollIntoView({ block: "nearest" });
  }

  hide() {
    this.#box.hidden = true;
    this.#spoken = "";
  }

  /** Buttons are kept while their labels stay the same, so that a countdown does not take the focus away.
   * @param {Message} message @param {Action[]} actions */
  #setActions(message, actions) {
    const labels = [...actions.map((action) => action.label), message.link?.label ?? ""].join("|");
    if (this.#actions.dataset.labels === labels) return;
    this.#actions.dataset.labels = labels;
    const buttons = actions.map(({ label, act }) => {
      const button = el("button", { class: "button button--small", type: "button" }, label);
      button.addEventListener("click", act);
      return button;
    });
    this.#actions.replaceChildren(...buttons);
    if (message.link) this.#actions.prepend(el("a", { class: "button button--small", href: message.link.href }, message.link.label));
  }
}
