"""Prompts, language models, generation and sampling against the reference's numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from model.opens2s.checkpoint import Checkpoint
from model.opens2s.config import Interleaving
from model.opens2s.interleave import ReplyOrder
from model.opens2s.kv_cache import KvCache
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S
from model.opens2s.reply import Lane, Reply, Token
from model.opens2s.sampling import GREEDY, Sampling, probabilities
from tests.support.opens2s_conversations import conversations, embed
from tests.support.opens2s_fixtures import Fixtures, load_fixtures

RUNS = load_fixtures().json("generate_greedy")["runs"]


def close(actual: torch.Tensor, expected: np.ndarray, fixtures: Fixtures) -> None:
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=fixtures.tolerance("logits"))


def forward(lm: LanguageModel, embeds: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return lm(
            torch.from_numpy(embeds), KvCache(lm.config, torch.device("cpu"), torch.float32).begin(embeds.shape[1])
        )


def test_prompts_are_the_references_ids(fixtures: Fixtures, checkpoint: Checkpoint) -> None:
    for name, conversation in conversations(fixtures).items():
        assert checkpoint.prompts.ids(conversation.messages) == conversation.input_ids, name


def test_prompt_embeddings_are_the_references(fixtures: Fixtures, prompts: dict[str, torch.Tensor]) -> None:
    expected = fixtures.arrays("prompt_embeds")
    assert prompts.keys() == expected.keys()
    for name, conversation in conversations(fixtures).items():
        assert len(prompts[name]) == conversation.num_embeddings
        close(prompts[name], expected[name], fixtures)


def test_the_text_model_gives_the_references_states_and_logits(fixtures: Fixtures, model: OpenS2S) -> None:
    arrays = fixtures.arrays("teacher_forced")
    hidden = forward(model.llm, arrays["inputs_embeds"])
    close(hidden, arrays["llm_hidden"], fixtures)
    close(model.llm.logits(hidden), arrays["llm_logits"], fixtures)


def test_the_speech_model_gives_the_references_states_and_logits(fixtures: Fixtures, model: OpenS2S) -> None:
    arrays = fixtures.arrays("teacher_forced")
    hidden = forward(model.speech.lm, arrays["tts_inputs_embeds"])
    close(hidden, arrays["tts_hidden"], fixtures)
    close(model.speech.lm.logits(hidden), arrays["tts_logits"], fixtures)


def test_states_and_speech_tokens_are_interleaved_as_in_training(
    fixtures: Fixtures, checkpoint: Checkpoint, model: OpenS2S
) -> None:
    arrays = fixtures.arrays("teacher_forced")
    first, last = arrays["span"]
    states = model.speech.bridge(torch.from_numpy(arrays["llm_hidden"][0, first:last]))
    # the last speech token is the end of speech, which is not among the codes
    units = [*(int(code) + checkpoint.vocabulary.first_unit for code in arrays["units"])]
    end = next(int(label) for label in reversed(arrays["tts_labels"][0]) if label >= 0)
    units += [end]
    order = ReplyOrder(
        model.config.interleaving,
        max_text=len(states),
        max_units=len(units),
        text_ends=frozenset(),
        unit_ends=frozenset(),  # what was recorded goes on to its last token
    )
    inputs, labels = [model.speech.speaker()], [-100]
    while order.next != "done":
        if order.next == "text":
            inputs.append(states[order.num_text])
            labels.append(-100)
            order.add_text(0)
        else:
            unit = units[order.num_units]
            order.add_unit(unit)
            inputs.append(model.speech.lm.embed(torch.tensor(unit)))
            labels.append(unit)
    rest = states[order.num_text :]  # in training, states whose speech ran out follow alone
    inputs += rest
    labels += [-100] * len(rest)
    expected = arrays["tts_inputs_embeds"][0]
    close(torch.stack(inputs), expected, fixtures)
    assert labels == arrays["tts_labels"][0].tolist()


def test_a_speaker_embedding_becomes_the_references_first_input(fixtures: Fixtures, model: OpenS2S) -> None:
    arrays = fixtures.arrays("teacher_forced")
    speaker = model.speech.speaker(torch.from_numpy(arrays["spk_emb"].reshape(-1)))
    close(speaker, arrays["tts_inputs_embeds_with_spk"].reshape(-1), fixtures)
    torch.testing.assert_close(model.speech.speaker(), model.speech.spk_ln.bias)  # the released voice


class Recorded:
    """The inputs of a lane, concatenated."""

    def __init__(self, lane: Lane) -> None:
        self.inputs: list[torch.Tensor] = []
        forward = lane.forward

        def record(embeds: torch.Tensor) -> torch.Tensor:
            self.inputs.append(embeds)
            return forward(embeds)

        lane.forward = record  # type: ignore[method-assign]


Head = Literal["restricted", "whole"]


def run(
    checkpoint: Checkpoint, prompt: torch.Tensor, case: dict[str, Any], head: Head = "restricted"
) -> tuple[Reply, list[Token]]:
    """The case played with the head that is served, or with the reference's, which can also say text."""
    ends = case["tts_eos_token_id"]
    # an id that ends speech elsewhere can be an ordinary one in this case
    vocabulary = replace(checkpoint.vocabulary, end_ids=(*ends, *checkpoint.vocabulary.end_ids))
    rows = vocabulary.rows if head == "restricted" else range(checkpoint.config.tts.vocab_size)
    model = replace(checkpoint, vocabulary=vocabulary).load(restrict_head=head == "restricted")
    order = ReplyOrder(
        Interleaving.parse(case["interleave"]),
        max_text=case["max_new_tokens"],
        max_units=case["tts_max_new_tokens"],
        text_ends=frozenset(case["eos_token_id"]),
        unit_ends=frozenset(rows.index(end) for end in ends),
    )
    reply = Reply(model, prompt, order, text_sampling=GREEDY, unit_sampling=GREEDY)
    reply.recorded = Recorded(reply.tts)  # type: ignore[attr-defined]
    tokens = []
    while not reply.is_done:
        token = reply.step()
        if token is not None:
            original = token.id if token.kind == "text" else rows[token.id]
            tokens.append(Token(token.kind, original))
    assert reply.step() is None
    return reply, tokens


