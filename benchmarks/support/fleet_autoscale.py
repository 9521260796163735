"""How many nodes there should be: the rule of Kubernetes' HorizontalPodAutoscaler, on calls and on refusals. Pure.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/, with metrics and behaviour as in the Helm
chart: for each metric desired = ceil(sum over the nodes / wanted per node), nothing within the tolerance, the larger of
both; the number rises by at most 100 % or two per minute, and falls to the largest number that was recommended in the
last minutes. (The chart lets one server go at a time, which for hundreds of nodes would take days.)
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

TOLERANCE = 0.1
GROWTH_SECONDS, GROWTH_SHARE, GROWTH_NODES = 60.0, 1.0, 2


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """Of one kind of node."""

    target: float = 0.75
    """Share of its slots that are to be in use."""
    refusals_per_node: float = 0.05
    """Refused admissions per second for which there is to be one node: they tell of demand that calls cannot show."""
    fewest: int = 1
    most: int = 1_000_000
    stabilization: float = 900.0
    """Seconds over which the largest recommendation counts before the number falls."""


class Autoscaler:
    """Remembers its recommendations."""

    def __init__(self, rule: ScalingRule) -> None:
        self.rule = rule
        self._recommended: deque[tuple[float, int]] = deque()
        self._added: deque[tuple[float, int]] = deque()

    def desired(self, now: float, calls: int, slots: int, ready: int, starting: int, refused_per_second: float) -> int:
        """Nodes that there should be, the starting ones included: asked every 15 s."""
        rule, present = self.rule, ready + starting
        wanted = present
        usage = calls / (max(1, ready) * slots * rule.target)
        if abs(usage - 1) > TOLERANCE:
            wanted = math.ceil(max(1, ready) * usage)
        wanted = max(wanted, math.ceil(refused_per_second / rule.refusals_per_node))
        wanted = min(max(wanted, rule.fewest), rule.most)
        _forget(self._recommended, now - rule.stabilization)
        self._recommended.append((now, wanted))
        if wanted < present:
            return min(present, max(number for _, number in self._recommended))
        _forget(self._added, now - GROWTH_SECONDS)
        added = sum(number for _, number in self._added)
        before = present - added
        wanted = min(wanted, max(present, before + max(GROWTH_NODES, math.ceil(before * GROWTH_SHARE))))
        self._added.append((now, wanted - present))
        return wanted


def _forget(entries: deque[tuple[float, int]], before: float) -> None:
    while entries and entries[0][0] <= before:
        entries.popleft()
