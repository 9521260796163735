"""The tokens of a reply as the reference makes them: transformers' generate(), called once for each group.

Every call gets the whole sequence of embeddings so far and the cache of the call before; the speech model has its full
head, text ids included. The weights are those of our own model, so that both compute the same numbers (in float32, when
both are greedy: tests/model/opens2s/test_reference_loop.py). As in the reference the text model runs with sdpa and the
speech model with eager attention, and the text model's hidden states of all layers are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from model.opens2s.config import LanguageModelConfig
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S
from model.opens2s.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Group:
    """What one call of generate() gave."""

    kind: Literal["text", "unit"]
    ids: list[int]
    """Of the text model's vocabulary, or of the speech model's whole one. The end of speech is among them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a reply ends and how its tokens are chosen."""

    max_text: int
    max_units: int
    text_ends: tuple[int, ...]
    unit_ends: tuple[int, ...]
    """As ids of the whole vocabulary."""
    text_sampling: Sampling
    unit_sampling: Sampling


class ReferenceModels:
    """transformers' two language models over the weights of `model`, which must have the full head of speech."""

    def __init__(self, model: OpenS2S) -> None:
        assert model.speech.lm.rows is None, "the reference has the full head; load with restrict_head=False"
        self.model = model
        self.llm = theirs(model.llm, "sdpa")
        self.tts = theirs(model.speech.lm, "eager")

    @torch.inference_mode()
    def generate(self, prompt: Tensor, limits: Limits, is_cancelled: Callable[[], bool]) -> Iterator[Group]:
        """The groups of one reply; `prompt`: embeddings [positions, hidden] of the text model. Once `is_cancelled` the
        groups end early."""
        interleaving, speech = self.model.config.interleaving, self.model.speech
        text = _Sequence(self.llm, limits.text_sampling, limits.text_ends, prompt, keeps_states=True)
        units = _Sequence(self.tts, limits.unit_sampling, limits.unit_ends, speech.speaker()[None])
        num_text = num_units = 0
        is_text_finished = False
        while not is_cancelled():
            ids, states = text.extend(min(interleaving.num_text, limits.max_text - num_text))
            num_text += len(ids)
            is_text_finished = ids[-1] in limits.text_ends or num_text >= limits.max_text
            yield Group("text", ids)
            units.append(speech.bridge(states))
            left = limits.max_units - num_units
            if left <= 0:
                return
            count = left if is_text_finished else min(interleaving.num_units, left)
            ids, _ = units.extend(count, is_cancelled if is_text_finished else None)
            num_units += len(ids)
            yield Group("unit", ids)
            if is_text_finished:
                return


class _Sequence:
    """One of the two sequences: all embeddings so far and the cache of those that were forwarded."""

    def __init__(
        self, lm: Any, sampling: Sampling, ends: tuple[int, ...], embeds: Tensor, *, keeps_states: bool = False
    ) -> None:
        """embeds [positions, hidden]"""
        self._lm, self._keeps_states = lm, keeps_states
        self._embeds = embeds[None]
        self._cache = DynamicCache()
        chosen = (
            {"do_sample": False}
            if sampling.is_greedy
            else {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        )
        self._config = GenerationConfig(  # type: ignore[no-untyped-call]
            **chosen,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
            return_dict_in_generate=True,
            output_hidden_states=keeps_states,
        )

    def append(self, embeds: Tensor) -> None:
        """embeds [n, hidden]: inputs that are not of this model's own making."""
        self._embeds = torch.cat((self._embeds, embeds[None]), dim=1)

    def extend(self, count: int, is_cancelled: Callable[[], bool] | None = None) -> tuple[list[int], Tensor]:
        """One generate(): up to `count` tokens, and the last states [n, hidden] that predicted them ([0, hidden] unless
        states are kept)."""
        self._config.max_new_tokens = count
        stopping = StoppingCriteriaList([_Cancelled(is_cancelled)]) if is_cancelled else None
        out = self._lm.generate(
            inputs_embeds=self._embeds,
            attention_mask=self._embeds.new_ones(self._embeds.shape[:2], dtype=torch.int64),
            past_key_values=self._cache,
            generation_config=self._config,
            stopping_criteria=stopping,
        )
        ids = out.sequences[0]
        self.append(self._lm.get_input_embeddings()(ids))
        if not self._keeps_states:
            return ids.tolist(), self._embeds[0, :0]
        return ids.tolist(), torch.cat([layers[-1][0, -1:] for layers in out.hidden_states])


class _Cancelled(StoppingCriteria):
    """Ends a generate() from outside."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self._is_cancelled(), device=input_ids.device, dtype=torch.bool)


def theirs(lm: LanguageModel, attention: str) -> Any:
    """transformers' model of the same size over the same memory."""
    config = _config(lm.config, attention)
    with torch.device("meta"):
        made: Any = Qwen3ForCausalLM(config) if lm.config.has_qk_norm else Qwen2ForCausalLM(config)
    made.load_state_dict({target.name: target.tensor for target in lm.targets("") if target.name}, assign=True)
    made.model.rotary_emb = type(made.model.rotary_emb)(config).to(lm.norm.weight.device)  # the first had no memory
    made.eval().requires_grad_(False)
    return made


def _config(config: LanguageModelConfig, attention: str) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": False,  # where ours is tied both names lead to the same memory
        "attn_implementation": attention,
    }
    if config.has_qk_norm:
        return Qwen3Config(**sizes, head_dim=config.head_dim, attention_bias=config.has_qkv_bias)
    return Qwen2Config(**sizes)
