"""From a request and its prompt to what the engine's core and runner want to know of it."""

from __future__ import annotations

from model.engine.blocks import audio_key, block_digests, text_key
from model.engine.hearing import Hearing
from model.engine.runner import Work
from model.engine.sequence import Sequence, SoundShape
from model.opens2s.interleave import ReplyOrder
from model.opens2s.prompt import AUDIO

from .conversation import Prompt
from .loading import Parts
from .memory import BLOCK_SIZE
from .response import Response


class SequenceMaker:
    """One for the engine."""

    def __init__(self, parts: Parts, hearing: Hearing, shape: SoundShape, max_units: int) -> None:
        self._parts, self._hearing, self._shape = parts, hearing, shape
        self._max_units = max_units

    def make(self, response: Response, prompt: Prompt, max_text: int) -> tuple[Sequence, Work]:
        request, checkpoint = response.request, self._parts.checkpoint
        speaks = request.output == "audio"
        room = checkpoint.config.tts.max_positions - 1 - max_text
        max_units = max(1, min(self._max_units, room))
        order = ReplyOrder(
            checkpoint.config.interleaving,
            max_text=max_text,
            max_units=max_units,
            text_ends=frozenset(checkpoint.text_generation.end_ids),
            unit_ends=checkpoint.vocabulary.ends,
            has_speech=speaks,
        )
        digests = tuple(self._hearing.digest(audio) for audio in prompt.audios)
        lengths = tuple(self._hearing.count(audio) for audio in prompt.audios)
        keys: list[bytes] = []
        windows: list[tuple[int, int]] = []
        for token in prompt.ids:
            if token == AUDIO:
                number = len(windows)
                keys += [audio_key(digests[number], place) for place in range(lengths[number])]
                windows.append((len(keys), self._hearing.num_windows(prompt.audios[number])))
            else:
                keys.append(text_key(token))
        sequence = Sequence(
            request.response_id,
            order,
            self._shape,
            arrival=response.arrival,
            num_prompt=len(keys),
            digests=block_digests(keys, BLOCK_SIZE),
            windows=windows,
            has_speech=speaks,
            is_held=response.is_held,
            max_units=max_units,
            credit_ms=request.audio_credit_ms,
            keeps_nothing=request.output == "listen",
        )
        if response.granted_ms:
            sequence.grant(response.granted_ms, response.arrival)
        work = Work(
            prompt.ids,
            prompt.audios,
            digests,
            lengths,
            turn_id=request.turn_id if request.audio is not None else None,
            seed=request.seed,
            speaker=self._parts.voices[request.voice or next(iter(self._parts.voices))],
        )
        return sequence, work
