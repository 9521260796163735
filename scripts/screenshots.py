"""Pictures of the page in every state, on a phone and on a desk, light and dark: screenshots.py OUT_DIR [--only NAME].

    .venv/bin/python scripts/screenshots.py /tmp/pictures
    .venv/bin/python scripts/screenshots.py --real docs/images
    .venv/bin/python scripts/screenshots.py --status docs/images

The call in them is scripted (tests/browser/scripted_call.js), so that each state stands still for its picture; its
words and times are made up. With --real they show a real call with the embedded models, with --status the status page
while two such calls go on: those in the documents.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, the helpers of the tests are not found otherwise

from playwright.sync_api import Browser, Page, Route  # noqa: E402

from tests.browser.chromium import (  # noqa: E402
    INSECURE_HOST,
    SPEECH,
    allow_microphone,
    chromium,
    use_scripted_call,
    write_microphone,
)
from tests.support.server_process import server_process  # noqa: E402

SIZES = {"desktop": (1280, 800), "phone": (390, 844), "small": (360, 640)}
TOUCHED = {"phone", "small"}
SETTLE_MS = 500  # transitions
QUESTION = SPEECH / "f2_rms.wav"  # "Tell me a fun fact about cats."
QUESTION_SECONDS = 2.4
LEAD_SECONDS = 0.3
REAL_QUESTIONS = [SPEECH / "f1_rms.wav", SPEECH / "f0_slt.wav", SPEECH / "f2_rms.wav"]
REAL_PAUSE_SECONDS = 6.0  # the replies are shorter
STATUS_TURNS = 24  # of two callers: three minutes

DESCRIPTION = "Small embedded demo models: they chat, and they often get facts wrong."


@dataclass(frozen=True, slots=True)
class Picture:
    """One state: its name, and how the page gets there."""

    name: str
    reach: Callable[[Page], None]
    is_dark_too: bool = False
    is_insecure: bool = False


def script(page: Page, *events: dict[str, object], sound: bool | None = None) -> None:
    """Let the scripted server speak."""
    page.evaluate("events => window.scripted.call.say(events)", list(events))
    if sound is not None:
        page.evaluate("isOn => window.scripted.call.sound(isOn)", sound)


def press_call(page: Page) -> None:
    page.click("#call")


def live(page: Page) -> None:
    press_call(page)
    page.wait_for_selector("body[data-phase=live]")


def heard(item: str) -> dict[str, object]:
    return {"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": 0}


def user_says(number: int, text: str) -> list[dict[str, object]]:
    item = f"item_u{number}"
    return [
        heard(item),
        {"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": 0},
        {"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "transcript": text},
    ]


def reply_begins(number: int, text: str) -> list[dict[str, object]]:
    response, item = f"resp_{number}", f"item_r{number}"
    return [
        {"type": "response.created", "response": {"id": response}},
        {"type": "response.output_item.added", "response_id": response, "item": {"id": item}},
        {"type": "output_audio_buffer.started", "response_id": response},
        {"type": "response.output_audio_transcript.delta", "item_id": item, "delta": text},
    ]


def reply_ends(number: int, text: str) -> list[dict[str, object]]:
    response, item = f"resp_{number}", f"item_r{number}"
    return [
        {"type": "response.output_audio_transcript.done", "item_id": item, "transcript": text},
        {"type": "response.done", "response": {"id": response, "status": "completed"}},
        {"type": "output_audio_buffer.stopped", "response_id": response},
    ]


def metrics(total_ms: float, endpoint_ms: float = 400.0) -> dict[str, object]:
    """A turn that was answered ahead: recognition and first words run inside the wait for the end of the turn."""
    spread = total_ms - 80.0
    stages = {
        "jitter_buffer": (-80.0, 0.0),
        "endpoint": (0.0, endpoint_ms),
        "queue": (120.0, 121.5),
        "recognition": (121.5, 225.0),
        "first_text": (225.0, 330.0),
        "first_audio": (330.0, spread - 15.0),
        "playout": (spread - 15.0, spread),
    }
    return {
        "type": "rtc_server.turn.metrics",
        "response_latency_ms": total_ms,
        "speculated": True,
        "stages": {name: {"start_ms": start, "end_ms": end} for name, (start, end) in stages.items()},
    }


def talk(page: Page) -> None:
    """Two turns are over; the fake microphone asks the third question from now on."""
    first = "Hello! I'm doing well, thank you. How can I help you today?"
    second = "The capital of France is Paris."
    prelude = [*user_says(1, "Hello, how are you today?"), *reply_begins(1, first), metrics(642.0)]
    prelude += [*reply_ends(1, first), *user_says(2, "What is the capital of France?")]
    prelude += [*reply_begins(2, second), metrics(611.0), *reply_ends(2, second)]
    page.evaluate("events => { window.scripted.prelude = events }", prelude)
    live(page)


def hearing(page: Page) -> None:
    talk(page)
    script(page, heard("item_u3"))
    page.wait_for_timeout(int(1_000 * (LEAD_SECONDS + 0.6 * QUESTION_SECONDS)))


def thinking(page: Page) -> None:
    talk(page)
    script(page, heard("item_u3"))
    page.wait_for_timeout(int(1_000 * (LEAD_SECONDS + QUESTION_SECONDS)))
    script(page, *user_says(3, "Tell me a fun fact about cats.")[1:])


def speaking(page: Page) -> None:
    thinking(page)
    page.wait_for_timeout(587)
    script(page, *reply_begins(3, "Here's one: cats sleep for about two thirds of"), metrics(587.0), sound=True)
    page.wait_for_timeout(2_400)


def interrupted(page: Page) -> None:
    speaking(page)
    page.keyboard.press("Escape")
    script(
        page,
        {"type": "output_audio_buffer.cleared", "response_id": "resp_3"},
        {"type": "response.done", "response": {"id": "resp_3", "status": "cancelled"}},
        {"type": "conversation.item.truncated", "item_id": "item_r3", "content_index": 0, "audio_end_ms": 2340},
        {
            "type": "conversation.item.retrieved",
            "item": {"id": "item_r3", "content": [{"transcript": "Here's one: cats sleep for"}]},
        },
        sound=False,
    )
    page.wait_for_timeout(700)


def muted(page: Page) -> None:
    talk(page)
    page.click("#mute")


def connecting(page: Page) -> None:
    page.evaluate("() => { window.scripted.holds = true }")
    press_call(page)
    page.wait_for_selector("body[data-phase=connecting]")


def ended(page: Page) -> None:
    talk(page)
    page.evaluate("() => window.scripted.call.end('ended-by-server')")


def full_again(page: Page) -> None:
    """The second call of the page finds all lines busy."""
    talk(page)
    page.click("#call")
    failing("server-full")(page)


def lost(page: Page) -> None:
    talk(page)
    page.evaluate("() => window.scripted.call.lose()")


def keys(page: Page) -> None:
    page.keyboard.press("?")


def failing(kind: str) -> Callable[[Page], None]:
    """The call fails while it is set up."""

    def reach(page: Page) -> None:
        page.evaluate("kind => { window.scripted.failure = kind }", kind)
        press_call(page)
        page.wait_for_selector("#notice:not([hidden])")

    return reach


def denied(page: Page) -> None:
    page.evaluate("""() => { navigator.mediaDevices.getUserMedia = async () => {
        throw new DOMException("Permission denied", "NotAllowedError"); } }""")
    press_call(page)
    page.wait_for_selector("#notice:not([hidden])")


def nothing(page: Page) -> None:
    page.wait_for_selector("#server[data-state=ready]")


def away(page: Page) -> None:
    """The server is gone while the page is open."""
    page.route("**/v1/info", lambda route: route.abort())
    page.evaluate("() => dispatchEvent(new Event('online'))")  # look again at once
    page.wait_for_selector("body[data-away]")


def interrupted_by_telephone(page: Page) -> None:
    """Something else takes the microphone in the middle of a call."""
    page.evaluate("""() => {
      const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (wanted) => (window.microphone = await open(wanted));
    }""")
    talk(page)
    page.evaluate("() => window.microphone.getAudioTracks()[0].dispatchEvent(new Event('mute'))")


PICTURES = (
    Picture("idle", nothing, is_dark_too=True),
    Picture("away", away, is_dark_too=True),
    Picture("telephone", interrupted_by_telephone),
    Picture("connecting", connecting),
    Picture("listening", talk),
    Picture("hearing", hearing),
    Picture("thinking", thinking),
    Picture("speaking", speaking, is_dark_too=True),
    Picture("interrupted", interrupted, is_dark_too=True),
    Picture("muted", muted),
    Picture("ended", ended),
    Picture("lost", lost),
    Picture("keys", keys, is_dark_too=True),
    Picture("error-full", failing("server-full"), is_dark_too=True),
    Picture("error-full-again", full_again),
    Picture("error-loading", failing("not-ready")),
    Picture("error-denied", denied, is_dark_too=True),
    Picture("error-no-microphone", failing("no-microphone")),
    Picture("error-unreachable", failing("unreachable")),
    Picture("error-ice", failing("ice-failed")),
    Picture("error-insecure", lambda page: page.wait_for_timeout(500), is_insecure=True),
)


def fulfil_info(route: Route) -> None:
    """`/v1/info` of a server with the embedded models and TLS."""
    body = {"backend": "cascade", "model": "cascade-demo", "description": DESCRIPTION, "ready": True}
    route.fulfill(json={**body, "calls": 0, "max_calls": 10, "https_port": 8443, "voices": []})


def take(browser: Browser, url: str, picture: Picture, size: str, scheme: str, out: Path) -> None:
    """One picture into `out`/NAME-SIZE[-dark].png."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=1,
        has_touch=size in TOUCHED,
        is_mobile=size in TOUCHED,
    )
    page = context.new_page()
    page.on(
        "console",
        lambda message: print(f"  console {message.type}: {message.text}") if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: print(f"  page error: {error}"))
    use_scripted_call(page)
    page.route("**/v1/info", fulfil_info)
    if picture.is_insecure:
        url = url.replace("127.0.0.1", INSECURE_HOST)
    else:
        allow_microphone(page, url)
    page.goto(url)
    picture.reach(page)
    page.wait_for_timeout(SETTLE_MS)
    suffix = "-dark" if scheme == "dark" else ""
    page.screenshot(path=out / f"{picture.name}-{size}{suffix}.png")
    context.close()


