"""How many mel frames around a moment the vocoder looks at. Pure arithmetic on its sizes."""

from __future__ import annotations

import math

from .config import VocoderConfig

F0_FRAMES = 5
"""To each side, of the pitch predictor: five convolutions of width 3."""


def vocoder_frames(config: VocoderConfig) -> int:
    """Mel frames to each side that can change a sample (14 as released), given a source that is known.

    The source's own dependence on the mel is the pitch predictor's `F0_FRAMES`, and through the phase all the past.
    """
    columns = config.frame_samples // config.hop  # of the Fourier transform, per frame: the rate after the last stage
    rate = 1  # steps per frame
    trunk = 3.0  # conv_pre, width 7
    source = config.n_fft / 2 / config.frame_samples  # in frames, before any stage
    for stage, (up, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernels, strict=True)):
        trunk += (kernel + up) / 2 / up / rate  # a transposed convolution: at most so many of its input's steps
        rate *= up
        stride = config.source_strides[stage]
        down = stride / columns + 1 / rate  # its kernel is twice its stride
        branch = _resblock(config.source_kernels[stage], config.source_dilations[stage]) / rate
        # From here on the source is part of the trunk's signal.
        trunk = max(trunk + 1 / rate, source + down + branch)
        pairs = zip(config.resblock_kernels, config.resblock_dilations, strict=True)
        trunk += max(_resblock(size, dilations) for size, dilations in pairs) / rate
    trunk += 3 / rate + config.n_fft / 2 / config.frame_samples  # conv_post, inverse transform
    return math.ceil(trunk)


def _resblock(kernel: int, dilations: tuple[int, ...]) -> float:
    """Steps to each side: per dilation a dilated convolution and a plain one."""
    return (kernel - 1) / 2 * sum(dilation + 1 for dilation in dilations)
