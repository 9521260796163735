"""An OpenS2S engine on virtual time, with every token of every reply, and the requests that its tests are about.

Nothing takes time by itself here: each step is said to take as long as a seed draws, so that a schedule is the same in
every run, and a machine that is busy changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.backends.opens2s.engine import OpenS2SEngine, create
from model.engine.core import EngineCore
from model.engine.runner import SEEDS, TorchRunner, Work
from model.engine.sequence import Sequence
from model.interface import ConversationItem, EngineEvent, GenerateRequest, Pcm16, ResponseDone, Usage
from model.opens2s.interleave import ReplyOrder
from model.opens2s.prompt import AUDIO
from model.opens2s.reply import Reply, Token, splice
from model.opens2s.sampling import Sampling, sample_rows
from tests.support.engine_contract import Driver
from tests.support.opens2s_small import change, small_checkpoint
from tests.support.recordings import recording

MAX_UNITS = 30
MAX_TEXT = 12
MAX_STEPS = 3_000
CLOSE = 16
"""Tolerance of samples (int16): these random weights make 3e-5 of full scale of a mel that is off by rounding."""


def lively_checkpoint(folder: Path, interleaving: str = "1:2") -> dict[str, object]:
    """The small checkpoint where text and groups of speech end by themselves now and then."""
    options = small_checkpoint(folder)
    checkpoint = Path(str(options["checkpoint"]))
    change(checkpoint / "config.json", interleave_strategy=interleaving)
    change(checkpoint / "generation_config.json", eos_token_id=[330, 331, *range(7, 300, 29)])
    change(checkpoint / "tts" / "generation_config.json", eos_token_id=[330, *range(340, 420, 9)])
    change(checkpoint / "tts" / "generation_config.json", max_new_tokens=MAX_UNITS)
    voice = folder / "anna.npy"
    np.save(voice, np.random.default_rng(0).standard_normal(512).astype(np.float32))
    limits = {"max_output_tokens": MAX_TEXT, "max_sequences": 12, "context_tokens": 512}
    return options | limits | {"voices": {"anna": str(voice)}}


class VirtualTime:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True)
class Case:
    """A request worth making."""

    audio: Pcm16 | None = None
    text: str = ""
    fields: dict[str, object] = field(default_factory=dict)


F0, F1 = recording("f0_rms"), recording("f1_rms")
LONG = np.tile(F1, 5)[: 16_000 * 9]
"""Three windows of the small encoder."""
PAST = (ConversationItem("user", "", F1), ConversationItem("assistant", "sure, I can help."))
CASES: dict[str, Case] = {
    "audio": Case(F0, fields={"seed": 1}),
    "the same again": Case(F0, fields={"seed": 1}),
    "another seed": Case(F0, fields={"seed": 2}),
    "other audio": Case(F1, fields={"seed": 3}),
    "long audio": Case(LONG, fields={"seed": 4}),
    "the long audio again": Case(LONG, fields={"seed": 5}),
    "history": Case(F0, fields={"seed": 6, "items": PAST}),
    "long history": Case(F0, fields={"seed": 7, "items": (*PAST, ConversationItem("user", "", LONG))}),
    "typed": Case(text="hello there", fields={"seed": 8}),
    "much typed": Case(text="hello there " * 40, fields={"seed": 9}),
    "voice": Case(F0, fields={"seed": 10, "voice": "anna"}),
    "written": Case(F1, fields={"seed": 11, "output": "text"}),
    "typed and written": Case(text="hello", fields={"seed": 12, "output": "text"}),
    "short reply": Case(F1, fields={"seed": 13, "max_output_tokens": 3}),
    "instructions": Case(F0, fields={"seed": 14, "instructions": "Talk like a pirate, but in short sentences."}),
    "listening": Case(LONG[: 16_000 * 6], fields={"seed": 15, "output": "listen"}),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a request."""

    status: str
    text: str
    tokens: list[Token]
    audio: Pcm16
    usage: Usage


