"""Hidden states of the text model -> speech tokens: the bridge, the speaker and the second language model.

The head knows the speech tokens and the ends of speech alone: text ids, which the released head has too, can then not
be sampled, and a step reads a fifth less memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from .config import SPEAKER_DIM, OpenS2SConfig
from .language_model import LanguageModel
from .tensors import Target, targets_of

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class SpeechVocabulary:
    """Which ids of the speech language model are sound, and which end it."""

    first_unit: int
    """Id of speech code 0."""
    num_units: int
    """Codes, 0 to num_units - 1."""
    end_ids: tuple[int, ...]
    """Ids that end speech."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The ids that are kept: the codes first, so that a kept id below `num_units` is the code itself."""
        return (*self._units, *self._marks)

    @property
    def ends(self) -> frozenset[int]:
        """`end_ids` as kept ids."""
        units, marks = self._units, self._marks
        kept = (end - units.start if end in units else len(units) + marks.index(end) for end in self.end_ids)
        return frozenset(kept)

    @property
    def _units(self) -> range:
        return range(self.first_unit, self.first_unit + self.num_units)

    @property
    def _marks(self) -> list[int]:
        return [end for end in dict.fromkeys(self.end_ids) if end not in self._units]

    def is_sound(self, kept_id: int) -> bool:
        """True for a code; False for a mark, which the decoder must not see."""
        return kept_id < self.num_units and kept_id not in self.ends


class SpeechLM(nn.Module):
    """The bridge `llm2tts`, the speaker embedding and the language model over speech tokens."""

    def __init__(self, config: OpenS2SConfig, rows: tuple[int, ...] | None = None) -> None:
        super().__init__()
        hidden = config.tts.hidden_size
        self.llm2tts = nn.Linear(config.llm.hidden_size, hidden, bias=False)
        self.llm_ln = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.spk2tts = nn.Linear(SPEAKER_DIM, hidden, bias=False)
        self.spk_ln = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.lm = LanguageModel(config.tts, rows)

    def bridge(self, hidden: Tensor) -> Tensor:
        """States of the text model [..., hidden of the text model] -> inputs of the speech model [..., hidden]."""
        bridged: Tensor = self.llm_ln(self.llm2tts(hidden))
        return bridged

    def speaker(self, embedding: Tensor | None = None) -> Tensor:
        """Speaker embedding [512] -> the sequence's first input [hidden]; None is the released voice: zeros."""
        if embedding is None:
            embedding = self.llm_ln.weight.new_zeros(SPEAKER_DIM)
        assert embedding.shape == (SPEAKER_DIM,), embedding.shape
        spoken: Tensor = self.spk_ln(self.spk2tts(embedding.to(self.llm_ln.weight)))
        return spoken

    def targets(self) -> Iterator[Target]:
        yield from self.lm.targets("tts_lm_model.")
        yield from targets_of("tts_lm_model.spk2tts", self.spk2tts)
        yield from targets_of("tts_lm_model.spk_ln", self.spk_ln)
        yield from targets_of("llm2tts", self.llm2tts)
        yield from targets_of("llm_ln", self.llm_ln)
