"""A checkpoint folder in the released layout: its small files held against each other, its weights on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import model
from .config import OpenS2SConfig, read_config
from .errors import FETCH_COMMAND, ConfigurationError
from .features import PREPROCESSOR_FILE, LogMelConfig, read_front_end
from .generation_config import SPEECH_FILE, TEXT_FILE, GenerationConfig, read_generation_config
from .prompt import PromptBuilder, TextDecoder, load_tokenizer, speech_vocabulary
from .speech_lm import SpeechVocabulary

SPEECH_FOLDER = "tts"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything but the weights."""

    folder: Path
    config: OpenS2SConfig
    front_end: LogMelConfig
    text_generation: GenerationConfig
    speech_generation: GenerationConfig
    vocabulary: SpeechVocabulary
    prompts: PromptBuilder
    tokenizer: Any
    """The text model's."""

    def load(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        restrict_head: bool = True,
    ) -> model.OpenS2S:
        """The model with its weights. `restrict_head` False keeps text ids in the speech model, as the reference."""
        rows = self.vocabulary.rows if restrict_head else None
        return model.load(self.folder, self.config, rows, device=device, dtype=dtype)

    def text_decoder(self) -> TextDecoder:
        return TextDecoder(self.tokenizer)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder. Raises CheckpointError (see errors) with a full sentence."""
    config = read_config(folder)
    front_end = read_front_end(folder)
    _check_front_end(front_end, config, folder)
    speech_folder = folder / SPEECH_FOLDER
    speech_generation = read_generation_config(folder / SPEECH_FILE)
    tokenizer = load_tokenizer(folder)
    return Checkpoint(
        folder=folder,
        config=config,
        front_end=front_end,
        text_generation=read_generation_config(folder / TEXT_FILE),
        speech_generation=speech_generation,
        vocabulary=speech_vocabulary(
            load_tokenizer(speech_folder), speech_generation.end_ids, config.tts.vocab_size, speech_folder
        ),
        prompts=PromptBuilder(tokenizer, config.llm.vocab_size, folder),
        tokenizer=tokenizer,
    )


def _check_front_end(front_end: LogMelConfig, config: OpenS2SConfig, folder: Path) -> None:
    """The front end makes what the encoder takes. Raises ConfigurationError."""
    path, audio = folder / PREPROCESSOR_FILE, config.audio
    if front_end.feature_size != audio.num_mel_bins:
        raise ConfigurationError(
            f"{path}: feature_size is {front_end.feature_size}; the encoder takes {audio.num_mel_bins} mel bins. "
            f"Run `{FETCH_COMMAND}`."
        )
    if front_end.chunk_frames % audio.window_frames:
        raise ConfigurationError(
            f"{path}: chunk_length is {front_end.chunk_length} s, {front_end.chunk_frames} frames; expected whole "
            f"windows of the encoder, {audio.window_frames} frames each. Run `{FETCH_COMMAND}`."
        )
