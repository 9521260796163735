"""One reply by itself: prompt -> text and speech tokens, one forward pass at a time.

The plainest loop over both language models. The server's engine (`model.engine`) gives the same tokens for many replies
at once; tests and benchmarks take this one as what is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .interleave import ReplyOrder
from .kv_cache import FIRST_CAPACITY, KvCache
from .language_model import LanguageModel
from .model import OpenS2S
from .sampling import Sampling, sample


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply."""

    kind: Literal["text", "unit"]
    id: int
    """Of the text model's vocabulary, or the kept id of the speech model's (see `SpeechVocabulary.rows`)."""


class Lane:
    """One sequence in one language model."""

    def __init__(self, lm: LanguageModel, capacity: int = FIRST_CAPACITY) -> None:
        """`capacity`: positions that are likely to be needed."""
        self.lm = lm
        weight = lm.norm.weight
        self.cache = KvCache(lm.config, weight.device, weight.dtype, capacity)

    def forward(self, embeds: Tensor) -> Tensor:
        """Append embeddings [T, hidden]; returns the hidden state of the last one, [hidden]."""
        hidden: Tensor = self.lm(embeds[None], self.cache.begin(len(embeds)))
        return hidden[0, -1]


class Reply:
    """The two sequences of one reply, and the tokens that come out of them."""

    def __init__(
        self,
        model: OpenS2S,
        prompt: Tensor,
        order: ReplyOrder,
        *,
        text_sampling: Sampling,
        unit_sampling: Sampling,
        generator: torch.Generator | None = None,
        speaker: Tensor | None = None,
    ) -> None:
        """prompt: embeddings of the text model, [positions, hidden]; speaker: [512], None for the released voice."""
        assert prompt.dim() == 2, prompt.shape
        self._model, self._generator = model, generator
        self._text_sampling, self._unit_sampling = text_sampling, unit_sampling
        self.order = order
        self.llm, self.tts = Lane(model.llm, len(prompt) + order.max_text), Lane(model.speech.lm)
        self._text_input = prompt  # not yet forwarded
        with torch.inference_mode():
            self._unit_inputs = [model.speech.speaker(speaker)]  # likewise, [hidden] each

    @property
    def is_done(self) -> bool:
        return self.order.next == "done"

    @torch.inference_mode()
    def step(self) -> Token | None:
        """One forward pass; None once the reply is done."""
        if self.order.next == "text":
            return self._text_step()
        if self.order.next == "unit":
            return self._unit_step()
        return None

    def _text_step(self) -> Token:
        hidden = self.llm.forward(self._text_input)
        token = self._choose(self.llm.lm.logits(hidden), self._text_sampling)
        self._text_input = self.llm.lm.embed(token)[None]
        self._unit_inputs.append(self._model.speech.bridge(hidden))
        found = Token("text", int(token))
        self.order.add_text(found.id)
        return found

    def _unit_step(self) -> Token:
        hidden = self.tts.forward(torch.stack(self._unit_inputs))
        unit = self._choose(self.tts.lm.logits(hidden), self._unit_sampling)
        # Forwarded together with the next hidden states, or alone once the text is finished.
        self._unit_inputs = [self.tts.lm.embed(unit)]
        found = Token("unit", int(unit))
        self.order.add_unit(found.id)
        return found

    def _choose(self, logits: Tensor, sampling: Sampling) -> Tensor:
        if not torch.isfinite(logits).all():  # it would be token 0 for ever
            raise FloatingPointError("The model gave numbers that are not finite; its number format is too small.")
        return sample(logits, sampling, self._generator)


def splice(model: LanguageModel, ids: list[int], audios: list[Tensor], placeholder: int) -> Tensor:
    """Prompt ids with placeholders, and the audios' embeddings [A, hidden] in order -> embeddings [positions, hidden].

    Raises ValueError when there are not as many placeholders as audios."""
    if ids.count(placeholder) != len(audios):
        raise ValueError(f"The prompt has {ids.count(placeholder)} places for audio; {len(audios)} were given.")
    device = model.embed_tokens.weight.device
    pieces: list[Tensor] = []
    waiting = iter(audios)
    start = 0
    with torch.inference_mode():
        for end in [*(place for place, token in enumerate(ids) if token == placeholder), len(ids)]:
            if end > start:
                pieces.append(model.embed(torch.tensor(ids[start:end], device=device)))
            if end < len(ids):
                pieces.append(next(waiting).to(pieces[0].dtype if pieces else model.embed_tokens.weight.dtype))
            start = end + 1
        return torch.cat(pieces)
