// @ts-check
/** Wires the page: the call, the conversation, the sound and the views. Every decision is made in one of those. */

import { askForKey } from "./access.js";
import { announceCaption, announceState } from "./announce.js";
import { setAudioSession } from "./audio-route.js";
import { CallAudio } from "./audio.js";
import { CallFlow } from "./call-flow.js";
import { CaptionList } from "./captions.js";
import { forgetKey, hasKey } from "./credentials.js";
import { checkSurroundings, Microphone } from "./devices.js";
import { byId, el } from "./dom.js";
import { Conversation } from "./events.js";
import { CallFailure, explain } from "./failures.js";
import { setUpKeys } from "./keys.js";
import { LatencyView } from "./latency-view.js";
import { Loudspeaker } from "./loudspeaker.js";
import { MicView } from "./mic-view.js";
import { Notice } from "./notice.js";
import { fetchInfo } from "./server.js";
import { Shell } from "./shell.js";
import { SoundCare } from "./sound-care.js";
import { Stage } from "./stage.js";
import { setUpTheme } from "./theme.js";
import { ScreenLock } from "./wake-lock.js";
import { watchWaking } from "./waking.js";
import { Waveform } from "./waveform.js";

const INFO_SECONDS = { settled: 15, unsettled: 3 };
const LONG_SLEEP_MS = 60_000; // the server may have been updated meanwhile
const SUGGESTIONS = ["What is the capital of France?", "Tell me a fun fact about cats.", "How are you today?"];
const DEMO_NOTE = "Small embedded demo models: they mishear, know little and make things up.";

const microphone = new Microphone();
const flow = new CallFlow(microphone);
const conversation = new Conversation();
const audio = new CallAudio(byId("remote", HTMLAudioElement));
const shell = new Shell();
const loudspeaker = new Loudspeaker(byId("remote", HTMLAudioElement));
const screenLock = new ScreenLock();
const stage = new Stage();
const notice = new Notice();
const captions = new CaptionList();
const latency = new LatencyView();
const presence = byId("presence", HTMLElement);
const composerText = byId("composer-text", HTMLInputElement);
const micView = new MicView(microphone, { onSelect: selectMicrophone, onTest: toggleTest });
const care = new SoundCare({ flow, microphone, audio, micView, notice, fail });
const waveform = new Waveform(byId("wave", HTMLCanvasElement), { you: byId("key-you"), reply: byId("key-reply") }, measure);

/** @type {import("./server.js").ServerInfo | null} */
let info = null;
let wasAsked = false;
let isOutdated = false;
let hasTalked = false;
let isRecorded = false;
let isTesting = false;
let meterFrame = 0;

// --- the call

flow.addEventListener("change", () => {
  if (flow.phase === "live" && !hasTalked) hasTalked = true;
  if (flow.phase === "idle") quiet();
  screenLock.hold(flow.isBusy);
  setAudioSession(flow.isBusy);
  if (flow.waiting) showWaiting(flow.waiting);
  else if (flow.isBusy && flow.phase !== "lost") notice.hide();
  show();
  takeNewPage();
});
flow.addEventListener("call", () => {
  isRecorded = false;
  conversation.restart();
});
flow.addEventListener("failure", (event) => fail(/** @type {CustomEvent<CallFailure>} */ (event).detail));
flow.addEventListener("remote", (event) => audio.setRemote(/** @type {CustomEvent<MediaStream>} */ (event).detail));
flow.addEventListener("server", (event) => {
  const message = /** @type {CustomEvent} */ (event).detail;
  if (message.type === "rtc_server.turn.metrics") {
    const turn = latency.add(message);
    if (turn && !turn.isTyped) waveform.markGap(turn.totalMs);
  }
  if (message.type.startsWith("rtc_server.recording.")) showRecording(message.type === "rtc_server.recording.started");
  conversation.receive(message).forEach((answer) => flow.send(answer));
  show();
});

async function start() {
  if (flow.isBusy) return;
  stopTest();
  notice.hide();
  if (info?.auth_required && !hasKey() && !(await askForKey())) return;
  await flow.start();
}

