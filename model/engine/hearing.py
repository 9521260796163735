"""From the PCM of a turn to its embeddings, without doing twice what an earlier request of the same turn did.

Speculative requests carry the same turn, each time a little longer: only what was added goes through the front end. A
finished turn comes back as history with every later request: its embeddings are kept. Long audio is encoded window by
window, so that other work comes between.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from torch import Tensor

from model.interface import Pcm16
from model.opens2s.audio_encoder import Listener
from model.opens2s.features import LogMel, LogMelConfig, LogMelStream

MAX_TURNS = 64
"""Turns whose features are kept; one of half a minute takes 1.5 MB."""
MAX_POSITIONS = 32_768
"""Embeddings of audios that are kept, all together: an hour and a half of sound, 268 MB in bfloat16."""


MAX_WINDOWS = 16
"""Encoded windows of long turns that are kept: 30 s and 2 MB each."""


class Hearing:
    """The listener with its memory. Audios are named by their digest, so nobody has to know who said them."""

    def __init__(self, listener: Listener, front_end: LogMelConfig) -> None:
        self._listener, self._front_end = listener, front_end
        self._turns: OrderedDict[str, tuple[LogMelStream, Pcm16]] = OrderedDict()
        self._embedded: OrderedDict[bytes, Tensor] = OrderedDict()
        self._windows: OrderedDict[bytes, Tensor] = OrderedDict()  # by their features: of turns longer than one
        self._begun: dict[bytes, tuple[LogMel, list[Tensor]]] = {}  # audios of which some windows are encoded
        self._num_positions = 0
        self._takes: dict[str, bytes] = {}  # turn -> key of its latest take, as long as its features are kept

    @staticmethod
    def digest(audio: Pcm16) -> bytes:
        """What an audio is known by, 16 bytes."""
        return hashlib.blake2b(audio.tobytes(), digest_size=16).digest()

    def count(self, audio: Pcm16) -> int:
        """How many embeddings `audio` becomes."""
        return self._listener.num_embeddings(self._num_frames(audio))

    def num_windows(self, audio: Pcm16) -> int:
        """How many windows have to be encoded, if none of it is known."""
        return self._listener.num_windows(self._num_frames(audio))

    def known(self, key: bytes) -> Tensor | None:
        """Embeddings [A, hidden] of the audio with this digest, if they are there."""
        found = self._embedded.get(key)
        if found is not None:
            self._embedded.move_to_end(key)
        return found

    def advance(self, key: bytes, audio: Pcm16, turn_id: str | None = None) -> Tensor | None:
        """Encode the next window of 16 kHz audio with the digest `key`; its embeddings once all are. `turn_id` names
        the turn that it is (a part of)."""
        known = self.known(key)
        if known is not None:
            return known
        mel, windows = self._begun.get(key) or (self._features(audio, turn_id).features(), [])
        windows.append(self._window(mel, len(windows)))
        if len(windows) < self._listener.num_windows(mel.num_frames):
            self._begun[key] = mel, windows
            return None
        self._begun.pop(key, None)
        embedded = self._listener.adapt(windows, mel.num_frames)
        self._keep(key, embedded, turn_id)
        return embedded

    def give_up(self, key: bytes) -> None:
        """Nobody waits for the rest of this audio; its windows are known all the same."""
        self._begun.pop(key, None)

    def embed(self, audio: Pcm16, turn_id: str | None = None) -> Tensor:
        """Embeddings [A, hidden] of 16 kHz audio, all at once."""
        key = self.digest(audio)
        while (embedded := self.advance(key, audio, turn_id)) is None:
            pass
        return embedded

    def _num_frames(self, audio: Pcm16) -> int:
        return -(-len(audio) // self._front_end.hop_length)

    def _window(self, mel: LogMel, number: int) -> Tensor:
        """Complete windows of a long turn come back with every later request: they are encoded once, unless a louder
        sound has moved the floor of all features since."""
        size = self._listener.encoder.config.window_frames
        if (number + 1) * size > mel.num_frames:
            return self._listener.encode_window(mel, number)
        features = np.ascontiguousarray(mel.features[:, number * size : (number + 1) * size])
        key = hashlib.blake2b(features.tobytes(), digest_size=16).digest()
        if key not in self._windows:
            self._windows[key] = self._listener.encode_window(mel, number)
            if len(self._windows) > MAX_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return self._windows[key]

    def clear(self) -> None:
        self._turns.clear()
        self._embedded.clear()
        self._takes.clear()
        self._windows.clear()
        self._begun.clear()
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
