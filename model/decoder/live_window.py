"""Which mel frames a piece of a live reply computes, from where to where it is heard, and how much is kept. No torch.

All frames are counted from the start of the reply by one clock: frame f belongs to token floor(f · 64 / 441). So pieces
never drift, and a reply of N tokens is frames(N) · 256 samples long however it was cut.

    start          border                next_border        end
      |  context     |    heard now           |  held back   |
                     |--blended with what the piece before held back--
"""

from __future__ import annotations

from dataclasses import dataclass

from .chunks import HEARD_SHARE, ChunkPlan
from .config import DecoderConfig
from .receptive_field import F0_FRAMES, vocoder_frames


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How much of its surroundings a piece of a live reply computes."""

    left_context_frames: int = 344
    """Mel frames before a piece that the flow sees as its prompt: 4 s. Bounds the cost of a piece.

    An estimate: with random weights the difference to the whole keeps falling until all of the past is in view, which
    says nothing about speech. Whoever has the weights should run benchmarks/decoder_holdback.py.
    """
    hold_back_frames: int = 12
    """Mel frames at the end of a piece that wait for the next one: 139 ms (the reference: 34, 395 ms).

    They do not delay the first sound, which is a whole block; they only shorten what is buffered behind it. Measured
    with benchmarks/decoder_holdback.py on random weights, small and of released size: from 8 frames on, frames at a
    joint are as near to the whole as frames far from it; 12 leaves a margin. Random weights show how far the layers
    reach and not how speech sounds: whoever has the weights should run it with them.
    """
    window_step: int = 16
    """With enough past, windows are lengthened to a multiple of this, so few lengths occur (one CUDA graph each)."""
    ode_steps: int = 10

    def __post_init__(self) -> None:
        if self.left_context_frames < 0 or self.hold_back_frames < 0 or self.window_step < 1 or self.ode_steps < 1:
            raise ValueError(
                f"{self} cannot be used: left_context_frames and hold_back_frames must not be negative, "
                "window_step and ode_steps must be at least 1"
            )


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """Frame numbers of one piece, counted from the start of the reply."""

    flow_start: int
    """First frame that the flow computes; those before `border` are known and serve as its prompt."""
    vocoder_start: int
    """First frame that the vocoder computes; what it gives before `border` is dropped."""
    border: int
    """First frame that has not been heard."""
    next_border: int
    """Frames before it are heard with this piece."""
    vocoder_end: int
    """The vocoder looks at frames before it."""
    end: int
    """The flow computes frames before it; from `next_border` on they are held back."""

    @classmethod
    def plan(
        cls, config: DecoderConfig, options: LiveOptions, border: int, num_tokens: int, is_final: bool
    ) -> LiveWindow | None:
        """The piece after `border` when `num_tokens` tokens are there; None where nothing would be heard of it."""
        end = config.frames(num_tokens)
        next_border = end if is_final else end - options.hold_back_frames
        if next_border <= border:
            return None
        reach = vocoder_frames(config.vocoder)
        vocoder_end = min(end, next_border + reach + F0_FRAMES)  # the source out there depends on the pitch
        return cls(
            flow_start=_start(border, end, options.left_context_frames, options.window_step),
            vocoder_start=_start(border, vocoder_end, reach, options.window_step),
            border=border,
            next_border=next_border,
            vocoder_end=vocoder_end,
            end=end,
        )

    @property
    def held(self) -> int:
        """Frames held back."""
        return self.end - self.next_border


def usual_lengths(config: DecoderConfig, options: LiveOptions, plan: ChunkPlan) -> tuple[list[int], list[int]]:
    """Window lengths in frames of the flow and of the vocoder that replies have: of the first pieces as `plan` cuts
    them, and of all later ones. What is not here are last pieces of short replies."""
    flow, vocoder = set[int](), set[int]()
    border = decoded = waiting = 0
    while border <= 2 * options.left_context_frames + config.frames(plan.max_units):
        waiting += 1
        made_ms = border * config.vocoder.frame_samples * 1000 / config.sample_rate
        units = plan.next_units(decoded, waiting, (1 - HEARD_SHARE) * made_ms, is_final=False)
        decoded, waiting = decoded + units, waiting - units
        window = LiveWindow.plan(config, options, border, decoded, is_final=False) if units else None
        if window is not None:
            flow.add(window.end - window.flow_start)
            vocoder.add(window.vocoder_end - window.vocoder_start)
            border = window.next_border
    longest, step, reach = config.frames(plan.max_units), options.window_step, vocoder_frames(config.vocoder)
    for lengths, least, most in (
        (flow, options.left_context_frames, options.left_context_frames + options.hold_back_frames + longest),
        (vocoder, reach, 2 * reach + longest),
    ):
        lengths.update(range(-(-least // step) * step + step, -(-most // step) * step + 1, step))
    return sorted(flow), sorted(vocoder)


def kept_frames(config: DecoderConfig, options: LiveOptions) -> int:
    """Frames before the border that any later window may want."""
    return max(options.left_context_frames, vocoder_frames(config.vocoder)) + options.window_step - 1


def falling_weights(length: int) -> list[float]:
    """Weights of the older of two signals over a blend; the newer one takes the rest to one."""
    return [1 - (step + 0.5) / length for step in range(length)]


def _start(border: int, end: int, context: int, step: int) -> int:
    """`context` frames before `border`, and so many more that the window's length is a multiple of `step`."""
    start = border - context
    return max(0, start - (start - end) % step)
