"""The report for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def as_text(report: Mapping[str, Any]) -> str:
    """A few lines: what was asked, what came back."""
    gap, delivered, clock_error = report["gap_ms"], report["delivered"], report["clock_error_ms"]
    lines = [f"{report['connected']} of {report['calls']} calls, {report['seconds']:g} s"]
    if delivered is not None:
        lines.append(f"delivered        {delivered:.4f} of 50 packets/s")
        lines.append(f"gaps             p50 {gap['p50']:.1f}  p99 {gap['p99']:.1f}  max {gap['max']:.1f} ms")
        lines.append(_percentiles("echo delay      ", report["echo_ms"]))
    lines.append(_percentiles("set-up to media ", report["setup_ms"]))
    if clock_error is not None:
        lines.append(f"audio sent       off the clock by {clock_error:.1f} ms at most")
    usage = report["server"]
    if not math.isnan(usage["cpu_share"]):
        lines.append(
            f"server           {usage['cpu_ms_per_call_second']:.1f} ms CPU per call-second, {usage['rss_mb']:.0f} MB"
        )
    if usage["rss_mb_per_hour"] is not None:
        lines.append(
            f"memory           {usage['rss_mb_start']:.1f} -> {usage['rss_mb']:.1f} MB, "
            f"{usage['rss_mb_per_hour']:+.1f} MB per hour"
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
