// @ts-check
/// <reference lib="webworker" />
/**
 * Opens the page when the server cannot be reached, so that it can say so. It keeps the files of the page and nothing
 * else: no answer of the API, no key, no sound. The network is asked first, always, so a server that was updated never
 * meets yesterday's page; the copy is for when nobody answers.
 *
 * The server writes one line before this file: `const SHELL = { version, files }`. Another version makes another copy,
 * whole, beside the old one, which then goes.
 */

const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
/** @type {{version: string, files: string[]}} */
const shell = /** @type {any} */ (SHELL);

const PATIENCE_MS = 4_000; // of a page that is opened: a network that swallows packets never says no
const MAX_CLIENTS = 50;

/** Cache storage is shared by everything of the origin: this installation's copies, by their scope. */
const COPIES = `rtc-server ${worker.registration.scope} `;
const COPY = COPIES + shell.version;
const ADDRESSES = new Set(shell.files.map((file) => new URL(file, worker.registration.scope).href));

/** Pages that were opened from the copy: all of their files come from it too, at once. @type {Set<string>} */
const clientsOfCopy = new Set();

worker.addEventListener("install", (event) => event.waitUntil(keep()));
worker.addEventListener("activate", (event) => event.waitUntil(takeOver()));
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const address = new URL(request.url);
  address.search = address.hash = ""; // `?relay=1` is the same page
  if (request.method !== "GET" || !ADDRESSES.has(address.href)) return; // the browser goes on as if nobody were here
  event.respondWith(answer(event, address.href));
});

async function keep() {
  const copy = await caches.open(COPY);
  await copy.addAll([...ADDRESSES].map((address) => new Request(address, { cache: "no-cache" })));
  await worker.skipWaiting(); // an old page is served by the network as well as by its old worker
}

async function takeOver() {
  for (const name of await caches.keys()) {
    if (name.startsWith(COPIES) && name !== COPY) await caches.delete(name);
  }
  await worker.clients.claim();
}

/** @param {FetchEvent} event @param {string} address @returns {Promise<Response>} */
async function answer(event, address) {
  const kept = () => caches.match(address, { cacheName: COPY, ignoreVary: true });
  const isPage = event.request.mode === "navigate";
  if (!isPage && clientsOfCopy.has(event.clientId)) return (await kept()) ?? fetch(event.request);
  try {
    const reply = await (isPage ? soon(fetch(event.request)) : fetch(event.request));
    if (reply.status < 500) return reply;
    return (await kept()) ?? reply; // a proxy answers for a server that is down
  } catch (error) {
    const copy = await kept();
    if (!copy) throw error;
    if (clientsOfCopy.size >= MAX_CLIENTS) clientsOfCopy.clear(); // their files are here long since
    if (isPage) clientsOfCopy.add(event.resultingClientId);
    return copy;
  }
}

/** Rejects when it takes too long. @param {Promise<Response>} reply @returns {Promise<Response>} */
function soon(reply) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("Nobody answers.")), PATIENCE_MS));
  return /** @type {Promise<Response>} */ (Promise.race([reply, late]));
}
