"""All tensors of the engine: both language models over paged caches, the listener, and sound on a second stream.

A round is at most one pass of the text model and then passes of the speech model, for everybody at once. Nothing in
between waits for the host: hidden states, tokens and embeddings stay on the device, and all tokens of a round are read
back together. On a GPU passes are replayed from CUDA graphs, by size of the batch and of its tables; sizes in between
are filled up with rows that write where nobody looks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoder.chunks import ChunkPlan
from model.decoder.decoder import Decoder
from model.decoder.live_stream import LiveStream, Piece, decode_together
from model.graphs import GraphPool, RecordedFunction
from model.interface import Pcm16
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S
from model.opens2s.prompt import AUDIO
from model.opens2s.sampling import Sampling, sample_rows

from .core import NOT_FINITE, Made, Row
from .hearing import Hearing
from .paged_cache import PagedKvCache
from .scheduler import Part
from .sequence import Cut, Sequence

SLOT, SEED, STEP, START, COUNT, TOKEN, PLACE, HEAD = range(8)
"""Columns of what a pass is told of each row; its block table stands behind them."""
SPEAKER = -1
"""In column TOKEN: read the speaker instead of a speech token."""
SEEDS = 1 << 62  # so that twice a seed is still a number


@dataclass(slots=True)
class Work:
    """What the runner keeps of one sequence."""

    ids: list[int]
    """Of its prompt, with `AUDIO` where an audio's embeddings go."""
    audios: tuple[Pcm16, ...] = ()
    digests: tuple[bytes, ...] = ()
    """Of the audios."""
    lengths: tuple[int, ...] = ()
    """Embeddings of each audio."""
    turn_id: str | None = None
    """The turn that the last audio is (a part of)."""
    seed: int = 0
    speaker: Tensor | None = None
    """[512]; None for the released voice."""
    embedded: dict[int, Tensor] = field(default_factory=dict)
    slot: int = 0
    """Its row of the states that wait for the speech model; 0: none."""
    stream: LiveStream | None = None
    swapped: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """Sizes, and how tokens are chosen."""

    num_text_blocks: int
    num_speech_blocks: int
    block_size: int
    max_sequences: int
    max_batch: int
    text_sampling: Sampling
    unit_sampling: Sampling


