// @ts-check
/** The status page: asks for `/v1/status` every two seconds while somebody looks at it. Wiring only. */

import { askForKey } from "./access.js";
import { forgetKey, hasKey } from "./credentials.js";
import { byId } from "./dom.js";
import { fetchStatus } from "./server.js";
import { StatusView } from "./status-view.js";
import { setUpTheme } from "./theme.js";

const PERIOD_MS = 2_000;

const view = new StatusView();
let timer = 0;
let isAsking = false;
let isRefused = false;

/** Ask, show, and come back later. One at a time; never while the page is hidden. */
async function refresh() {
  clearTimeout(timer);
  if (isAsking || isRefused || document.hidden) return;
  isAsking = true;
  const reply = await fetchStatus();
  isAsking = false;
  if (reply.kind === "status") view.show(reply.status);
  else if (reply.kind === "down") view.showDown();
  else if (reply.code === 401) return refuse();
  else view.showProblem("The server does not show its status", reply.message, false);
  timer = setTimeout(refresh, PERIOD_MS);
}

/** It wants a key: asked for at once the first time; one that is not good is forgotten and its end explained. */
function refuse() {
  isRefused = true;
  if (hasKey()) {
    forgetKey();
    view.showProblem("The key is not known here", "It may have been revoked, or it belongs to another server.", true);
  } else {
    view.showProblem("The server wants a key", "Its status is for this machine and for holders of a key.", true);
    enterKey();
  }
}

async function enterKey() {
  if (!(await askForKey())) return;
  isRefused = false;
  refresh();
}

byId("notice-key").addEventListener("click", enterKey);
document.addEventListener("visibilitychange", refresh);
setUpTheme(() => {});
refresh();
