"""A plain transformers generate() loop driven as the reference drives it: the measure that our engine is held against.

What it does as the reference's worker does (the tokens themselves: reference_generation):

* up to 5 generations side by side, each in a thread, on one device and without a batch; later ones wait;
* every turn encodes all audios of the conversation and reads the whole prompt again; nothing is kept between turns;
* **the lock-step consumer**: one text token and one speech token for each turn of its loop, waiting for either. The
  text's end is told only when everything is finished. So at 1:2 the 24th speech token is taken when 24 text tokens
  exist, and a reply with fewer gives no sound before its generation has ended;
* sound in chunks of 24 speech tokens, 34 mel frames held back, the whole utterance computed again for each chunk;
* credit means nothing to it: sound leaves when it is made.

Where it is better than the reference: a reply of fewer than 24 speech tokens, with which the reference fails, counts as
sound at the end. A cancelled generation stops. The flow evaluates its guidance pair as one batch, its noise and masks
are ours, nothing goes through WAV, base64 or HTTP. Not better: of a number of tokens that 24 divides, the last 0.4 s
are never spoken, as there.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.support.reference_generation import Limits, ReferenceModels
from model.decoder.decoder import Decoder
from model.decoder.parity_stream import ParityStream
from model.interface import (
    AudioDelta,
    ConversationItem,
    EngineEvent,
    EngineFault,
    EngineInfo,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Wake,
)
from model.opens2s.checkpoint import Checkpoint
from model.opens2s.features import LogMelStream
from model.opens2s.generation_config import DEFAULT_MAX_UNITS
from model.opens2s.model import OpenS2S
from model.opens2s.prompt import AUDIO, DEFAULT_INSTRUCTIONS, Message
from model.opens2s.reply import splice
from model.opens2s.sampling import Sampling

log = logging.getLogger(__name__)

MAX_GENERATIONS = 5  # `limit_model_concurrency` of the reference's worker
CHUNK_UNITS = 24
MAX_TEXT = 256  # the reference's, where a request says nothing


@dataclass(slots=True)
class _Reply:
    request: GenerateRequest
    max_units: int
    is_cancelled: bool = False
    texts: queue.Queue[int | None] = field(default_factory=queue.Queue)
    """Text tokens; None: everything is finished. At most the reply's own budget."""
    units: queue.Queue[int | None] = field(default_factory=queue.Queue)
    """Speech codes, likewise."""


