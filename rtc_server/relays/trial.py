"""Does a TURN server work? Each step that a caller takes, once, with a name for the one that failed: the name is looked
up, a connection made, TLS shaken hands for, an allocation asked for with a fresh credential, a permission towards the
media server, a packet there and back. The steps are aioice's; what is asked, and what an answer means, is ours.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from aioice import stun, turn

from .address import RelayAddress
from .credentials import Credentials

Fault = Literal[
    "name",  # it does not resolve
    "refused",  # nothing listens there
    "timeout",  # nothing comes back
    "unreachable",  # no route, or the system will not let us
    "certificate",
    "tls",
    "not turn",  # something else answers
    "open",  # it wants no credential, or relays to anybody
    "credential",
    "quota",
    "allocation",  # refused for another reason
    "forbidden",  # it does not relay to the media server
    "data",  # it lets us, but no packet comes through
]

STEP_SECONDS = 5.0  # a caller's browser gives up after some ten; the first resend is after half a second
DATA_SECONDS = 2.0
RESEND_SECONDS = 0.4
CLOSE_SECONDS = 1.0  # for the farewell of TLS
LIFETIME_SECONDS = 60  # of the allocation, should its end get lost
STRANGER = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody; a permission sends nothing
PERMISSION_PORT = 9  # a permission is for an address; which port is named does not matter
CHANNEL, STRANGERS_CHANNEL = 0x4000, 0x4FFF
QUOTA_CODES = (437, 486, 508)  # mismatch (a port used again), allocation quota, insufficient capacity

VERIFY_EXPIRED, VERIFY_NOT_YET, VERIFY_NAME, VERIFY_IP = 10, 9, 62, 64  # OpenSSL's X509_V_ERR_*


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the media server takes packets."""

    address: str
    """As the TURN server is to reach it."""
    bind: str | None
    """Address of this machine to hear a packet at; None: the media server is elsewhere, and only a permission is asked
    for."""
    ports: tuple[int, ...] = ()
    """Those that its firewall lets through, to hear at the first that is free; () = any."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    fault: Fault | None
    """None: all that was tried works."""
    detail: str
    """One or more sentences."""
    advice: str = ""
    """What to do; "" when nothing is to be done."""


class _Failed(Exception):
    """Ends a trial."""

    def __init__(self, fault: Fault, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.outcome = Outcome(fault, detail, advice)


async def try_relay(
    relay: RelayAddress, credentials: Credentials, peers: Sequence[Peer], authorities: ssl.SSLContext | None = None
) -> Outcome:
    """One TURN server, over its one transport, as a caller would use it.

    `peers` of the wrong IP version are left out. `authorities`: whom to trust besides what the system trusts."""
    try:
        return await _steps(relay, credentials, peers, authorities or ssl.create_default_context())
    except _Failed as failed:
        return failed.outcome


async def _steps(relay: RelayAddress, credentials: Credentials, peers: Sequence[Peer], tls: ssl.SSLContext) -> Outcome:
    began = time.monotonic()
    async with _connected(relay, credentials, tls) as client:
        relayed = await _allocate(relay, client)
        allocated_ms = round((time.monotonic() - began) * 1000)
        said = [f"An allocation on {relayed[0]} after {allocated_ms} ms."]
        if client.integrity_key is None:
            raise _Failed(
                "open",
                "It gives an allocation to anybody, without a credential.",
                "Set use-auth-secret and static-auth-secret: an open relay is abused within days.",
            )
        said += await _reach_any(client, [peer for peer in peers if (":" in peer.address) == (":" in relayed[0])])
        if ":" not in relayed[0]:
            await _refuses_strangers(client)
    return Outcome(None, " ".join(said))


# --- steps


@asynccontextmanager
async def _connected(relay: RelayAddress, credentials: Credentials, tls: ssl.SSLContext) -> AsyncIterator[_Client]:
    """A client with a connection, no allocation yet; it gives one back that it has at the end."""
    addresses = await _resolve(relay)
    failures: list[_Failed] = []
    for address in addresses:
        try:
            client = await _connect(relay, address, credentials, tls)
            break
        except _Failed as failed:
            failures.append(failed)
    else:
        raise failures[0]
    try:
        yield client
    finally:
        try:
            if client.relayed_address is not None:
                with suppress(TimeoutError, stun.TransactionError, ConnectionError):  # it expires soon, anyway
                    await asyncio.wait_for(client.delete(), STEP_SECONDS)
        finally:
            client.transport.close()
            await asyncio.wait({client.ended}, timeout=CLOSE_SECONDS)


async def _resolve(relay: RelayAddress) -> list[str]:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM if relay.way == "udp" else socket.SOCK_STREAM
    try:
        async with asyncio.timeout(STEP_SECONDS):
            found = await loop.getaddrinfo(relay.host, relay.port, type=kind)
    except (OSError, UnicodeError, TimeoutError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "no answer"
        raise _Failed(
            "name",
            f"The name {relay.host} leads nowhere: {reason}.",
            "Check its DNS entry, and how it is written in turn.urls.",
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _connect(relay: RelayAddress, address: str, credentials: Credentials, tls: ssl.SSLContext) -> _Client:
    loop = asyncio.get_running_loop()
    where = (address, relay.port)
    options: dict[str, Any] = {
        "username": credentials.username,
        "password": credentials.credential,
        "lifetime": LIFETIME_SECONDS,
        "channel_refresh_time": LIFETIME_SECONDS,
    }
    client: _Client
    try:
        async with asyncio.timeout(STEP_SECONDS):
            if relay.way == "udp":
                _, client = await loop.create_datagram_endpoint(lambda: _Datagrams(where, **options), remote_addr=where)
            else:
                secured: dict[str, Any] = {"ssl": tls, "server_hostname": relay.host} if relay.way == "tls" else {}
                _, client = await loop.create_connection(
                    lambda: _Stream(where, **options), address, relay.port, **secured
                )
    except ssl.SSLCertVerificationError as error:
        raise _certificate(relay, error) from error
    except ssl.SSLError as error:
        raise _Failed(
            "tls",
            f"{relay} does not speak TLS: {error.reason or error}.",
            "coturn needs cert= and pkey= that its user can read, and tls-listening-port=; see its log.",
        ) from error
    except ConnectionResetError as error:
        raise _Failed(
            "tls" if relay.way == "tls" else "refused",
            f"{relay}, at {address}, ends the connection at once.",
            "Look into the TURN server's log, or at the proxy in front of it.",
        ) from error
    except (OSError, TimeoutError) as error:
        raise _unreached(relay, address, error) from error
    return client


async def _allocate(relay: RelayAddress, client: _Client) -> tuple[str, int]:
    try:
        return await _answered(client, client.connect())
    except stun.TransactionFailed as error:
        _refused(error)
    except ConnectionRefusedError as error:
        raise _unreached(relay, client.server[0], error) from error
    except (ConnectionError, ValueError) as error:
        raise _Failed(
            "not turn",
            f"{relay} ended the connection, or answered with something else than TURN.",
            "Check the port: does a web server listen there?",
        ) from error
    except (TimeoutError, stun.TransactionTimeout) as error:
        if relay.way == "udp":
            raise _unreached(relay, client.server[0], TimeoutError()) from error
        raise _Failed(
            "not turn",
            f"{relay} takes the connection, but does not answer as a TURN server.",
            "Check the port: does a web server or a proxy listen there?",
        ) from error


async def _reach_any(client: _Client, peers: Sequence[Peer]) -> list[str]:
    """What is to be said of each. One is enough: a machine has addresses that no call uses."""
    if not peers:
        return ["No address of a media server was there to relay to."]
    said: list[str] = []
    failures: list[_Failed] = []
    for number, peer in enumerate(peers):
        try:
            said.append(await _reach(client, CHANNEL + number, peer))
        except _Failed as failed:
            failures.append(failed)
    if not said:
        raise failures[0]
    return said + [failed.outcome.detail for failed in failures]


async def _reach(client: _Client, channel: int, peer: Peer) -> str:
    """A permission towards the media server and, where that is this machine, a packet there and back."""
    listener, is_let_through = _listener(peer)
    port = PERMISSION_PORT if listener is None else listener.getsockname()[1]
    try:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await client.channel_bind(channel, (peer.address, port))
        except stun.TransactionFailed as error:
            code, reason = _error_of(error)
            raise _Failed(
                "forbidden",
                f"It does not relay to the media server, {peer.address}: {code} {reason}.",
                f"Start coturn with allowed-peer-ip={peer.address}, and no denied-peer-ip that goes before it.",
            ) from error
        except (TimeoutError, stun.TransactionTimeout) as error:
            raise _Failed(
                "timeout",
                "It gave an allocation, but does not answer the request for a permission.",
                "Look into the TURN server's log.",
            ) from error
        if listener is None:
            return f"It may relay to {peer.address}; no packet was sent, as that is not this machine."
        milliseconds = await _there_and_back(client, channel, (peer.address, port), listener)
    finally:
        if listener is not None:
            listener.close()
    if milliseconds is not None:
        return f"A packet to {peer.address} and back took {milliseconds} ms."
    if not is_let_through:
        return (
            f"It may relay to {peer.address}; that a packet comes through could not be tried, as the server that runs "
            f"uses its port, and one to port {port} does not."
        )
    raise _Failed(
        "data",
        f"It may relay to {peer.address}, but a packet to UDP port {port} there does not come through.",
        "Let UDP from the TURN server to the media server through the firewall between them, and back.",
    )


async def _there_and_back(client: _Client, channel: int, to: tuple[str, int], listener: socket.socket) -> int | None:
    """Milliseconds; None: nothing came through."""
    loop = asyncio.get_running_loop()
    token = os.urandom(16)
    echoes = _Echoes(token)
    client.receiver = echoes
    client.channel_to_peer[channel] = client.channel_to_peer.get(channel, to)
    client.peer_to_channel[to] = channel
    client.channel_refresh_at[channel] = time.time() + LIFETIME_SECONDS

    async def send_back() -> NoReturn:
        while True:
            data, sender = await loop.sock_recvfrom(listener, 64)
            if data == token:
                await loop.sock_sendto(listener, data, sender)

    async def send() -> NoReturn:
        while True:
            await client.send_data(token, to)
            await asyncio.sleep(RESEND_SECONDS)

    began = time.monotonic()
    tasks = [asyncio.create_task(work, name="TURN trial") for work in (send_back(), send())]
    try:
        async with asyncio.timeout(DATA_SECONDS):
            await echoes.arrived.wait()
    except TimeoutError:
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.receiver = None
    return round((time.monotonic() - began) * 1000)


async def _refuses_strangers(client: _Client) -> None:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await client.channel_bind(STRANGERS_CHANNEL, (STRANGER, PERMISSION_PORT))
    except (stun.TransactionError, TimeoutError):
        return
    raise _Failed(
        "open",
        f"It works, but would also relay to any other address, such as {STRANGER}: whoever has a credential reaches "
        "your network through it.",
        "Set denied-peer-ip=0.0.0.0-255.255.255.255 and allowed-peer-ip=<the media server>; see deploy/turn.",
    )


# --- what an answer means


def _refused(error: stun.TransactionFailed) -> NoReturn:
    code, reason = _error_of(error)
    if code == 401:
        raise _Failed(
            "credential",
            f"It does not take the credential: {code} {reason}.",
            "Give coturn use-auth-secret and, as static-auth-secret, the first line of turn.secret_file; and see that "
            "the clocks of both machines are right.",
        ) from error
    if code in QUOTA_CODES:
        raise _Failed(
            "quota",
            f"It gives no more allocations: {code} {reason}.",
            "Raise user-quota or total-quota, or its range of ports; or too many callers share one key.",
        ) from error
    raise _Failed(
        "allocation", f"It refuses an allocation: {code} {reason}.", "Look into the TURN server's log."
    ) from error


def _error_of(error: stun.TransactionFailed) -> tuple[int, str]:
    code, reason = error.response.attributes.get("ERROR-CODE", (0, "no reason given"))
    printable = "".join(c for c in str(reason)[:80] if c.isprintable())
    return int(code), printable or "no reason given"


def _certificate(relay: RelayAddress, error: ssl.SSLCertVerificationError) -> _Failed:
    code = error.verify_code
    if code in (VERIFY_EXPIRED, VERIFY_NOT_YET):
        what = "has expired" if code == VERIFY_EXPIRED else "is not valid yet"
        advice = "Renew it, and let coturn read it again (SIGUSR2); or is a clock wrong?"
    elif code in (VERIFY_NAME, VERIFY_IP):
        what, advice = f"is not for {relay.host}", "Use the name that it is made for in turn.urls, or get another."
    else:
        what = f"is not trusted here ({error.verify_message})"
        advice = (
            "Use one of a public authority, with its whole chain in cert=; for one of your own pass --ca, and every "
            "browser must trust it too."
        )
    return _Failed("certificate", f"The certificate of {relay} {what}.", advice)


def _unreached(relay: RelayAddress, address: str, error: OSError) -> _Failed:
    where = str(relay) if relay.host == address else f"{relay}, at {address},"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        kind = "UDP" if relay.way == "udp" else "TCP"
        return _Failed(
            "timeout",
            f"{where} does not answer within {STEP_SECONDS:g} s.",
            f"A firewall drops {kind} to port {relay.port}, the address is wrong, or the machine is down.",
        )
    if isinstance(error, ConnectionRefusedError):
        return _Failed(
            "refused",
            f"Nothing listens at {where}".rstrip(",") + ": the connection is refused.",
            "Start the TURN server, or correct the port; see which it listens on in its log.",
        )
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return _Failed("unreachable", f"{where} cannot be reached: {reason}.", "Check the network and its routes.")


# --- ends


class _Ended:
    """A client that says when its connection is gone; aioice's own would let a request run into its timeout."""

    ended: asyncio.Future[NoReturn]

    def fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # retrieved: there may be no request under way