class Watched(Driver):
    """A driver of one OpenS2S engine that sees its tokens and tells it the time."""

    def __init__(self, options: dict[str, object], clock: VirtualTime) -> None:
        super().__init__(lambda wake: create(options, wake))
        assert isinstance(self.engine, OpenS2SEngine)
        self.opens2s: OpenS2SEngine = self.engine
        self.clock = clock
        self.pace: Callable[[], float] = lambda: 0.01
        """Seconds that the next step takes."""
        self.tokens: dict[str, list[Token]] = {}
        self.works: dict[str, Work] = {}
        scheduler = self.core.scheduler
        scheduler._limits = replace(scheduler._limits, patience=1e9)  # nobody is refused: they all have an end
        self._watch()

    def _watch(self) -> None:
        maker = self.opens2s._maker
        make = maker.make

        def watched(*args: object) -> tuple[Sequence, Work]:
            sequence, work = make(*args)
            self.works[sequence.id] = replace(work)
            tokens = self.tokens[sequence.id] = []
            order = sequence.order
            add_text, add_unit = order.add_text, order.add_unit

            def text(token: int) -> None:
                tokens.append(Token("text", token))
                add_text(token)

            def unit(token: int) -> None:
                tokens.append(Token("unit", token))
                add_unit(token)

            order.add_text, order.add_unit = text, unit
            return sequence, work

        maker.make = watched

    @property
    def core(self) -> EngineCore:
        return self.opens2s._core

    @property
    def runner(self) -> TorchRunner:
        return self.opens2s._runner

    def step(self) -> list[EngineEvent]:
        self.clock.now += self.pace()
        events = self.engine.step(self.clock.now)
        for event in events:
            self.events[event.response_id].append(event)
        return events

    def ask(self, name: str, **fields: object) -> str:
        """Submit the case of this name; returns the response id."""
        case = CASES[name]
        return self.submit(case.audio, case.text, **(case.fields | fields))

    def run(self, *keys: str) -> None:
        """Step until these have ended."""
        for _ in range(MAX_STEPS):
            if all(self.done(key) for key in keys):
                return
            assert self.engine.has_work, f"it stands still: {self.states()}"
            self.step()
        raise AssertionError(f"no end after {MAX_STEPS} steps: {self.states()}")

    def run_to(self, condition: Callable[[], object]) -> None:
        """Step until the condition holds."""
        for _ in range(MAX_STEPS):
            if condition():
                return
            self.step()
        raise AssertionError(f"it never came: {self.states()}")

    def read_prompts(self) -> None:
        """Make the prompts of all new requests at once, not one per step."""
        for response in list(self.opens2s._live.values()):
            if response.sequence is None:
                assert self.opens2s._read(response) == []

    def sequence(self, key: str) -> Sequence:
        found = self.opens2s._live[key].sequence
        assert found is not None
        return found

    def started(self) -> list[Sequence]:
        """Those that have a place."""
        return [s for s in self.core.sequences if s.phase != "queued" and not s.is_swapped and not s.is_over]

    def states(self) -> list[object]:
        return [(s.id, s.phase, s.is_held, s.is_swapped, s.produced_ms, s.order.next) for s in self.core.sequences]

    def outcome(self, key: str) -> Outcome:
        done = self.done(key)
        assert isinstance(done, ResponseDone)
        usage = replace(done.usage, cached_tokens=0)
        return Outcome(done.status, self.text(key), self.tokens[key], self.audio(key), usage)

    def forget(self) -> None:
        """Leave nothing of what was read, heard or recorded."""
        self.core.clear()
        self.opens2s._hearing.clear()
        self.events.clear()
        self.tokens.clear()
        self.works.clear()


def assert_same(found: Outcome, expected: Outcome, name: str = "") -> None:
    """Equal tokens, and sound that differs by rounding at most."""
    assert found.tokens == expected.tokens, name
    assert (found.status, found.text, found.usage) == (expected.status, expected.text, expected.usage), name
    assert len(found.audio) == len(expected.audio), name
    difference = np.abs(found.audio.astype(np.int32) - expected.audio)
    assert difference.max(initial=0) <= CLOSE, name


def assert_clean(driver: Watched) -> None:
    """Nothing is left of replies that ended, but what their prompts left in the cache."""
    core, runner = driver.core, driver.runner
    core.check()
    assert not driver.opens2s._live
    assert not core.sequences
    assert core.text.num_used == core.speech.num_used == core.speech.num_cached == 0
    assert sorted(runner._free_slots) == list(range(1, len(runner._speakers)))
    assert not runner._works
    assert not driver.opens2s._hearing._begun
    assert not driver.engine.has_work


def at_random(numbers: random.Random, paces: Iterable[float] = (0.0005, 0.005, 0.02)) -> Callable[[], float]:
    choices = list(paces)
    return lambda: numbers.choice(choices)


class NoWaiting(TorchDispatchMode):
    """Refuses what looks at a value of the device."""

    FORBIDDEN = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name().split(".")[0] not in self.FORBIDDEN, func
        return func(*args, **(kwargs or {}))


# --- the same, readable


class SeededReply(Reply):
    """The loop of one reply, choosing as the engine does: by seed, kind and number of the token."""

    seed = 0

    def _choose(self, logits: Tensor, sampling: Sampling) -> Tensor:
        is_unit = self.order.next == "unit"
        step = self.order.num_units if is_unit else self.order.num_text
        seeds = torch.tensor([2 * (self.seed % SEEDS) + is_unit])
        return sample_rows(logits[None], sampling, seeds, torch.tensor([step]))[0]


def readable_tokens(driver: Watched, key: str, request: GenerateRequest, seed: int) -> list[Token]:
    """The tokens that `Reply` makes of the same prompt, with caches of its own and one position after the other."""
    engine, work = driver.opens2s, driver.works[key]
    parts, options = engine._loaded, driver.runner._options
    model, checkpoint = parts.model, parts.checkpoint
    max_text = min(request.max_output_tokens or MAX_TEXT, MAX_TEXT)
    order = ReplyOrder(
        checkpoint.config.interleaving,
        max_text=max_text,
        max_units=MAX_UNITS,
        text_ends=frozenset(checkpoint.text_generation.end_ids),
        unit_ends=checkpoint.vocabulary.ends,
        has_speech=request.output == "audio",
    )
    prompt = splice(model.llm, work.ids, [engine._hearing.embed(audio) for audio in work.audios], AUDIO)
    reply = SeededReply(
        model,
        prompt,
        order,
        text_sampling=options.text_sampling,
        unit_sampling=options.unit_sampling,
        speaker=work.speaker,
    )
    reply.seed = seed
    found = []
    while not reply.is_done:
        token = reply.step()
        assert token is not None
        found.append(token)
    return found
