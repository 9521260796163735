"""OpenS2S as a `SpeechEngine`: requests become sequences of the engine's core, what comes out of it becomes events.

Nothing here has a thread: the host calls `step` as long as there is work, and every step does one bounded piece for
whoever needs it most (model/engine/scheduler.py).
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from model.backends.requests import check_request
from model.decoder.chunks import ChunkPlan
from model.decoder.live_window import LiveOptions, usual_lengths
from model.engine.blocks import BlockManager
from model.engine.core import BusyError, CoreStats, Ended, EngineCore, Output, SoundMade, Started, TextMade
from model.engine.costs import LONGEST_SOUND_MS, MAX_SOUND_BATCH, SOUND_SIZES, Costs
from model.engine.hearing import Hearing
from model.engine.runner import RunnerOptions, TorchRunner
from model.engine.scheduler import Limits
from model.engine.sequence import SoundShape
from model.interface import (
    INPUT_SAMPLE_RATE,
    CacheUse,
    EngineEvent,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineSetupError,
    GenerateRequest,
    ResponseDone,
    ResponseStarted,
    Wake,
)
from model.opens2s.generation_config import DEFAULT_MAX_UNITS
from model.opens2s.prompt import DEFAULT_INSTRUCTIONS
from model.opens2s.sampling import Sampling

from .conversation import build_prompt
from .loading import Parts, load_parts
from .memory import BLOCK_SIZE, CacheSizes, cache_sizes
from .options import OpenS2SOptions
from .response import Response
from .sequences import SequenceMaker

log = logging.getLogger(__name__)

NAME = "opens2s"
MAX_LIVE = 64
"""Responses inside the engine, waiting ones included; one more fails with `engine_busy`."""
MAX_READ = 512
"""Positions of prompts that one step reads."""
SPEECH_TEMPERATURE = 1.0  # the reference's; the speech model was not made to be sampled more coldly
MIN_SAMPLES = INPUT_SAMPLE_RATE // 10
"""Shorter audio holds no word; the encoder has nothing to say about it."""
LISTEN_AHEAD_MS = 30_000
"""One window of the encoder."""
WARM_UP_MS = 6_000  # first pieces of sound, and later ones, which are longer
WARM_UP_TOKENS = 40
WARM_UP_LOAD = 1.5  # of the time; twice as many replies at once, which often share work, are not tried from here on


class OpenS2SEngine:
    """`SpeechEngine` over one checkpoint and one decoder."""

    def __init__(self, options: OpenS2SOptions) -> None:
        self._options = options
        self._parts: Parts | None = load_parts(options)
        parts = self._parts
        config, decoder = parts.checkpoint.config, parts.decoder
        self._sizes = cache_sizes(parts.model, options, self._max_units)
        self._hearing = Hearing(parts.model.listener, parts.checkpoint.front_end)
        max_batch = options.max_batch or options.max_sequences
        self._runner = TorchRunner(
            parts.model,
            decoder,
            self._hearing,
            RunnerOptions(
                num_text_blocks=self._sizes.text_blocks,
                num_speech_blocks=self._sizes.speech_blocks,
                block_size=BLOCK_SIZE,
                max_sequences=options.max_sequences,
                max_batch=max_batch,
                text_sampling=Sampling(options.temperature, parts.checkpoint.text_generation.top_k, options.top_p),
                unit_sampling=Sampling(SPEECH_TEMPERATURE, parts.checkpoint.speech_generation.top_k),
            ),
        )
        self._plan = ChunkPlan(block_units=decoder.config.flow.encoder.block_size)
        frame_ms = decoder.config.vocoder.frame_samples * 1000 / decoder.sample_rate
        shape = SoundShape(self._plan, 1000 / decoder.token_rate, LiveOptions().hold_back_frames * frame_ms)
        self._core = EngineCore(
            self._runner,
            Limits(
                options.max_sequences,
                max_batch,
                MAX_READ,
                config.interleaving.num_units,
                is_measured=options.admission == "measured",
            ),
            Costs(
                config.interleaving.num_units,
                shape.unit_ms,
                self._plan.block_units,
                shape.first_ms,
            ),
            BlockManager(self._sizes.text_blocks, BLOCK_SIZE),
            BlockManager(self._sizes.speech_blocks, BLOCK_SIZE),
            is_sound=parts.checkpoint.vocabulary.is_sound,
            sample_rate=decoder.sample_rate,
            clock=time.monotonic,
        )
        self._maker = SequenceMaker(parts, self._hearing, shape, self._max_units)
        self._info = EngineInfo(
            name=NAME,
            sample_rate=decoder.sample_rate,
            max_sequences=options.max_sequences,
            gives_transcripts=False,
            listens_to_history=True,
            listen_ahead_ms=LISTEN_AHEAD_MS,
            voices=tuple(parts.voices),
            description="OpenS2S: hears speech and answers with speech."
            if options.load_format == "auto"
            else "OpenS2S with random weights: noise, for measurements.",
        )
        self._live: dict[str, Response] = {}
        self._ended: list[ResponseDone] = []  # of cancelled and refused responses, until the next step
        self.num_failures = 0
        """Responses that ended failed because something raised."""

    # --- SpeechEngine

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def stats(self) -> CoreStats:
        return self._core.stats

    @property
    def sizes(self) -> CacheSizes:
        """Of the caches."""
        return self._sizes

    @property
    def has_work(self) -> bool:
        if self._ended or self._core.has_work:
            return True
        return any(response.sequence is None or response.can_emit for response in self._live.values())

    def warm_up(self) -> None:
        """Record what a GPU can replay; then answer noise, alone and in growing company, so that kernels are chosen,
        memory is there, and what rounds and sound cost is known."""
        options, decoder = self._options, self._loaded.decoder
        if self._loaded.model.device.type == "cuda":
            self._record()
        count = 1
        self._core.scheduler.is_measuring = True
        while True:
            self._answer_noise(count)
            if count >= options.max_sequences or self._core.costs.load(count) > WARM_UP_LOAD:
                break  # what is far from being in time is not measured
            count = min(2 * count, options.max_sequences)
        self._core.scheduler.is_measuring = False
        if self._runner.sound_is_beside:
            self._measure_sound()
        self.forget()
        self._core.stats = CoreStats()
        if options.admission == "measured":
            self._info = replace(self._info, max_calls=self._core.scheduler.capacity)
        log.info(
            "engine measured",
            extra={
                "max_calls": self._info.max_calls,
                "round_ms": round(self._core.costs.round.at(1), 1),
                "sound_ms_per_second": round(self._core.costs.sound_per_second(1), 1),
                "sample_rate": decoder.sample_rate,
            },
        )

    def forget(self) -> None:
        """Forget what was read and heard; what is being answered is dropped."""
        for response_id in list(self._live):
            self._free(response_id)
        self._core.clear()
        self._hearing.clear()

    def _measure_sound(self) -> None:
        """What batches of sound take by themselves: replies that are made together seldom need theirs at the same
        time, and later something else runs beside them."""
        costs, plan = self._core.costs, self._plan
        most = min(MAX_SOUND_BATCH, self._options.max_batch or self._options.max_sequences)
        for pieces in (size for size in SOUND_SIZES if size <= most):
            self._runner.time_sound(pieces, plan)  # kernels are chosen, and memory is there
            first, longest = (1000 * seconds for seconds in self._runner.time_sound(pieces, plan))
            costs.first_sound.know(pieces, first)
            costs.sound.know(pieces, longest)
            if min(costs.of_sound(pieces), costs.of_sound(pieces, is_first=True)) > 2 * LONGEST_SOUND_MS:
                break

    def _answer_noise(self, count: int) -> None:
        generator = np.random.default_rng(count)
        for number in range(count):
            noise = (generator.standard_normal(INPUT_SAMPLE_RATE) * 300).astype(np.int16)
            name = f"warm-up {number}"
            tokens = min(WARM_UP_TOKENS, self._options.max_output_tokens)
            request = GenerateRequest("", name, "", (), noise, max_output_tokens=tokens, audio_credit_ms=WARM_UP_MS)
            self._admit(request)
        while self._live and self.has_work:
            for event in self.step(time.monotonic()):
                fault = event.fault if isinstance(event, ResponseDone) else None
                if fault is not None and fault.code != "engine_busy":  # a slow machine has no place for so many
                    raise RuntimeError(f"The model cannot speak: {fault.message}")
        for response_id in list(self._live):
            self._free(response_id)

    def _record(self) -> None:
        decoder, options = self._loaded.decoder, self._options
        longest = min(options.context_tokens + options.max_output_tokens, self._sizes.most_text)
        begun = time.monotonic()
        count = self._runner.record(longest)
        batches = [size for size in (1, 2, 4, MAX_SOUND_BATCH) if size <= options.max_sequences]
        decoder.record(*usual_lengths(decoder.config, LiveOptions(), self._plan), batches)
        log.info("steps recorded", extra={"passes": count, "seconds": round(time.monotonic() - begun, 1)})

    def submit(self, request: GenerateRequest) -> None:
        check_request(request, self._info)
        if request.response_id in self._live:
            raise ValueError(f"response_id {request.response_id!r} is in use.")
        self._admit(request)

    def _admit(self, request: GenerateRequest) -> None:
        if len(self._live) >= MAX_LIVE:
            fault = EngineFault("engine_busy", f"The engine works on {MAX_LIVE} responses already.")
            self._ended.append(ResponseDone(request.response_id, "failed", time.monotonic(), fault))
            return
        self._live[request.response_id] = Response(request, self._info.sample_rate, time.monotonic())

    def cancel(self, response_id: str) -> None:
        if self._free(response_id):
            self._ended.append(ResponseDone(response_id, "cancelled", time.monotonic()))

    def release(self, response_id: str) -> None:
        response = self._live.get(response_id)
        if response is not None:
            response.release(time.monotonic())

    def grant(self, response_id: str, audio_ms: int) -> None:
        response = self._live.get(response_id)
        if response is not None:
            response.grant(audio_ms, time.monotonic())

    def step(self, now: float) -> list[EngineEvent]:
        """One piece of work for whoever needs it most, then whatever credit lets out."""
        events: list[EngineEvent] = list(self._ended)
        self._ended.clear()
        for response in list(self._live.values()):
            if response.sequence is None:
                events += self._guarded_read(response)
                break  # one prompt per step: its tokenizer takes milliseconds
        for output in self._core.step(now):
            events += self._events(output)
        at = time.monotonic()
        for response in list(self._live.values()):
            events += response.emit(at)
            done = response.done(at)
            if done is not None:
                self._free(response.request.response_id)
                events.append(done)
        return events

    def load(self) -> EngineLoad:
        """See `ReportsLoad`. Steps that come back at once do not count as work."""
        core = self._core
        waiting = sum(not response.has_started for response in self._live.values())
        caches = (
            CacheUse("text", core.text.num_used, core.text.num_blocks),
            CacheUse("speech", core.speech.num_used, core.speech.num_blocks),
        )
        stats = core.stats
        return EngineLoad(len(self._live) - waiting, waiting, caches, dict(stats.rounds), stats.busy_seconds)

    def close(self) -> None:
        if self._parts is None:
            return
        self.forget()
        self._ended.clear()
        self._parts = None
        del self._core, self._runner, self._maker

    # --- one response

    def _guarded_read(self, response: Response) -> list[EngineEvent]:
        try:
            return self._read(response)
        except Exception as error:  # whatever a tokenizer raises ends this response and no other
            return [self._fail(response, error)]

    def _read(self, response: Response) -> list[EngineEvent]:
        """Make the prompt, and a sequence of it."""
        request, options, checkpoint = response.request, self._options, self._loaded.checkpoint
        started: list[EngineEvent] = [ResponseStarted(request.response_id, time.monotonic())]
        if request.audio is not None and len(request.audio) < MIN_SAMPLES:
            self._free(request.response_id)
            return [*started, ResponseDone(request.response_id, "completed", time.monotonic())]
        max_text = min(request.max_output_tokens or options.max_output_tokens, options.max_output_tokens)
        try:
            prompt = build_prompt(
                request,
                checkpoint.prompts,
                request.instructions or options.instructions or DEFAULT_INSTRUCTIONS,
                max_positions=min(options.context_tokens, self._sizes.most_text - max_text),
                count=self._hearing.count,
                min_samples=MIN_SAMPLES,
            )
        except ValueError as error:
            self._free(request.response_id)
            fault = EngineFault("context_too_long", str(error))
            return [*started, ResponseDone(request.response_id, "failed", time.monotonic(), fault)]
        sequence, work = self._maker.make(response, prompt, max_text)
        response.begin(prompt, sequence, checkpoint.text_decoder())
        self._runner.open(sequence, work)
        self._core.add(sequence)
        return []  # `ResponseStarted` comes when the sequence has a place

    def _events(self, output: Output) -> list[EngineEvent]:
        response = self._live.get(output.sequence.id)
        if response is None or response.sequence is not output.sequence:
            return []
        at = time.monotonic()
        match output:
            case Started():
                if response.has_started:
                    return []
                response.has_started = True
                return [ResponseStarted(response.request.response_id, at)]
            case TextMade(sequence, token):
                events: list[EngineEvent] = list(response.add_text(token, at))
                if sequence.order.is_text_finished:
                    events += response.finish_text(at)
                return events
            case SoundMade(samples=samples):
                response.add_sound(samples)
                return []
            case Ended(error=None):
                response.is_made = True
                return []
            case Ended(error=BusyError() as error):
                self._free(response.request.response_id)
                fault = EngineFault("engine_busy", str(error))
                started = [] if response.has_started else [ResponseStarted(response.request.response_id, at)]
                return [*started, ResponseDone(response.request.response_id, "failed", at, fault)]
            case Ended(error=error):
                assert error is not None
                return [self._fail(response, error)]

    def _fail(self, response: Response, error: Exception) -> ResponseDone:
        """Whatever raised; its text may quote what was said, so the log gets its type and place only."""
        self.num_failures += 1
        place = traceback.extract_tb(error.__traceback__)[-1:]
        log.error(
            "response failed",
            extra={
                "call_id": response.request.call_id,
                "response_id": response.request.response_id,
                "error": type(error).__name__,
                "place": [f"{frame.filename}:{frame.lineno}" for frame in place],
            },
        )
        self._free(response.request.response_id)
        fault = EngineFault("internal_error", "The engine failed while it worked on this response.")
        return ResponseDone(response.request.response_id, "failed", time.monotonic(), fault)

    def _free(self, response_id: str) -> bool:
        """The one place where a response's memory is given back. False when there is no such response."""
        response = self._live.pop(response_id, None)
        if response is None:
            return False
        if response.sequence is not None:
            self._core.abort(response.sequence)
        response.close()
        return True

    @property
    def _max_units(self) -> int:
        return self._loaded.checkpoint.speech_generation.max_new_tokens or DEFAULT_MAX_UNITS

    @property
    def _loaded(self) -> Parts:
        assert self._parts is not None, "the engine is closed"
        return self._parts


def create(options: Mapping[str, object], wake: Wake) -> OpenS2SEngine:
    """Engine factory. Raises EngineSetupError for options and folders that cannot be used."""
    try:
        return OpenS2SEngine(OpenS2SOptions.from_mapping(options))
    except ValueError as error:  # of options, device, voices, checkpoint and decoder: each a sentence
        raise EngineSetupError(str(error)) from error
