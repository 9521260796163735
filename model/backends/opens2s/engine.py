"""OpenS2S as a `SpeechEngine`: every step does one bounded piece of work for the response that needs it most.

A piece is: one audio of a prompt, one part of its positions, one token of either model, or one chunk of sound. Each
response has its own caches; they share the weights and the device, not a batch. Nothing here has a thread: the host
calls `step` as long as there is work.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping

import numpy as np
import torch

from model.backends.requests import check_request
from model.decoder.chunks import ChunkPlan
from model.decoder.live_stream import LiveStream
from model.decoder.live_window import LiveOptions, usual_lengths
from model.interface import (
    INPUT_SAMPLE_RATE,
    EngineEvent,
    EngineFault,
    EngineInfo,
    EngineSetupError,
    GenerateRequest,
    ResponseDone,
    ResponseStarted,
    Wake,
)
from model.opens2s.generation_config import DEFAULT_MAX_UNITS
from model.opens2s.interleave import ReplyOrder
from model.opens2s.lanes import LanePool
from model.opens2s.prompt import AUDIO, DEFAULT_INSTRUCTIONS
from model.opens2s.reply import Reply, splice
from model.opens2s.sampling import Sampling

from .conversation import Prompt, build_prompt
from .hearing import Hearing
from .loading import Parts, load_parts
from .options import OpenS2SOptions
from .response import Response

log = logging.getLogger(__name__)

NAME = "opens2s"
MAX_LIVE = 64
"""Responses inside the engine, waiting ones included; one more fails with `engine_busy`."""
SHARE_FOR_LANES = 0.8  # of the memory that is free; the rest is for what a step needs besides
WARM_UP_MS = 2_000  # a first chunk and several later ones
MAX_PREFILL = 512
"""Positions of a prompt that one step reads."""
SPEECH_TEMPERATURE = 1.0  # the reference's; the speech model was not made to be sampled more coldly
MIN_SAMPLES = INPUT_SAMPLE_RATE // 10
"""Shorter audio holds no word; the encoder has nothing to say about it."""


class OpenS2SEngine:
    """`SpeechEngine` over one checkpoint and one decoder."""

    def __init__(self, options: OpenS2SOptions) -> None:
        self._options = options
        self._parts: Parts | None = load_parts(options)
        parts = self._parts
        self._hearing = Hearing(parts.model.listener, parts.checkpoint.front_end)
        self._plan = ChunkPlan(block_units=parts.decoder.config.flow.encoder.block_size)
        self._lanes: LanePool | None = None
        self._info = EngineInfo(
            name=NAME,
            sample_rate=parts.decoder.sample_rate,
            max_sequences=options.max_sequences,
            gives_transcripts=False,
            listens_to_history=True,
            voices=tuple(parts.voices),
            description="OpenS2S: hears speech and answers with speech."
            if options.load_format == "auto"
            else "OpenS2S with random weights: noise, for measurements.",
        )
        self._live: dict[str, Response] = {}  # the first `max_sequences` are worked on
        self._ended: list[ResponseDone] = []  # of cancelled and refused responses, until the next step
        self.num_failures = 0
        """Responses that ended failed because something raised."""

    # --- SpeechEngine

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def has_work(self) -> bool:
        return bool(self._ended) or any(r.wants_compute or r.can_emit for r in self._running())

    def warm_up(self) -> None:
        """Record what a GPU can replay, then make the first seconds of a reply to noise, so that kernels are chosen and
        memory is there."""
        self._record()
        noise = (np.random.default_rng(0).standard_normal(INPUT_SAMPLE_RATE) * 300).astype(np.int16)
        request = GenerateRequest("", "warm-up", "", (), noise, max_output_tokens=8, audio_credit_ms=WARM_UP_MS)
        self.submit(request)
        while self.has_work:
            for event in self.step(time.monotonic()):
                if isinstance(event, ResponseDone) and event.fault is not None:
                    raise RuntimeError(f"The model cannot speak: {event.fault.message}")
        self._free(request.response_id)
        self._hearing.clear()

    def _record(self) -> None:
        parts, options = self._loaded, self._options
        model, decoder = parts.model, parts.decoder
        if model.device.type != "cuda":
            return
        decoder.record(*usual_lengths(decoder.config, LiveOptions(), self._plan))
        text = min(options.context_tokens + options.max_output_tokens, model.config.llm.max_positions)
        speech = min(1 + options.max_output_tokens + self._max_units, model.config.tts.max_positions)
        needed = LanePool.size(model, options.max_sequences, text, speech)
        free = torch.cuda.mem_get_info(model.device)[0]
        if needed > SHARE_FOR_LANES * free:
            log.warning(
                "too little memory to record the language models' steps; they are launched one by one",
                extra={"needed_gb": round(needed / 1e9, 1), "free_gb": round(free / 1e9, 1)},
            )
            return
        self._lanes = LanePool(model, options.max_sequences, text, speech)

    def submit(self, request: GenerateRequest) -> None:
        check_request(request, self._info)
        if request.response_id in self._live:
            raise ValueError(f"response_id {request.response_id!r} is in use.")
        if len(self._live) >= MAX_LIVE:
            fault = EngineFault("engine_busy", f"The engine works on {MAX_LIVE} responses already.")
            self._ended.append(ResponseDone(request.response_id, "failed", time.monotonic(), fault))
            return
        self._live[request.response_id] = Response(request, self._info.sample_rate)

    def cancel(self, response_id: str) -> None:
        if self._free(response_id):
            self._ended.append(ResponseDone(response_id, "cancelled", time.monotonic()))

    def grant(self, response_id: str, audio_ms: int) -> None:
        response = self._live.get(response_id)
        if response is not None:
            response.grant(audio_ms)

    def step(self, now: float) -> list[EngineEvent]:
        """One piece of work for the response with the least sound ahead, then whatever credit lets out."""
        events: list[EngineEvent] = list(self._ended)
        self._ended.clear()
        waiting = [response for response in self._running() if response.wants_compute]
        if waiting:
            response = min(waiting, key=lambda response: response.ahead_ms)
            try:
                events += self._advance(response)
            except Exception as error:  # whatever a model raises ends this response and no other
                events.append(self._fail(response, error))
        for response in self._running():
            events += response.emit(time.monotonic())
            done = response.done(time.monotonic())
            if done is not None:
                self._free(response.request.response_id)
                events.append(done)
        return events

    def close(self) -> None:
        for response_id in list(self._live):
            self._free(response_id)
        self._ended.clear()
        self._hearing.clear()
        self._parts = self._lanes = None

    # --- one response

    def _running(self) -> list[Response]:
        return list(self._live.values())[: self._info.max_sequences]

    def _advance(self, response: Response) -> list[EngineEvent]:
        """One bounded piece of work."""
        if response.prompt is None:
            return self._read(response)
        if response.reply is None:
            if len(response.embedded) < len(response.prompt.audios):
                self._hear(response, response.prompt)
            else:
                self._begin(response, response.prompt)
            return []
        units = response.units_to_decode(self._plan)
        if units is not None:
            assert response.stream is not None
            is_final = response.reply.is_done
            response.add_sound(response.stream.decode(response.take_units(units), is_final), is_final)
            return []
        token = response.reply.step()
        events: list[EngineEvent] = []
        if token is not None and token.kind == "text":
            events += response.add_text(token.id, time.monotonic())
            if response.reply.order.is_text_finished:
                events += response.finish_text(time.monotonic())
        elif token is not None and self._loaded.checkpoint.vocabulary.is_sound(token.id):
            response.add_unit(token.id)
        return events

    def _read(self, response: Response) -> list[EngineEvent]:
        """Make the prompt."""
        request, options, checkpoint = response.request, self._options, self._loaded.checkpoint
        started: list[EngineEvent] = [ResponseStarted(request.response_id, time.monotonic())]
        if request.audio is not None and len(request.audio) < MIN_SAMPLES:
            self._free(request.response_id)
            return [*started, ResponseDone(request.response_id, "completed", time.monotonic())]
        positions = checkpoint.config.llm.max_positions - self._max_text(request)
        try:
            response.prompt = build_prompt(
                request,
                checkpoint.prompts,
                request.instructions or options.instructions or DEFAULT_INSTRUCTIONS,
                max_positions=min(options.context_tokens, positions),
                count=self._hearing.count,
                min_samples=MIN_SAMPLES,
            )
        except ValueError as error:
            self._free(request.response_id)
            fault = EngineFault("context_too_long", str(error))
            return [*started, ResponseDone(request.response_id, "failed", time.monotonic(), fault)]
        return started

    def _hear(self, response: Response, prompt: Prompt) -> None:
        """Embed the next of the prompt's audios; after a restart of the engine there may be many."""
        request, number = response.request, len(response.embedded)
        is_turn = request.audio is not None and number == len(prompt.audios) - 1
        embedded = self._hearing.embed(prompt.audios[number], request.turn_id if is_turn else None)
        response.embedded.append(embedded)

    def _begin(self, response: Response, prompt: Prompt) -> None:
        """The reply can be made."""
        request, parts, options = response.request, self._loaded, self._options
        checkpoint = parts.checkpoint
        order = ReplyOrder(
            checkpoint.config.interleaving,
            max_text=self._max_text(request),
            max_units=self._max_units,
            text_ends=frozenset(checkpoint.text_generation.end_ids),
            unit_ends=checkpoint.vocabulary.ends,
            has_speech=response.speaks,
        )
        response.lanes = self._lanes.take() if self._lanes is not None else None
        reply = Reply(
            parts.model,
            splice(parts.model.llm, prompt.ids, response.embedded, AUDIO),
            order,
            text_sampling=Sampling(options.temperature, checkpoint.text_generation.top_k, options.top_p),
            unit_sampling=Sampling(SPEECH_TEMPERATURE, checkpoint.speech_generation.top_k),
            generator=torch.Generator(parts.model.device).manual_seed(request.seed),
            speaker=parts.voices[request.voice or self._info.voices[0]],
            max_prefill=MAX_PREFILL,
            lanes=response.lanes,
        )
        stream = LiveStream(parts.decoder) if response.speaks else None
        response.begin(reply, stream, checkpoint.text_decoder())

    def _max_text(self, request: GenerateRequest) -> int:
        most = self._options.max_output_tokens
        return min(request.max_output_tokens or most, most)

    def _fail(self, response: Response, error: Exception) -> ResponseDone:
        """Whatever raised; its text may quote what was said, so the log gets its type and place only."""
        self.num_failures += 1
        place = traceback.extract_tb(error.__traceback__)[-1:]
        log.error(
            "response failed",
            extra={
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
        if response.lanes is not None and self._lanes is not None:
            self._lanes.give_back(response.lanes)
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
