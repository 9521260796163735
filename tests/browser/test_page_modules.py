"""The page's modules without a call: what events mean, how time is drawn to scale, and what each failure says.

They run in Chromium, on a made-up https origin that serves `web/` with the server's own security headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

from rtc_server.app.middleware import SECURITY_HEADERS

ORIGIN = "https://page.test"
WEB = Path(__file__).resolve().parents[2] / "web"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}

Run = Callable[..., Any]

# Vocabulary of the scripts below: `say` feeds events, `turns` are the turns seen, `captions` what is on the page.
CONVERSATION = """
    const { Conversation } = await import("/static/js/events.js");
    const talk = new Conversation();
    const turns = [], problems = [], finished = [], answers = [];
    talk.addEventListener("turn", () => turns.push(talk.turn));
    talk.addEventListener("problem", (event) => problems.push(event.detail));
    talk.addEventListener("finished", (event) => finished.push(event.detail.text));
    const say = (type, fields = {}) => answers.push(...talk.receive({ type, event_id: "event_1", ...fields }));
    const shown = ({ who, text, state, heardMs }) => ({ who, text, state, heardMs });
    const captions = () => [...talk.captions.values()].map(shown);
    const transcript = (item_id, text) =>
      say("conversation.item.input_audio_transcription.completed", { item_id, content_index: 0, transcript: text });
    const ask = (item_id, text) => {
      say("input_audio_buffer.speech_started", { item_id });
      say("input_audio_buffer.speech_stopped", { item_id });
      transcript(item_id, text);
    };
    const begin = (id) => {
      say("response.created", { response: { id, status: "in_progress" } });
      say("response.output_item.added", { response_id: id, item: { id: `item_${id}`, role: "assistant" } });
    };
    const word = (id, delta) => say("response.output_audio_transcript.delta", { item_id: `item_${id}`, delta });
    const sound = (id) => say("output_audio_buffer.started", { response_id: id });
    const done = (id, text, status = "completed") => {
      say("response.output_audio_transcript.done", { item_id: `item_${id}`, transcript: text });
      say("response.done", { response: { id, status, output: [] } });
    };
    const silence = (id) => say("output_audio_buffer.stopped", { response_id: id });
