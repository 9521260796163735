"""Speech from a microphone of 8 kHz: its turns are found, and its words are recognised, beside the same in full."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.audio_quality import utterances
from benchmarks.narrowband import WAYS, Heard, measure
from model.backends.cascade.asr import Recognizer
from model.weights import default_models_dir, fetch

FULL, *NARROW = WAYS
MAX_EXTRA_POINTS = 8.0  # of 98 words; 5 when this was written. `benchmarks.narrowband` has more passes


@cache
def heard(name: str) -> Heard:
    fetch(default_models_dir())
    return measure(WAYS[name], utterances(), 1, Recognizer(default_models_dir()))


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_microphone_is_understood(name: str) -> None:
    full, narrow = heard(FULL), heard(name)
    assert narrow.found == narrow.turns == full.found
    assert narrow.late_ms is not None
    assert (narrow.late_ms["p95"] or 999.0) < 500.0
    extra = 100 * (narrow.rate - full.rate)
    assert extra <= MAX_EXTRA_POINTS, f"{full.rate:.1%} of the words wrong, {narrow.rate:.1%} with {name}"
