// @ts-check
/** Small choices that outlive the page. Storage may be switched off: then nothing is remembered and nothing breaks. */

const PREFIX = "rtc-server.";

/** @param {string} name @returns {string | null} */
export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Not remembered; the choice still holds until the page is closed.
  }
}

/** @param {string} name */
export function forget(name) {
  try {
    localStorage.removeItem(PREFIX + name);
  } catch {
    // Nothing was remembered.
  }
}