"""


FLOW = """
    const { CallFlow } = await import("/static/js/call-flow.js");
    const { Microphone } = await import("/static/js/devices.js");
    const microphone = new Microphone();
    const flow = new CallFlow(microphone);
    const phases = [], failures = [];
    flow.addEventListener("change", () => flow.phase !== phases.at(-1) && phases.push(flow.phase));
    flow.addEventListener("failure", (event) => failures.push(event.detail.kind));
    const refuse = (status, code) => () =>
      new Response(JSON.stringify({ error: { code, message: "No." } }), { status, headers: { "Retry-After": "30" } });
    const answers = [];
    window.fetch = async (url) => (url.endsWith("/calls") ? answers.shift()() : new Response("{}", { status: 200 }));
    const until = (phase) => new Promise((resolve) => {
      const look = () => flow.phase === phase && (flow.removeEventListener("change", look), resolve());
      flow.addEventListener("change", look);
      look();
    });
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page of the made-up origin that all tests of pure modules share."""
    with loaded_page(browser) as page:
        yield page


@pytest.fixture
def run(page: Page) -> Run:
    """Run the body of an async function in the page: `return` hands a value back, `value` is the argument."""
    return lambda body, value=None: page.evaluate(f"async (value) => {{ {body} }}", value)


@pytest.fixture
def flow(browser: Browser) -> Iterator[Run]:
    """As `run`, with the vocabulary of `FLOW`, in a page of its own whose network and microphone may be replaced."""
    with loaded_page(browser) as page:
        yield lambda body: page.evaluate(f"async () => {{ {FLOW} {body} }}")


@pytest.fixture
def conversation(run: Run) -> Run:
    """As `run`, with the vocabulary of `CONVERSATION`."""
    return lambda body, value=None: run(CONVERSATION + body, value)


@contextmanager
def loaded_page(browser: Browser) -> Iterator[Page]:
    """The made-up origin in a tab of its own; nothing of it reaches a network."""
    page = browser.new_page(permissions=["microphone"])
    page.route("**/*", serve)
    page.goto(f"{ORIGIN}/")
    try:
        yield page
    finally:
        page.close()


def serve(route: Route) -> None:
    path = urlsplit(route.request.url).path
    file = WEB / ("index.html" if path == "/" else path.removeprefix("/static/"))
    if not file.is_file():
        route.fulfill(status=404, body="")
        return
    route.fulfill(body=file.read_bytes(), headers={**SECURITY_HEADERS, "Content-Type": TYPES[file.suffix]})


# --- whose turn it is


def test_a_spoken_turn_is_heard_thought_about_and_answered(conversation: Run) -> None:
    turns = conversation("""
        ask("u1", "Hello"); begin("r1"); word("r1", "Hi"); sound("r1"); done("r1", "Hi."); silence("r1");
        return turns""")
    assert turns == ["hearing", "thinking", "speaking", "listening"]


def test_a_reply_counts_as_speaking_until_its_sound_has_ended(conversation: Run) -> None:
    assert (
        conversation('ask("u1", "Hello"); begin("r1"); sound("r1"); done("r1", "Hi."); return talk.turn') == "speaking"
    )


def test_a_noise_without_words_leaves_no_caption_and_no_waiting(conversation: Run) -> None:
    turn, captions = conversation('ask("u1", ""); return [talk.turn, captions()]')
    assert turn == "listening"
    assert captions == []


def test_a_reply_without_sound_ends_the_waiting(conversation: Run) -> None:
    turn = conversation("""
        ask("u1", "Hello");
        say("response.created", { response: { id: "r1" } });
        say("response.done", { response: { id: "r1", status: "completed" } });
        return talk.turn""")
    assert turn == "listening"


def test_talking_over_a_reply_is_hearing(conversation: Run) -> None:
    turn = conversation("""
        ask("u1", "Hello"); begin("r1"); sound("r1"); say("input_audio_buffer.speech_started", { item_id: "u2" });
        return talk.turn""")
    assert turn == "hearing"


def test_a_new_call_starts_with_nobody_speaking_and_keeps_what_was_said(conversation: Run) -> None:
    turn, can_interrupt, captions = conversation("""
        ask("u1", "Hello"); begin("r1"); word("r1", "Hi the"); sound("r1");
        say("input_audio_buffer.speech_started", { item_id: "u2" });
        talk.restart();
        return [talk.turn, talk.canInterrupt, captions()]""")
    assert (turn, can_interrupt) == ("listening", False)
    assert [(caption["text"], caption["state"]) for caption in captions] == [("Hello", "done"), ("Hi the", "done")]


def test_speech_that_nobody_answers_does_not_leave_the_page_thinking(conversation: Run) -> None:
    turn = conversation("""
        begin("r1"); sound("r1"); ask("u2", "And then?"); done("r1", "Hi."); silence("r1"); return talk.turn""")
    assert turn == "listening"


# --- captions


def test_captions_grow_word_by_word_and_end_with_the_whole_text(conversation: Run) -> None:
    growing, whole = conversation("""
        begin("r1"); word("r1", "The capital"); word("r1", " is");
        const growing = captions(); done("r1", "The capital is Paris."); return [growing, captions()]""")
    assert growing == [{"who": "reply", "text": "The capital is", "state": "streaming", "heardMs": None}]
    assert whole == [{"who": "reply", "text": "The capital is Paris.", "state": "done", "heardMs": None}]


def test_words_that_are_understood_together_are_one_caption(conversation: Run) -> None:
    captions = conversation("""
        for (const item_id of ["u1", "u2"]) {
          say("input_audio_buffer.speech_started", { item_id });
          say("input_audio_buffer.speech_stopped", { item_id });
        }
        transcript("u2", "What is the capital of France?");
        return captions()""")
    assert [caption["text"] for caption in captions] == ["What is the capital of France?"]


@pytest.mark.parametrize("is_generated", [True, False], ids=["after generation", "during generation"])
def test_a_cut_reply_shows_what_was_heard(conversation: Run, is_generated: bool) -> None:
    answers, captions = conversation(
        """
        begin("r1"); word("r1", "Cats sleep most of the day"); sound("r1");
        if (value) done("r1", "Cats sleep most of the day");
        say("output_audio_buffer.cleared", { response_id: "r1" });
        if (!value) done("r1", "Cats sleep most of the day", "cancelled");
        say("conversation.item.truncated", { item_id: "item_r1", content_index: 0, audio_end_ms: 740 });
        say("conversation.item.retrieved", { item: { id: "item_r1", content: [{ transcript: "Cats sleep" }] } });
        return [answers, captions()]""",
        is_generated,
    )
    assert answers == [{"type": "conversation.item.retrieve", "item_id": "item_r1"}]
    assert captions == [{"who": "reply", "text": "Cats sleep", "state": "done", "heardMs": 740}]


def test_a_reply_is_read_out_once_its_sound_has_ended(conversation: Run) -> None:
    before, after = conversation("""
        begin("r1"); sound("r1"); done("r1", "Hi.");
        const before = [...finished];
        silence("r1");
        return [before, finished]""")
    assert before == []
    assert after == ["Hi."]


def test_old_captions_leave_the_page(conversation: Run) -> None:
    num, last = conversation("""
        for (let i = 0; i < 250; i += 1) transcript(`u${i}`, `turn ${i}`);
        return [talk.captions.size, captions().at(-1).text]""")
    assert (num, last) == (200, "turn 249")


def test_captions_are_shown_as_text_whatever_they_contain(page: Page, run: Run) -> None:
    text = "<img src=x onerror=document.title='broken'> & <b>bold</b>"
    run(
        """const { CaptionList } = await import("/static/js/captions.js");
        new CaptionList().show({ id: "x", who: "reply", text: value, state: "done", isTyped: false, heardMs: null })""",
        text,
    )
    assert page.locator("#captions-list .caption__text").text_content() == text
    assert page.locator("#captions-list img").count() == 0


# --- what the page sends


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("", []),
        ('begin("r1")', ["response.cancel", "output_audio_buffer.clear"]),
        ('begin("r1"); sound("r1")', ["response.cancel", "output_audio_buffer.clear"]),
        ('begin("r1"); sound("r1"); done("r1", "Hi.")', ["output_audio_buffer.clear"]),
    ],
    ids=["silent", "thinking", "speaking", "playing out"],
)
def test_interrupting_sends_what_stops_the_reply_and_no_more(
    conversation: Run, state: str, expected: list[str]
) -> None:
    assert conversation(state + "; return talk.interruption().map((event) => event.type)") == expected


def test_typing_during_a_reply_interrupts_it_first(conversation: Run) -> None:
    events = conversation('begin("r1"); sound("r1"); return talk.typed("Wait")')
    kinds = [event["type"] for event in events]
    assert kinds == [
        "response.cancel",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "response.create",
    ]
    content = [{"type": "input_text", "text": "Wait"}]
    assert events[2]["item"] == {"type": "message", "role": "user", "content": content}


# --- a session that goes on after its call was lost

RESUMED = """
    const told = (id, role, kind, words) => {
      const content = [kind.endsWith("audio") ? { type: kind, transcript: words } : { type: kind, text: words }];
      say("conversation.item.added", { item: { id, type: "message", role, status: "completed", content } });
    };
    const resumed = (num_items) =>
      say("rtc_server.session.resumable", { resume_token: "rsm_1", keep_seconds: 90, resumed: true, num_items });
