"""The embedded engine: recognition, language model and voice as three stages with threads of their own.

`CascadeEngine` is the only owner of responses. Workers compute and post results; `step` takes the results,
moves each response on to its next stage, and returns the events. Nothing here waits for a model.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.backends.requests import AudioCredit, check_request
from model.interface import (
    EngineEvent,
    EngineFault,
    EngineInfo,
    EngineLoad,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    ResponseStarted,
    ToolCallDelta,
    Transcript,
    TranscriptDelta,
    Wake,
)
from model.registry import ModelsMissingError
from model.weights import (
    CATALOGUE,
    MOONSHINE,
    SMOLLM2,
    SMOLLM2_GGUF,
    missing,
    model_path,
)

from .asr import Recognizer
from .clauses import Clause, Ending
from .llm import Completion, LanguageModel
from .options import CascadeOptions
from .prompt import PromptStyle
from .response import Response, Ticket
from .stages import Stage
from .tool_use import ToolError
from .tts import SAMPLE_RATE, SPEED_RANGE, Speech, Voice
from .turns import TurnMemory
from .writing import Writer

log = logging.getLogger(__name__)

NAME = "cascade-demo"
MAX_LIVE = 64
"""Responses inside the engine, queued ones included; one more fails with `engine_busy`."""


@dataclass(frozen=True, slots=True)
class _Recognize:
    ticket: Ticket
    audio: Pcm16

    @property
    def is_cancelled(self) -> bool:
        return self.ticket.is_cancelled


@dataclass(frozen=True, slots=True)
class _Write:
    ticket: Ticket
    heard: str | None
    """The user's words; None where there was no audio."""

    @property
    def is_cancelled(self) -> bool:
        return self.ticket.is_cancelled


@dataclass(frozen=True, slots=True)
class _Speak:
    ticket: Ticket
    clause: Clause
    after: Ending | None
    seed: int

    @property
    def is_cancelled(self) -> bool:
        return self.ticket.is_cancelled


# --- results, worker -> engine


@dataclass(frozen=True, slots=True)
class _Started:
    ticket: Ticket
    at: float


@dataclass(frozen=True, slots=True)
class _Heard:
    ticket: Ticket
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class _Recognized:
    ticket: Ticket
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class _Wrote:
    ticket: Ticket
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class _Called:
    ticket: Ticket
    name: str
    arguments: str
    is_last: bool
    at: float


@dataclass(frozen=True, slots=True)
class _Written:
    ticket: Ticket
    completion: Completion
    at: float


@dataclass(frozen=True, slots=True)
class _Spoke:
    ticket: Ticket
    clause: Clause
    speech: Speech
    at: float


@dataclass(frozen=True, slots=True)
class _Failed:
    ticket: Ticket
    at: float
    fault: EngineFault | None = None
    """None: something raised."""


_Result = _Started | _Heard | _Recognized | _Wrote | _Called | _Written | _Spoke | _Failed


