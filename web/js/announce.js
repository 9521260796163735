// @ts-check
/**
 * What a screen reader is told. The visible captions change many times a second and are therefore no live region;
 * whole sentences are put here instead: the caller's words when they are understood, a reply when its sound has ended.
 */

import { byId, el } from "./dom.js";

const KEPT_CAPTIONS = 4; // a log region reads additions only; older lines are of no use to anybody

/** A short message about the call; the same message twice is said twice. @param {string} text */
export function announceState(text) {
  replace(byId("announce-state"), text);
}

/** Something went wrong: interrupts what is being read. @param {string} text */
export function announceAlert(text) {
  replace(byId("announce-alert"), text);
}

/** @param {string} who @param {string} text */
export function announceCaption(who, text) {
  const log = byId("announce-captions");
  log.append(el("p", {}, `${who}: ${text}`));
  while (log.childElementCount > KEPT_CAPTIONS) log.firstElementChild?.remove();
}

/** @param {Element} region @param {string} text */
function replace(region, text) {
  region.replaceChildren(text ? el("p", {}, text) : "");
}
