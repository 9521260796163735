"""A row of a result: one system with so many calls, first paced and then flat out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.support.engine_drive import Drive, Outcome, System
from benchmarks.support.engine_stats import between, mean_batch, stats_of
from benchmarks.support.engine_systems import device_name, memory
from benchmarks.support.machine import percentiles
from benchmarks.support.workload import SHORT_TALK, TALK, Mix, plan, plan_back_to_back


@dataclass(frozen=True, slots=True)
class Load:
    """What every system is given."""

    seconds: float
    """Turns are due within so long."""
    turns: int
    """Of each call, flat out, at most: the part ends with the first call that had so many. Twice as many of a single
    call, which has few others. 0 leaves that part out."""
    mix: Mix = TALK
    seed: int = 1
    hold_ms: int = 0

    @classmethod
    def quick(cls, seed: int, hold_ms: int) -> Load:
        return cls(5.0, 1, SHORT_TALK, seed, hold_ms)


def measure(system: System, num_calls: int, load: Load, device: torch.device) -> dict[str, Any]:
    """The row, as the JSON files have it.

    `first_audio_ms` is of the paced turns; of a single call also of those flat out, where the engine is idle too when
    they come. `rtf`: seconds in which the engine computed, per second of sound, paced. `reply_rtf`: from asking to the
    last sound over the sound's length, flat out, median. `tokens_per_s`: of both models, heard per second of the paced
    run, all calls together; `tokens_per_s_flat_out`: per second in which the engine computed, flat out."""
    if system.forget is not None:
        system.forget()
    before = stats_of(system.engine)
    paced = Drive(system, plan(num_calls, load.seconds, load.mix, load.seed), is_paced=True, hold_ms=load.hold_ms).run()
    stats = between(before, stats_of(system.engine))
    row = _paced(system, num_calls, paced, device) | {"mean_batch": mean_batch(stats), "stats": stats}
    if load.turns:
        before = stats_of(system.engine)
        turns = load.turns * (2 if num_calls == 1 else 1)
        flat_out = Drive(system, plan_back_to_back(num_calls, turns, load.mix, load.seed), is_paced=False).run()
        row |= _flat_out(flat_out)
        stats = between(before, stats_of(system.engine))
        row |= {"mean_batch_flat_out": mean_batch(stats), "stats_flat_out": stats}
        if num_calls == 1 and not load.hold_ms:
            row["first_audio_ms"] = percentiles(first_audio(paced) + first_audio(flat_out))
    return row | {"held_ms": load.hold_ms, "memory": memory(device)}


def first_audio(outcome: Outcome) -> list[float]:
    return [turn.first_audio_ms for turn in outcome.turns if turn.first_audio_ms is not None]


def _paced(system: System, num_calls: int, outcome: Outcome, device: torch.device) -> dict[str, Any]:
    turns = outcome.turns
    return {
        "system": system.name,
        "device": device_name(device),
        "calls": num_calls,
        "turns": len(turns),
        "first_audio_ms": percentiles(first_audio(outcome)),
        "rtf": _ratio(outcome.busy_seconds, outcome.audio_seconds),
        "tokens_per_s": _ratio(outcome.num_tokens, outcome.wall_seconds, 1),
        "busy_share": _ratio(outcome.busy_seconds, outcome.wall_seconds),
        "underruns": sum(turn.underruns for turn in turns),
        "underrun_ms": round(sum(turn.underrun_ms for turn in turns), 1),
        "cut": sum(turn.is_cut for turn in turns),
        "silent": sum(turn.is_silent for turn in turns),
        "refused": outcome.num_refused,
        "failed": outcome.num_failed,
    }


def _flat_out(outcome: Outcome) -> dict[str, Any]:
    rates = [
        turn.reply_seconds / turn.audio_ms * 1000
        for turn in outcome.turns
        if turn.reply_seconds is not None and turn.audio_ms
    ]
    return {
        "tokens_per_s_flat_out": _ratio(outcome.num_tokens, outcome.busy_seconds, 1),
        "audio_s_per_s": _ratio(outcome.audio_seconds, outcome.busy_seconds, 2),
        "reply_rtf": {key: None if value is None else round(value, 3) for key, value in _spread(rates).items()},
        "failed_flat_out": outcome.num_refused + outcome.num_failed,
    }


def _spread(values: list[float]) -> dict[str, float | None]:
    """p50 and p95, which `percentiles` would round too much."""
    thousand = percentiles([value * 1000 for value in values])
    return {key: None if thousand[key] is None else float(thousand[key] or 0) / 1000 for key in ("p50", "p95")}


def _ratio(part: float, whole: float, digits: int = 4) -> float | None:
    return round(part / whole, digits) if whole else None
