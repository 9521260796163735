"""How much memory the KV caches take: room for the worst case of every sequence, or as much of it as there is."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from model.engine.paged_cache import PagedKvCache
from model.opens2s.model import OpenS2S

from .loading import free_memory
from .options import OpenS2SOptions

log = logging.getLogger(__name__)

BLOCK_SIZE = 16
"""Positions of one block: what a prompt shares with another is counted in these."""
SHARE_FOR_CACHES = 0.75  # of the memory that is free beside the weights; the rest is for what a step needs besides


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Of both caches."""

    text_blocks: int
    speech_blocks: int
    most_text: int
    """Positions that one sequence may have in the text model."""
    most_speech: int
    bytes: int


def cache_sizes(model: OpenS2S, options: OpenS2SOptions, max_units: int) -> CacheSizes:
    """For `options.max_sequences` sequences of full length, bounded by `kv_cache_gb` or by the device's free memory.
    Raises ValueError where not even one sequence fits."""
    config = model.config
    most_text = min(options.context_tokens + options.max_output_tokens, config.llm.max_positions)
    most_speech = min(1 + options.max_output_tokens + max_units, config.tts.max_positions)
    text, speech = (-(-most // BLOCK_SIZE) for most in (most_text, most_speech))
    sizes = [PagedKvCache.bytes_per_block(part, BLOCK_SIZE, model.dtype) for part in (config.llm, config.tts)]
    one = text * sizes[0] + speech * sizes[1]
    wanted = options.max_sequences * one
    room = wanted
    if options.kv_cache_gb:
        room = min(wanted, int(options.kv_cache_gb * 1e9))
    else:
        cuda = model.device.type == "cuda"
        free = torch.cuda.mem_get_info(model.device)[0] if cuda else free_memory()
        room = min(wanted, int(SHARE_FOR_CACHES * free))
    if room < one:
        raise ValueError(
            f"The caches of one reply take {one / 1e9:.1f} GB at context_tokens {options.context_tokens}; there is "
            f"room for {room / 1e9:.1f} GB. Lower opens2s.context_tokens or raise opens2s.kv_cache_gb."
        )
    if room < wanted:
        log.warning(
            "the caches hold fewer replies of full length than max_sequences",
            extra={"replies": room // one, "max_sequences": options.max_sequences, "cache_gb": round(room / 1e9, 1)},
        )
    share = room / wanted
    return CacheSizes(
        text_blocks=max(text, int(options.max_sequences * text * share)),
        speech_blocks=max(speech, int(options.max_sequences * speech * share)),
        most_text=most_text,
        most_speech=most_speech,
        bytes=room,
    )
