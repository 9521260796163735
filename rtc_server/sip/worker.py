"""The SIP adapter's process: dialogs and retransmissions by sippy (RFC 3261), all else by messages to the server.

A process of its own, for three reasons: sippy prints what it cannot parse, and that may be anybody's number; it
installs signal handlers and an event loop of its own; and what strangers write is parsed away from the calls. It
listens behind the proxy, which has checked who calls; messages from anywhere else are dropped. When the server goes,
every call is ended with BYE.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sippy.Core.EventDispatcher import ED2
from sippy.SipConf import SipConf
from sippy.SipTransactionManager import SipTransactionManager
from sippy.Time.Timeout import Timeout
from sippy.Udp_server import Udp_server, Udp_server_opts

from . import messages
from .leg import ALLOW, Leg, header, is_text, values

READ_BYTES = 64 * 1024
GOODBYE_SECONDS = 0.3  # for the BYEs of a server that goes; nobody waits for their answers
MAX_BODY_CHARS = 16 * 1024
RETRY_AFTER_SECONDS = 5


class _OneReceiver(Udp_server_opts):  # type: ignore[misc]  # sippy has no types
    """Three threads that read one socket hand messages on in any order."""

    nworkers = 1


class _ToProxy(Udp_server):  # type: ignore[misc]
    """Sends to the proxy and to nobody else, whatever a Via or a Contact names: no lookup of a stranger's host name, no
    datagram to an address of a stranger's choice, and no port that ends the sending thread."""

    proxy: tuple[str, int]

    def send_to(self, data: Any, address: Any, delayed: bool = False) -> None:
        """See `Network_server`."""
        super().send_to(data.encode("latin-1", "replace") if isinstance(data, str) else data, self.proxy, delayed)


class _Transactions(SipTransactionManager):  # type: ignore[misc]
    """Takes messages from the proxy only, and survives all of them."""

    model_udp_server = (_ToProxy, _OneReceiver)
    allowed = ""
    count: Callable[[str], None]

    def handleIncoming(self, data_in: bytes, ra: Any, server: Any, rtime: Any) -> None:
        """Every datagram comes by here."""
        host, port = ra.address
        if f"{host}:{port}" != self.allowed:
            self.count("foreign")
            return
        try:
            # As Latin-1 every byte is a character: Content-Length counts bytes, and what is sent back is what came.
            super().handleIncoming(data_in.decode("latin-1"), ra, server, rtime)
        except Exception:  # sippy's parser raises whatever it trips over; a message that cannot be read is dropped
            self.count("malformed")


class _Silence:
    """A logger of sippy's that writes nothing: messages hold numbers and passwords."""

    def write(self, *_: object, **__: object) -> None:
        """Nothing."""


