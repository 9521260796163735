"""Speech recognition with Moonshine tiny-en on onnxruntime: 16 kHz PCM in, cased and punctuated English out.

Moonshine reads a whole utterance at once (about 20 ms of one core per second of speech) and then writes it
token by token (about 2 ms each). What to recognise, and what is already known, is decided in `turns`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from model.weights import MOONSHINE_DECODER, MOONSHINE_ENCODER, MOONSHINE_TOKENIZER, model_path

MIN_SAMPLES = INPUT_SAMPLE_RATE // 10  # less than 100 ms holds no word, and the encoder needs some frames
START_TOKEN, END_TOKEN = 1, 2
# Fluent English is at most about 5 tokens a second; Moonshine's authors stop at 6.5. Without a limit it loops
# on noise.
TOKENS_PER_SECOND = 6.5
EXTRA_TOKENS = 8
MAX_TOKEN_RUN = 4  # the same token this often in a row is a loop, not speech
# Moonshine mishears what is surrounded by much silence, or by none. Measured through Opus and the turn detector
# (docs/experiments.md): 12 to 18 % of the words wrong with the turn's own 300 ms before and 160 ms after, 3 % now.
KEEP_AROUND_SPEECH_MS = 80
SPEECH_BELOW_PEAK_DB = 35.0
NOISE_FLOOR_RMS = 30.0  # of 32768: quieter is never speech
LEVEL_WINDOW = INPUT_SAMPLE_RATE // 100  # 10 ms
_BYTE_TOKEN = re.compile(rb"<0x([0-9A-F]{2})>")


def make_session(path: Path | str, threads: int) -> ort.InferenceSession:
    """An onnxruntime session on the CPU whose threads sleep while they wait.

    Spinning threads take the core from the media process: measured, a 3 s utterance went from 200 to 500 ms
    as soon as anything else ran."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Recognizer:
    """Moonshine tiny-en. One call at a time; no state is kept between calls."""

    def __init__(self, models_dir: Path, threads: int = 1) -> None:
        self._encoder = make_session(model_path(models_dir, MOONSHINE_ENCODER), threads)
        self._decoder = make_session(model_path(models_dir, MOONSHINE_DECODER), threads)
        self._vocabulary = read_vocabulary(model_path(models_dir, MOONSHINE_TOKENIZER).read_bytes())
        self._encoder_inputs = {node.name for node in self._encoder.get_inputs()}
        self._decoder_inputs = {node.name for node in self._decoder.get_inputs()}
        outputs = [node.name for node in self._decoder.get_outputs()]
        self._outputs_first = outputs
        # The keys and values of the encoder come out of the first step and stay as they are.
        self._outputs_next = [name for name in outputs if ".encoder." not in name]
        self._empty_past = {
            node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32)
            for node in self._decoder.get_inputs()
            if node.name.startswith("past_key_values")
        }

    def recognize(
        self, pcm: Pcm16, is_cancelled: Callable[[], bool], on_text: Callable[[str], None] = lambda text: None
    ) -> str | None:
        """pcm [S] int16 at 16 kHz -> text, stripped; "" where no words were found.

        `on_text` gets each piece of it as it is written; joined they are the text. `is_cancelled` is asked between
        tokens; when it says True the work stops and None is returned."""
        assert pcm.ndim == 1, pcm.shape
        assert pcm.dtype == np.int16, pcm.dtype
        pcm = spoken_part(pcm)
        if len(pcm) < MIN_SAMPLES:
            return ""
        if is_cancelled():
            return None
        audio = (pcm.astype(np.float32) / 32768.0)[None]  # [S] -> [1, S]
        mask = np.ones(audio.shape, np.int64)
        feed: dict[str, object] = {"input_values": audio, "attention_mask": mask}
        (hidden,) = self._encoder.run(None, {k: v for k, v in feed.items() if k in self._encoder_inputs})
        limit = int(len(pcm) / INPUT_SAMPLE_RATE * TOKENS_PER_SECOND) + EXTRA_TOKENS
        detokenizer = Detokenizer(self._vocabulary)
        pieces: list[str] = []

        def write(token: int) -> None:
            if piece := detokenizer.feed(token):
                pieces.append(piece)
                on_text(piece)

        is_complete = self._decode(hidden, mask, limit, is_cancelled, write)
        return "".join(pieces) if is_complete else None

    def _decode(
        self,
        hidden: NDArray[np.float32],
        mask: NDArray[np.int64],
        limit: int,
        is_cancelled: Callable[[], bool],
        on_token: Callable[[int], None],
    ) -> bool:
        """hidden [1, T, 288] -> at most `limit` tokens, greedily; False when cancelled."""
        past: dict[str, object] = dict(self._empty_past)
        tokens = [START_TOKEN]
        while len(tokens) <= limit:
            if is_cancelled():
                return False
            is_first = len(tokens) == 1
            feed: dict[str, object] = past | {
                "input_ids": np.array([[tokens[-1]]], np.int64),
                "encoder_hidden_states": hidden,
                "encoder_attention_mask": mask,
                "use_cache_branch": np.array([not is_first]),
            }
            names = self._outputs_first if is_first else self._outputs_next
            logits, *state = self._decoder.run(
                names, {name: value for name, value in feed.items() if name in self._decoder_inputs}
            )
            token = int(logits[0, -1].argmax())
            if token == END_TOKEN or tokens[-MAX_TOKEN_RUN:] == [token] * MAX_TOKEN_RUN:
                break
            tokens.append(token)
            on_token(token)
            for name, value in zip(names[1:], state, strict=True):
                past[name.replace("present", "past_key_values")] = value
        return True


