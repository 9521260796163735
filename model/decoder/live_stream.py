"""Decodes one live reply piece by piece, so that the pieces join into one sound.

What is exact: every unit's encoding once its block is complete; the length; the noise of a frame and of a sample; the
phase of the harmonics. What is not: the flow sees a window and not the whole reply, so the frames at the end of a piece
are held back, computed again with what follows, and blended, in the mel and for one frame in the samples. How well that
works is measured by benchmarks/decoder_holdback.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .block_encoder import EncoderCache
from .decoder import Decoder
from .flow import extend
from .live_window import LiveOptions, LiveWindow, falling_weights, kept_frames
from .source import SourceDraws


@dataclass(slots=True)
class _State:
    """Everything that one reply keeps on the device; its size does not grow but for the encoder's keys and values."""

    encoded: Tensor
    """[1, mel bins, n] tokens of complete blocks, from `first_token` on."""
    mel: Tensor
    """[1, mel bins, n] float32 frames before the border, as heard."""
    held: Tensor
    """[1, mel bins, n] frames from the border on, as the last piece computed them."""
    source: Tensor
    """[1, samples] excitation before the border."""
    tail: Tensor
    """[1, samples] sound from the border on, as the last piece computed it; blended into the next."""
    clock: Tensor
    """[1] float64, cycles of the fundamental before the border, modulo 1."""
    phase: Tensor
    """[1, num_harmonics] start phases of the harmonics."""
    first_token: int = 0
    cache: EncoderCache = field(default_factory=EncoderCache)