/** The key was wrong, or is not valid any more. */
async function startWithAnotherKey() {
  if (await askForKey()) await start();
}

function toggleMute() {
  if (flow.isBusy) flow.isMuted = !flow.isMuted;
}

function interrupt() {
  const events = conversation.interruption();
  if (flow.phase !== "live" || events.length === 0) return;
  events.forEach((event) => flow.send(event));
  announceState("Interrupted.");
}

/** @param {string} text */
function say(text) {
  if (flow.phase === "live" && text.trim()) conversation.typed(text.trim()).forEach((event) => flow.send(event));
}

// --- the microphone

microphone.addEventListener("stream", () => {
  if (!flow.isBusy && !isTesting) return;
  audio.setMicrophone(microphone.stream);
  startMeter();
});
microphone.addEventListener("devices", () => loudspeaker.refresh());
microphone.addEventListener("lost", () => !flow.isBusy && stopTest());

/** @param {string} id */
async function selectMicrophone(id) {
  await tryMicrophone(async () => {
    await microphone.select(id);
    if (flow.phase === "live" && !microphone.stream) await care.reopen();
  });
}

async function toggleTest() {
  if (isTesting) return stopTest();
  isTesting = true;
  notice.hide();
  await tryMicrophone(async () => {
    await microphone.open();
    micView.setTesting(true);
  });
}

function stopTest() {
  if (!isTesting) return;
  isTesting = false;
  micView.setTesting(false);
  if (!flow.isBusy) quiet();
}

/** @param {() => Promise<unknown>} action */
async function tryMicrophone(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CallFailure)) throw error;
    stopTest();
    fail(error);
  }
}

/** Nobody listens any more. */
function quiet() {
  audio.stop();
  microphone.release();
  waveform.stop();
  cancelAnimationFrame(meterFrame);
  meterFrame = 0;
  micView.level(0, false);
  micView.hint("");
  presence.style.setProperty("--level", "0");
}

function startMeter() {
  if (meterFrame) return;
  const step = () => {
    meterFrame = requestAnimationFrame(step);
    const { you, reply } = measure();
    micView.level(you, isTesting);
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    presence.style.setProperty("--level", isCalm ? "0" : String(conversation.turn === "speaking" ? reply : you));
  };
  meterFrame = requestAnimationFrame(step);
}

function measure() {
  return { you: flow.isMuted ? 0 : audio.youLevel, reply: audio.replyLevel };
}

audio.addEventListener("blocked", () => {
  const hear = () => {
    notice.hide();
    audio.play();
  };
  const text = "The browser wants to hear from you before it plays sound.";
  notice.show({ title: "The sound is off", text, steps: [], tone: "wait" }, [{ label: "Turn the sound on", act: hear }]);
});

// --- the conversation

conversation.addEventListener("turn", show);
conversation.addEventListener("caption", (event) => captions.show(/** @type {CustomEvent} */ (event).detail));
conversation.addEventListener("finished", (event) => {
  const { who, text, heardMs } = /** @type {CustomEvent<import("./events.js").Caption>} */ (event).detail;
  if (text) announceCaption(who === "you" ? "You" : "Reply", heardMs === null ? text : `${text} (interrupted)`);
});
conversation.addEventListener("problem", (event) => {
  const text = /** @type {CustomEvent<string>} */ (event).detail;
  const close = { label: "Close", act: () => notice.hide() };
  notice.show({ title: "The server reports a problem", text, steps: ["The call goes on."], tone: "wait" }, [close]);
});

byId("composer", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  say(composerText.value);
  composerText.value = "";
});

const suggestions = SUGGESTIONS.map((text) => {
  const button = el("button", { class: "button button--small", type: "button" }, text);
  button.addEventListener("click", () => {
    say(text);
    composerText.focus();
  });
  byId("suggestions").append(el("li", {}, button));
  return button;
});

// --- what is shown

function show() {
  const { phase, isMuted } = flow;
  stage.show({
    phase,
    turn: conversation.turn,
    isMuted,
    canInterrupt: conversation.canInterrupt,
    hasTalked,
    server: info ? "here" : !wasAsked ? "unknown" : navigator.onLine ? "unreachable" : "offline",
  });
  for (const button of suggestions) button.disabled = phase !== "live";
  if (phase === "live") waveform.start();
  showClock();
}