"""


def test_a_page_that_lost_everything_draws_the_conversation_again(conversation: Run) -> None:
    captions, finished, answers = conversation(
        RESUMED
        + """
        resumed(3);
        told("item_1", "user", "input_audio", "Where is it?");
        told("item_2", "assistant", "output_audio", "In Paris.");
        told("item_3", "user", "input_text", "Thanks.");
        return [captions(), finished, answers];
        """
    )
    assert [(c["who"], c["text"], c["state"]) for c in captions] == [
        ("you", "Where is it?", "done"),
        ("reply", "In Paris.", "done"),
        ("you", "Thanks.", "done"),
    ]
    assert finished == [], "nothing of it is read out again"
    assert answers == [{"type": "response.create"}], "nobody had answered"


def test_what_is_on_the_page_stays_and_takes_the_servers_words(conversation: Run) -> None:
    captions, answers = conversation(
        RESUMED
        + """
        ask("item_1", "Count."); begin("r"); word("r", "One two three"); talk.restart();
        resumed(2);
        told("item_1", "user", "input_audio", "Count.");
        told("item_r", "assistant", "output_audio", "One two");
        return [captions(), answers];
        """
    )
    assert [(c["text"], c["state"]) for c in captions] == [("Count.", "done"), ("One two", "done")]
    assert answers == []


def test_problems_are_told_unless_they_are_none(conversation: Run) -> None:
    problems = conversation("""
        say("error", { error: { code: "response_cancel_not_active", message: "No response is being generated." } });
        say("error", { error: { code: "invalid_value", message: "Too long." } });
        const status_details = { error: { message: "Engine lost." } };
        say("response.done", { response: { id: "r1", status: "failed", status_details } });
        say("something.unknown", {});
        return problems""")
    assert problems == ["Too long.", "Engine lost."]


# --- response time

METRICS = {
    "response_latency_ms": 600.0,
    "speculated": True,
    "stages": {
        "jitter_buffer": {"start_ms": -80.0, "end_ms": 0.0},
        "endpoint": {"start_ms": 0.0, "end_ms": 400.0},
        "recognition": {"start_ms": 120.0, "end_ms": 200.0},
        "playout": {"start_ms": 500.0, "end_ms": 520.0},
    },
}


def test_stages_are_ordered_and_absent_ones_left_out(run: Run) -> None:
    turn = run(
        'const { LatencyHistory } = await import("/static/js/latency.js"); return new LatencyHistory().add(value)',
        METRICS,
    )
    assert [stage["name"] for stage in turn["stages"]] == ["jitter_buffer", "endpoint", "recognition", "playout"]
    assert (turn["number"], turn["totalMs"], turn["isTyped"], turn["isSpeculated"]) == (1, 600, False, True)


def test_the_newest_turn_is_first_and_typed_turns_do_not_count_for_the_median(run: Run) -> None:
    numbers, median_ms = run(
        """const { LatencyHistory } = await import("/static/js/latency.js");
        const history = new LatencyHistory();
        for (const ms of [500, 900, 700, null]) history.add({ ...value, response_latency_ms: ms });
        return [history.turns.map((turn) => turn.number), history.medianMs]""",
        METRICS,
    )
    assert numbers == [4, 3, 2, 1]
    assert median_ms == 700


@pytest.mark.parametrize("event", [{}, {"stages": {}}, {"stages": {"endpoint": {"start_ms": "x"}}}, {"stages": None}])
def test_metrics_that_say_nothing_are_ignored(run: Run, event: dict[str, Any]) -> None:
    turn = run(
        'const { LatencyHistory } = await import("/static/js/latency.js"); return new LatencyHistory().add(value)',
        event,
    )
    assert turn is None


def test_the_time_axis_holds_every_stage_and_has_round_ticks(run: Run) -> None:
    scale, first, last = run(
        """const { LatencyHistory, timeScale } = await import("/static/js/latency.js");
        const scale = timeScale([new LatencyHistory().add(value)]);
        return [scale, scale.percent(-80), scale.percent(520)].map((x) => x.ticks ?? x)""",
        METRICS,
    )
    assert scale == [0, 200, 400]
    assert (first, last) == (0, 100)


@pytest.mark.parametrize(("values", "expected"), [([], None), ([3], 3), ([4, 1, 3, 2], 2.5)])
def test_median(run: Run, values: list[float], expected: float | None) -> None:
    assert run('return (await import("/static/js/latency.js")).median(value)', values) == expected


# --- failures

KINDS = (
    *("insecure-origin", "no-webrtc", "unreachable", "refused", "bad-answer", "ice-failed"),
    *("no-microphone", "microphone-busy", "microphone-lost", "microphone-interrupted", "microphone-failed"),
    *("permission-denied", "permission-dismissed", "permission-system"),
    *("server-full", "not-ready", "connection-lost", "ended-by-server", "time-limit"),
)
HERE = {"hostname": "192.0.2.7", "pathname": "/", "httpsPort": 8443}

EXPLAIN = """
    const { CallFailure, explain } = await import("/static/js/failures.js");
    return explain(new CallFailure(value.kind), value.here)"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_says_what_happened_and_what_to_do(run: Run, kind: str) -> None:
    message = run(EXPLAIN, {"kind": kind, "here": HERE})
    assert message["title"]
    assert message["text"]
    assert message["steps"] or message["tone"] in ("wait", "calm")


