"""ICE for the answering side: aioice's checks on the process's own sockets, and the private names of aioice 0.13 for
it.

What differs from aioice: sockets are lent, not owned; media skips the queue; a check costs no 20 ms of polling; consent
is lost within 10 s instead of 30; an ICE-lite answerer sends no checks at all; a restart keeps the DTLS session. aioice
is pinned exactly and `tests/network` has one contract test per private name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import secrets
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiortc.rtcicetransport
from aioice import Candidate, Connection, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import ICE_COMPLETED, CandidatePair, StunProtocol, server_reflexive_candidate

from .path import MediaPath
from .sockets import Address, MediaSocket, MediaSockets

CHECK_INTERVAL_SECONDS = 0.02  # Ta, RFC 8445 section 14.2, between checks that nobody triggered
CONSENT_INTERVAL_SECONDS = 2.5  # between our own checks on the chosen pair
CONSENT_WORRY_SECONDS = 4.0  # without a signed STUN message: some checks were lost, or the peer is gone
CONSENT_WORRIED_INTERVAL_SECONDS = 0.7  # between checks from then on: five more chances on a link that loses a fifth
CONSENT_LOST_SECONDS = 8.5  # and closed: with the last wait and its check's time-out (0.5 s) within 10 s
MAX_QUEUED = 256  # datagrams for DTLS, SCTP and RTCP; beyond it the peer floods its own call
CONTROL_PER_SECOND = 400  # of these and of STUN, kept up; a call in use has about 20. Each costs up to 0.5 ms
CONTROL_BURST = 512  # at once: connectivity checks, a handshake, a screenful of events
STUN_SERVER_SECONDS = 3.0
UFRAG_CHARACTERS = 12  # all calls share a socket: the name is what tells them apart, and must not be guessed
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class IceOptions:
    """How one call's connection is made."""

    sockets: MediaSockets
    path: MediaPath
    host_addresses: Sequence[str]
    """Local addresses to offer as host candidates."""
    external_addresses: Sequence[str] = ()
    """Offered in place of local ones of the same IP version: the public side of a 1:1 NAT."""
    is_lite: bool = False
    """Answer checks and send none (RFC 8445 section 2.5); the server must be reachable at its candidates."""


_options: ContextVar[IceOptions | None] = ContextVar("ice_options", default=None)
_stock_connection = Connection


@contextmanager
def ice_of(options: IceOptions) -> Iterator[None]:
    """Peer connections that get their transports inside the block run on these sockets."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


def _make_connection(**arguments: Any) -> Connection:
    options = _options.get()
    return _stock_connection(**arguments) if options is None else IceConnection(options, **arguments)


setattr(aiortc.rtcicetransport, "Connection", _make_connection)  # noqa: B010 - not exported by its module


class _LentTransport:
    """Stands where `StunProtocol` expects its asyncio transport."""

    def __init__(self, sock: MediaSocket, protocol: LentProtocol) -> None:
        self.sock = sock
        self._protocol = protocol
        self._is_closed = False

    def sendto(self, data: bytes, address: Address) -> None:
        if data[:2] == b"\x00\x01":
            self.sock.expect(data[8:20], self._protocol)
        try:
            self.sock.send(data, address)
        except OSError:  # a full buffer, no route: lost, as on any network; STUN and DTLS send again
            return

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def get_extra_info(self, name: str) -> Any:
        return (self.sock.host, self.sock.port) if name == "sockname" else None


class LentProtocol(StunProtocol):
    """aioice's view of one lent socket; a `sockets.Endpoint`."""

    receiver: IceConnection

    def __init__(self, receiver: IceConnection, sock: MediaSocket, candidate_host: str) -> None:
        super().__init__(receiver)
        self.sock = sock
        self.connection_made(_LentTransport(sock, self))  # type: ignore[arg-type]
        self.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", candidate_host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=candidate_host,
            port=sock.port,
            type="host",
        )

    def on_datagram(self, data: memoryview) -> None:
        """Media goes straight to the call, DTLS and RTCP to aiortc's queue."""
        self.receiver.receive(data)

    def admits(self) -> bool:
        """See `sockets.Endpoint`."""
        return self.receiver.admits()

    def on_request(self, message: stun.Message, source: Address) -> bool:
        """See `sockets.Endpoint`."""
        return self.receiver.on_request(message, source, self)

    def on_response(self, message: stun.Message, source: Address) -> None:
        """See `sockets.Endpoint`."""
        transaction = self.transactions.get(message.transaction_id)
        if transaction is not None:
            transaction.response_received(message, source)


