"""Features, encoder and adapter against the reference's numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from model.opens2s.checkpoint import Checkpoint
from model.opens2s.features import LogMel, LogMelConfig
from model.opens2s.model import OpenS2S
from tests.support.opens2s_conversations import log_mel
from tests.support.opens2s_fixtures import Fixtures, load_fixtures

RELEASED = LogMelConfig()
FULL = load_fixtures().arrays("features_full")


def note(fixtures: Fixtures, name: str) -> str:
    """What the manifest says about a file: there the recordings behind it are described."""
    text: str = fixtures.manifest["files"][f"{name}.npz"]["note"]
    return text


def over_thirty_seconds(fixtures: Fixtures, num_frames: int) -> np.ndarray:
    """A recording tiled and cut, as the note says; where it gives no fitting length, to `num_frames` whole hops."""
    text, hop = note(fixtures, "features_full"), RELEASED.hop_length
    named = re.search(r"over30s = (\w+)\.wav tiled", text)
    pcm = fixtures.pcm(named[1] if named else "long")
    lengths = [*(int(number) for number in re.findall(r"(\d+) samples", text)), num_frames * hop]
    samples = next(length for length in lengths if -(-length // hop) == num_frames)
    return np.tile(pcm, -(-samples // len(pcm)))[:samples]


@pytest.mark.parametrize("step", [None, 160, 777])
@pytest.mark.parametrize("name", [key.removesuffix("_features") for key in FULL if key.endswith("_features")])
def test_features_are_the_references_however_the_audio_arrives(fixtures: Fixtures, name: str, step: int | None) -> None:
    tolerance = fixtures.tolerance("features")
    mel = log_mel(fixtures.pcm(name), RELEASED, step=step)
    expected = FULL[f"{name}_features"]
    np.testing.assert_allclose(mel.features[:, : expected.shape[1]], expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(mel.features[:, expected.shape[1] :], FULL[f"{name}_pad_value"], rtol=0, atol=tolerance)
    assert mel.features.shape[1] == FULL[f"{name}_frames_total"]
    assert mel.num_frames == FULL[f"{name}_mask_sum"]
    assert abs(mel.features.astype(np.float64).sum() - FULL[f"{name}_sum"]) < tolerance * mel.features.size


def test_features_of_more_than_a_window_are_the_references(fixtures: Fixtures) -> None:
    tolerance, num_frames = fixtures.tolerance("features"), int(FULL["over30s_mask_sum"])
    mel = log_mel(over_thirty_seconds(fixtures, num_frames), RELEASED, step=4_800)
    ranges = [key for key in FULL if key.startswith("over30s_features_")]
    assert ranges
    for key in ranges:
        first, last = (int(part) for part in key.split("_")[2:])
        np.testing.assert_allclose(mel.features[:, first:last], FULL[key], rtol=0, atol=tolerance)
    assert mel.features.shape[1] == FULL["over30s_frames_total"]
    assert mel.num_frames == num_frames
    np.testing.assert_allclose(mel.features[:, -1], FULL["over30s_pad_value"], rtol=0, atol=tolerance)
    assert abs(mel.features.astype(np.float64).sum() - FULL["over30s_sum"]) < tolerance * mel.features.size


def inputs(arrays: dict[str, Any]) -> list[LogMel]:
    return [
        LogMel(features, int(mask.sum()))
        for features, mask in zip(arrays["input_features"], arrays["attention_mask"], strict=True)
    ]


# "long.wav[:int(1.6*window)]", "short.wav[:chunk*16000-700]", "chirp.wav"
RECORDING = re.compile(r"(\w+)\.wav(\[:(?:int\()?(?:([\d.]+)\*)?(?:window|chunk\*16000)\)?(?:-(\d+))?\])?")


def recordings(fixtures: Fixtures, name: str, front_end: LogMelConfig) -> list[np.ndarray]:
    """The audio behind encoder_*.npz, as its note in the manifest says."""
    found = []
    for file, cut, factor, less in RECORDING.findall(note(fixtures, name)):
        end = int(float(factor or 1) * front_end.chunk_samples) - int(less or 0)
        found.append(fixtures.pcm(file)[: end if cut else None])
    return found


class Seen:
    """What passed through some modules, in one run of the model."""

    def __init__(self, model: OpenS2S) -> None:
        encoder = model.listener.encoder
        self.values: dict[str, torch.Tensor] = {}
        self._hooks = [
            encoder.conv2.register_forward_hook(lambda _, __, out: self._keep("conv2_pre_gelu", out)),
            encoder.layers[0].register_forward_hook(lambda _, __, out: self._keep("layer0_out", out)),
            encoder.layer_norm.register_forward_hook(
                lambda _, args, __: self._keep("pooled_before_layer_norm", args[0].transpose(1, 2))
            ),
            model.listener.adapter.register_forward_hook(
                lambda _, args, __: self._keep("encoder_last_hidden", args[0])
            ),
        ]

    def _keep(self, name: str, value: torch.Tensor) -> None:
        before = self.values.get(name)
        self.values[name] = value if before is None else torch.cat((before, value))

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.mark.parametrize("name", ["encoder_single", "encoder_batch"])
def test_the_encoder_and_the_adapter_give_the_references_numbers(
    fixtures: Fixtures, checkpoint: Checkpoint, model: OpenS2S, name: str
) -> None:
    arrays, tolerance = fixtures.arrays(name), fixtures.tolerance("logits")
    with Seen(model) as seen:
        embedded = model.listener.encode_batch(inputs(arrays))
    for key, value in seen.values.items():
        assert value.shape == arrays[key].shape, key
        np.testing.assert_allclose(value, arrays[key], rtol=1e-4, atol=tolerance, err_msg=key)
    lengths = [model.listener._num_vectors(mel.num_frames) for mel in inputs(arrays)]
    assert lengths == arrays["encoder_output_lengths"].tolist()
    for row, expected, mask in zip(embedded, arrays["adapter_out"], arrays["adapter_mask"], strict=True):
        assert len(row) == mask.sum()
        np.testing.assert_allclose(row, expected[: len(row)], rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", ["encoder_single", "encoder_batch"])
def test_the_encoders_input_is_the_references(fixtures: Fixtures, checkpoint: Checkpoint, name: str) -> None:
    arrays = fixtures.arrays(name)
    front_end = checkpoint.front_end
    pcms = recordings(fixtures, name, front_end)
    if [-(-len(pcm) // front_end.hop_length) for pcm in pcms] != arrays["attention_mask"].sum(1).tolist():
        pytest.skip(f"the note on {name} does not describe recordings of these lengths")
    chunks = max(-(-len(pcm) // front_end.chunk_samples) for pcm in pcms)
    for pcm, expected in zip(pcms, inputs(arrays), strict=True):
        mel = log_mel(pcm, front_end, chunks)
        assert mel.num_frames == expected.num_frames
        np.testing.assert_allclose(mel.features, expected.features, rtol=0, atol=fixtures.tolerance("features"))


def test_an_utterance_alone_differs_from_one_in_a_batch_in_its_last_embeddings_only(
    fixtures: Fixtures, model: OpenS2S
) -> None:
    tolerance = fixtures.tolerance("logits")
    reach = 0  # embeddings that hear past the end, through convolutions of stride 2
    for kernel in model.config.conv_kernel_sizes:
        reach = -(-(reach + kernel // 2) // 2)
    for name in ("encoder_single", "encoder_batch"):
        arrays = fixtures.arrays(name)
        longest = arrays["encoder_output_lengths"].max()
        for row, mel in enumerate(inputs(arrays)):
            alone = model.listener.encode(mel)
            assert len(alone) == model.listener.num_embeddings(mel.num_frames)
            # the longest of its batch: no difference at all
            same = len(alone) if arrays["encoder_output_lengths"][row] == longest else max(0, len(alone) - reach)
            np.testing.assert_allclose(alone[:same], arrays["adapter_out"][row][:same], rtol=1e-4, atol=tolerance)
