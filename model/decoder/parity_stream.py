"""Chunked decoding as the reference does it, to the sample. For parity tests and comparison; calls use live_stream.py.

Every piece runs the flow over all tokens so far, with all mel returned so far as its prompt. The first 34 new frames
are blended with the 34 kept from before; one frame of the piece before is put in front again (and counted into the
prompt, so the content slips by a frame per piece); the first samples of the source are taken from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunks import ReferenceOverlap
from .decoder import Decoder
from .source import SourceDraws


@dataclass(frozen=True, slots=True)
class ParityChunk:
    """One decoded piece, with what the fixtures record."""

    mel: Tensor
    """[1, mel bins, T] what went into the vocoder, the repeated frame included."""
    source: Tensor
    """[1, T · 256]"""
    wav: Tensor
    """[1, samples] what the listener hears of this piece."""
    kept: Tensor
    """[1, mel bins, 34] frames kept back for the next piece; 0 frames in the final one."""


class ParityStream:
    """One reply."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._overlap = ReferenceOverlap.of(decoder.config)
        self._codes: list[int] = []
        bins = decoder.config.flow.output_size
        self._prompt = torch.zeros((1, bins, 0), device=decoder.device)
        self._kept = self._prompt
        self._last_source: Tensor | None = None

    @torch.inference_mode()
    def decode(
        self, codes: Sequence[int], is_final: bool, draws: SourceDraws | None = None, source: Tensor | None = None
    ) -> ParityChunk:
        """The next piece. `draws` fixes the vocoder's random numbers; `source` [1, T · 256] replaces its excitation.

        Raises ValueError for codes that are none, and where the reference fails: a first or middle piece of 5 tokens or
        fewer, or a later one shorter than the overlap.
        """
        decoder, frame = self._decoder, self._decoder.config.vocoder.frame_samples
        decoder.check(codes)
        mel = decoder.mel([*self._codes, *codes], self._prompt)
        new = self._overlap.new_frames(mel.shape[2], is_final)
        mel = self._blend(mel)
        self._codes += codes
        mel, kept = mel[:, :, :new], mel[:, :, new:]
        mel = torch.cat((self._prompt[:, :, -1:], mel), 2)
        wav, excitation = decoder.vocode(mel, draws, self._last_source)
        if source is not None:
            excitation = source
            wav = decoder.vocoder(mel, source)
        self._prompt = torch.cat((self._prompt, mel), 2)
        self._kept, self._last_source = kept, excitation[:, -frame:]
        return ParityChunk(mel, excitation, wav if is_final else wav[:, :-frame], kept)

    def _blend(self, mel: Tensor) -> Tensor:
        """The start of `mel` [1, mel bins, T] mixed with what was kept."""
        frames = self._kept.shape[2]
        if frames == 0:
            return mel
        if mel.shape[2] < frames:
            raise ValueError(f"a piece of {mel.shape[2]} mel frames is shorter than the overlap of {frames}")
        window = torch.from_numpy(self._overlap.window).to(mel)
        blended = mel[:, :, :frames] * window[:frames] + self._kept * window[frames:]
        return torch.cat((blended, mel[:, :, frames:]), 2)
