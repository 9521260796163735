"""What one live reply keeps on the device between its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .batches import in_groups, rows_of
from .block_encoder import EncoderCache
from .config import DecoderConfig
from .decoder import Decoder
from .live_window import LiveWindow


@dataclass(slots=True)
class LiveState:
    """Owned by one stream. Its size does not grow but for the encoder's keys and values.

    No tensor here is a view of a batch, so that a reply that has ended holds nothing of others, nor they of it.
    """

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
    open_block: list[int] = field(default_factory=list)
    """Codes after the last complete block."""
    first_token: int = 0
    cache: EncoderCache = field(default_factory=EncoderCache)

    @classmethod
    def begin(cls, decoder: Decoder) -> LiveState:
        """Of a reply of which nothing was decoded."""
        bins, device = decoder.config.flow.output_size, decoder.device
        return cls(
            encoded=torch.zeros((1, bins, 0), device=device, dtype=decoder.dtype),
            mel=torch.zeros((1, bins, 0), device=device),
            held=torch.zeros((1, bins, 0), device=device),
            source=torch.zeros((1, 0), device=device),
            tail=torch.zeros((1, 0), device=device),
            clock=torch.zeros((1,), device=device, dtype=torch.float64),
        )

    def accept(self, encoded: Tensor, cache: EncoderCache) -> Tensor:
        """Take in the encodings [1, n, mel bins] of `open_block` and the cache after it: complete blocks are encoded
        once. Returns those of all tokens from `first_token` on, [1, mel bins, n]."""
        complete = cache.num_tokens - self.cache.num_tokens
        self.cache = cache
        self.open_block = self.open_block[complete:]
        everything = torch.cat((self.encoded, encoded.transpose(1, 2)), 2)
        self.encoded = everything[:, :, : self.encoded.shape[2] + complete]
        return everything

    def move(
        self, config: DecoderConfig, window: LiveWindow, kept: int, mel: Tensor, source: Tensor, clock: Tensor
    ) -> None:
        """Make `window.next_border` the border; `kept` frames before it stay.

        From the old border on: mel [1, mel bins, end - border], source [1, (vocoder_end - border) · 256] and clock
        [1, vocoder_end - border + 1] of the piece.
        """
        new, frame = window.next_border - window.border, config.vocoder.frame_samples
        self.clock = clock[:, new].clone()
        self.source = last(torch.cat((self.source, source[:, : new * frame]), 1), kept * frame).clone()
        self.mel = last(torch.cat((self.mel, mel[:, :, :new]), 2), kept).clone()
        self.held = mel[:, :, new:].clone()
        first = config.token_of_frame(max(0, window.next_border - kept))  # no later window reaches the tokens before
        drop = min(max(0, first - self.first_token), self.encoded.shape[2])
        self.encoded = self.encoded[:, :, drop:].clone()
        self.first_token += drop


def encode_together(decoder: Decoder, states: Sequence[LiveState]) -> list[Tensor]:
    """Encodings [1, mel bins, n] of all tokens of each from its `first_token` on. States of replies that are equally
    far, as beginning ones are, share the encoder's passes."""
    return in_groups(
        states,
        lambda state: (state.cache.num_tokens, len(state.open_block)),
        lambda group: _encode(decoder, group),
    )


def _encode(decoder: Decoder, states: list[LiveState]) -> list[Tensor]:
    if not states[0].open_block:
        return [state.encoded for state in states]
    codes = torch.cat([decoder.tensor(state.open_block) for state in states])
    encoded, after = decoder.flow.encode(codes, EncoderCache.join([state.cache for state in states]))
    rows = zip(states, rows_of(encoded), after.rows(len(states)), strict=True)
    return [state.accept(row, cache) for state, row, cache in rows]


def last(values: Tensor, count: int) -> Tensor:
    """The last `count` along the last dimension; all where there are fewer."""
    return values[..., values.shape[-1] - min(count, values.shape[-1]) :]
