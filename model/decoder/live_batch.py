"""Computes pieces of several live replies together: tokens → mel → samples, each stage in batches of equal lengths.

The encoder takes replies together that are equally far. Nothing here waits for the device or looks at a value on
it. Which frames a piece covers was decided before (live_window.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import in_batches, in_groups, rows_of
from .decoder import Decoder
from .flow import extend
from .live_state import LiveState, encode_together, last
from .live_window import LiveWindow
from .source import SourceDraws


@dataclass(frozen=True, slots=True)
class LiveJob:
    """One piece to compute."""

    state: LiveState
    window: LiveWindow
    ode_steps: int
    kept_frames: int
    """Frames before the next border that the state keeps."""
    is_computed: bool
    """No units came since the last piece: what was held back is what is left."""

    @property
    def known(self) -> int:
        """Frames of the flow's window before the border."""
        return self.window.border - self.window.flow_start

    @property
    def voiced(self) -> int:
        """Frames of the vocoder's window before the border."""
        return self.window.border - self.window.vocoder_start


def compute(decoder: Decoder, jobs: Sequence[LiveJob]) -> tuple[list[Tensor], list[Tensor]]:
    """Mel [1, mel bins, next_border - border] and samples [1, as many · 256] that are new, of each job; moves the
    states to their next borders."""
    mels = _mels(decoder, jobs)
    sounds = _voice(decoder, jobs, mels)
    return [mel[:, :, : _new(job)] for job, mel in zip(jobs, mels, strict=True)], sounds


def _mels(decoder: Decoder, jobs: Sequence[LiveJob]) -> list[Tensor]:
    """Mels [1, mel bins, end - border] of all frames from the border on, blended with what was held back."""

    def alike(job: LiveJob) -> tuple[bool, int, int]:
        return job.is_computed, job.window.end - job.window.flow_start, job.ode_steps

    return in_groups(jobs, alike, lambda group: _solve(decoder, group))


def _solve(decoder: Decoder, jobs: list[LiveJob]) -> list[Tensor]:
    if jobs[0].is_computed:
        return [job.state.held for job in jobs]
    flow, steps, length = decoder.flow, jobs[0].ode_steps, jobs[0].window.end - jobs[0].window.flow_start
    encoded = encode_together(decoder, [job.state for job in jobs])
    expanded = torch.cat([_expand(decoder, *pair) for pair in zip(jobs, encoded, strict=True)])
    condition = torch.cat([extend(last(job.state.mel, job.known), length) for job in jobs])
    noise = torch.cat([decoder.flow_noise.slice(job.window.flow_start, job.window.end) for job in jobs])

    def solve(tokens: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        return flow.decoder.solve(flow.smooth(tokens), flow.speaker(), condition, noise, steps)

    mels = in_batches(solve, flow.decoder.recorded_batches(length), expanded, condition, noise)
    rows = zip(jobs, rows_of(mels), strict=True)
    return [decoder.blend(job.state.held, mel[:, :, job.known :]) for job, mel in rows]


def _expand(decoder: Decoder, job: LiveJob, encoded: Tensor) -> Tensor:
    """Encoded tokens, one column per frame of the flow's window: [1, mel bins, end - flow_start]."""
    ratio = decoder.config.frames_per_token
    frames = torch.arange(job.window.flow_start, job.window.end, device=encoded.device)
    # floor(frame / frames_per_token) on the device
    tokens = frames * ratio.denominator // ratio.numerator - job.state.first_token
    return encoded.index_select(2, tokens)


@dataclass(frozen=True, slots=True)
class _Excited:
    """What the vocoder shapes."""

    job: LiveJob
    mel: Tensor
    """[1, mel bins, vocoder_end - vocoder_start]"""
    source: Tensor
    """[1, (vocoder_end - border) · 256]"""
    clock: Tensor
    """[1, vocoder_end - border + 1]"""


def _voice(decoder: Decoder, jobs: Sequence[LiveJob], mels: Sequence[Tensor]) -> list[Tensor]:
    """mels [1, mel bins, end - border] → new samples [1, (next_border - border) · 256]; moves the states there."""
    windows = [
        torch.cat((last(job.state.mel, job.voiced), mel[:, :, : job.window.vocoder_end - job.window.border]), 2)
        for job, mel in zip(jobs, mels, strict=True)
    ]
    pitches = in_groups(windows, lambda mel: mel.shape[2], lambda group: _pitch(decoder, group))
    begun = [(job, f0[:, job.voiced :]) for job, f0 in zip(jobs, pitches, strict=True)]
    sources = in_groups(begun, lambda pair: pair[1].shape[1], lambda group: _excite(decoder, group))
    excited = [_Excited(job, mel, *pair) for job, mel, pair in zip(jobs, windows, sources, strict=True)]
    sounds = in_groups(excited, lambda each: each.mel.shape[2], lambda group: _shape(decoder, group))
    frame, new_sounds = decoder.config.vocoder.frame_samples, list[Tensor]()
    for each, mel, sound in zip(excited, mels, sounds, strict=True):
        state, new = each.job.state, _new(each.job) * frame
        # The blend takes one frame of what was held back; where nothing was, there is nothing to blend.
        blended = decoder.blend(state.tail, sound)
        state.tail = blended[:, new : new + frame].clone()
        state.move(decoder.config, each.job.window, each.job.kept_frames, mel, each.source, each.clock)
        new_sounds.append(blended[:, :new])
    return new_sounds


def _pitch(decoder: Decoder, mels: list[Tensor]) -> list[Tensor]:
    """[1, mel bins, T] each → [1, T] Hz each."""
    vocoder = decoder.vocoder
    return rows_of(in_batches(vocoder.pitch, vocoder.recorded_batches(mels[0].shape[2]), torch.cat(mels)))


def _excite(decoder: Decoder, pairs: list[tuple[LiveJob, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Jobs with f0 [1, n] from the border on → source [1, n · 256] and clock [1, n + 1] of each."""
    frame = decoder.config.vocoder.frame_samples
    noise = [decoder.source_noise.slice(j.window.border * frame, j.window.vocoder_end * frame) for j, _ in pairs]
    draws = SourceDraws(decoder.source_phase, torch.cat(noise))
    clocks = torch.cat([job.state.clock for job, _ in pairs])
    source, clock = decoder.vocoder.excite(torch.cat([f0 for _, f0 in pairs]), draws, clocks)
    return list(zip(rows_of(source), rows_of(clock), strict=True))


def _shape(decoder: Decoder, group: list[_Excited]) -> list[Tensor]:
    """Samples [1, (vocoder_end - border) · 256] of each."""
    vocoder, frame = decoder.vocoder, decoder.config.vocoder.frame_samples
    mels = torch.cat([each.mel for each in group])
    # What was excited before the border stays as it was heard.
    source = torch.cat(
        [torch.cat((last(each.job.state.source, each.job.voiced * frame), each.source), 1) for each in group]
    )
    sounds = in_batches(vocoder.voice, vocoder.recorded_batches(mels.shape[2]), mels, source)
    return [sound[:, each.job.voiced * frame :] for each, sound in zip(group, rows_of(sounds), strict=True)]


def _new(job: LiveJob) -> int:
    """Frames that are heard with this piece."""
    return job.window.next_border - job.window.border
