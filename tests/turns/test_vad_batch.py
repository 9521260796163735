"""Frames of many calls through Silero in one run: the same answers, later, and nobody waits for nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.events import TurnEvent
from rtc_server.turns.vad import EnergyVoiceDetector
from rtc_server.turns.vad_gated import WARM_FRAMES, GatedVoiceDetector
from rtc_server.turns.vad_silero import FIRST_ROWS, FRAME_SAMPLES, SileroBatch
from tests.support.recordings import RECORDINGS, recording, silence, silero_path

SAME = 1e-4  # float32, in another order of summation


class Tick:
    """Stands for the media timer."""

    def __init__(self) -> None:
        self.flushes: list[Callable[[], None]] = []

    def __call__(self, flush: Callable[[], None]) -> None:
        self.flushes.append(flush)

    def pass_by(self) -> None:
        flushes, self.flushes = self.flushes, []
        for flush in flushes:
            flush()


class Listener:
    """One call: shows its recording frame by frame, and notes the answers."""

    def __init__(self, batch: SileroBatch, pcm: Pcm16) -> None:
        self.pcm = pcm
        self.answers: list[float] = []
        self.errors: list[Exception] = []
        self.stream = batch.stream(self.ask)

    def ask(self) -> None:
        at = len(self.answers) * FRAME_SAMPLES
        try:
            answer = self.stream.probability(self.pcm[at : at + FRAME_SAMPLES])
        except RuntimeError as error:
            self.errors.append(error)
            return
        if answer is not None:
            self.answers.append(answer)


def frames(pcm: Pcm16) -> list[Pcm16]:
    return [pcm[at : at + FRAME_SAMPLES] for at in range(0, len(pcm) - FRAME_SAMPLES + 1, FRAME_SAMPLES)]


def alone(pcm: Pcm16) -> list[float]:
    stream = SileroBatch(silero_path()).stream()
    return [answer for frame in frames(pcm) if (answer := stream.probability(frame)) is not None]


def test_calls_that_come_and_go_get_the_answers_they_would_get_alone() -> None:
    rng = random.Random(3)
    tick = Tick()
    batch = SileroBatch(silero_path(), tick, max_inline_streams=2)
    live: list[Listener] = []
    done: list[Listener] = []
    sizes = []
    for _ in range(400):
        if rng.random() < 0.2:
            live.append(Listener(batch, recording(rng.choice(RECORDINGS))[rng.randrange(5_000) :]))
        for call in rng.sample(live, len(live) * 2 // 3):
            call.ask()
        sizes.append(len(batch._waiting))
        tick.pass_by()
        for call in [c for c in live if rng.random() < 0.01 or (len(c.answers) + 1) * FRAME_SAMPLES > len(c.pcm)]:
            live.remove(call)
            call.stream.close()
            done.append(call)
    assert max(sizes) > FIRST_ROWS, "more calls at once than there were rows at first"
    assert len(done) > 20
    for call in done:
        assert call.answers == pytest.approx(alone(call.pcm)[: len(call.answers)], abs=SAME)
    assert batch.num_streams == len(live)


def test_few_calls_do_not_wait() -> None:
    tick = Tick()
    batch = SileroBatch(silero_path(), tick, max_inline_streams=2)
    streams = [batch.stream() for _ in range(3)]
    frame = recording("f0_rms")[:FRAME_SAMPLES]
    assert [stream.probability(frame) for stream in streams] == [None, None, None]
    assert len(tick.flushes) == 1, "one flush for all that wait"
    tick.pass_by()
    streams[0].close()
    assert [stream.probability(frame) is not None for stream in streams[1:]] == [True, True], "what was asked"
    assert [stream.probability(frame) is not None for stream in streams[1:]] == [True, True], "and the next, at once"
    assert tick.flushes == []


def test_a_reset_takes_a_waiting_frame_back() -> None:
    tick = Tick()
    batch = SileroBatch(silero_path(), tick, max_inline_streams=0)
    pcm = recording("f1_rms")[:32_000]
    call = Listener(batch, pcm)
    while len(call.answers) < 20:
        call.ask()
        tick.pass_by()
    call.ask()
    call.stream.reset()
    call.answers.clear()
    tick.pass_by()
    assert call.answers == []
    while len(call.answers) < 20:
        call.ask()
        tick.pass_by()
    assert call.answers == pytest.approx(alone(pcm)[:20], abs=SAME)


def test_a_closed_stream_is_not_told_and_its_last_packets_are_silence() -> None:
    tick = Tick()
    batch = SileroBatch(silero_path(), tick, max_inline_streams=0)
    call = Listener(batch, recording("f0_rms"))
    call.ask()
    call.stream.close()
    call.stream.close()
    tick.pass_by()
    assert call.answers == []
    call.ask()
    assert call.answers == [0.0]
    call.stream.reset()
    assert batch.num_streams == 0


def test_a_failure_of_the_model_ends_the_calls_that_met_it_and_no_later_one() -> None:
    tick = Tick()
    batch = SileroBatch(silero_path(), tick, max_inline_streams=0)
    calls = [Listener(batch, recording("f0_rms")) for _ in range(3)]
    working = batch._session

    class Broken:
        def run(self, outputs: object, inputs: object) -> None:
            raise RuntimeError("out of memory")

    batch._session = Broken()
    for call in calls:
        call.ask()
    tick.pass_by()
    assert [len(call.errors) for call in calls] == [1, 1, 1]
    batch._session = working
    fresh = Listener(batch, recording("f0_rms"))
    fresh.ask()
    tick.pass_by()
    assert len(fresh.answers) == 1


class LateDetector(EnergyVoiceDetector):
    """Answers a frame when it is asked for the second time."""

    def __init__(self) -> None:
        super().__init__(frame_samples=FRAME_SAMPLES)
        self.waits_for: Pcm16 | None = None

    def probability(self, frame: Pcm16) -> float | None:  # type: ignore[override]
        if self.waits_for is None:
            self.waits_for = frame.copy()
            return None
        assert np.array_equal(frame, self.waits_for), "the same frame, until it is answered"
        self.waits_for = None
        return super().probability(frame)

    def reset(self) -> None:
        self.waits_for = None


@pytest.mark.parametrize("seed", range(20))
def test_turns_do_not_depend_on_when_the_answers_come(seed: int) -> None:
    rng = random.Random(seed)
    voice = np.full(16 * 700, 8_000, np.int16)
    pcm = np.concatenate([silence(500), voice, silence(200), voice, silence(900), voice, silence(600)])
    prompt = TurnDetector(EnergyVoiceDetector(frame_samples=FRAME_SAMPLES), TurnDetectorConfig())
    late = TurnDetector(LateDetector(), TurnDetectorConfig())
    expected: list[TurnEvent] = []
    found: list[TurnEvent] = []
    audio: dict[str, list[Pcm16]] = {"prompt": [], "late": []}
    for at in range(0, len(pcm), 320):
        for event in prompt.receive_audio(pcm[at : at + 320]):
            expected.append(event)
            audio["prompt"].append(prompt.utterance())
        for event in late.receive_audio(pcm[at : at + 320]):
            found.append(event)
            audio["late"].append(late.utterance())
        for _ in range(rng.randrange(4)):
            for event in late.judge():
                found.append(event)
                audio["late"].append(late.utterance())
    for _ in range(400):
        for event in late.judge():
            found.append(event)
            audio["late"].append(late.utterance())
    assert found == expected
    assert len(found) > 6
    for one, other in zip(audio["late"], audio["prompt"], strict=True):
        assert np.array_equal(one, other)


def test_the_gate_shows_a_late_detector_every_frame_once_and_in_order() -> None:
    shown: list[int] = []

    class Main(LateDetector):
        def probability(self, frame: Pcm16) -> float | None:  # type: ignore[override]
            answer = super().probability(frame)
            if answer is not None:
                shown.append(int(frame[-1]))
            return answer

    gated = GatedVoiceDetector(EnergyVoiceDetector(), Main())
    for i in range(50):
        assert gated.probability(np.full(FRAME_SAMPLES, i, np.int16)) == 0.0
    frame = np.full(FRAME_SAMPLES, 9_000, np.int16)
    asked = 0
    while gated.probability(frame) is None:
        asked += 1
        assert asked < 10
    assert shown == [*range(50 - WARM_FRAMES, 50), 9_000]