/** @param {CallFailure} failure */
function fail(failure) {
  const isRefused = failure.kind === "unauthorized";
  if (isRefused) forgetKey();
  const message = explain(failure, { hostname: location.hostname, pathname: location.pathname, httpsPort: info?.https_port ?? null });
  notice.show(message, isRefused ? [{ label: "Enter a key", act: startWithAnotherKey }] : []);
  refreshInfo(); // the failure may be news about the server as well
}

/** @param {import("./call-flow.js").Waiting} waiting */
function showWaiting({ kind, detail, seconds }) {
  const failure = new CallFailure(kind, { detail });
  const message = explain(failure, { hostname: "", pathname: "", httpsPort: null });
  if (kind === "not-ready") return notice.show(message, [], `${seconds}\u00a0s so far.`);
  const actions = [{ label: "Try now", act: () => flow.tryNow() }];
  notice.show(message, actions, `Trying again in ${seconds}\u00a0s.`);
}

function showClock() {
  const seconds = flow.liveSince && flow.phase === "live" ? Math.floor((Date.now() - flow.liveSince) / 1_000) : -1;
  const text = seconds < 0 ? "" : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  byId("call-clock").textContent = text && isRecorded ? `Recorded \u00b7 ${text}` : text;
}

/** The server tells that it records this call, or that it does no longer. @param {boolean} isOn */
function showRecording(isOn) {
  isRecorded = isOn;
  announceState(isOn ? "This call is recorded." : "This call is not recorded any more.");
  showClock();
}

function showInfo() {
  const server = byId("server", HTMLElement);
  const isReady = info?.ready !== false;
  server.dataset.state = !info ? "down" : isReady ? "ready" : "loading";
  let text = "Server does not answer";
  if (info) text = isReady ? (info.model ?? info.backend) : "Loading the models…";
  byId("server-text").textContent = text;
  if (info) byId("about").textContent = info.description || (info.backend === "cascade" ? DEMO_NOTE : "");
}

async function refreshInfo() {
  const before = info;
  info = await fetchInfo();
  if (!info) shell.doubt();
  else if (!before && wasAsked) shell.check(); // back again, maybe with another page
  wasAsked = true;
  showInfo();
  show();
}

shell.addEventListener("replaced", () => {
  isOutdated = true;
  takeNewPage();
});

/** The server has another page: take it at once, unless that would take captions, a call or a text away. */
function takeNewPage() {
  if (!isOutdated || flow.isBusy) return;
  if (!hasTalked && !composerText.value) return location.reload();
  const text = "The server was updated while this page was open.";
  const reload = { label: "Load the new page", act: () => location.reload() };
  notice.show({ title: "There is a newer page", text, steps: [], tone: "calm" }, [reload]);
}

async function watchServer() {
  await refreshInfo();
  const isSettled = info !== null && info.ready !== false;
  setTimeout(watchServer, 1_000 * (isSettled ? INFO_SECONDS.settled : INFO_SECONDS.unsettled));
}

// --- the page

byId("call").addEventListener("click", () => (flow.isBusy ? flow.hangUp() : start()));
byId("mute").addEventListener("click", toggleMute);
byId("interrupt").addEventListener("click", interrupt);
setUpKeys({
  start,
  hangUp: () => flow.isBusy && flow.hangUp(),
  mute: toggleMute,
  interrupt,
  type: () => composerText.focus(),
});
setUpTheme(() => waveform.readColours());
addEventListener("pagehide", (event) => !event.persisted && flow.unload()); // a page that is kept may come back
watchWaking((asleepMs) => {
  flow.wake(asleepMs);
  care.recover();
  refreshInfo();
  if (asleepMs > LONG_SLEEP_MS) shell.check();
});
addEventListener("offline", show);
setInterval(showClock, 1_000);
show();
microphone.refresh();
await watchServer();
try {
  checkSurroundings(); // say it before the caller presses the button in vain
} catch (error) {
  if (!(error instanceof CallFailure)) throw error;
  fail(error);
}