@pytest.mark.parametrize(("port", "address"), [(8443, "https://192.0.2.7:8443/"), (443, "https://192.0.2.7/")])
def test_an_insecure_address_names_the_secure_one(run: Run, port: int, address: str) -> None:
    message = run(EXPLAIN, {"kind": "insecure-origin", "here": HERE | {"httpsPort": port}})
    assert message["link"]["href"] == address


def test_an_insecure_address_without_a_secure_one_says_so(run: Run) -> None:
    message = run(EXPLAIN, {"kind": "insecure-origin", "here": HERE | {"httpsPort": None}})
    assert "link" not in message
    assert "https" in message["steps"][0]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("NotAllowedError", "Permission denied", "permission-denied"),
        ("NotAllowedError", "Permission dismissed", "permission-dismissed"),
        ("NotAllowedError", "Permission denied by system", "permission-system"),
        ("NotFoundError", "Requested device not found", "no-microphone"),
        ("NotReadableError", "Could not start audio source", "microphone-busy"),
        ("TypeError", "odd", "microphone-failed"),
    ],
)
def test_the_browsers_reasons_for_no_microphone_are_told_apart(run: Run, name: str, text: str, kind: str) -> None:
    found = run(
        """const { microphoneFailure } = await import("/static/js/devices.js");
        return microphoneFailure(new DOMException(value.text, value.name)).kind""",
        {"name": name, "text": text},
    )
    assert found == kind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "server_full", "server-full"),
        (503, "not_ready", "not-ready"),
        (400, "invalid_sdp", "refused"),
        (502, None, "unreachable"),
        (404, None, "refused"),
    ],
)
def test_the_servers_refusals_are_told_apart(run: Run, status: int, code: str | None, kind: str) -> None:
    failure = run(
        """const { refusal } = await import("/static/js/call.js");
        const body = value.code ? JSON.stringify({ error: { code: value.code, message: "The reason." } }) : "<html>";
        const reply = new Response(body, { status: value.status, headers: { "Retry-After": "7" } });
        const { kind, detail, retryAfter } = refusal(reply, body);
        return { kind, detail, retryAfter }""",
        {"status": status, "code": code},
    )
    assert failure["kind"] == kind
    if code:
        assert failure["detail"] == "The reason."
    if status == 503:
        assert failure["retryAfter"] == 7


