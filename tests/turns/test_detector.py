"""Turns, on scripted voice: every rule by itself, and no sample lost or doubled whatever the packets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import Pcm16
from rtc_server.turns.detector import TAIL_MS, TurnDetector, TurnDetectorConfig
from rtc_server.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnEvent,
    VoiceDropped,
    VoiceOnset,
)
from rtc_server.turns.vad import EnergyVoiceDetector
from tests.support.recordings import silence

MS = 16
VOICED = 8_000  # amplitude of scripted voice: above any level that occurs in scripted silence


def voice(ms: int) -> Pcm16:
    return np.full(ms * MS, VOICED, np.int16)


def script(*spans: int) -> Pcm16:
    """Milliseconds of silence, voice, silence, voice, ..."""
    return np.concatenate([voice(ms) if i % 2 else silence(ms) for i, ms in enumerate(spans)])


def numbered(pcm: Pcm16) -> Pcm16:
    """The same, but every sample tells where it was: low values in silence, high ones in voice."""
    return np.where(pcm == 0, np.arange(len(pcm)) % 50, VOICED + np.arange(len(pcm)) % 20_000).astype(np.int16)


def packets(pcm: Pcm16, sizes: Iterable[int]) -> list[Pcm16]:
    cuts = np.cumsum(list(sizes))
    return np.split(pcm, cuts[cuts < len(pcm)])


def detector(**config: int | float | bool) -> TurnDetector:
    return TurnDetector(EnergyVoiceDetector(), TurnDetectorConfig(**config))  # type: ignore[arg-type]


def heard(turns: TurnDetector, pcm: Pcm16, packet: int = 320) -> list[TurnEvent]:
    return [
        event for piece in packets(pcm, [packet] * (len(pcm) // packet + 1)) for event in turns.receive_audio(piece)
    ]


def kinds(events: Iterable[TurnEvent]) -> list[type]:
    return [type(event) for event in events]


def only(events: Iterable[TurnEvent], kind: type) -> TurnEvent:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


# --- one turn


def test_a_turn_from_onset_to_endpoint() -> None:
    events = heard(detector(), script(1_000, 600, 1_000))
    assert events == [
        VoiceOnset(1_000 * MS),
        SpeechStarted(700 * MS),
        SpeechPaused((1_600 + 120) * MS),
        SpeechStopped(700 * MS, 2_000 * MS, 1_600 * MS),
    ]


def test_the_first_voiced_frame_is_told_before_it_is_known_to_be_speech() -> None:
    turns = detector()
    assert kinds(heard(turns, script(1_000, 20))) == [VoiceOnset]
    assert kinds(heard(turns, voice(60))) == []
    assert kinds(heard(turns, voice(20))) == [SpeechStarted]


def test_a_cough_is_dropped_and_the_detector_is_ready_again() -> None:
    events = heard(detector(), script(500, 60, 500, 300, 500))
    assert kinds(events)[:2] == [VoiceOnset, VoiceDropped]
    assert kinds(events)[2:] == [VoiceOnset, SpeechStarted, SpeechPaused, SpeechStopped]


def test_a_pause_is_told_once_and_its_end_too() -> None:
    events = heard(detector(), script(300, 300, 300, 300, 600))
    assert kinds(events) == [
        VoiceOnset,
        SpeechStarted,
        SpeechPaused,
        SpeechResumed,
        SpeechPaused,
        SpeechStopped,
    ]


def test_without_speculation_pauses_are_not_told() -> None:
    assert SpeechPaused not in kinds(heard(detector(speculation_silence_ms=0), script(300, 300, 600)))


def test_hysteresis_speech_goes_on_below_the_threshold_that_began_it() -> None:
    class Scripted:
        frame_samples = 320
        probabilities = iter([0.45, 0.55, *[0.36] * 10, *[0.34] * 30])

        def probability(self, frame: Pcm16) -> float:
            return next(self.probabilities)

        def reset(self) -> None: ...

    events = heard(TurnDetector(Scripted(), TurnDetectorConfig(threshold=0.5)), silence(800))
    assert only(events, VoiceOnset) == VoiceOnset(320)
    assert isinstance(only(events, SpeechStopped), SpeechStopped)
    assert only(events, SpeechStopped).end_sample == (12 * 20 + 400) * MS  # type: ignore[attr-defined]


def test_voiced_time_counts_voice_and_not_the_pauses_in_it() -> None:
    turns = detector()
    heard(turns, script(300, 300, 200, 100))
    assert turns.voiced_ms == 400.0
    assert turns.is_speaking
    assert turns.last_voiced_sample == 900 * MS


# --- the audio of a turn


def test_pre_roll_is_kept_as_asked_and_clamped_to_what_exists() -> None:
    for quiet_ms, prefix_ms, start_ms in [(1_000, 300, 700), (1_000, 0, 1_000), (100, 300, 0)]:
        events = heard(detector(prefix_padding_ms=prefix_ms), script(quiet_ms, 400))
        assert only(events, SpeechStarted) == SpeechStarted(start_ms * MS)


def test_the_audio_of_a_turn_is_the_input_from_pre_roll_to_tail() -> None:
    pcm = numbered(script(1_000, 600, 1_000))
    turns = detector()
    assert heard(turns, pcm)
    assert np.array_equal(turns.utterance(), pcm[700 * MS : (1_600 + TAIL_MS) * MS])


def test_what_is_recognised_at_a_pause_is_what_is_answered_at_the_endpoint() -> None:
    turns, at_pause = detector(), None
    for event in turns.receive_audio(numbered(script(500, 600, 1_000))):
        if isinstance(event, SpeechPaused):
            at_pause = turns.utterance()
    assert np.array_equal(at_pause, turns.utterance())


def test_what_was_said_so_far_only_grows_and_is_how_the_whole_turn_begins() -> None:
    turns, so_far = detector(), list[Pcm16]()
    for piece in packets(numbered(script(1_000, 600, 300, 500, 1_000)), [320] * 200):
        for event in turns.receive_audio(piece):
            if isinstance(event, SpeechStopped):
                whole = turns.utterance()
        if turns.is_speaking:
            so_far.append(turns.utterance())
            assert turns.utterance_samples == len(so_far[-1])
    lengths = [len(part) for part in so_far]
    assert lengths == sorted(lengths)
    for part in so_far:
        np.testing.assert_array_equal(part, whole[: len(part)])


def test_pauses_are_offsets_into_the_audio_and_lie_in_silence() -> None:
    turns = detector()
    heard(turns, script(1_000, 300, 200, 300, 200, 300, 500))
    audio = turns.utterance()
    assert len(turns.pauses) == 3
    assert list(turns.pauses) == sorted(turns.pauses)
    assert all(audio[pause] == 0 for pause in turns.pauses)
    assert turns.pauses[-1] <= len(audio)


def test_the_pre_roll_of_the_next_turn_never_repeats_the_end_of_the_last() -> None:
    pcm = numbered(script(500, 400, 220, 400, 1_000))
    turns, parts = detector(silence_duration_ms=160), []
    for event in turns.receive_audio(pcm):
        if isinstance(event, SpeechStopped):
            parts.append((event.start_sample, turns.utterance()))
    (first, first_audio), (second, second_audio) = parts
    assert second == first + len(first_audio), "nothing between the turns is lost, nothing doubled"
    assert np.array_equal(np.concatenate([first_audio, second_audio]), pcm[first : second + len(second_audio)])


def test_the_longest_turn_is_cut_and_the_next_goes_on_with_the_next_sample() -> None:
    pcm = numbered(script(300, 5_000, 1_000))
    turns, parts = detector(max_utterance_ms=2_000), []
    for event in turns.receive_audio(pcm):
        if isinstance(event, SpeechStopped):
            parts.append(turns.utterance())
    assert [len(part) // MS for part in parts[:2]] == [2_000, 2_000]
    joined = np.concatenate(parts)
    assert np.array_equal(joined, pcm[: len(joined)])
    assert len(joined) == (5_300 + TAIL_MS) * MS


def test_a_long_turn_cut_within_a_pause_raises_no_voice_out_of_silence() -> None:
    events = heard(detector(max_utterance_ms=2_000), script(0, 1_900, 3_000))
    assert kinds(events) == [VoiceOnset, SpeechStarted, SpeechStopped]


@pytest.mark.parametrize("hum", [0, 200])
def test_the_lag_of_the_voice_detector_is_taken_off_the_endpoint(hum: int) -> None:
    class Late(EnergyVoiceDetector):
        """Goes on for four frames (80 ms), as Silero does."""

        left = 0

        def probability(self, frame: Pcm16) -> float:
            self.left = 4 if super().probability(frame) else self.left - 1
            return float(self.left >= 0)

    noise = np.random.default_rng(1).integers(-hum, hum + 1, 2_000 * MS).astype(np.int16)
    pcm = (script(500, 500, 1_000) + noise).astype(np.int16)
    events = heard(TurnDetector(Late(), TurnDetectorConfig()), pcm)
    assert only(events, SpeechPaused) == SpeechPaused(1_120 * MS)
    assert only(events, SpeechStopped) == SpeechStopped(200 * MS, 1_400 * MS, 1_000 * MS)


# --- laws


@given(
    spans=st.lists(st.integers(1, 900), min_size=2, max_size=8),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_packet_sizes_change_nothing(spans: list[int], sizes: list[int]) -> None:
    pcm = numbered(script(*spans, 700))

    def run(pieces: list[Pcm16]) -> list[tuple[TurnEvent, bytes, tuple[int, ...], float]]:
        turns = detector(max_utterance_ms=1_500)
        return [
            (event, turns.utterance().tobytes(), turns.pauses, turns.voiced_ms)
            for piece in pieces
            for event in turns.receive_audio(piece)
            if not isinstance(event, VoiceOnset | VoiceDropped)  # between turns there is no utterance
        ]

    assert run([pcm]) == run(packets(pcm, sizes))


def test_packets_of_one_sample_change_nothing() -> None:
    pcm = script(200, 300, 500)
    assert heard(detector(), pcm, packet=1) == heard(detector(), pcm, packet=len(pcm))


@given(spans=st.lists(st.integers(1, 900), min_size=2, max_size=8))
@settings(max_examples=60, deadline=None)
def test_turns_never_overlap_and_always_hold_all_their_voice(spans: list[int]) -> None:
    pcm = numbered(script(*spans, 700))
    turns, end = detector(), 0
    for event in turns.receive_audio(pcm):
        if isinstance(event, SpeechStopped):
            audio = turns.utterance()
            assert event.start_sample >= end
            assert np.array_equal(audio, pcm[event.start_sample : event.start_sample + len(audio)])
            end = event.start_sample + len(audio)
            assert event.last_voiced_sample <= end


def test_more_input_never_changes_earlier_events() -> None:
    pcm = script(200, 300, 500, 300, 500, 200, 600)
    whole = heard(detector(), pcm)
    for cut in range(0, len(pcm), 1_777):
        part = heard(detector(), pcm[:cut])
        assert part == whole[: len(part)]


def test_after_clear_it_is_as_new_and_the_clock_goes_on() -> None:
    pcm = script(500, 300, 500)
    turns = detector()
    heard(turns, script(100, 333))
    turns.clear()
    base = turns.samples_received
    shifted = [
        SpeechStarted(event.start_sample - base) for event in heard(turns, pcm) if isinstance(event, SpeechStarted)
    ]
    assert shifted == [only(heard(detector(), pcm), SpeechStarted)]


def test_memory_stays_bounded_in_an_hour_of_silence_and_short_turns() -> None:
    turns = detector()
    for _ in range(40):
        heard(turns, script(30_000, 300, 600), packet=16_000)
    assert len(turns._audio) <= 8 * 16_000


# --- by hand


def test_without_detection_everything_waits_for_commit() -> None:
    turns = detector(is_enabled=False)
    pcm = numbered(script(300, 300, 300))
    assert heard(turns, pcm) == []
    assert np.array_equal(turns.commit(), pcm)
    assert len(turns.commit()) == 0


@pytest.mark.parametrize("packet", [160, 320, 16_000, 200_000])
def test_without_detection_the_oldest_audio_goes_when_full(packet: int) -> None:
    turns = detector(is_enabled=False, max_utterance_ms=2_000)
    pcm = numbered(voice(9_000))
    heard(turns, pcm, packet)
    assert np.array_equal(turns.commit(), pcm[-2_000 * MS :])


def test_commit_ends_a_turn_with_everything_received() -> None:
    turns = detector()
    pcm = numbered(script(500, 300))[:-77]
    heard(turns, pcm)
    assert np.array_equal(turns.commit(), pcm[200 * MS :])
    assert not turns.is_speaking
    assert kinds(heard(turns, script(500))) == []


def test_commit_and_clear_without_voice_give_nothing() -> None:
    turns = detector()
    heard(turns, silence(500))
    assert len(turns.commit()) == 0
    heard(turns, voice(300))
    turns.clear()
    assert len(turns.commit()) == 0


def test_a_new_configuration_holds_at_once_and_keeps_the_turn() -> None:
    turns = detector()
    heard(turns, script(300, 300))
    turns.update(TurnDetectorConfig(silence_duration_ms=200))
    stopped = only(heard(turns, silence(600)), SpeechStopped)
    assert stopped == SpeechStopped(0, 800 * MS, 600 * MS)


def test_switching_detection_off_and_on_starts_afresh() -> None:
    turns = detector()
    heard(turns, script(300, 300))
    turns.update(TurnDetectorConfig(is_enabled=False))
    assert heard(turns, voice(500)) == []
    turns.update(TurnDetectorConfig())
    assert kinds(heard(turns, script(100, 300, 600))) == [VoiceOnset, SpeechStarted, SpeechPaused, SpeechStopped]


# --- echo


def test_voice_that_is_our_own_echo_begins_no_turn() -> None:
    turns = TurnDetector(EnergyVoiceDetector(), TurnDetectorConfig(), is_echo=lambda pcm: True)
    assert heard(turns, script(300, 2_000, 500)) == []


def test_a_user_who_talks_over_the_echo_is_heard_from_then_on() -> None:
    asked: list[int] = []

    def is_echo(pcm: Pcm16) -> bool:
        asked.append(len(pcm))
        return bool(np.abs(pcm[-320:]).max() < 10_000)

    turns = TurnDetector(EnergyVoiceDetector(), TurnDetectorConfig(), is_echo)
    pcm = script(500, 1_500)
    pcm[1_000 * MS :] += 5_000
    events = heard(turns, pcm)
    assert events == [VoiceOnset(1_000 * MS), SpeechStarted(700 * MS)]
    assert max(asked) == 256 * MS
    assert len(asked) == 25 + 5, "speech that has begun is not asked about any more"


# --- silence that is decided in the pause


def paused(pause_ms: int = 120, **config: int) -> TurnDetector:
    """A detector that has told of a pause, `pause_ms` of silence ago, under a long wait."""
    turns = detector(**({"silence_duration_ms": 4_000} | config))
    assert kinds(heard(turns, script(500, 600, pause_ms)))[-1] is SpeechPaused
    return turns


@pytest.mark.parametrize("decided_ms", [200, 640, 3_000])
def test_a_pause_ends_the_turn_after_the_silence_that_was_decided_for_it(decided_ms: int) -> None:
    turns = paused()
    assert list(turns.decide_silence(decided_ms)) == []
    assert heard(turns, silence(4_500)) == [SpeechStopped(200 * MS, (1_100 + decided_ms) * MS, 1_100 * MS)]


def test_undecided_pauses_last_as_long_as_configured() -> None:
    stopped = only(heard(paused(), silence(4_500)), SpeechStopped)
    assert stopped == SpeechStopped(200 * MS, 5_100 * MS, 1_100 * MS)


def test_a_decision_that_comes_late_ends_the_turn_at_once() -> None:
    turns = paused(900)
    assert list(turns.decide_silence(350)) == [SpeechStopped(200 * MS, 2_000 * MS, 1_100 * MS)]
    assert not turns.is_speaking
    assert len(turns.utterance()) == (900 + TAIL_MS) * MS, "the audio is that of the pause"
    assert kinds(heard(turns, silence(4_500))) == []


def test_the_latest_decision_holds_whether_shorter_or_longer() -> None:
    turns = paused()
    for decided_ms in (300, 2_000, 1_000):
        assert list(turns.decide_silence(decided_ms)) == []
    assert only(heard(turns, silence(4_500)), SpeechStopped) == SpeechStopped(200 * MS, 2_100 * MS, 1_100 * MS)


def test_a_decision_is_forgotten_when_speech_resumes() -> None:
    turns = paused()
    assert list(turns.decide_silence(300)) == []
    events = heard(turns, script(0, 400, 4_500))
    assert kinds(events) == [SpeechResumed, SpeechPaused, SpeechStopped]
    assert only(events, SpeechStopped).end_sample == (1_620 + 4_000) * MS  # type: ignore[attr-defined]


def test_a_decision_outlives_neither_its_turn_nor_a_commit() -> None:
    for end in (lambda turns: heard(turns, silence(400)), lambda turns: turns.commit(), lambda turns: turns.clear()):
        turns = paused()
        assert list(turns.decide_silence(300)) == []
        end(turns)
        assert kinds(heard(turns, script(300, 600, 3_900)))[-1] is SpeechPaused


def test_outside_a_pause_there_is_nothing_to_decide() -> None:
    turns = detector(silence_duration_ms=4_000)
    for span in (silence(500), voice(300), silence(60)):
        heard(turns, span)
        assert list(turns.decide_silence(10)) == []
    assert SpeechStopped not in kinds(heard(turns, silence(3_800)))


def test_another_configuration_undoes_the_decision_the_same_one_does_not() -> None:
    turns = paused()
    assert list(turns.decide_silence(3_000)) == []
    turns.update(TurnDetectorConfig(silence_duration_ms=4_000))
    assert SpeechStopped not in kinds(heard(turns, silence(2_700)))
    turns.update(TurnDetectorConfig(silence_duration_ms=2_900))
    assert only(heard(turns, silence(100)), SpeechStopped) == SpeechStopped(200 * MS, 4_000 * MS, 1_100 * MS)


def test_what_the_turn_model_hears_ends_with_the_silence_that_was_judged() -> None:
    pcm = numbered(script(500, 600, 260))
    turns = detector(silence_duration_ms=4_000)
    heard(turns, pcm)
    assert np.array_equal(turns.heard(8_000), pcm[200 * MS :]), "from the pre-roll on"
    assert np.array_equal(turns.heard(300), pcm[-300 * MS :])


@given(
    spans=st.lists(st.integers(1, 900), min_size=2, max_size=8),
    decided=st.lists(st.integers(50, 3_000), min_size=1, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_decisions_never_end_a_turn_before_their_silence(spans: list[int], decided: list[int]) -> None:
    turns, count = detector(silence_duration_ms=4_000), 0
    for piece in packets(numbered(script(*spans[: len(spans) // 2 * 2], 4_500)), [320] * 600):
        for event in turns.receive_audio(piece):
            if isinstance(event, SpeechPaused):
                wanted = decided[count % len(decided)]
                count += 1
                for stopped in turns.decide_silence(wanted):
                    assert isinstance(stopped, SpeechStopped)
                    assert stopped.end_sample - stopped.last_voiced_sample >= wanted * MS
            elif isinstance(event, SpeechStopped):
                silence_ms = (event.end_sample - event.last_voiced_sample) / MS
                assert silence_ms >= decided[(count - 1) % len(decided)]
    assert not turns.is_speaking