class LiveStream:
    """One reply. Not for several threads at once.

    Pieces of any size work; those that `ChunkPlan` gives end with an encoder block, which is best.
    """

    def __init__(
        self, decoder: Decoder, options: LiveOptions | None = None, on_mel: Callable[[Tensor], None] | None = None
    ) -> None:
        """`on_mel` is called with the mel frames [1, mel bins, n] of each piece that is given out; for measurements."""
        self._decoder = decoder
        self._on_mel = on_mel
        self._options = options or LiveOptions()
        self._kept_frames = kept_frames(decoder.config, self._options)
        self._open_block: list[int] = []  # codes after the last complete block
        self._num_units = 0
        self._num_computed = 0  # units that the held-back frames were computed from
        self._border = 0
        self._is_final = False
        bins, device = decoder.config.flow.output_size, decoder.device
        phase = SourceDraws.draw(decoder.config.vocoder, 0, torch.Generator().manual_seed(0)).phase
        self._state: _State | None = _State(
            encoded=torch.zeros((1, bins, 0), device=device, dtype=decoder.dtype),
            mel=torch.zeros((1, bins, 0), device=device),
            held=torch.zeros((1, bins, 0), device=device),
            source=torch.zeros((1, 0), device=device),
            tail=torch.zeros((1, 0), device=device),
            clock=torch.zeros((1,), device=device, dtype=torch.float64),
            phase=phase.to(device),
        )

    @property
    def num_units(self) -> int:
        """Units received."""
        return self._num_units

    @property
    def num_heard_units(self) -> int:
        """Units whose sound has been given out completely; all of them after the final piece."""
        return self._num_units if self._is_final else self._decoder.config.token_of_frame(self._border)

    @property
    def num_samples(self) -> int:
        """Samples given out."""
        return self._border * self._decoder.config.vocoder.frame_samples

    def close(self) -> None:
        """Free all tensors. May be called again; everything else raises afterwards."""
        self._state = None

    @torch.inference_mode()
    def decode(self, codes: Sequence[int], is_final: bool) -> NDArray[np.float32]:
        """The reply's next units → the samples that are new: float32 in -1..1 at `decoder.sample_rate`, maybe none.

        `is_final` says that no more will come and gives out what was held back; `codes` may then be empty.
        Raises ValueError for a code that is no speech token (the stream stays as it was) and RuntimeError after the
        final piece or after `close`.
        """
        state = self._open()
        if self._is_final:
            raise RuntimeError(
                "the final piece of this reply has been decoded; use a new LiveStream for the next reply"
            )
        self._decoder.check(codes)
        self._open_block += codes
        self._num_units += len(codes)
        self._is_final = is_final
        window = LiveWindow.plan(self._decoder.config, self._options, self._border, self._num_units, is_final)
        if window is None:
            return np.zeros(0, np.float32)
        if self._num_computed == self._num_units:
            mel = state.held  # nothing came since: what was held back is what is left
        else:
            mel = self._compute_mel(state, window)
            self._num_computed = self._num_units
        sound = self._voice(state, mel, window)
        self._border = window.next_border
        return sound[0].cpu().numpy()

    def _open(self) -> _State:
        if self._state is None:
            raise RuntimeError("this LiveStream is closed; use a new one for the next reply")
        return self._state

    def _compute_mel(self, state: _State, window: LiveWindow) -> Tensor:
        """Mel [1, mel bins, end - border] of all frames from the border on, blended with what was held back."""
        flow, config = self._decoder.flow, self._decoder.config
        encoded = self._encode(state)
        # floor(frame / frames_per_token) on the device
        ratio = config.frames_per_token
        frames = torch.arange(window.flow_start, window.end, device=encoded.device)
        tokens = frames * ratio.denominator // ratio.numerator - state.first_token
        expanded = flow.length_regulator.smooth(encoded.index_select(2, tokens))
        length, past = window.end - window.flow_start, window.border - window.flow_start
        noise = self._decoder.flow_noise.slice(window.flow_start, window.end)
        condition = extend(_last(state.mel, past), length)
        mel = flow.decoder.solve(expanded, flow.speaker(), condition, noise, self._options.ode_steps)
        return _blend(state.held, mel[:, :, past:])

    def _encode(self, state: _State) -> Tensor:
        """Encodings [1, mel bins, n] of all tokens from `state.first_token` on; complete blocks are encoded once."""
        before = state.cache.num_tokens
        if not self._open_block:
            return state.encoded
        encoded, state.cache = self._decoder.flow.encode(self._decoder.tensor(self._open_block), state.cache)
        encoded = encoded.transpose(1, 2)
        complete = state.cache.num_tokens - before
        self._open_block = self._open_block[complete:]
        everything = torch.cat((state.encoded, encoded), 2)
        state.encoded = everything[:, :, : state.encoded.shape[2] + complete]
        return everything

    def _voice(self, state: _State, mel: Tensor, window: LiveWindow) -> Tensor:
        """mel [1, mel bins, end - border] → new samples [1, (next_border - border) · 256]; moves `state` there."""
        decoder, frame = self._decoder, self._decoder.config.vocoder.frame_samples
        vocoder = decoder.vocoder
        border, past, new = window.border, window.border - window.vocoder_start, window.next_border - window.border
        seen = torch.cat((_last(state.mel, past), mel[:, :, : window.vocoder_end - border]), 2)
        noise = decoder.source_noise.slice(border * frame, window.vocoder_end * frame)
        draws = SourceDraws(state.phase, noise)
        source, clock = vocoder.excite(vocoder.predict_f0(seen)[:, past:], draws, state.clock)
        excitation = torch.cat((_last(state.source, past * frame), source), 1)
        sound = _blend(state.tail, vocoder.voice(seen, excitation)[:, past * frame :])
        # The blend takes one frame of what was held back; where nothing was, there is nothing to blend.
        state.tail = sound[:, new * frame : (new + 1) * frame].clone()
        state.clock = clock[:, new].clone()
        state.source = _last(torch.cat((state.source, source[:, : new * frame]), 1), self._kept_frames * frame).clone()
        state.mel = _last(torch.cat((state.mel, mel[:, :, :new]), 2), self._kept_frames).clone()
        state.held = mel[:, :, new:].clone()
        if self._on_mel is not None:
            self._on_mel(mel[:, :, :new])
        self._forget_tokens(state, window.next_border)
        return sound[:, : new * frame]

    def _forget_tokens(self, state: _State, border: int) -> None:
        """Drop encodings that no later window reaches."""
        first = self._decoder.config.token_of_frame(max(0, border - self._kept_frames))
        drop = min(max(0, first - state.first_token), state.encoded.shape[2])
        state.encoded = state.encoded[:, :, drop:].clone()
        state.first_token += drop


def _last(values: Tensor, count: int) -> Tensor:
    """The last `count` along the last dimension."""
    return values[..., values.shape[-1] - min(count, values.shape[-1]) :]


def _blend(old: Tensor, new: Tensor) -> Tensor:
    """`new` with its start faded in from `old`, along the last dimension; weights sum to one. `old` may be empty."""
    length = min(old.shape[-1], new.shape[-1])
    if length == 0:
        return new
    weights = torch.tensor(falling_weights(length), dtype=new.dtype).to(new.device)
    mixed = weights * old[..., :length] + (1 - weights) * new[..., :length]
    return torch.cat((mixed, new[..., length:]), -1)