class _Datagrams(_Ended, turn.TurnClientUdpProtocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ended = asyncio.get_running_loop().create_future()

    def error_received(self, exc: Exception) -> None:
        self.fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.fail(ConnectionAbortedError("the socket was closed"))


class _Stream(_Ended, turn.TurnClientTcpProtocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.fail(ConnectionAbortedError("the connection ended"))


_Client = _Datagrams | _Stream


async def _answered(client: _Client, request: Coroutine[Any, Any, tuple[str, int]]) -> tuple[str, int]:
    """What comes of `request`, unless the connection ends before. Raises what either raises, and TimeoutError."""
    task = asyncio.create_task(request, name="TURN request")
    try:
        async with asyncio.timeout(STEP_SECONDS):
            either: list[asyncio.Future[Any]] = [task, client.ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return await (task if task.done() else client.ended)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Echoes(asyncio.DatagramProtocol):
    """Waits for one packet."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self.arrived = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data == self._token:
            self.arrived.set()


def _listener(peer: Peer) -> tuple[socket.socket | None, bool]:
    """A socket at the media server's address, and whether firewalls are known to let packets to it through."""
    if peer.bind is None:
        return None, False
    family = socket.AF_INET6 if ":" in peer.bind else socket.AF_INET
    for port in (*peer.ports, 0):
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.setblocking(False)
        try:
            listener.bind((peer.bind, port))
        except OSError:
            listener.close()
            continue
        return listener, not peer.ports or port in peer.ports
    return None, False
