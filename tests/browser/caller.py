"""Someone in front of the page: presses, types, listens and reads. The vocabulary of the browser tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import allow_microphone

CONNECT_MS = 15_000
REPLY_MS = 30_000  # the embedded models on a busy machine
AUDIBLE_RMS = 0.004  # -48 dBFS; the codec's comfort noise stays far below
QUIET_MS = 400  # a pause between two words is shorter

# Keeps the microphone's tracks where a test finds them, before the page's own scripts run.
RECORD_TRACKS = """
window.micTracks = [];
if (navigator.mediaDevices) {
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    const stream = await original(constraints);
    window.micTracks.push(...stream.getAudioTracks());
    window.micConstraints = constraints;
    return stream;
  };
}
"""

# A microphone in a silent room, for those who only type: the fake one would ask its question into the conversation.
SILENT_MICROPHONE = """
() => {
  const room = new AudioContext().createMediaStreamDestination();
  navigator.mediaDevices.getUserMedia = async () => room.stream.clone();
}
"""

# Measures what the loudspeaker gets: `heard.loudest` and `heard.audibleAt` (performance.now() of the last sound).
LISTEN = """
async (audible) => {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 2048 });
  const mediaStream = document.getElementById("remote").srcObject;
  new MediaStreamAudioSourceNode(context, { mediaStream }).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  window.heard = { loudest: 0, audibleAt: -Infinity };
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const rms = Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
    window.heard.loudest = Math.max(window.heard.loudest, rms);
    if (rms > audible) window.heard.audibleAt = performance.now();
  }, 20);
}
"""


class Caller:
    """One page and the person in front of it. `problems` collects what the console and the network complain about."""

    def __init__(self, page: Page, url: str, *, allows_microphone: bool = True) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("console", lambda message: self._on_console(message.type, message.text))
        page.on("request", lambda request: self._on_request(request.url))
        page.add_init_script(RECORD_TRACKS)
        if allows_microphone:
            allow_microphone(page, url)

    def _on_console(self, kind: str, text: str) -> None:
        # A refused request is written to the console by the browser itself; the page explains it to the caller.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.problems.append(f"console {kind}: {text}")

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"request to {url}")

    @property
    def phase(self) -> str | None:
        return self.page.locator("body").get_attribute("data-phase")

    def opens_the_page(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator("#server")).to_have_attribute("data-state", "ready")

    def says_nothing(self) -> None:
        """From the next call on, only typing reaches the server."""
        self.page.evaluate(SILENT_MICROPHONE)

    def calls(self) -> None:
        """Press the button and wait until the call is up; listens from now on."""
        self.page.get_by_role("button", name="Start call").click()
        self.is_live()

    def is_live(self) -> None:
        self.page.wait_for_selector("body[data-phase=live]", timeout=CONNECT_MS)
        self.page.evaluate(LISTEN, AUDIBLE_RMS)

    def hangs_up(self) -> None:
        self.page.get_by_role("button", name="Hang up").click()
        self.page.wait_for_selector("body[data-phase=idle]")

    def types(self, text: str) -> None:
        field = self.page.get_by_role("textbox", name="Type a message instead of speaking")
        field.fill(text)
        field.press("Enter")

    def hears_sound(self) -> None:
        """Wait until sound comes out that is not older than this call."""
        self._wait("since => window.heard.audibleAt > since", self.now())

    def hears_silence(self) -> None:
        """Wait until nothing has come out for a while."""
        self._wait("quiet => performance.now() - window.heard.audibleAt > quiet", QUIET_MS)

    def sees_turn(self, turn: str) -> None:
        self.page.wait_for_selector(f"body[data-turn={turn}]", timeout=REPLY_MS)

    def sees_failure(self, title: str) -> Locator:
        """The notice with that title, which was also given to screen readers."""
        notice = self.page.get_by_role("region", name=title)
        expect(notice).to_be_visible(timeout=CONNECT_MS)
        spoken = self.page.locator("#announce-alert, #announce-state").filter(has_text=title)
        expect(spoken).to_have_count(1)
        return notice

    def said(self) -> Locator:
        """Captions of the caller."""
        return self.page.locator(".caption--you .caption__text")

    def replies(self) -> Locator:
        """Captions of the server."""
        return self.page.locator(".caption--reply")

    def now(self) -> float:
        """The page's clock in ms."""
        return float(self.page.evaluate("() => performance.now()"))

    def tracks(self) -> list[dict[str, Any]]:
        """The microphone tracks that the page has opened."""
        script = "() => window.micTracks.map(({ enabled, readyState }) => ({ enabled, readyState }))"
        tracks: list[dict[str, Any]] = self.page.evaluate(script)
        return tracks

    def _wait(self, condition: str, argument: float) -> None:
        self.page.wait_for_function(condition, arg=argument, timeout=REPLY_MS, polling=20)


@contextmanager
def in_a_call(browser: Browser, url: str) -> Iterator[Caller]:
    """Somebody who is in a call and only types; his page goes at the end, whatever happened."""
    context = browser.new_context()
    try:
        caller = Caller(context.new_page(), url)
        caller.opens_the_page()
        caller.says_nothing()
        caller.calls()
        yield caller
    finally:
        context.close()
