"""Features, encoder and adapter against the reference's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model.opens2s.checkpoint import Checkpoint
from model.opens2s.features import LogMel, LogMelConfig
from model.opens2s.model import OpenS2S
from tests.support.opens2s_conversations import log_mel
from tests.support.opens2s_fixtures import Fixtures

RELEASED = LogMelConfig()


def over_thirty_seconds(fixtures: Fixtures) -> np.ndarray:
    pcm = fixtures.pcm("long")
    return np.tile(pcm, -(-500_800 // len(pcm)))[:500_800]


@pytest.mark.parametrize("step", [None, 160, 777])
@pytest.mark.parametrize("name", ["long", "short", "chirp"])
def test_features_are_the_references_however_the_audio_arrives(fixtures: Fixtures, name: str, step: int | None) -> None:
    arrays, tolerance = fixtures.arrays("features_full"), fixtures.tolerance("features")
    mel = log_mel(fixtures.pcm(name), RELEASED, step=step)
    expected = arrays[f"{name}_features"]
    np.testing.assert_allclose(mel.features[:, : expected.shape[1]], expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        mel.features[:, expected.shape[1] :], arrays[f"{name}_pad_value"], rtol=0, atol=tolerance
    )
    assert mel.features.shape[1] == arrays[f"{name}_frames_total"]
    assert mel.num_frames == arrays[f"{name}_mask_sum"]
    assert abs(mel.features.astype(np.float64).sum() - arrays[f"{name}_sum"]) < tolerance * mel.features.size


def test_features_of_more_than_a_window_are_the_references(fixtures: Fixtures) -> None:
    arrays, tolerance = fixtures.arrays("features_full"), fixtures.tolerance("features")
    mel = log_mel(over_thirty_seconds(fixtures), RELEASED, step=4_800)
    for key in (key for key in arrays if key.startswith("over30s_features_")):
        first, last = (int(part) for part in key.split("_")[2:])
        np.testing.assert_allclose(mel.features[:, first:last], arrays[key], rtol=0, atol=tolerance)
    assert mel.features.shape[1] == arrays["over30s_frames_total"]
    assert mel.num_frames == arrays["over30s_mask_sum"]
    np.testing.assert_allclose(mel.features[:, -1], arrays["over30s_pad_value"], rtol=0, atol=tolerance)
    assert abs(mel.features.astype(np.float64).sum() - arrays["over30s_sum"]) < tolerance * mel.features.size


def inputs(arrays: dict[str, Any]) -> list[LogMel]:
    return [
        LogMel(features, int(mask.sum()))
        for features, mask in zip(arrays["input_features"], arrays["attention_mask"], strict=True)
    ]


def recordings(fixtures: Fixtures, name: str, front_end: LogMelConfig) -> list[np.ndarray]:
    """The audio behind encoder_*.npz, as its note in the manifest says."""
    window = front_end.chunk_samples
    short, long = fixtures.pcm("short"), fixtures.pcm("long")
    if name == "encoder_single":
        return [short[: window - 700]]
    return [fixtures.pcm("chirp"), long[: int(1.6 * window)], short[: window - 700]]


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
    pcms = recordings(fixtures, name, checkpoint.front_end)
    chunks = max(-(-len(pcm) // checkpoint.front_end.chunk_samples) for pcm in pcms)
    for pcm, expected in zip(pcms, inputs(arrays), strict=True):
        mel = log_mel(pcm, checkpoint.front_end, chunks)
        assert mel.num_frames == expected.num_frames
        np.testing.assert_allclose(mel.features, expected.features, rtol=0, atol=fixtures.tolerance("features"))


def test_an_utterance_alone_differs_from_one_in_a_batch_in_its_last_embeddings_only(
    fixtures: Fixtures, model: OpenS2S
) -> None:
    for name, mel in (("encoder_single", 0), ("encoder_batch", 1)):  # the longest of its batch: no difference at all
        arrays = fixtures.arrays(name)
        alone = model.listener.encode(inputs(arrays)[mel])
        assert len(alone) == model.listener.num_embeddings(inputs(arrays)[mel].num_frames)
        np.testing.assert_allclose(alone, arrays["adapter_out"][mel][: len(alone)], rtol=1e-4, atol=2e-4)
    arrays = fixtures.arrays("encoder_batch")
    reach = len(model.config.conv_kernel_sizes)  # one embedding per convolution hears past the end
    for row, mel in enumerate(inputs(arrays)):
        alone = model.listener.encode(mel)
        expected = arrays["adapter_out"][row][: len(alone)]
        np.testing.assert_allclose(alone[:-reach], expected[:-reach], rtol=1e-4, atol=2e-4)
