"""From the PCM of a turn to its embeddings, without doing twice what an earlier request of the same turn did.

Speculative requests carry the same turn, each time a little longer: only what was added goes through the front end. A
finished turn comes back as history with every later request: its embeddings are kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from torch import Tensor

from model.interface import Pcm16
from model.opens2s.audio_encoder import Listener
from model.opens2s.features import LogMelConfig, LogMelStream

MAX_TURNS = 64
"""Turns whose features are kept; one of half a minute takes 1.5 MB."""
MAX_POSITIONS = 32_768
"""Embeddings of audios that are kept, all together: an hour and a half of sound, 268 MB in bfloat16."""


class Hearing:
    """The listener with its memory."""

    def __init__(self, listener: Listener, front_end: LogMelConfig) -> None:
        self._listener, self._front_end = listener, front_end
        self._turns: OrderedDict[str, tuple[LogMelStream, Pcm16]] = OrderedDict()
        self._embedded: OrderedDict[bytes, Tensor] = OrderedDict()
        self._num_positions = 0
        self._takes: dict[str, bytes] = {}  # turn -> key of its latest take, as long as its features are kept

    def count(self, audio: Pcm16) -> int:
        """How many embeddings `audio` becomes."""
        return self._listener.num_embeddings(-(-len(audio) // self._front_end.hop_length))

    def embed(self, audio: Pcm16, turn_id: str | None = None) -> Tensor:
        """Embeddings [A, hidden] of 16 kHz audio; `turn_id` names the turn that it is (a part of)."""
        key = hashlib.blake2b(audio.tobytes(), digest_size=16).digest()
        known = self._embedded.get(key)
        if known is None:
            known = self._listener.encode(self._features(audio, turn_id).features())
            self._keep(key, known, turn_id)
        self._embedded.move_to_end(key)
        return known

    def clear(self) -> None:
        self._turns.clear()
        self._embedded.clear()
        self._takes.clear()
        self._num_positions = 0

    def _keep(self, key: bytes, embedded: Tensor, turn_id: str | None) -> None:
        if turn_id:
            shorter, self._takes[turn_id] = self._takes.get(turn_id), key
            if shorter is not None:
                self._forget(shorter)  # nobody asks for half a turn again
        self._embedded[key] = embedded
        self._num_positions += len(embedded)
        while self._num_positions > MAX_POSITIONS and len(self._embedded) > 1:
            self._forget(next(iter(self._embedded)))

    def _forget(self, key: bytes) -> None:
        embedded = self._embedded.pop(key, None)
        if embedded is not None:
            self._num_positions -= len(embedded)

    def _features(self, audio: Pcm16, turn_id: str | None) -> LogMelStream:
        stream, heard = self._turns.pop(turn_id, (None, None)) if turn_id else (None, None)
        if stream is None or heard is None or not np.array_equal(audio[: len(heard)], heard):
            stream, heard = LogMelStream(self._front_end), audio[:0]
        stream.push(audio[len(heard) :])
        if turn_id:
            self._turns[turn_id] = (stream, audio)
            if len(self._turns) > MAX_TURNS:
                forgotten, _ = self._turns.popitem(last=False)
                self._takes.pop(forgotten, None)
        return stream