class Adapter:
    """All legs. Lives in sippy's thread, which is the process's main one."""

    def __init__(self, sock: socket.socket, options: dict[str, Any]) -> None:
        """`options`: see `process.SipAdapter`. Raises OSError when the port cannot be opened."""
        self._sock = sock
        self._legs: dict[str, Leg] = {}
        self._max_legs = int(options["max_legs"])
        self._session_seconds = int(options["session_seconds"])
        self._keepalive_seconds = float(options["keepalive_seconds"])
        self._min_session_seconds = int(options["min_session_seconds"])
        self._dropped: Counter[str] = Counter()
        self._is_ready = False
        host, port = options["host"], int(options["port"])
        self._proxy = (options["proxy_host"], int(options["proxy_port"]))
        SipConf.my_uaname = "rtc-server"
        self.config: dict[str, Any] = {
            "_sip_address": host,
            "_sip_port": port,
            "_sip_logger": _Silence(),
            "nh_addr": self._proxy,
        }
        _ToProxy.proxy = self._proxy
        _Transactions.allowed = f"{self._proxy[0]}:{self._proxy[1]}"
        _Transactions.count = staticmethod(self._count)
        self.config["_sip_tm"] = transactions = _Transactions(self.config, self._on_request)
        self._report_timer = Timeout(self._report, 1.0, -1)
        server = next(iter(transactions.l4r.cache_l2s.values()))
        self.tell(messages.Listening(server.uopts.laddress[1]))

    def tell(self, message: messages.Notice) -> None:
        """To the server."""
        try:
            self._sock.sendall(messages.encode(message))
        except OSError:
            self.stop()

    def handle(self, kind: str, fields: dict[str, object]) -> None:
        """A command of the server."""
        try:
            self._obey(messages.command(kind, fields))
        except Exception:  # a bug in one call must not end the others: it is told, and that call ends
            self._fault()
            leg = self._legs.get(str(fields.get("call_id", "")))
            if leg is not None:
                self.forget(leg)
                self.tell(messages.Over(leg.call_id, "internal_error"))

    def stop(self) -> None:
        """End every call and the process: the server is gone."""
        for leg in list(self._legs.values()):
            leg.hang_up("shutdown")
        self._legs.clear()
        Timeout(ED2.breakLoop, GOODBYE_SECONDS)

    def forget(self, leg: Leg) -> None:
        """It is over."""
        leg.close()
        self._legs.pop(leg.call_id, None)

    @property
    def session_seconds(self) -> int:
        """Session timer that we like best."""
        return self._session_seconds

    @property
    def keepalive_seconds(self) -> float:
        """From one question to the peer of a call to the next."""
        return self._keepalive_seconds

    @property
    def min_session_seconds(self) -> int:
        """The shortest that we take."""
        return self._min_session_seconds

    # --- inside

    def _obey(self, command: messages.Command) -> None:
        if isinstance(command, messages.Readiness):
            self._is_ready = command.is_ready
            return
        if isinstance(command, messages.Invite):
            leg = Leg(self, command.call_id, self.config)
            self._legs[leg.call_id] = leg
            leg.invite(command, self._proxy)
            return
        leg_or_none = self._legs.get(command.call_id)
        if leg_or_none is None:
            return  # ended meanwhile; the server has been told, or will read it next
        leg = leg_or_none
        match command:
            case messages.Ring(sdp=sdp):
                leg.ring(sdp)
            case messages.Accept(sdp=sdp):
                leg.accept(sdp)
            case messages.Refuse(status_code=status_code, retry_after=retry_after):
                leg.refuse(status_code, retry_after)
                if not leg.is_answered:
                    self.forget(leg)
            case messages.HangUp(reason=reason):
                leg.hang_up(reason)
                self.forget(leg)
            case messages.Refer(target=target):
                leg.refer(target)

    def _on_request(self, request: Any, transaction: Any) -> Any:
        """A request outside of any dialog that we know: an answer for sippy, or None."""
        try:
            return self._answer(request, transaction)
        except Exception:  # whatever a stranger wrote into it: refused, and nothing else happens
            self._count("malformed")
            return (request.genResponse(400, "Bad Request"), None, None)

    def _answer(self, request: Any, transaction: Any) -> Any:
        method = request.getMethod()
        if request.getHFBody("to").getTag() is not None:
            return (request.genResponse(481, "Call/Transaction Does Not Exist"), None, None)
        if method == "OPTIONS":
            return (self._options(request), None, None)
        if method != "INVITE":
            return (self._refused(request, 405, "Method Not Allowed", ("Allow", ALLOW)), None, None)
        required = [option for line in values(request, "require") for option in line.split(",")]
        unknown = [option.strip() for option in required if option.strip().lower() not in ("timer", "")]
        if unknown:
            refusal = self._refused(request, 420, "Bad Extension", ("Unsupported", ", ".join(unknown)[:200]))
            return (refusal, None, None)
        body = request.getBody()
        if request.countHFs("contact") == 0:
            return (request.genResponse(400, "No Contact"), None, None)
        if body is not None:  # else we are to offer
            if body.getType() != "application/sdp":
                refusal = self._refused(request, 415, "Unsupported Media Type", ("Accept", "application/sdp"))
                return (refusal, None, None)
            if not is_text(body):
                return (request.genResponse(488, "Not Acceptable Here"), None, None)
            if len(str(body)) > MAX_BODY_CHARS:
                return (request.genResponse(413, "Request Entity Too Large"), None, None)
        if not self._is_ready or len(self._legs) >= self._max_legs:
            wait = ("Retry-After", str(RETRY_AFTER_SECONDS))
            return (self._refused(request, 503, "Service Unavailable", wait), None, None)
        if any(leg.is_same_invite(request) for leg in self._legs.values()):
            return (request.genResponse(482, "Loop Detected"), None, None)  # RFC 3261 section 8.2.2.2
        leg = Leg(self, f"rtc_{secrets.token_urlsafe(15)}", self.config)
        refusal = leg.take_invite(request)
        if refusal is not None:
            return (refusal, None, None)
        self._legs[leg.call_id] = leg
        return leg.ua.recvRequest(request, transaction)

    def _options(self, request: Any) -> Any:
        code, reason = (200, "OK") if self._is_ready else (503, "Service Unavailable")
        return self._refused(request, code, reason, ("Allow", ALLOW), ("Accept", "application/sdp"))

    @staticmethod
    def _refused(request: Any, code: int, reason: str, *headers: tuple[str, str]) -> Any:
        response = request.genResponse(code, reason)
        for name, text in headers:
            response.appendHeader(header(name, text))
        return response

    def _count(self, reason: str) -> None:
        self._dropped[reason] += 1

    def _report(self) -> None:
        for reason, count in self._dropped.items():
            self.tell(messages.Dropped(reason, count))
        self._dropped.clear()

    def _fault(self) -> None:
        self._count("bug")
        kind, _, trace = sys.exc_info()
        name = "" if kind is None else kind.__name__
        # Where, and no values: a message of sippy's may hold what a caller wrote.
        where = " <- ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(trace)))
        print(f"sip adapter: {name} in {where}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Serve on the inherited socket until the server leaves. `arguments`: its number, then options as name=value."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when calls end
        signal.signal(number, signal.SIG_IGN)
    # sippy prints messages that it cannot parse.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sock = socket.socket(fileno=int(arguments[0]))
    options = dict(argument.split("=", 1) for argument in arguments[1:])
    try:
        adapter = Adapter(sock, options)
    except OSError as error:
        sock.sendall(messages.encode(messages.CannotListen(error.strerror or str(error))))
        return
    threading.Thread(target=_read, args=(sock, adapter), daemon=True, name="commands").start()
    ED2.loop()
    os._exit(0)  # sippy's threads read sockets that nobody closes


def _read(sock: socket.socket, adapter: Adapter) -> None:
    frames = messages.Frames()
    while True:
        try:
            data = sock.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            ED2.callFromThread(adapter.stop)
            return
        for kind, fields in frames.feed(data):
            ED2.callFromThread(adapter.handle, kind, fields)


if __name__ == "__main__":
    main(sys.argv[1:])
