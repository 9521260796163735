"""The conversations of prompts.json, from the reference's messages to prompt embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.opens2s.checkpoint import Checkpoint
from model.opens2s.features import LogMel, LogMelConfig, LogMelStream
from model.opens2s.model import OpenS2S
from model.opens2s.prompt import AUDIO, Message
from model.opens2s.reply import splice
from tests.support.opens2s_fixtures import Fixtures


def log_mel(pcm: NDArray[Any], front_end: LogMelConfig, min_chunks: int = 1, step: int | None = None) -> LogMel:
    """Features of a whole recording, pushed in pieces of `step` samples."""
    stream = LogMelStream(front_end)
    for start in range(0, len(pcm), step or len(pcm)):
        stream.push(pcm[start : start + (step or len(pcm))])
    return stream.features(min_chunks)


@dataclass(frozen=True)
class Conversation:
    """One case of prompts.json."""

    messages: list[Message]
    audios: list[NDArray[np.int16]]
    input_ids: list[int]
    num_embeddings: int


def embed(model: OpenS2S, checkpoint: Checkpoint, conversations: Sequence[Conversation]) -> list[torch.Tensor]:
    """[positions, hidden] of each; the audios of all of them in one batch, as in the reference."""
    front_end = checkpoint.front_end
    audios = [pcm for conversation in conversations for pcm in conversation.audios]
    chunks = max([1, *(-(-len(pcm) // front_end.chunk_samples) for pcm in audios)])
    mels = [log_mel(pcm, front_end, chunks) for pcm in audios]
    embedded = iter(model.listener.encode_batch(mels) if mels else [])
    return [
        splice(model.llm, checkpoint.prompts.ids(one.messages), [next(embedded) for _ in one.audios], AUDIO)
        for one in conversations
    ]


def conversations(fixtures: Fixtures) -> dict[str, Conversation]:
    found = {}
    prompts = fixtures.json("prompts")
    files = dict(re.findall(r"@(\w+) = audio_in/(\w+)\.wav", prompts["note"]))
    for name, case in prompts["cases"].items():
        messages, audios = [], []
        for message in case["messages"]:
            content = message["content"]
            parts: list[str | None] = []
            for part in content if isinstance(content, list) else [content]:
                if isinstance(part, str):
                    parts.append(part)
                elif "text" in part:
                    parts.append(part["text"])
                else:
                    parts.append(None)
                    audio = part["audio"].removeprefix("@")
                    audios.append(fixtures.pcm(files.get(audio, audio)))
            messages.append(Message(message["role"], tuple(parts)))
        found[name] = Conversation(messages, audios, case["input_ids"], case["embeds_len"])
    return found
