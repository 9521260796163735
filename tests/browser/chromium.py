"""A headless Chromium with a fake microphone, for the browser tests and for the screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, Page, Route, sync_playwright

from rtc_server.client.recording import SAMPLE_RATE, load_recording, save_replies

SPEECH = Path(__file__).resolve().parent.parent / "data" / "speech"
LEAD_SECONDS = 1.0  # the call is up before the first word
INSECURE_HOST = "server.lan"
"""Leads to this machine, under a name to which browsers give no microphone without https."""

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def write_microphone(path: Path, recordings: Sequence[Path], lead_seconds: float, pause_seconds: float) -> None:
    """What the fake microphone hears: silence, then each recording followed by a pause. 48 kHz mono WAV."""
    pieces = [np.zeros(int(lead_seconds * SAMPLE_RATE), np.int16)]
    for recording in recordings:
        pieces += [load_recording(recording).pcm, np.zeros(int(pause_seconds * SAMPLE_RATE), np.int16)]
    save_replies(path, [np.concatenate(pieces)], SAMPLE_RATE)


@contextmanager
def chromium(
    microphone: Path, *, repeats: bool = False, flags: Sequence[str] = FLAGS, home: Path | None = None
) -> Iterator[Browser]:
    """The browser; its microphone hears the WAV file, once or again and again. `home`: whose certificates it trusts.

    Raises RuntimeError when Chromium is not installed."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        raise RuntimeError("Chromium is not installed: apt-get install -y chromium, or set RTC_SERVER_SKIP_BROWSER=1.")
    capture = f"--use-file-for-fake-audio-capture={microphone}{'' if repeats else '%noloop'}"
    with sync_playwright() as playwright:
        environment = None if home is None else {**os.environ, "HOME": str(home)}
        browser = playwright.chromium.launch(executable_path=executable, args=[*flags, capture], env=environment)
        try:
            yield browser
        finally:
            browser.close()


def allow_microphone(page: Page, url: str) -> None:
    """Answer the browser's question about the microphone beforehand."""
    parts = urlsplit(url)
    page.context.grant_permissions(["microphone"], origin=f"{parts.scheme}://{parts.netloc}")


def use_scripted_call(page: Page) -> None:
    """Let the page make its call with scripted_call.js; `window.scripted` steers it."""
    script = Path(__file__).with_name("scripted_call.js").read_text(encoding="utf-8")

    def fulfil(route: Route) -> None:
        route.fulfill(body=script, content_type="text/javascript")

    page.route("**/static/js/call.js", fulfil)
