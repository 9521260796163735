"""Voice detectors: one contract for all of them, and what each hears in real recordings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.turns.vad import EnergyVoiceDetector, VoiceDetector
from rtc_server.turns.vad_factory import create_detector, create_vad_factory
from rtc_server.turns.vad_gated import CLOSE_AFTER_FRAMES, WARM_FRAMES, GatedVoiceDetector
from rtc_server.turns.vad_webrtc import WebRtcVoiceDetector
from tests.support.recordings import RECORDINGS, pink_noise, recording, rms, silence, silero_path, to_pcm, voiced_range

MS = 16
DETECTORS: dict[str, Callable[[], VoiceDetector]] = {
    "energy": EnergyVoiceDetector,
    "webrtcvad": lambda: create_detector("webrtcvad", 2, None),
    "silero": lambda: create_detector("silero", 2, silero_path()),
    "gated": lambda: create_detector("gated", 2, silero_path()),
}


@pytest.fixture(params=DETECTORS)
def vad(request: pytest.FixtureRequest) -> VoiceDetector:
    return DETECTORS[request.param]()


def probabilities(vad: VoiceDetector, pcm: Pcm16) -> list[float]:
    step = vad.frame_samples
    found = [vad.probability(pcm[at : at + step]) for at in range(0, len(pcm) - step + 1, step)]
    return [probability for probability in found if probability is not None]


def in_noise(name: str, snr_db: float, lead_ms: int) -> tuple[Pcm16, int, int]:
    """(a recording in pink noise, its first and its last voiced sample)."""
    pcm = recording(name)
    first, end = voiced_range(pcm)
    lead = lead_ms * MS
    clean = np.concatenate([silence(lead_ms), pcm, silence(1_000)]).astype(np.float64)
    noise = pink_noise(len(clean), rms(pcm) * 10 ** (-snr_db / 20))
    return to_pcm(clean + noise), lead + first, lead + end


# --- the contract


def test_a_probability_is_one(vad: VoiceDetector) -> None:
    found = probabilities(vad, recording("f0_rms"))
    assert all(isinstance(p, float) and 0.0 <= p <= 1.0 for p in found)
    assert max(found) > 0.9


def test_digital_silence_is_no_voice(vad: VoiceDetector) -> None:
    assert max(probabilities(vad, silence(1_000))) < 0.3


def test_reset_equals_new(vad: VoiceDetector) -> None:
    pcm = recording("f1_rms")[:16_000]
    first = probabilities(vad, pcm)
    vad.reset()
    assert probabilities(vad, pcm) == first


def test_later_frames_never_change_earlier_ones(vad: VoiceDetector) -> None:
    pcm = recording("f2_rms")
    short = probabilities(vad, pcm[:16_000])
    vad.reset()
    assert probabilities(vad, pcm)[: len(short)] == short


def test_a_frame_of_another_length_is_refused_and_not_taken_for_silence(vad: VoiceDetector) -> None:
    with pytest.raises(ValueError, match="frames of"):
        vad.probability(np.zeros(vad.frame_samples - 1, np.int16))


def test_the_frame_is_not_written_to(vad: VoiceDetector) -> None:
    pcm = recording("f0_rms").copy()
    pcm.setflags(write=False)
    assert probabilities(vad, pcm)


# --- which detector


def test_the_factory_knows_three_kinds_and_names_them_to_who_asks_for_another() -> None:
    with pytest.raises(ValueError, match="use silero, webrtcvad or gated"):
        create_detector("energy", 2, None)
    with pytest.raises(ValueError, match="needs the Silero model file"):
        create_detector("silero", 2, None)


def test_calls_share_silero_but_not_its_state() -> None:
    make = create_vad_factory("silero", 2, silero_path())
    one, other = make(lambda: None), make(lambda: None)
    alone = probabilities(create_detector("silero", 2, silero_path()), recording("f0_rms"))
    mixed = []
    for at in range(0, len(recording("f0_rms")) - 511, 512):
        mixed.append(one.probability(recording("f0_rms")[at : at + 512]))
        other.probability(recording("f1_rms")[at : at + 512] if at + 512 < 31_000 else np.zeros(512, np.int16))
    assert mixed == alone


# --- recordings


@pytest.mark.parametrize("snr_db", [40, 10])
@pytest.mark.parametrize("name", RECORDINGS)
def test_silero_hears_every_recording_soon_and_the_noise_before_it_never(name: str, snr_db: float) -> None:
    pcm, first, end = in_noise(name, snr_db, lead_ms=1_000)
    found = np.array(probabilities(create_detector("silero", 2, silero_path()), pcm)) >= 0.5
    frame_ends = (np.arange(len(found)) + 1) * 512
    assert not found[frame_ends < first - 100 * MS].any(), "false alarm"
    assert (frame_ends[found][0] - first) / MS <= 120
    assert not found[frame_ends > end + 300 * MS].any(), "it falls silent again"


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_gate_delays_no_onset(name: str) -> None:
    pcm, _first, _end = in_noise(name, 30, lead_ms=1_500)
    open_ended = np.array(probabilities(create_detector("silero", 2, silero_path()), pcm)) >= 0.5
    gated = np.array(probabilities(DETECTORS["gated"](), pcm)) >= 0.5
    assert abs(int(gated.argmax()) - int(open_ended.argmax())) <= 1
    assert (gated != open_ended).mean() < 0.06


# --- the gate


class Recorder:
    """A main detector that remembers what it was shown."""

    frame_samples = 512

    def __init__(self) -> None:
        self.seen: list[int] = []

    def probability(self, frame: Pcm16) -> float:
        self.seen.append(int(frame[-1]))
        return 1.0

    def reset(self) -> None:
        self.seen.clear()

    def close(self) -> None:
        self.seen.clear()


def test_the_main_detector_sleeps_in_silence_and_is_shown_what_came_before_the_voice() -> None:
    main = Recorder()
    gated = GatedVoiceDetector(EnergyVoiceDetector(), main)
    quiet = [np.full(512, i, np.int16) for i in range(50)]
    assert [gated.probability(frame) for frame in quiet] == [0.0] * 50
    assert main.seen == []
    assert gated.probability(np.full(512, 9_000, np.int16)) == 1.0
    assert main.seen == [*range(50 - WARM_FRAMES, 50), 9_000]


def test_the_gate_stays_open_through_pauses_and_shuts_after_half_a_second() -> None:
    main = Recorder()
    gated = GatedVoiceDetector(EnergyVoiceDetector(frame_samples=512), main)
    gated.probability(np.full(512, 9_000, np.int16))
    quiet = [gated.probability(silence(32)) for _ in range(CLOSE_AFTER_FRAMES + 5)]
    assert quiet == [1.0] * CLOSE_AFTER_FRAMES + [0.0] * 5


def test_the_gate_may_have_frames_of_another_length() -> None:
    main = Recorder()
    gated = GatedVoiceDetector(WebRtcVoiceDetector(2), main)
    pcm = recording("f0_rms")
    probabilities(gated, pcm)
    assert set(main.seen) <= {int(pcm[at + 511]) for at in range(0, len(pcm) - 511, 512)}
    assert len(main.seen) > 30