@pytest.mark.parametrize("location", ["/v1/realtime/calls/rtc_1", "rtc_1", "https://other.test/x/rtc_1"])
def test_a_call_is_ended_where_it_was_made(run: Run, location: str) -> None:
    address = run(
        """const { callAddress } = await import("/static/js/call.js");
        return callAddress("https://page.test/voice/v1/realtime/calls", value)""",
        location,
    )
    assert address == "https://page.test/voice/v1/realtime/calls/rtc_1"


@pytest.mark.parametrize(("rms", "expected"), [(0, 0), (1e-4, 0), (0.6, 1), (1, 1)])
def test_loudness_stays_between_silent_and_loud(run: Run, rms: float, expected: float) -> None:
    assert run('return (await import("/static/js/audio.js")).loudness(value)', rms) == pytest.approx(expected)


# --- the way through a call


def test_hanging_up_while_the_browser_asks_closes_the_microphone_that_it_opens(flow: Run) -> None:
    phase, track = flow("""
        const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
        let allow;
        navigator.mediaDevices.getUserMedia = () => new Promise((resolve) => (allow = () => resolve(stream)));
        const started = flow.start();
        await until("asking");
        flow.hangUp();
        allow();
        await started;
        return [flow.phase, stream.getAudioTracks()[0].readyState]""")
    assert (phase, track) == ("idle", "ended")


def test_a_busy_server_is_tried_again_and_the_wait_can_be_cut_short(flow: Run) -> None:
    seconds, phases, failures = flow("""
        answers.push(refuse(503, "server_full"), refuse(400, "invalid_sdp"));
        const started = flow.start();
        await until("waiting");
        const { seconds } = flow.waiting;
        flow.tryNow();
        await started;
        return [seconds, phases, failures]""")
    assert seconds == 30
    assert phases == ["asking", "connecting", "waiting", "connecting", "idle"]
    assert failures == ["refused"]


def test_a_loading_server_is_called_as_soon_as_it_is_ready(flow: Run) -> None:
    phases = flow("""
        answers.push(refuse(503, "not_ready"), refuse(400, "invalid_sdp"));
        await flow.start();
        return phases""")
    assert phases == ["asking", "connecting", "waiting", "connecting", "idle"]


def test_waiting_ends_when_the_caller_hangs_up(flow: Run) -> None:
    phases, failures, stream = flow("""
        answers.push(refuse(503, "server_full"));
        const started = flow.start();
        await until("waiting");
        flow.hangUp();
        await started;
        return [phases, failures, microphone.stream]""")
    assert phases == ["asking", "connecting", "waiting", "idle"]
    assert failures == []
    assert stream is None


def test_a_call_that_was_cancelled_too_late_is_ended_on_the_server(flow: Run) -> None:
    deleted = flow("""
        const deleted = [];
        let answer;
        window.fetch = (url, { method } = {}) => {
          if (method === "DELETE") deleted.push(new URL(url).pathname);
          if (method !== "POST") return Promise.resolve(new Response("{}"));
          return new Promise((resolve) => (answer = resolve));
        };
        const started = flow.start();
        while (!answer) await new Promise((resolve) => setTimeout(resolve, 10));
        flow.hangUp();
        answer(new Response("v=0", { status: 201, headers: { Location: "/v1/realtime/calls/rtc_late" } }));
        await started;
        return deleted""")
    assert deleted == ["/v1/realtime/calls/rtc_late"]
