"""The data channel's SCTP, guarded: the private names of aiortc 1.16 that it takes (see `aiortc_media`)."""

from __future__ import annotations

import contextlib
import logging

from aiortc import RTCPeerConnection, RTCSctpCapabilities
from aiortc.rtcsctptransport import Chunk

from rtc_server import metrics
from rtc_server.network.sctp import is_acceptable

log = logging.getLogger(__name__)


def guard_data_channel(pc: RTCPeerConnection) -> None:
    """Show aiortc only packets that it can bear, and let those be lost that it sends when the connection is gone. After
    the remote description; nothing without a data channel."""
    sctp = pc.sctp
    if sctp is None:
        return
    handle, send_chunk, start = sctp._handle_data, sctp._send_chunk, sctp.start

    async def handle_data(data: bytes) -> None:
        if not is_acceptable(data, sctp._last_received_tsn, sctp._advertised_rwnd):
            metrics.DATA_CHANNEL_DROPPED.inc()
            return
        try:
            await handle(data)
        except Exception as error:  # whatever is left in a peer's own data must not end its DTLS with a traceback
            metrics.DATA_CHANNEL_DROPPED.inc()
            log.info("a data channel packet could not be handled", extra={"error": type(error).__name__})

    async def send(chunk: Chunk) -> None:
        with contextlib.suppress(ConnectionError):  # lost, as on any network: timers send in tasks nobody waits for
            await send_chunk(chunk)

    async def start_unless_closed(remote: RTCSctpCapabilities | None, port: int) -> None:
        if pc.signalingState != "closed":  # while DTLS connected: nobody would stop it any more
            await start(remote, port)

    sctp._handle_data = handle_data  # type: ignore[method-assign]
    sctp._send_chunk = send  # type: ignore[method-assign]
    sctp.start = start_unless_closed  # type: ignore[assignment, method-assign]
