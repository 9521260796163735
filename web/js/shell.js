// @ts-check
/**
 * The page as a thing of its own: opens without the server, and does not outlive the server's version. The work is done
 * by service-worker.js; where browsers allow none (plain http from another machine) nothing happens.
 *
 * Event `replaced`: the server has another page now than the one that is open.
 */

import { address } from "./server.js";

export class Shell extends EventTarget {
  /** @type {Promise<ServiceWorkerRegistration | null>} */ #registered;
  #mayBeOld = false;

  constructor() {
    super();
    this.#registered = register();
    const workers = globalThis.navigator.serviceWorker;
    let isFirst = !workers?.controller;
    workers?.addEventListener("controllerchange", () => {
      // The browser looks for another worker whenever a page is opened; one that came from the server is new already.
      if (!isFirst && this.#mayBeOld) this.dispatchEvent(new Event("replaced"));
      isFirst = false;
    });
  }

  /** The server does not answer: this page came from the copy, or lies here while the server is updated. */
  doubt() {
    this.#mayBeOld = true;
  }

  /** Ask the server whether its page is another by now: it was away, or this page lay in the background for long. */
  async check() {
    this.doubt();
    const registration = await this.#registered;
    await registration?.update().catch(() => undefined); // nobody answers; asked again when somebody does
  }
}

/** @returns {Promise<ServiceWorkerRegistration | null>} */
async function register() {
  if (!globalThis.isSecureContext || !("serviceWorker" in navigator)) return null;
  try {
    return await navigator.serviceWorker.register(address("service-worker.js"), { updateViaCache: "none" });
  } catch {
    return null; // the server is away, or the browser is told to keep nothing: the page works without
  }
}
