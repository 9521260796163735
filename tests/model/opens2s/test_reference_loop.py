"""The reference's loop that the benchmarks compare with makes the same reply as ours, and is heard when it would be."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.support.reference_generation import Limits, ReferenceModels
from benchmarks.support.reference_loop import CHUNK_UNITS, ReferenceLoop, lock_step
from model.decoder.weights import load_decoder
from model.interface import AudioDelta, ConversationItem, GenerateRequest, ResponseDone, TextDelta
from model.opens2s.checkpoint import Checkpoint
from model.opens2s.interleave import ReplyOrder
from model.opens2s.model import OpenS2S
from model.opens2s.reply import Reply
from model.opens2s.sampling import GREEDY
from tests.support.opens2s_fixtures import Fixtures


def limits(checkpoint: Checkpoint, max_text: int, max_units: int) -> Limits:
    return Limits(
        max_text,
        max_units,
        checkpoint.text_generation.end_ids,
        checkpoint.speech_generation.end_ids,
        GREEDY,
        GREEDY,
    )


@pytest.mark.parametrize(("max_text", "max_units"), [(12, 60), (12, 9), (1, 5), (30, 45)])
def test_greedy_tokens_are_those_of_our_reply(
    checkpoint: Checkpoint, model: OpenS2S, prompts: dict[str, torch.Tensor], max_text: int, max_units: int
) -> None:
    reference = ReferenceModels(model)
    asked = limits(checkpoint, max_text, max_units)
    for prompt in prompts.values():
        groups = list(reference.generate(prompt, asked, lambda: False))
        order = ReplyOrder(
            model.config.interleaving,
            max_text=max_text,
            max_units=max_units,
            text_ends=frozenset(asked.text_ends),
            unit_ends=frozenset(asked.unit_ends),
        )
        reply = Reply(model, prompt, order, text_sampling=GREEDY, unit_sampling=GREEDY)
        ours = []
        while not reply.is_done:
            token = reply.step()
            if token is not None:
                ours.append((token.kind, token.id))
        assert [(group.kind, token) for group in groups for token in group.ids] == ours
        assert all(first.kind != second.kind for first, second in pairwise(groups)), "one call for each group"


def consumed(texts: list[int | None], units: list[int | None]) -> list[object]:
    """What the consumer hands on; a list that runs out where it would wait ends it."""
    found: list[object] = []
    try:
        for item in lock_step(iter(texts).__next__, iter(units).__next__):
            found.append(item)
    except RuntimeError:  # a generator turns StopIteration into it
        found.append("waits")
    return found


def test_a_chunk_is_heard_only_when_as_many_text_tokens_exist() -> None:
    units: list[int | None] = [*range(2 * CHUNK_UNITS)]
    assert consumed([*range(CHUNK_UNITS - 1)], units) == [*range(CHUNK_UNITS - 1), "waits"]
    enough = consumed([*range(CHUNK_UNITS)], units)
    assert enough == [*range(CHUNK_UNITS), (units[:CHUNK_UNITS], False), "waits"]


def test_the_rest_is_flushed_when_everything_is_finished() -> None:
    found = consumed([1, None], [*range(CHUNK_UNITS + 3), None])
    assert found == [1, ([*range(CHUNK_UNITS)], False), ([*range(CHUNK_UNITS, CHUNK_UNITS + 3)], True)]


def test_it_answers_as_an_engine_does(checkpoint: Checkpoint, model: OpenS2S, fixtures: Fixtures) -> None:
    loop = ReferenceLoop(checkpoint, model, load_decoder(fixtures.decoder), lambda: None, temperature=0.0)
    try:
        history = (ConversationItem("user", "", fixtures.pcm("short")), ConversationItem("assistant", "Good day."))
        for number, count in enumerate((30, 10)):  # 30: a chunk and a rest; 10: too few for the reference itself
            loop.announce(f"r{number}", count)
            request = GenerateRequest("", f"r{number}", "", history, fixtures.pcm("short"), max_output_tokens=4)
            loop.submit(request)
        loop.submit(GenerateRequest("", "dropped", "", (), fixtures.pcm("short")))
        loop.cancel("dropped")
        events = []
        deadline = time.monotonic() + 60
        while sum(isinstance(event, ResponseDone) for event in events) < 3 and time.monotonic() < deadline:
            events += loop.step(time.monotonic())
    finally:
        loop.close()
    done = {event.response_id: event.status for event in events if isinstance(event, ResponseDone)}
    assert done.pop("dropped") == "cancelled"
    assert set(done.values()) <= {"completed", "incomplete"}
    for key in done:
        pcm = np.concatenate([e.pcm for e in events if isinstance(e, AudioDelta) and e.response_id == key])
        assert len(pcm) > 0.3 * loop.info.sample_rate
        assert any(isinstance(event, TextDelta) for event in events if event.response_id == key)
    assert loop.busy_seconds > 0
