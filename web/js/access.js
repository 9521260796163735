// @ts-check
/** The dialog that asks for the key of the server. */

import { hasKey, isKey, keepKey } from "./credentials.js";
import { byId } from "./dom.js";

/** Ask for the key and keep it. False when the dialog was closed without one. @returns {Promise<boolean>} */
export function askForKey() {
  const dialog = byId("access", HTMLDialogElement);
  const input = byId("access-key", HTMLInputElement);
  const problem = byId("access-problem", HTMLElement);
  const listening = new AbortController();
  const { signal } = listening;
  problem.textContent = "";

  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    const given = input.value.trim();
    if (isKey(given)) {
      keepKey(given);
      dialog.close();
    } else {
      problem.textContent = "This does not look like a key.";
      input.focus();
    }
  };
  return new Promise((resolve) => {
    const end = () => {
      listening.abort();
      input.value = ""; // not left in the page
      resolve(hasKey());
    };
    byId("access-form", HTMLFormElement).addEventListener("submit", submit, { signal });
    byId("access-close").addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener("close", end, { signal });
    dialog.showModal();
  });
}
