"""A place where calls live, seen from signaling: this process, a worker process, later a machine of a cluster.

Everything that crosses is a plain frozen dataclass, so that it can be sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rtc_server.transports.sdp import Offer

CallKind: TypeAlias = Literal["conversation", "echo"]


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """A validated offer for a new call."""

    offer: Offer
    host_addresses: tuple[str, ...]
    """Local addresses that this caller may be able to reach."""
    kind: CallKind = "conversation"


@dataclass(frozen=True, slots=True)
class Answer:
    """A call that was set up."""

    call_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How much a node carries."""

    calls: int
    """Slots held, connecting calls included."""
    is_ready: bool
    """It takes calls: its engine is warm, and it is not closing."""


class MediaNode(Protocol):
    """Errors of the caller and of capacity are `ApiError`s, whatever process they come from."""

    @property
    def load(self) -> NodeLoad:
        """At this moment, as far as it is known here."""

    async def answer(self, request: OfferRequest) -> Answer:
        """Set a call up. Raises ServerFullError, NotReadyError, NetworkError or InvalidSdpError."""

    async def restart_ice(self, call_id: str, offer: Offer) -> str:
        """A new answer for a running call. Raises CallNotFoundError or InvalidSdpError."""

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None:
        """More remote candidates for a call. Raises CallNotFoundError."""

    async def hang_up(self, call_id: str) -> None:
        """End a call. Raises CallNotFoundError."""

    async def metrics(self) -> bytes:
        """Its metrics in Prometheus text format; empty when they are this process's own."""

    async def close(self, timeout_seconds: float) -> None:
        """End every call, then the node. Idempotent."""
