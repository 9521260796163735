"""The wire side of a caller: one aiortc peer, one HTTP offer, one data channel, and a clean end.

Knows nothing of turns; `session` does. Used the same way by the benchmarks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from yarl import URL

from model.interface import Pcm16
from rtc_server.network.addresses import host_addresses
from rtc_server.transports.aiortc_media import media_of

from .errors import CallError, NoPlaceError
from .hearing import Hearing

CHANNEL_LABEL = "oai-events"
CALLS_PATH = "v1/realtime/calls"
HANGUP_TIMEOUT_SECONDS = 2.0  # a server that does not answer must not keep the program from ending
MAX_ERROR_CHARS = 300

Event = dict[str, Any]


class RealtimePeer:
    """A call: `connect`, then send events and audio until `close`. Use it as an async context manager.

    `on_event` gets every server event; `on_audio` what is heard (see `Hearing`); `on_end` a sentence when the call
    is over without `close` having been called. All are called on the event loop."""

    def __init__(
        self,
        url: str,
        track: MediaStreamTrack,
        *,
        on_event: Callable[[Event], None],
        on_audio: Callable[[Pcm16, int, float], None],
        on_end: Callable[[str], None],
        tls: ssl.SSLContext | bool = True,
        api_key: str | None = None,
        resume: str | None = None,
        configuration: RTCConfiguration | None = None,
    ) -> None:
        """`resume`: the `resume_token` of a call that was lost, whose session goes on. `configuration`: STUN and TURN
        servers, and whether only a relay may be used; None = none of them."""
        self.base = base_url(url)
        self.call_id: str | None = None
        self.resume_token: str | None = None
        """How to go on with the session when this call is lost; None where the server keeps none."""
        self._resume = resume
        self.pc = RTCPeerConnection(configuration or RTCConfiguration(iceServers=[]))
        self._track = track
        self._on_event = on_event
        self._on_end = on_end
        self._tls = tls
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http: aiohttp.ClientSession | None = None
        self._location: URL | None = None
        self._is_closed = False
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: RTCDataChannel = self.pc.createDataChannel(CHANNEL_LABEL)
        self._channel.on("message", self._on_message)
        self._channel.on("close", lambda: self._end("The server closed the event channel; the call is over."))
        self.pc.on("connectionstatechange", self._on_state)
        with media_of(Hearing(on_audio), None):
            self.pc.addTrack(track)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, timeout_s: float) -> None:
        """Offer, take the answer, and wait until media can flow.

        Raises CallError, in one sentence: unreachable, refused, busy, or no connection within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                with host_addresses(self._loopback_addresses()):
                    await self.pc.setLocalDescription(await self.pc.createOffer())
                answer = await self._exchange(self.pc.localDescription.sdp)
                await self._accept(answer)
                await self._connected
        except TimeoutError as error:
            reached = "answered, but no connection came about" if self._location else "did not answer"
            raise CallError(f"{self.base} {reached} within {timeout_s:g} s.") from error

    def send(self, event: Event) -> None:
        """Send a client event; dropped when the channel is not open."""
        if self._channel.readyState == "open":
            self._channel.send(json.dumps(event))

    async def packets(self) -> dict[str, int]:
        """Packets of this call so far: sent, received, lost on the way here and, as the server reports, there."""
        counts = {"sent": 0, "received": 0, "lost_received": 0, "lost_sent": 0}
        for entry in (await self.pc.getStats()).values():
            if entry.type == "outbound-rtp":
                counts["sent"] += entry.packetsSent
            elif entry.type == "inbound-rtp":
                counts["received"] += entry.packetsReceived
                counts["lost_received"] += entry.packetsLost
            elif entry.type == "remote-inbound-rtp":
                counts["lost_sent"] += entry.packetsLost
        return counts

    def forget(self) -> None:
        """Do not tell the server of the end: it has to find out by itself. For tests of callers that vanish."""
        self._location = None

    async def close(self) -> None:
        """Hang up and free everything. Idempotent; also right in the middle of `connect`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._track.stop()
        self._connected.cancel()
        try:
            await self._hang_up()
        finally:
            await self.pc.close()
            if self._http is not None:
                await self._http.close()

    # --- inside

    def _loopback_addresses(self) -> list[str]:
        """aioice leaves loopback out, so for a server on loopback there would be no way to it."""
        host = self.base.host or ""
        if host == "localhost":
            return ["127.0.0.1"]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return []
        return [str(address)] if address.is_loopback else []

    async def _exchange(self, offer: str) -> str:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls), headers=self._headers)
        url = self.base / CALLS_PATH
        if self._resume is not None:
            url = url.with_query(resume=self._resume)
        with failures_of(self.base):
            async with self._http.post(url, data=offer.encode(), headers={"Content-Type": "application/sdp"}) as reply:
                body = await reply.text(errors="replace")
                if reply.status != 201:
                    kind = NoPlaceError if reply.status == 503 and error_code(body) == "server_full" else CallError
                    raise kind(refusal(str(self.base), reply.status, body, reply.headers.get("Retry-After")))
                location = reply.headers.get("Location")
                self.resume_token = reply.headers.get("Resume-Token")
        if location is None:
            raise CallError(f"{self.base} answered without a Location header; is it an rtc-server?")
        self._location = url.join(URL(location))
        self.call_id = self._location.name
        return body

    async def _accept(self, answer: str) -> None:
        try:
            await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except (ValueError, IndexError, KeyError, AssertionError) as error:  # how aiortc's parser gives up
            raise CallError(f"{self.base} sent an answer that is not usable SDP.") from error

    async def _hang_up(self) -> None:
        if self._http is None or self._location is None:
            return
        timeout = aiohttp.ClientTimeout(total=HANGUP_TIMEOUT_SECONDS)
        with suppress(aiohttp.ClientError, TimeoutError):  # the peer connection's own close ends the call as well
            async with self._http.delete(self._location, timeout=timeout) as reply:
                await reply.read()

    def _on_message(self, data: str | bytes) -> None:
        try:
            event = json.loads(data)
        except ValueError:
            return self._end("The server sent an event that is not JSON.")
        if isinstance(event, dict):
            self._on_event(event)
        return None

    def _on_state(self) -> None:
        state = self.pc.connectionState
        if state == "connected" and not self._connected.done():
            self._connected.set_result(None)
        elif state == "failed":
            self._end("The connection to the server was lost, or never came about (ICE failed).")
        elif state == "closed":
            self._end("The server ended the call.")

    def _end(self, message: str) -> None:
        if self._is_closed:
            return
        if not self._connected.done():
            self._connected.set_exception(CallError(message))
            self._connected.exception()  # retrieved: connect may be waiting for something else
        self._on_end(message)


def base_url(text: str) -> URL:
    """The server's address, without a trailing slash. Raises CallError when it is not an http(s) URL with a host."""
    try:
        url = URL(text)
    except ValueError as error:
        raise CallError(f"{text!r} is not a URL; expected something like http://127.0.0.1:8000.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise CallError(f"{text!r} is not a server's address; expected something like http://127.0.0.1:8000.")
    return url.with_query(None).with_fragment(None)


@contextmanager
def failures_of(base: URL) -> Iterator[None]:
    """Around a request to the server: what prevents it raises CallError."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise CallError(
            f"The certificate of {base} is not trusted here: pass its authority's file, or --insecure."
        ) from error
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno
        reason = os.strerror(number) if number and number > 0 else str(error.os_error)
        raise CallError(f"{base} cannot be reached ({reason}); is the server running there?") from error
    except aiohttp.ClientError as error:
        raise CallError(f"{base} cannot be talked to: {error or type(error).__name__}.") from error


def error_code(body: str) -> str | None:
    """The code of the server's error; None where there is none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def refusal(server: str, status: int, body: str, retry_after: str | None = None, what: str = "the call") -> str:
    """One sentence for a refused request, with the server's own words where it gave any."""
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = body.strip().splitlines()[0] if body.strip() else "no reason given"
    said = said[:MAX_ERROR_CHARS].rstrip(".")
    if status == 401:
        return f"{server} wants a key: {said}. Pass one in the environment variable RTC_SERVER_API_KEY."
    if status == 503:
        when = f"; try again in {retry_after} s" if retry_after and "try again" not in said.lower() else ""
        return f"{server} takes no call now: {said}{when}."
    return f"{server} refused {what} with HTTP {status}: {said}."
