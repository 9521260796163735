"""The media nodes of one region: who is ready, how many calls each has, where the next one goes. Pure.

The choice is that of `rtc_server.media.router.least_loaded`, found in a heap: asking each of thousands of nodes for
each of millions of calls would take hours. A test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(slots=True)
class _Node:
    zone: int
    calls: set[int] = field(default_factory=set)
    is_ready: bool = True
    """Takes calls; False while it drains, and once it is gone."""
    is_gone: bool = False


class MediaNodes:
    """Owns which call is on which node."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        """Calls that one node takes."""
        self._nodes: list[_Node] = []
        self._by_load: list[tuple[int, int]] = []  # (calls, node), out of date where the node has another number
        self.num_ready = 0
        self.num_present: dict[int, int] = {}
        """Nodes by zone, draining ones included."""

    @property
    def max_calls(self) -> int:
        """Of all that take calls."""
        return self.num_ready * self.slots

    def add(self, zone: int) -> int:
        """One more, ready and empty. Returns its number."""
        self._nodes.append(_Node(zone))
        self.num_ready += 1
        self.num_present[zone] = self.num_present.get(zone, 0) + 1
        heappush(self._by_load, (0, len(self._nodes) - 1))
        return len(self._nodes) - 1

    def choose(self) -> int | None:
        """The ready node with the fewest calls, the first of several; None when none is ready or all are full."""
        heap, nodes = self._by_load, self._nodes
        while heap:
            calls, number = heap[0]
            node = nodes[number]
            if node.is_ready and len(node.calls) == calls:
                return number if calls < self.slots else None
            heappop(heap)
        return None

    def take(self, number: int, call: int) -> None:
        """The call is on this node from now on."""
        calls = self._nodes[number].calls
        calls.add(call)
        heappush(self._by_load, (len(calls), number))

    def leave(self, number: int, call: int) -> None:
        """The call has ended."""
        node = self._nodes[number]
        node.calls.remove(call)
        if node.is_ready:
            heappush(self._by_load, (len(node.calls), number))
        elif not node.calls:
            self._remove(node)

    def drain(self) -> bool:
        """The least loaded node takes no new calls and goes when its last one has ended. False when none is ready."""
        number = min(
            (number for number, node in enumerate(self._nodes) if node.is_ready),
            key=lambda number: len(self._nodes[number].calls),
            default=None,
        )
        if number is None:
            return False
        node = self._nodes[number]
        node.is_ready = False
        self.num_ready -= 1
        if not node.calls:
            self._remove(node)
        return True

    def lose(self, number: int) -> set[int]:
        """The node is gone. Returns the calls that it had; nothing for one that was gone before."""
        node = self._nodes[number]
        if node.is_gone:
            return set()
        self.num_ready -= node.is_ready
        node.is_ready = False
        self._remove(node)
        calls, node.calls = node.calls, set()
        return calls

    def _remove(self, node: _Node) -> None:
        node.is_gone = True
        self.num_present[node.zone] -= 1

    def present(self, zone: int | None = None) -> list[int]:
        """Numbers of the nodes that are there, draining ones included; of one zone, or of all."""
        return [
            number
            for number, node in enumerate(self._nodes)
            if not node.is_gone and (zone is None or node.zone == zone)
        ]

    def loads(self) -> list[tuple[int, bool]]:
        """Calls and readiness of every node that ever was, by number."""
        return [(len(node.calls), node.is_ready) for node in self._nodes]