def spoken_part(pcm: Pcm16) -> Pcm16:
    """pcm [S] int16 at 16 kHz without the silence around its speech; empty when nothing rises above silence."""
    count = len(pcm) // LEVEL_WINDOW
    windows = pcm[: count * LEVEL_WINDOW].reshape(count, LEVEL_WINDOW).astype(np.float32)
    levels = np.sqrt((windows**2).mean(axis=1))
    floor = max(float(levels.max(initial=0.0)) * 10 ** (-SPEECH_BELOW_PEAK_DB / 20), NOISE_FLOOR_RMS)
    spoken = np.flatnonzero(levels > floor)
    if not len(spoken):
        return pcm[:0]
    keep = KEEP_AROUND_SPEECH_MS * INPUT_SAMPLE_RATE // 1000
    start = max(0, int(spoken[0]) * LEVEL_WINDOW - keep)
    return pcm[start : (int(spoken[-1]) + 1) * LEVEL_WINDOW + keep]


def read_vocabulary(data: bytes) -> list[bytes]:
    """Moonshine's tokenizer.bin: for each token its length (one byte, or two from 128 on) and its bytes."""
    tokens: list[bytes] = []
    position = 0
    while position < len(data):
        length = data[position]
        position += 1
        if length >= 128:
            length += (data[position] - 1) * 128
            position += 1
        tokens.append(data[position : position + length])
        position += length
    return tokens


class Detokenizer:
    """Tokens -> text, piece by piece. The pieces joined are stripped: a blank waits for what follows it.

    Control tokens such as `</s>` vanish; byte tokens `<0x41>` are joined."""

    def __init__(self, vocabulary: list[bytes]) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._blanks = ""
        self._is_empty = True

    def feed(self, token: int) -> str:
        """What `token` adds to the text; "" where that is not known yet."""
        piece = self._vocabulary[token]
        byte = _BYTE_TOKEN.fullmatch(piece)
        if byte is not None:
            piece = bytes([int(byte[1], 16)])
        elif piece.startswith(b"<") and piece.endswith(b">"):
            return ""
        text = self._blanks + self._decoder.decode(piece).replace("\u2581", " ")
        if self._is_empty:
            text = text.lstrip()
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        self._is_empty = self._is_empty and not shown
        return shown
