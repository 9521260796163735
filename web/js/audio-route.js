// @ts-check
/** Where sound comes in and goes out, decided: which microphone a call goes on with when devices come and go. No DOM. */

const HEADSET = /head ?(set|phone)|ear ?(bud|phone|piece|pod)|air ?pods|buds|hands-?free/i;

/**
 * @typedef {object} Inputs what `enumerateDevices` says about microphones
 * @property {string[]} ids without the browser's names for "whichever"
 * @property {string | null} defaultGroup of the device that is the default now; null where the browser does not say
 */

/**
 * The microphone that an open call should change to after `devicechange`: an id, "" for the system's default, or null to
 * stay.
 * @param {Inputs} before @param {Inputs} after
 * @param {string} wantedId the caller's choice, remembered; "" without one
 * @param {string} usedId the choice that is in use; "" when it is the default
 * @returns {string | null}
 */
export function nextMicrophone(before, after, wantedId, usedId) {
  if (wantedId && usedId !== wantedId) return after.ids.includes(wantedId) ? wantedId : followDefault(before, after);
  return usedId ? null : followDefault(before, after); // one that is gone ends its track, which is another event
}

/** The system's default moves to a headset that was switched on, and back. @param {Inputs} before @param {Inputs} after */
function followDefault(before, after) {
  if (after.defaultGroup !== null) return after.defaultGroup === before.defaultGroup ? null : "";
  return after.ids.some((id) => !before.ids.includes(id)) ? "" : null; // Safari and Firefox do not say: ask them
}

/** What `enumerateDevices` found. @param {{kind: string, deviceId: string, groupId: string}[]} devices @returns {Inputs} */
export function inputsOf(devices) {
  const inputs = devices.filter(({ kind }) => kind === "audioinput");
  const main = inputs.find(({ deviceId }) => deviceId === "default");
  const ids = inputs.map(({ deviceId }) => deviceId).filter((id) => !isUnnamed(id));
  return { ids, defaultGroup: main?.groupId ?? null };
}

/** Not a device but Chromium's name for "whichever", or what browsers say before permission. @param {string} id */
export function isUnnamed(id) {
  return id === "" || id === "default" || id === "communications";
}

/**
 * Whether the caller should be told to use a headset: the browser does not say that it takes the reply out of the
 * microphone's sound. @param {{label: string, getSettings: () => MediaTrackSettings}} track
 */
export function needsHeadset(track) {
  return !track.getSettings().echoCancellation && !HEADSET.test(track.label);
}

/** Tell iOS what the sound is for, so that it plays through the loudspeaker of calls and goes on when the screen locks.
 * @param {boolean} isInCall */
export function setAudioSession(isInCall) {
  const session = /** @type {{audioSession?: {type: string}}} */ (/** @type {unknown} */ (navigator)).audioSession;
  if (session) session.type = isInCall ? "play-and-record" : "auto";
}