class IceConnection(Connection):
    """One call's ICE session on lent sockets."""

    def __init__(self, options: IceOptions, **arguments: Any) -> None:
        if arguments.get("local_username") is None:
            arguments["local_username"] = "".join(secrets.choice(_ALPHABET) for _ in range(UFRAG_CHARACTERS))
        super().__init__(**arguments)
        self.options = options
        self.path = options.path
        self._arguments = arguments
        self._loop = asyncio.get_running_loop()
        self._lent: list[LentProtocol] = []
        self._alive_at = self._allowed_at = self._loop.time()
        self._allowance: float = CONTROL_BURST  # datagrams that DTLS may be given now
        self.is_lost = False
        """The peer was not heard of for too long."""
        self.is_replaceable = False
        """Another connection is being made for the call: silence does not end this one meanwhile."""
        self.is_overtaken = False
        """Media goes over a pair of that other connection already: checks here do not take it back."""

    # --- candidates

    async def get_component_candidates(self, component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        """aioice's hook for gathering; `addresses` is its own choice, which our options replace."""
        for sock in self.options.sockets.lend(self.options.host_addresses):
            protocol = LentProtocol(self, sock, self._candidate_host(sock.host))
            sock.add(self.local_username, protocol)
            self._lent.append(protocol)
        self._protocols += self._lent
        candidates = [protocol.local_candidate for protocol in self._lent]
        candidates += await self._reflexive_candidates()
        if self.turn_server is not None:
            candidates += await super().get_component_candidates(component, [], timeout)
        return candidates

    def _candidate_host(self, local: str) -> str:
        version = ipaddress.ip_address(local).version
        external = (e for e in self.options.external_addresses if ipaddress.ip_address(e).version == version)
        return local if ipaddress.ip_address(local).is_loopback else next(external, local)

    async def _reflexive_candidates(self) -> list[Candidate]:
        server = self.stun_server
        if server is None:
            return []
        queries = [server_reflexive_candidate(p, server) for p in self._lent if ":" not in p.sock.host]
        try:
            async with asyncio.timeout(STUN_SERVER_SECONDS):
                found = await asyncio.gather(*queries, return_exceptions=True)
        except TimeoutError:
            return []
        return [result[0] for result in found if not isinstance(result, BaseException)]

    # --- checks

    def on_request(self, message: stun.Message, source: Address, protocol: StunProtocol) -> bool:
        """A STUN request that names us. Unsigned and wrongly signed ones are dropped without an answer."""
        if self._closing or message.message_method != stun.Method.BINDING:
            return False
        attributes = message.attributes
        if not {"MESSAGE-INTEGRITY", "USERNAME", "PRIORITY"} <= attributes.keys():
            return False
        if not message.check_message_integrity(self.local_password.encode()):
            return False
        if not self._valid_username(attributes["USERNAME"]):
            return False
        if len(self._check_list) >= 2 * MAX_PAIRS:
            return False
        self._alive_at = self._loop.time()
        self.request_received(message, source, protocol)
        return True

    async def connect(self) -> None:
        """As aioice's, without its polling: done in the moment the peer nominates a working pair."""
        if self.remote_username is None or self.remote_password is None:
            raise ConnectionError("Remote username or password is missing")
        if not self.options.is_lite:
            for candidate in self._remote_candidates:
                self._pair_remote_candidate(candidate)
        self.sort_check_list()
        self._unfreeze_initial()
        for check in self._early_checks:
            self.check_incoming(*check)
        self._early_checks.clear()
        self._early_checks_done = True
        pacing = asyncio.create_task(self._pace_checks(), name="ice-checks")
        try:
            result = await self._check_list_state.get()
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
        for pair in self._check_list:
            if pair.task is not None:
                pair.task.cancel()
        if result != ICE_COMPLETED:
            raise ConnectionError("ICE negotiation failed")
        self._alive_at = self._loop.time()
        self._query_consent_task = asyncio.create_task(self.query_consent(), name="ice-consent")

    async def _pace_checks(self) -> None:
        while not self.options.is_lite and self._check_periodic():  # noqa: ASYNC110 - paced by RFC 8445, not polling
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def check_start(self, pair: CandidatePair) -> None:
        """A lite agent checks nothing: that the peer's signed request came is all it may know."""
        if not self.options.is_lite:
            return await super().check_start(pair)
        pair.nominated = pair.remote_nominated
        self.check_state(pair, CandidatePair.State.SUCCEEDED)
        self.check_complete(pair)
        return None

    def check_state(self, pair: CandidatePair, state: CandidatePair.State) -> None:
        """A pair that works makes its address one that media is taken from."""
        super().check_state(pair, state)
        protocol = pair.protocol
        if state == CandidatePair.State.SUCCEEDED and isinstance(protocol, LentProtocol):
            protocol.sock.validate(pair.remote_addr, protocol)

    def check_complete(self, pair: CandidatePair) -> None:
        """The chosen pair is where media goes."""
        super().check_complete(pair)
        chosen = self._nominated.get(1)
        if chosen is not None and not self._closing and not self.is_overtaken:
            self.path.set_target(_sender(chosen))

    async def query_consent(self) -> None:
        """Keep asking, and close when nothing signed has come for `CONSENT_LOST_SECONDS` (RFC 7675), except in the
        middle of an ICE restart."""
        assert self.remote_password is not None
        key = self.remote_password.encode()
        while True:
            silent = self._loop.time() - self._alive_at
            interval = CONSENT_INTERVAL_SECONDS if silent < CONSENT_WORRY_SECONDS else CONSENT_WORRIED_INTERVAL_SECONDS
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))
            if self._loop.time() - self._alive_at >= CONSENT_LOST_SECONDS and not self.is_replaceable:
                self.is_lost = True
                self._query_consent_task = None
                await self.close()
                return
            pair = self._nominated.get(1)
            if self.options.is_lite or pair is None:
                continue
            try:
                await pair.protocol.request(
                    self.build_request(pair, nominate=False), pair.remote_addr, integrity_key=key, retransmissions=0
                )
            except stun.TransactionError:
                continue  # one of several chances
            self._alive_at = self._loop.time()

    async def close(self) -> None:
        """Give the sockets back; idempotent."""
        lent, self._lent = self._lent, []
        for protocol in lent:
            protocol.sock.remove(self.local_username, protocol)
        await super().close()
        self.options.sockets.give_back([protocol.sock for protocol in lent])

    # --- datagrams

    def receive(self, data: memoryview) -> None:
        """A datagram of the peer: media to the call at once, the rest to aiortc's queue."""
        if 127 < data[0] < 192 and len(data) > 1 and not 192 <= data[1] <= 223 and self.path.deliver(data):
            return
        self.data_received(bytes(data), 1)

    def data_received(self, data: bytes, component: int) -> None:
        """What DTLS reads. Bounded in number and in pace, the rest is lost as on any network; empty datagrams end
        nothing any more."""
        if data and self._queue.qsize() < MAX_QUEUED and self.admits():
            super().data_received(data, component)

    def admits(self) -> bool:
        """One more datagram that is not media may be worked on now."""
        now = self._loop.time()
        self._allowance = min(CONTROL_BURST, self._allowance + CONTROL_PER_SECOND * (now - self._allowed_at))
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def working_pair(self) -> CandidatePair | None:
        """The best pair whose check was answered; None while there is none."""
        return next((pair for pair in self._check_list if pair.state == CandidatePair.State.SUCCEEDED), None)

    def keep(self) -> None:
        """There will be no other connection: this one is the call's again."""
        self.is_replaceable = False
        chosen = self._nominated.get(1)
        if self.is_overtaken and chosen is not None and not self._closing:
            self.path.set_target(_sender(chosen))
        self.is_overtaken = False

    def successor(self) -> IceConnection:
        """A connection with new credentials on the same path, for an ICE restart."""
        arguments = {**self._arguments, "local_username": None, "local_password": None}
        return IceConnection(self.options, **arguments)