class ReferenceLoop:
    """`SpeechEngine` as far as the benchmarks need it; its audio does not wait for credit."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: OpenS2S,
        decoder: Decoder,
        wake: Wake,
        *,
        temperature: float = 0.2,
        top_p: float = 0.8,
    ) -> None:
        """`model` with the speech model's whole vocabulary."""
        self._checkpoint, self._decoder, self._wake = checkpoint, decoder, wake
        self._models = ReferenceModels(model)
        self._text_sampling = Sampling(temperature, checkpoint.text_generation.top_k, top_p)
        self._unit_sampling = Sampling(1.0, checkpoint.speech_generation.top_k)
        self._threads = ThreadPoolExecutor(MAX_GENERATIONS, "worker")
        self._lock = threading.Lock()
        self._events: deque[EngineEvent] = deque()
        self._live: dict[str, _Reply] = {}
        self._announced: dict[str, int] = {}
        self._num_active = 0
        self._active_since = self._busy = 0.0
        self._precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # the reference has no TF32
        self.info = EngineInfo(
            name="reference_loop",
            sample_rate=decoder.sample_rate,
            max_sequences=MAX_GENERATIONS,
            gives_transcripts=False,
            listens_to_history=True,
        )

    @property
    def has_work(self) -> bool:
        """There is something to fetch; the computing goes on by itself."""
        return bool(self._events)

    @property
    def busy_seconds(self) -> float:
        """How long at least one reply was being made."""
        with self._lock:
            running = time.monotonic() - self._active_since if self._num_active else 0.0
            return self._busy + running

    def announce(self, response_id: str, num_units: int) -> None:
        """The reply that will be submitted under this id ends after so many speech tokens."""
        self._announced[response_id] = num_units

    def warm_up(self) -> None:
        noise = (np.random.default_rng(0).standard_normal(16_000) * 300).astype(np.int16)
        self.announce("warm-up", CHUNK_UNITS + 8)
        self.submit(GenerateRequest("", "warm-up", "", (), noise, max_output_tokens=CHUNK_UNITS))
        while True:
            for event in self.step(time.monotonic()):
                if isinstance(event, ResponseDone):
                    assert event.fault is None, event
                    return
            time.sleep(0.01)

    def submit(self, request: GenerateRequest) -> None:
        budget = self._checkpoint.speech_generation.max_new_tokens or DEFAULT_MAX_UNITS
        reply = _Reply(request, min(budget, self._announced.pop(request.response_id, budget)))
        with self._lock:
            self._live[request.response_id] = reply
        self._threads.submit(self._serve, reply)

    def cancel(self, response_id: str) -> None:
        with self._lock:
            reply = self._live.pop(response_id, None)
            if reply is not None:
                reply.is_cancelled = True
                self._events.append(ResponseDone(response_id, "cancelled", time.monotonic()))

    def grant(self, response_id: str, audio_ms: int) -> None:
        pass

    def release(self, response_id: str) -> None:
        pass

    def step(self, now: float) -> list[EngineEvent]:
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def close(self) -> None:
        with self._lock:
            for reply in self._live.values():
                reply.is_cancelled = True
        self._threads.shutdown()
        torch.set_float32_matmul_precision(self._precision)

    # --- threads

    def _serve(self, reply: _Reply) -> None:
        """One generation and its consumer."""
        if reply.is_cancelled:
            return
        key = reply.request.response_id
        self._emit(reply, ResponseStarted(key, time.monotonic()))
        with self._lock:
            self._num_active += 1
            self._active_since = time.monotonic() if self._num_active == 1 else self._active_since
        failures: list[Exception] = []
        generation = threading.Thread(target=self._generate, args=(reply, failures), name="generation")
        generation.start()
        try:
            self._consume(reply)
        except Exception as error:  # whatever a model raises ends this reply and no other
            failures.append(error)
            self._finish(reply, failures)
        generation.join()
        self._finish(reply, failures)
        with self._lock:
            self._num_active -= 1
            if not self._num_active:
                self._busy += time.monotonic() - self._active_since

    def _finish(self, reply: _Reply, failures: list[Exception]) -> None:
        """Tell the end of a reply, unless it was told, and stop what is left of it."""
        key, now = reply.request.response_id, time.monotonic()
        fault = None
        if failures:
            log.error("the reference loop failed", exc_info=failures[0])
            fault = EngineFault("internal_error", repr(failures[0]))
        with self._lock:
            reply.is_cancelled = True
            if self._live.get(key) is not reply:
                return
            del self._live[key]
            self._events.append(ResponseDone(key, "failed" if fault else "incomplete", now, fault))
        self._wake()

    def _emit(self, reply: _Reply, event: EngineEvent) -> None:
        with self._lock:
            if reply.is_cancelled:
                return
            self._events.append(event)
        self._wake()

    def _generate(self, reply: _Reply, failures: list[Exception]) -> None:
        vocabulary = self._checkpoint.vocabulary
        try:
            limits = Limits(
                reply.request.max_output_tokens or MAX_TEXT,
                reply.max_units,
                self._checkpoint.text_generation.end_ids,
                vocabulary.end_ids,
                self._text_sampling,
                self._unit_sampling,
            )
            for group in self._models.generate(self._prompt(reply.request), limits, lambda: reply.is_cancelled):
                for token in group.ids:
                    if group.kind == "text":
                        reply.texts.put(token)
                    else:  # what is no code becomes one, as in the reference's flow
                        reply.units.put(min(max(0, token - vocabulary.first_unit), vocabulary.num_units - 1))
        except Exception as error:  # told by `_serve`
            failures.append(error)
        finally:
            reply.texts.put(None)
            reply.units.put(None)

    def _consume(self, reply: _Reply) -> None:
        key = reply.request.response_id
        stream, text = ParityStream(self._decoder), self._checkpoint.text_decoder()
        for item in lock_step(reply.texts.get, reply.units.get):
            if reply.is_cancelled:
                return
            if isinstance(item, int):
                said = text.push(item)
                if said:
                    self._emit(reply, TextDelta(key, said, time.monotonic()))
                continue
            codes, is_final = item
            try:
                wav = stream.decode(codes, is_final).wav
            except ValueError:
                if not is_final:
                    raise
                return  # a rest too short to be blended: the reference fails there and the listener hears no more
            pcm = np.clip(np.rint(wav[0].cpu().numpy() * 32_767.0), -32_768, 32_767).astype(np.int16)
            if len(pcm):
                self._emit(reply, AudioDelta(key, pcm, None, time.monotonic()))

    def _prompt(self, request: GenerateRequest) -> Tensor:
        """Embeddings of the whole conversation: every audio encoded anew, all in one padded batch."""
        messages: list[Message] = []
        audios: list[Pcm16] = []
        for item in request.items:
            if not isinstance(item, ConversationItem):
                continue  # the reference knows no tools
            heard = item.role == "user" and item.audio is not None
            messages.append(Message(item.role, (None if heard else item.text,)))
            if heard and item.audio is not None:
                audios.append(item.audio)
        if request.audio is not None:
            messages.append(Message("user", (None,)))
            audios.append(request.audio)
        mels = []
        for audio in audios:
            stream = LogMelStream(self._checkpoint.front_end)
            stream.push(audio)
            mels.append(stream.features())
        model = self._models.model
        ids = self._checkpoint.prompts.ids(messages, request.instructions or DEFAULT_INSTRUCTIONS)
        return splice(model.llm, ids, model.listener.encode_batch(mels) if mels else [], AUDIO)


def lock_step(
    next_text: Callable[[], int | None], next_unit: Callable[[], int | None]
) -> Iterator[int | tuple[list[int], bool]]:
    """The reference's consumer: text tokens as they are taken, and chunks of codes to decode with "is this the end".

    Both functions wait for the next one and give None at the end."""
    waiting: list[int] = []
    has_text = has_units = True
    while has_text or has_units:
        if has_text:
            token = next_text()
            has_text = token is not None
            if token is not None:
                yield token
        if has_units:
            unit = next_unit()
            has_units = unit is not None
            if unit is not None:
                waiting.append(unit)
            if len(waiting) == CHUNK_UNITS:
                yield waiting, False
                waiting = []
    if waiting:
        yield waiting, True