class TorchRunner:
    """A `core.Runner`."""

    def __init__(self, model: OpenS2S, decoder: Decoder, hearing: Hearing, options: RunnerOptions) -> None:
        self._model, self._decoder, self._hearing, self._options = model, decoder, hearing, options
        self._device, dtype = model.device, model.dtype
        size = options.block_size
        self.text_cache = PagedKvCache(model.config.llm, options.num_text_blocks, size, self._device, dtype)
        self.speech_cache = PagedKvCache(model.config.tts, options.num_speech_blocks, size, self._device, dtype)
        self._group = model.config.interleaving.num_text
        hidden = model.config.tts.hidden_size
        slots = options.max_sequences + 1  # the first is nobody's: padding writes there
        self._bridged = torch.zeros((slots, self._group, hidden), device=self._device, dtype=dtype)
        self._speakers = torch.zeros((slots, hidden), device=self._device, dtype=dtype)
        self._free_slots = list(range(slots - 1, 0, -1))
        self._works: dict[str, Work] = {}
        pool = GraphPool()
        self._read_part = RecordedFunction[Tensor](partial(self._read, has_token=False), pool)
        self._read_last = RecordedFunction[Tensor](partial(self._read, has_token=True), pool)
        self._text = RecordedFunction[Tensor](self._text_pass, pool)
        self._first_units = RecordedFunction[Tensor](self._first_unit_pass, pool)
        self._next_units = RecordedFunction[Tensor](self._next_unit_pass, pool)
        self._is_padded = self._device.type == "cuda"
        self._host: dict[tuple[str, int, int], Tensor] = {}  # pinned buffers by use and shape
        self._main_stream = self._sound_stream = None
        if self._device.type == "cuda":
            self._main_stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
            self._sound_stream = torch.cuda.Stream(self._device, priority=0)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(self._device)  # what was set up on the default stream is there
        self._sounding: tuple[list[int], Tensor, torch.cuda.Event | None] | None = None

    @property
    def sound_is_beside(self) -> bool:
        return self._sound_stream is not None

    # --- sequences

    def open(self, sequence: Sequence, work: Work) -> None:
        """To be called before the core is given the sequence."""
        self._works[sequence.id] = work

    def close(self, sequence: Sequence) -> None:
        work = self._works.pop(sequence.id, None)
        if work is not None:
            self._give_slot_back(work)
            for key in work.digests:
                self._hearing.give_up(key)
            if work.stream is not None:
                work.stream.close()

    @torch.inference_mode()
    def begin(self, sequence: Sequence) -> None:
        work = self._works[sequence.id]
        with self._main():
            self._take_slot(work)
            self._speakers[work.slot] = self._model.speech.speaker(work.speaker)

    def leave(self, sequence: Sequence) -> None:
        self._give_slot_back(self._works[sequence.id])

    @torch.inference_mode()
    def swap_out(self, sequence: Sequence) -> None:
        work = self._works[sequence.id]
        with self._main():
            work.swapped = (
                *self.text_cache.copy_out(sequence.text.blocks),
                *self.speech_cache.copy_out(sequence.speech.blocks),
                self._bridged[work.slot].to("cpu", copy=True),  # the slot is somebody else's next
                self._speakers[work.slot].to("cpu", copy=True),
            )

    @torch.inference_mode()
    def swap_in(self, sequence: Sequence) -> None:
        work = self._works[sequence.id]
        text_k, text_v, speech_k, speech_v, bridged, speaker = work.swapped
        work.swapped = ()
        with self._main():
            self._take_slot(work)
            count = len(sequence.text.blocks), len(sequence.speech.blocks)
            self.text_cache.copy_in(sequence.text.blocks, text_k[:, : count[0]], text_v[:, : count[0]])
            self.speech_cache.copy_in(sequence.speech.blocks, speech_k[:, : count[1]], speech_v[:, : count[1]])
            self._bridged[work.slot] = bridged.to(self._device)
            self._speakers[work.slot] = speaker.to(self._device)

    @torch.inference_mode()
    def scrub(self, text: Items[int], speech: Items[int]) -> None:
        with self._main():
            self.text_cache.zero(list(text))
            self.speech_cache.zero(list(speech))
            for slot in (0, *self._free_slots):
                self._bridged[slot] = 0

    def _take_slot(self, work: Work) -> None:
        if not work.slot:
            work.slot = self._free_slots.pop()

    def _give_slot_back(self, work: Work) -> None:
        if work.slot:
            self._free_slots.append(work.slot)
            work.slot = 0

    # --- prompts

    def hear(self, sequence: Sequence) -> bool:
        work, number = self._works[sequence.id], sequence.next_audio
        turn_id = work.turn_id if number == len(work.audios) - 1 else None
        with self._main():
            embedded = self._hearing.advance(work.digests[number], work.audios[number], turn_id)
            if self._main_stream is not None:
                self._main_stream.synchronize()  # so that its time is known
        if embedded is None:
            return False
        work.embedded[number] = embedded
        return True

    @torch.inference_mode()
    def read(self, parts: Items[Part]) -> list[int]:
        with self._main():
            length = max(part.count for part in parts)
            length = next((size for size in READ_SIZES if size >= length), length) if self._is_padded else length
            weight = self._model.llm.norm.weight
            embeds = torch.zeros((len(parts), length, weight.shape[0]), device=self._device, dtype=weight.dtype)
            rows: list[list[int]] = []
            for number, part in enumerate(parts):
                embeds[number, : part.count] = self._embeds(part)
                rows.append(self._row(part.sequence, "text", part.start, part.count, 0))
            tables = [part.sequence.text.blocks for part in parts]
            reach = max(part.start + part.count for part in parts)
            packed = self._pack("read", rows, tables, reach, len(rows))
            is_last = any(part.start + part.count == part.sequence.num_prompt for part in parts)
            tokens = self._read_last(embeds, packed) if is_last else self._read_part(embeds, packed)
            found: list[int] = tokens.tolist()
        for part in parts:
            if part.start + part.count == part.sequence.num_prompt:
                self._works[part.sequence.id].embedded.clear()
        return found

    def _embeds(self, part: Part) -> Tensor:
        """[count, hidden] of a part of a prompt."""
        work, start, end = self._works[part.sequence.id], part.start, part.start + part.count
        pieces: list[Tensor] = []
        ids: list[int] = []
        position = number = 0

        def flush() -> None:
            if ids:
                pieces.append(self._model.llm.embed(torch.tensor(ids).to(self._device, non_blocking=True)))
                ids.clear()

        for token in work.ids:
            size = work.lengths[number] if token == AUDIO else 1
            if position < end and position + size > start:
                if token == AUDIO:
                    flush()
                    embedded = work.embedded[number][max(0, start - position) : end - position]
                    pieces.append(embedded.to(self._model.dtype))
                else:
                    ids.append(token)
            position += size
            number += token == AUDIO
        flush()
        return torch.cat(pieces)

    def _read(self, embeds: Tensor, packed: Tensor, *, has_token: bool) -> Tensor:
        hidden = self._forward(self._model.llm, self.text_cache, embeds, packed)
        if not has_token:
            return torch.where(torch.isfinite(hidden).all(-1), 0, NOT_FINITE)
        return self._choose_text(hidden, packed)

    # --- rounds

    @torch.inference_mode()
    def round(self, rows: Items[Row]) -> PendingRound:
        with self._main():
            texts = [row for row in rows if row.has_text]
            # Those that make most come first, so that a later pass takes the first rows of the one before.
            speakers = sorted((row for row in rows if row.num_units), key=lambda row: -row.num_units)
            results: list[Tensor] = []
            if texts:
                results.append(self._launch_text(texts))
            units: Tensor | None = None
            for number in range(max((row.num_units for row in speakers), default=0)):
                speaking = [row for row in speakers if row.num_units > number]
                units = self._launch_units(speaking, number, units)
                results.append(units[: len(speaking)])
            joined = torch.cat(results)
            if self._main_stream is None:
                return PendingRound(list(rows), texts, speakers, joined, None)
            host = self._buffer("round", 1, len(joined))[0]
            host.copy_(joined, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._main_stream)
            return PendingRound(list(rows), texts, speakers, host, event)

    def _launch_text(self, rows: list[Row]) -> Tensor:
        packed = self._pack(
            "text",
            [self._row(row.sequence, "text", row.sequence.text.num_tokens, 1, row.sequence.last_text) for row in rows],
            [row.sequence.text.blocks for row in rows],
            max(row.sequence.text.num_tokens for row in rows) + 1,
            self._batch(len(rows)),
        )
        return self._text(packed)[: len(rows)]

    def _launch_units(self, rows: list[Row], number: int, before: Tensor | None) -> Tensor:
        """Pass `number` of the speech model, over the rows that make more tokens than that."""
        told: list[list[int]] = []
        for row in rows:
            sequence = row.sequence
            inputs = 1 + sequence.num_bridged + row.has_text
            start, count = sequence.speech.num_tokens, inputs
            if number:
                start, count = start + inputs + number - 1, 1
            last = SPEAKER if sequence.last_unit is None else sequence.last_unit
            told.append(self._row(sequence, "unit", start, count, last, number))
        reach = max(row[START] + row[COUNT] for row in told)
        size = self._batch(len(rows))
        packed = self._pack(f"units {number}", told, [row.sequence.speech.blocks for row in rows], reach, size)
        if before is None:
            return self._first_units(packed)
        if len(before) < size:
            before = torch.nn.functional.pad(before, (0, size - len(before)))
        chosen: Tensor = self._next_units(before[:size].contiguous(), packed)
        return chosen

    def _text_pass(self, packed: Tensor) -> Tensor:
        model = self._model.llm
        hidden = self._forward(model, self.text_cache, model.embed(packed[:, TOKEN])[:, None], packed)
        return self._choose_text(hidden, packed)

    def _choose_text(self, hidden: Tensor, packed: Tensor) -> Tensor:
        """hidden [B, hidden] of the text model → tokens [B]; what the speech model reads of it waits in its slot."""
        self._bridged[packed[:, SLOT], packed[:, PLACE]] = self._model.speech.bridge(hidden)
        logits = self._model.llm.logits(hidden)
        return self._choose(logits, self._options.text_sampling, packed)

    def _first_unit_pass(self, packed: Tensor) -> Tensor:
        """The token before (or the speaker) and the states that wait, [B, 1 + group]: fewer are padded."""
        lm, last, slots = self._model.speech.lm, packed[:, TOKEN], packed[:, SLOT]
        before = torch.where((last == SPEAKER)[:, None], self._speakers[slots], lm.embed(last.clamp(min=0)))
        return self._unit_pass(torch.cat((before[:, None], self._bridged[slots]), 1), packed)

    def _next_unit_pass(self, units: Tensor, packed: Tensor) -> Tensor:
        return self._unit_pass(self._model.speech.lm.embed(units.clamp(min=0))[:, None], packed)

    def _unit_pass(self, embeds: Tensor, packed: Tensor) -> Tensor:
        lm = self._model.speech.lm
        hidden = self._forward(lm, self.speech_cache, embeds, packed)
        return self._choose(lm.logits(hidden), self._options.unit_sampling, packed)

    def _forward(self, lm: LanguageModel, cache: PagedKvCache, embeds: Tensor, packed: Tensor) -> Tensor:
        """embeds [B, T, hidden] → hidden state [B, hidden] of the last real position of each row."""
        counts = packed[:, COUNT]
        hidden: Tensor = lm(embeds, cache.at(packed[:, HEAD:], packed[:, START], counts, embeds.shape[1]))
        last = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[2])
        return hidden.gather(1, last).squeeze(1)

    def _choose(self, logits: Tensor, sampling: Sampling, packed: Tensor) -> Tensor:
        tokens = sample_rows(logits, sampling, packed[:, SEED], packed[:, STEP])
        return torch.where(torch.isfinite(logits).all(-1), tokens, NOT_FINITE)

    # --- what a pass is told

    def _row(self, sequence: Sequence, kind: str, start: int, count: int, token: int, offset: int = 0) -> list[int]:
        work, order = self._works[sequence.id], sequence.order
        seed = 2 * (work.seed % SEEDS) + (kind == "unit")  # so that text and speech are drawn apart
        step = (order.num_units if kind == "unit" else order.num_text) + offset
        return [work.slot, seed, step, start, count, token, min(sequence.num_bridged, self._group - 1)]

    def _pack(self, use: str, rows: list[list[int]], tables: list[list[int]], reach: int, size: int) -> Tensor:
        """int64 [size, HEAD + blocks up to `reach`] on the device; rows beyond those that are there are padding."""
        blocks = -(-reach // self._options.block_size)
        if self._is_padded:
            blocks = next(b for b in self._table_sizes() if b >= blocks)
        buffer = self._buffer(use, size, HEAD + blocks)
        array = buffer.numpy()
        array[:] = 0
        for number, (row, table) in enumerate(zip(rows, tables, strict=True)):
            array[number, :HEAD] = row
            shown = table[:blocks]
            array[number, HEAD:] = shown[0]  # not padding's block: what is masked out still takes part, see `zero`
            array[number, HEAD : HEAD + len(shown)] = shown
        return buffer.to(self._device, non_blocking=True) if self._device.type == "cuda" else buffer.clone()

    def _buffer(self, use: str, rows: int, columns: int) -> Tensor:
        """A buffer on the host that is used again: what was in it has been read by the end of its round."""
        key = (use, rows, columns)
        if key not in self._host:
            if not self._is_padded and len(self._host) > 256:  # without padding shapes never end
                self._host.clear()
            self._host[key] = torch.zeros((rows, columns), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        return self._host[key]

    def _batch(self, count: int) -> int:
        if not self._is_padded:
            return count
        return next(size for size in self._batch_sizes() if size >= count)

    def _batch_sizes(self) -> list[int]:
        return _doubling(1, self._options.max_batch)

    def _table_sizes(self) -> list[int]:
        most = max(self._model.config.llm.max_positions, self._model.config.tts.max_positions)
        size = self._options.block_size
        return _doubling(SMALLEST_REACH // size, -(-most // size))

    # --- sound

    def start_sound(self, jobs: Items[tuple[Sequence, Cut]]) -> None:
        assert self._sounding is None
        pieces: list[Piece] = []
        with self._beside():
            for sequence, cut in jobs:
                work = self._works[sequence.id]
                if work.stream is None:
                    work.stream = LiveStream(self._decoder)
                pieces.append(Piece(work.stream, cut.units, cut.is_final))
            sounds = decode_together(pieces)
            lengths = [len(sound) for sound in sounds]
            joined = torch.cat(sounds)
            if self._sound_stream is None:
                self._sounding = lengths, joined, None
                return
            host = torch.empty(len(joined), dtype=torch.float32, pin_memory=True)  # from torch's pool of pinned memory
            host.copy_(joined, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._sound_stream)
            self._sounding = lengths, host, event

    def collect_sound(self, wait: bool) -> list[NDArray[np.float32]] | None:
        if self._sounding is None:  # it could not be started
            raise RuntimeError("no sound is being decoded")
        lengths, samples, event = self._sounding
        if event is not None and not event.query():  # type: ignore[no-untyped-call]
            if wait:
                time.sleep(POLL_SECONDS)  # and no longer: somebody may interrupt, or ask for something
            return None
        self._sounding = None
        if event is not None:
            event.synchronize()
        ends = np.cumsum(lengths)
        return [samples.numpy()[end - length : end].copy() for end, length in zip(ends, lengths, strict=True)]

    def time_sound(self, pieces: int, shape: ChunkPlan) -> tuple[float, float]:
        """Seconds that as many first pieces take together, and as many of the longest. For measurements: nothing else
        may run."""
        streams = [LiveStream(self._decoder) for _ in range(pieces)]

        def decode(units: int) -> float:
            begun = time.perf_counter()
            with self._beside():
                sounds = decode_together([Piece(stream, [0] * units, is_final=False) for stream in streams])
                torch.cat(sounds).cpu()
            return time.perf_counter() - begun

        first = decode(shape.block_units)
        for _ in range(2):
            decode(shape.block_units)
        decode(shape.max_units)
        longest = decode(shape.max_units)
        for stream in streams:
            stream.close()
        return first, longest

    # --- streams and recordings

    @contextmanager
    def _main(self) -> Iterator[None]:
        if self._main_stream is None:
            yield
        else:
            with torch.cuda.stream(self._main_stream):
                yield

    @contextmanager
    def _beside(self) -> Iterator[None]:
        if self._sound_stream is None:
            yield
        else:
            with torch.cuda.stream(self._sound_stream):
                yield

    @torch.inference_mode()
    def record(self, max_positions: int) -> int:
        """Record the passes for sequences of up to `max_positions`, and the encoder. Returns how many; 0 without a
        GPU. Longer sequences work too, launched from Python."""
        if self._device.type != "cuda":
            return 0
        count = 0
        with self._main():
            hidden, dtype = self._model.config.llm.hidden_size, self._model.dtype
            blocks = -(-max_positions // self._options.block_size)
            tables = [size for size in self._table_sizes() if size < blocks] + [
                next(size for size in self._table_sizes() if size >= blocks)
            ]
            for table in reversed(tables):  # the largest first, in whose memory the others find room
                for batch in reversed(self._batch_sizes()):
                    packed = torch.zeros((batch, HEAD + table), dtype=torch.int64, device=self._device)
                    count += self._text.record(packed)
                    count += self._first_units.record(packed)
                    count += self._next_units.record(packed[:, 0].contiguous(), packed)
                packed = torch.zeros((1, HEAD + table), dtype=torch.int64, device=self._device)
                for length in READ_SIZES:
                    embeds = torch.zeros((1, length, hidden), dtype=dtype, device=self._device)
                    count += self._read_last.record(embeds, packed)
                    count += self._read_part.record(embeds, packed)
            count += self._model.listener.record()
        torch.cuda.synchronize(self._device)
        return count


class PendingRound:
    """A round that was launched."""

    def __init__(
        self, rows: list[Row], texts: list[Row], speakers: list[Row], tokens: Tensor, event: torch.cuda.Event | None
    ) -> None:
        self._rows, self._texts, self._speakers = rows, texts, speakers
        self._tokens, self._event = tokens, event

    def result(self) -> list[Made]:
        if self._event is not None:
            self._event.synchronize()
        values = iter(self._tokens.tolist())
        texts = {row.sequence.id: next(values) for row in self._texts}
        units: dict[str, list[int]] = {row.sequence.id: [] for row in self._speakers}
        for number in range(max((row.num_units for row in self._speakers), default=0)):
            for row in self._speakers:
                if row.num_units > number:
                    units[row.sequence.id].append(next(values))
        return [Made(texts.get(row.sequence.id), tuple(units.get(row.sequence.id, ()))) for row in self._rows]


SMALLEST_REACH = 256
"""Recorded passes look at 256, 512, 1024, ... positions: what lies beyond a sequence costs time too."""
POLL_SECONDS = 0.0005
READ_SIZES = (32, 64, 128, 256, 512)
"""Parts of prompts are filled up to these many positions where passes are recorded."""


def _doubling(first: int, most: int) -> list[int]:
    """first, 2 * first, ... up to the first that is at least `most`."""
    sizes = [first]
    while sizes[-1] < most:
        sizes.append(2 * sizes[-1])
    return sizes