RESTART_SECONDS = 30.0  # for the checks of an ICE restart; the call lives as long
EARLY_POLL_SECONDS = 0.05
NOMINATION_SECONDS = 0.3  # a peer whose old path works nominates within a round trip or two
MAX_PAIRS = 50  # candidate pairs per call: a hostile peer could show a new source port with every check


def _sender(pair: CandidatePair) -> Any:
    protocol, address = pair.protocol, pair.remote_addr
    if isinstance(protocol, LentProtocol):
        send, target = protocol.sock.send, address
        return lambda data: send(data, target)
    return lambda data: protocol.transport.sendto(bytes(data), address)  # through a TURN server


# --- ICE restart (RFC 8445 section 2.4, RFC 8842 section 5.4: the same fingerprint keeps the DTLS association)


class RestartableIce:
    """Swaps the ICE connection under a running `RTCIceTransport`. One per call, made after its answer."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._next: IceConnection | None = None
        self._switching: asyncio.Task[None] | None = None
        transport._recv = self._receive
        transport._send = self._send

    @property
    def current(self) -> IceConnection:
        connection: IceConnection = self._transport._connection
        return connection

    @property
    def latest(self) -> IceConnection:
        """The connection that candidates of the peer belong to: the one being made, else the one in use."""
        return self._next or self.current

    def is_restart(self, remote_username: str) -> bool:
        """An offer with this user name is not a repetition of the present one."""
        return remote_username != self.latest.remote_username

    @property
    def tag(self) -> str:
        """Names the ICE session that candidates of the peer belong to: its own user name, which is never used again."""
        return self.latest.local_username

    def best_candidate(self, connection: IceConnection) -> str:
        """Of all that `connection` offers, the one at the address that carries the call now; "" when it has none."""
        chosen = self.current._nominated.get(1)
        host = None if chosen is None else chosen.local_candidate.host
        offered = connection.local_candidates
        best = next((c for c in offered if c.host == host), offered[0] if offered else None)
        return "" if best is None else best.to_sdp()

    async def restart(self, remote_username: str, remote_password: str, candidates: Sequence[str]) -> IceConnection:
        """Gather with new credentials and begin checking; the old pair carries media until the new one works."""
        await self._abandon()
        new = self.current.successor()
        self._next = new
        self.current.is_replaceable = True
        try:
            await new.gather_candidates()
            new.remote_username, new.remote_password = remote_username, remote_password
            for candidate in candidates:
                await self.add_candidate(candidate)
        except BaseException:  # cancelled or failed: nobody else knows this connection yet
            self._next = None
            self.current.keep()
            await new.close()
            raise
        self._switching = asyncio.create_task(self._switch(new), name="ice-restart")
        return new

    async def add_candidate(self, text: str) -> None:
        """A validated candidate of the peer, "candidate:..." without the prefix; the empty string ends them."""
        connection = self.latest
        if connection._remote_candidates_end or len(connection.remote_candidates) >= MAX_PAIRS:
            return
        await connection.add_remote_candidate(Candidate.from_sdp(text) if text else None)

    async def close(self) -> None:
        """Stop a restart that is under way. Idempotent."""
        await self._abandon()

    async def _switch(self, new: IceConnection) -> None:
        early = asyncio.create_task(self._send_early(self.current, new), name="ice-early")
        try:
            async with asyncio.timeout(RESTART_SECONDS):
                await new.connect()
        except (ConnectionError, TimeoutError):
            if self._next is new:
                self._next = None
                self.current.keep()
            await new.close()
            return
        finally:
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
        transport, old = self._transport, self._transport._connection
        monitor = vars(transport)["_RTCIceTransport__monitor_task"]
        monitor.cancel()
        transport._connection = new
        vars(transport)["_RTCIceTransport__monitor_task"] = asyncio.ensure_future(transport._monitor())
        self._next = None
        await old.close()

    @staticmethod
    async def _send_early(old: IceConnection, new: IceConnection) -> None:
        """Media goes over a pair that works before the peer has nominated one (RFC 8445 section 12.1): a browser whose
        network is gone takes five seconds to give its old pair up, and hears us on any. Checks on the old pair may
        still come, from a network that carries one direction only."""
        while (working := new.working_pair()) is None:  # noqa: ASYNC110 - aioice tells nobody of a pair that works
            await asyncio.sleep(EARLY_POLL_SECONDS)
        await asyncio.sleep(NOMINATION_SECONDS)
        old.is_overtaken = True
        new.path.set_target(_sender(new.working_pair() or working))

    async def _abandon(self) -> None:
        task, self._switching = self._switching, None
        new, self._next = self._next, None
        self.current.keep()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if new is not None:
            await new.close()

    async def _receive(self) -> bytes:
        while True:
            connection = self._transport._connection
            try:
                return bytes(await connection.recv())
            except ConnectionError:
                if self._transport._connection is connection:
                    raise

    async def _send(self, data: bytes) -> None:
        await self._transport._connection.send(data)


_CREDENTIAL = re.compile(r"a=ice-(ufrag|pwd):\S+")


def restarted_answer(answer: str, connection: IceConnection) -> str:
    """The call's answer with the credentials and candidates of a restarted connection, and its version raised."""
    lines: list[str] = []
    for line in answer.splitlines():
        if line.startswith("o="):
            fields = line.split(" ")
            fields[2] = str(int(fields[2]) + 1)
            lines.append(" ".join(fields))
        elif match := _CREDENTIAL.match(line):
            value = connection.local_username if match[1] == "ufrag" else connection.local_password
            lines.append(f"a=ice-{match[1]}:{value}")
        elif line == "a=end-of-candidates":
            lines += [f"a=candidate:{candidate.to_sdp()}" for candidate in connection.local_candidates]
            lines.append(line)
        elif not line.startswith("a=candidate:"):
            lines.append(line)
    return "\r\n".join(lines) + "\r\n"