def take_real(browser: Browser, url: str, size: str, scheme: str, out: Path) -> None:
    """The last of several spoken turns, a second into its reply: `out`/speaking-SIZE.png."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=size in TOUCHED,
        is_mobile=size in TOUCHED,
    )
    page = context.new_page()
    allow_microphone(page, url)
    page.goto(url)
    live(page)
    page.locator("#latency-count", has_text=f"{len(REAL_QUESTIONS)} turns").wait_for(timeout=60_000)
    page.wait_for_timeout(1_200)
    page.screenshot(path=out / f"speaking-{size}.png")
    press_call(page)
    context.close()


def take_status(browser: Browser, url: str, out: Path) -> None:
    """The status page while two callers talk: `out`/status-desktop.png and -phone.png."""
    callers = [browser.new_page() for _ in range(2)]
    for page in callers:
        allow_microphone(page, url)
        page.goto(url)
        live(page)
    for size, scheme in (("desktop", "light"), ("phone", "dark")):
        width, height = SIZES[size]
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
        )
        page.goto(f"{url}/status")
        page.wait_for_function(
            "turns => document.querySelectorAll('#turns-table tbody tr').length >= turns",
            arg=STATUS_TURNS,
            timeout=300_000,
        )
        page.wait_for_selector(".state[data-colour=reply]", timeout=60_000)
        page.screenshot(path=out / f"status-{size}.png", full_page=True)
        page.close()
    for page in callers:
        press_call(page)
        page.wait_for_selector("body[data-phase=idle]")
        page.close()


def take_all_status(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, server_process("cascade", {"server.media_workers": 2}) as server:
        microphone = Path(folder) / "microphone.wav"
        write_microphone(microphone, REAL_QUESTIONS, lead_seconds=1.0, pause_seconds=REAL_PAUSE_SECONDS)
        with chromium(microphone, repeats=True) as browser:
            take_status(browser, server.url, out)


def take_all_real(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, server_process("cascade") as server:
        microphone = Path(folder) / "microphone.wav"
        write_microphone(microphone, REAL_QUESTIONS, lead_seconds=1.0, pause_seconds=REAL_PAUSE_SECONDS)
        with chromium(microphone) as browser:
            take_real(browser, server.url, "desktop", "light", out)
            take_real(browser, server.url, "phone", "dark", out)


def take_all_scripted(out: Path, only: list[str] | None) -> None:
    with tempfile.TemporaryDirectory() as folder, server_process("echo", {"turns.vad": "webrtcvad"}) as server:
        microphone = Path(folder) / "microphone.wav"
        write_microphone(microphone, [QUESTION], LEAD_SECONDS, pause_seconds=60.0)
        with chromium(microphone) as browser:
            for picture in PICTURES:
                if only and picture.name not in only:
                    continue
                for scheme in ("light", "dark") if picture.is_dark_too else ("light",):
                    for size in SIZES:
                        print(f"{picture.name} {size} {scheme}", flush=True)
                        take(browser, server.url, picture, size, scheme, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--only", action="append", help="a state's name; may be repeated")
    parser.add_argument("--real", action="store_true", help="a real call with the embedded models")
    parser.add_argument("--status", action="store_true", help="the status page while two real calls go on")
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    if arguments.real:
        take_all_real(arguments.out_dir)
    elif arguments.status:
        take_all_status(arguments.out_dir)
    else:
        take_all_scripted(arguments.out_dir, arguments.only)


if __name__ == "__main__":
    main()
