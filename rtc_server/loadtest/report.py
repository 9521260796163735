"""The report for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def as_text(report: Mapping[str, Any]) -> str:
    """A few lines: what was asked, what came back."""
    gap, echo, setup = report["gap_ms"], report["echo_ms"], report["setup_ms"]
    lines = [
        f"{report['connected']} of {report['calls']} calls, {report['seconds']:g} s",
        f"delivered        {report['delivered']:.4f} of 50 packets/s",
        f"gaps             p50 {gap['p50']:.1f}  p99 {gap['p99']:.1f}  max {gap['max']:.1f} ms",
        _percentiles("echo delay      ", echo),
        _percentiles("set-up to media ", setup),
    ]
    usage = report["server"]
    if not math.isnan(usage["cpu_share"]):
        lines.append(
            f"server           {usage['cpu_ms_per_call_second']:.1f} ms CPU per call-second, {usage['rss_mb']:.0f} MB"
        )
    if report["client_late_share"] > 0.01:
        share = f"{report['client_late_share']:.0%}"
        lines.append(f"Disturbed: the client itself was late by more than 5 ms for {share} of its packets.")
    lines += [f"failed: {failure}" for failure in report["failures"]]
    return "\n".join(lines)


def _percentiles(name: str, values: Mapping[str, float]) -> str:
    if not values:
        return f"{name} not measured"
    return f"{name} p50 {values['p50']:.1f}  p95 {values['p95']:.1f}  p99 {values['p99']:.1f} ms"
