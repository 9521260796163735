"""The data channel's SCTP, guarded: the private names of aiortc 1.16 that it takes (see `aiortc_media`)."""

from __future__ import annotations

import logging

from aiortc import RTCPeerConnection

from rtc_server import metrics
from rtc_server.network.sctp import is_acceptable

log = logging.getLogger(__name__)


def guard_data_channel(pc: RTCPeerConnection) -> None:
    """Show aiortc only packets that it can bear. After the remote description; nothing without a data channel."""
    sctp = pc.sctp
    if sctp is None:
        return
    handle = sctp._handle_data

    async def handle_data(data: bytes) -> None:
        if not is_acceptable(data, sctp._last_received_tsn, sctp._advertised_rwnd):
            metrics.DATA_CHANNEL_DROPPED.inc()
            return
        try:
            await handle(data)
        except ConnectionError:
            raise  # DTLS is closed: how aiortc ends its loop
        except Exception as error:  # whatever is left in a peer's own data must not end its DTLS with a traceback
            metrics.DATA_CHANNEL_DROPPED.inc()
            log.info("a data channel packet could not be handled", extra={"error": type(error).__name__})

    sctp._handle_data = handle_data  # type: ignore[method-assign]
