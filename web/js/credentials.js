// @ts-check
/** The key of a server that wants one: kept in this browser and sent with every request. No DOM. */

import { forget, recall, remember } from "./storage.js";

const NAME = "api-key";

/** Where storage is switched off it lasts as long as the page; the next visit asks again. */
let key = recall(NAME) ?? "";

export function hasKey() {
  return key !== "";
}

/** What a request carries to be let in. @returns {Record<string, string>} */
export function authorization() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Visible ASCII: anything else, such as a pasted sentence, would make `fetch` itself fail. @param {string} text */
export function isKey(text) {
  return /^[!-~]{1,8000}$/.test(text);
}

/** @param {string} text a key, see `isKey` */
export function keepKey(text) {
  key = text;
  remember(NAME, key);
}

export function forgetKey() {
  key = "";
  forget(NAME);
}
