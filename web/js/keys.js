// @ts-check
/** Single-key shortcuts and the dialog that lists them. They can be switched off (WCAG 2.1.4). */

import { byId } from "./dom.js";
import { recall, remember } from "./storage.js";

/**
 * @typedef {object} Actions
 * @property {() => void} start
 * @property {() => void} hangUp
 * @property {() => void} mute
 * @property {() => void} interrupt
 * @property {() => void} type puts the focus into the text field
 */

/** @param {Actions} actions */
export function setUpKeys(actions) {
  const dialog = byId("keys", HTMLDialogElement);
  const enabled = byId("keys-enabled", HTMLInputElement);
  const open = () => dialog.showModal();

  enabled.checked = recall("keys") !== "off";
  enabled.addEventListener("change", () => remember("keys", enabled.checked ? "on" : "off"));
  byId("keys-open").addEventListener("click", open);
  byId("keys-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog && isOutside(dialog, event)) dialog.close();
  });

  /** @type {Record<string, () => void>} */
  const keys = { c: actions.start, h: actions.hangUp, m: actions.mute, " ": actions.mute, t: actions.type, "?": open };
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return actions.interrupt(); // not a character key: always on, in the text field too
    if (!enabled.checked || event.repeat || isTyping(event.target)) return;
    if (event.key === " " && isPressable(event.target)) return;
    const action = keys[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof Element && target.matches("input:not([type=checkbox]), select, textarea, [contenteditable]");
}

/** Space presses, or scrolls, what has the focus. @param {EventTarget | null} target */
function isPressable(target) {
  return target instanceof Element && target.matches("button, a[href], input, summary, [tabindex='0']");
}

/** @param {Element} element @param {MouseEvent} event */
function isOutside(element, event) {
  const box = element.getBoundingClientRect();
  return event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
}