def calls(tokens: list[Token], prompt: int) -> tuple[list[Any], list[Any]]:
    """The reference's calls of generate(): one per group, with all that came before; lengths and new ids."""
    text: list[Any] = []
    speech: list[Any] = []
    num_text = num_units = 0
    for kind, group in itertools.groupby(tokens, key=lambda token: token.kind):
        ids = [token.id for token in group]
        if kind == "text":
            text.append([prompt + num_text, ids])
            num_text += len(ids)
        else:
            speech.append([1 + num_text + num_units, ids])  # the speaker, all states, the units before
            num_units += len(ids)
    return text, speech


@pytest.mark.parametrize("head", ["restricted", "whole"])
@pytest.mark.parametrize("case", RUNS, ids=lambda case: case["tag"])
def test_greedy_replies_are_the_references_token_for_token(
    fixtures: Fixtures, checkpoint: Checkpoint, prompts: dict[str, torch.Tensor], case: dict[str, Any], head: Head
) -> None:
    kept = {*checkpoint.vocabulary.rows, *case["tts_eos_token_id"]}
    if head == "restricted" and not kept.issuperset(case["units"]):
        pytest.skip("the reference said text ids here, which the head that is served does not have")
    reply, tokens = run(checkpoint, prompts[case["case"]], case, head)
    assert [token.id for token in tokens if token.kind == "text"] == case["sequences"]
    assert [token.id for token in tokens if token.kind == "unit"] == case["units"]
    streamed = [(kind, token) for kind, ids in case["stream_log"] if ids != "end" for token in ids]
    assert [(token.kind, token.id) for token in tokens] == streamed  # in the same order
    assert calls(tokens, len(prompts[case["case"]])) == (case["llm_calls"], case["tts_calls"])
    inputs = torch.cat(reply.recorded.inputs)  # type: ignore[attr-defined]
    expected = fixtures.arrays("generate_tts_inputs")[case["tag"]]
    close(inputs[: len(expected)], expected, fixtures)


def test_speech_codes_begin_where_the_reference_finds_them(fixtures: Fixtures, checkpoint: Checkpoint) -> None:
    assert checkpoint.vocabulary.first_unit == fixtures.json("generate_greedy")["units_bias"]


def test_text_alone_is_the_references_batch(fixtures: Fixtures, checkpoint: Checkpoint, model: OpenS2S) -> None:
    """The reference pads the batch on the left; row by row without padding comes to the same."""
    arrays = fixtures.arrays("generate_text_batch")
    rows = []
    for ids, mask, used in zip(arrays["input_ids"], arrays["attention_mask"], arrays["embeds_mask"], strict=True):
        written = ids[mask.astype(bool)].tolist()
        rows.append(
            next(
                one
                for one in conversations(fixtures).values()
                if one.input_ids == written and one.num_embeddings == used.sum()
            )
        )
    prompts = embed(model, checkpoint, rows)
    for prompt, padded, sequence in zip(prompts, arrays["inputs_embeds"], arrays["sequences"], strict=True):
        close(prompt, padded[-len(prompt) :], fixtures)
        assert not padded[: -len(prompt)].any()
        expected = sequence.tolist()
        lane = Lane(model.llm)
        made: list[int] = []
        inputs = prompt
        with torch.inference_mode():
            while len(made) < len(expected) and not (made and made[-1] in checkpoint.text_generation.end_ids):
                made.append(int(model.llm.logits(lane.forward(inputs)).argmax()))
                inputs = model.llm.embed(torch.tensor(made[-1:]))
        assert made == expected[: len(made)]


def test_sampling_gives_the_references_probabilities(fixtures: Fixtures) -> None:
    arrays = fixtures.arrays("sampling")
    logits = torch.from_numpy(arrays["logits"])
    names = [name for name in arrays if name.startswith("probs_")]
    assert names
    for name in names:
        temperature, top_k, top_p = (part[1:] for part in name.split("_")[1:])
        sampling = Sampling(_decimal(temperature), int(top_k), _decimal(top_p))
        np.testing.assert_allclose(probabilities(logits, sampling), arrays[name], atol=1e-6, err_msg=name)


def _decimal(digits: str) -> float:
    """ "06" -> 0.6, "1" -> 1.0, "095" -> 0.95, "13" -> 1.3."""
    return float(digits if "." in digits else f"{digits[0]}.{digits[1:]}")