class CascadeEngine:
    """`SpeechEngine` made of Moonshine, a GGUF chat model and hibari."""

    def __init__(self, options: CascadeOptions, wake: Wake) -> None:
        models_dir = options.models_path
        llm_path = model_path(models_dir, SMOLLM2_GGUF)
        wheels = [MOONSHINE, SMOLLM2]
        if options.llm_path:
            llm_path, wheels = Path(options.llm_path).expanduser(), [MOONSHINE]
            if not llm_path.is_file():
                raise ValueError(f"Option llm_path is {options.llm_path!r}; there is no such file.")
        absent = missing(models_dir, tuple(weight for weight in CATALOGUE if weight.wheel in wheels))
        if absent:
            raise ModelsMissingError(models_dir, [weight.name for weight in absent])
        self._options = options
        self._wake = wake
        self._style = PromptStyle(not options.llm_path, options.instructions)
        self._info = EngineInfo(
            name=NAME,
            sample_rate=SAMPLE_RATE,
            max_sequences=options.max_sequences,
            gives_transcripts=True,
            voices=(options.voice,),
            speed_range=SPEED_RANGE,
            supports_tools=True,
            description="Small embedded demo models: they chat, and they often get facts wrong.",
        )
        self._voice = Voice(options.voice, options.tts_threads)
        self._recognizer = Recognizer(models_dir, options.asr_threads)
        self._memory = TurnMemory()  # used by the one recognition thread only
        self._llm = LanguageModel(
            llm_path,
            threads=options.llm_threads,
            sequences=options.max_sequences,
            context_tokens=options.context_tokens,
        )
        self._writer = Writer(self._llm, self._style, options)
        self._live: dict[str, Response] = {}
        self._ended: list[ResponseDone] = []  # of cancelled and refused responses, until the next step
        # Bounded by what live responses can post: their text or call, one transcript and one clause each.
        self._results: deque[_Result] = deque()
        self._is_closed = False
        self.num_failures = 0
        """Responses that ended failed because something raised."""
        self._recognition = Stage("asr", 1, self._recognize, self._report_failure)
        self._writing = Stage("llm", options.max_sequences, self._write, self._report_failure)
        self._speaking = Stage("tts", 1, self._speak, self._report_failure)

    # --- SpeechEngine

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def has_work(self) -> bool:
        return bool(self._results or self._ended) or any(r.can_emit for r in self._live.values())

    def warm_up(self) -> None:
        """About two seconds: fills the language model's cache with what all prompts begin with."""
        noise = (np.random.default_rng(0).standard_normal(32_000) * 300).astype(np.int16)
        self._recognizer.recognize(noise, lambda: False)
        self._voice.warm_up()
        self._llm.warm_up(self._style.prefix())

    def submit(self, request: GenerateRequest) -> None:
        check_request(request, self._info)
        if request.response_id in self._live:
            raise ValueError(f"response_id {request.response_id!r} is in use.")
        if len(self._live) >= MAX_LIVE:
            fault = EngineFault("engine_busy", f"The engine works on {MAX_LIVE} responses already.")
            self._ended.append(ResponseDone(request.response_id, "failed", time.monotonic(), fault))
            return
        ticket = Ticket(request)
        self._live[request.response_id] = Response(ticket, AudioCredit(SAMPLE_RATE, request.audio_credit_ms))
        if request.audio is None:
            self._writing.put(_Write(ticket, None))
        else:
            self._recognition.put(_Recognize(ticket, request.audio))

    def cancel(self, response_id: str) -> None:
        response = self._live.pop(response_id, None)
        if response is None:
            return
        response.ticket.cancel()
        for stage in (self._recognition, self._writing, self._speaking):
            stage.drop_cancelled()
        self._ended.append(ResponseDone(response_id, "cancelled", time.monotonic()))

    def grant(self, response_id: str, audio_ms: int) -> None:
        response = self._live.get(response_id)
        if response is not None:
            response.credit.grant(audio_ms)

    def release(self, response_id: str) -> None:
        """Nothing to do: held responses are worked on like all others."""

    def step(self, now: float) -> list[EngineEvent]:
        """Turn what the workers finished into events, emit what credit allows, and give workers new work."""
        events: list[EngineEvent] = list(self._ended)
        self._ended.clear()
        for _ in range(len(self._results)):
            events += self._handle(self._results.popleft())
        for response in list(self._live.values()):
            events += response.emit(now)
            self._speak_next(response)
            done = response.done(now)
            if done is not None:
                del self._live[response.response_id]
                events.append(done)
        return events

    def load(self) -> EngineLoad:
        """See `ReportsLoad`. A stage works on its jobs one by one, or in threads of a library that does not tell."""
        stages = (self._recognition, self._writing, self._speaking)
        waiting = min(len(self._live), self._recognition.num_waiting + self._writing.num_waiting)
        return EngineLoad(
            len(self._live) - waiting, waiting, compute_seconds=sum(stage.busy_seconds for stage in stages)
        )

    def close(self) -> None:
        """Waits for the running pieces of work: one recognition token, one text token, one clause."""
        if self._is_closed:
            return
        self._is_closed = True
        for response in self._live.values():
            response.ticket.cancel()
        for stage in (self._recognition, self._writing, self._speaking):
            stage.close()
        self._llm.close()
        self._live.clear()
        self._results.clear()
        self._ended.clear()

    # --- the engine's thread: results -> events and next stage

    def _handle(self, result: _Result) -> list[EngineEvent]:
        request = result.ticket.request
        response = self._live.get(request.response_id)
        if response is None or response.ticket is not result.ticket:
            return []  # cancelled meanwhile
        match result:
            case _Started(at=at):
                return [ResponseStarted(request.response_id, at)]
            case _Heard(text=text, at=at):
                return [TranscriptDelta(request.response_id, text, at)]
            case _Recognized(text=text, at=at):
                return [Transcript(request.response_id, text, at), *self._after_recognition(response, text, at)]
            case _Wrote(text=text, at=at):
                return [response.write(text, at)]
            case _Called(name=name, arguments=arguments, is_last=is_last, at=at):
                return [ToolCallDelta(request.response_id, 0, name, arguments, is_last, at)]
            case _Written(completion=completion):
                response.finish_text(completion)
            case _Spoke(clause=clause, speech=speech):
                response.add_speech(clause, speech)
            case _Failed(at=at, fault=fault):
                del self._live[request.response_id]
                result.ticket.cancel()  # its other stage may still be running
                if fault is None:
                    self.num_failures += 1
                    fault = EngineFault("internal_error", "The engine failed while it worked on this response.")
                return [ResponseDone(request.response_id, "failed", at, fault)]
        return []

    def _after_recognition(self, response: Response, text: str, at: float) -> list[EngineEvent]:
        if text and response.ticket.request.output != "transcript":
            self._writing.put(_Write(response.ticket, text))
            return []
        del self._live[response.response_id]
        return [ResponseDone(response.response_id, "completed", at)]

    def _speak_next(self, response: Response) -> None:
        clause = response.next_clause()
        if clause is not None:
            # Equal requests sound equal; clauses of one reply do not share their noise.
            seed = response.ticket.request.seed + response.num_clauses
            is_first = response.num_clauses == 1  # somebody waits for it; the others have sound ahead of them
            self._speaking.put(_Speak(response.ticket, clause, response.after, seed), is_urgent=is_first)

    # --- worker threads: job -> results

    def _post(self, result: _Result) -> None:
        self._results.append(result)
        self._wake()

    def _recognize(self, job: _Recognize) -> None:
        request, audio = job.ticket.request, job.audio
        self._post(_Started(job.ticket, time.monotonic()))
        pieces: list[str] = []
        between = ""

        def hear(text: str) -> None:
            nonlocal between
            pieces.append(between + text)
            self._post(_Heard(job.ticket, between + text, time.monotonic()))
            between = ""

        for segment in self._memory.plan(request.turn_id, audio, request.pauses):
            between = " " if pieces else ""
            text = self._memory.get(request.turn_id, audio, segment)
            if text is None:
                text = self._recognizer.recognize(audio[segment.start : segment.end], lambda: job.is_cancelled, hear)
                if text is None:
                    return  # cancelled
                self._memory.put(request.turn_id, audio, segment, text)
            elif text:
                hear(text)
        self._post(_Recognized(job.ticket, "".join(pieces), time.monotonic()))

    def _write(self, job: _Write) -> None:
        request, ticket = job.ticket.request, job.ticket
        if request.audio is None:
            self._post(_Started(ticket, time.monotonic()))
        try:
            completion = self._writer.write(
                request,
                job.heard,
                lambda text: self._post(_Wrote(ticket, text, time.monotonic())),
                lambda name, text, is_last: self._post(_Called(ticket, name, text, is_last, time.monotonic())),
                lambda: ticket.is_cancelled,
            )
        except ToolError as error:
            self._post(_Failed(ticket, time.monotonic(), error.fault))
            return
        self._post(_Written(ticket, completion, time.monotonic()))

    def _speak(self, job: _Speak) -> None:
        speech = self._voice.synthesize(job.clause.text, job.after, job.seed, job.ticket.request.speed)
        self._post(_Spoke(job.ticket, job.clause, speech, time.monotonic()))

    def _report_failure(self, job: _Recognize | _Write | _Speak, stage: str, error: Exception) -> None:
        # The error's text may quote what was said, so the log gets its type and place only.
        place = traceback.extract_tb(error.__traceback__)[-1:]
        log.error(
            "response failed",
            extra={
                "call_id": job.ticket.request.call_id,
                "response_id": job.ticket.request.response_id,
                "stage": stage,
                "error": type(error).__name__,
                "place": [f"{frame.filename}:{frame.lineno}" for frame in place],
            },
        )
        self._post(_Failed(job.ticket, time.monotonic()))


def create(options: Mapping[str, object], wake: Wake) -> CascadeEngine:
    """Engine factory. Raises ModelsMissingError, or ValueError for options that do not exist or fit."""
    return CascadeEngine(CascadeOptions.from_mapping(options), wake)
