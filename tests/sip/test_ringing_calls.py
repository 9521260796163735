"""Calls that ring until an application takes them, with real telephones: early media, CANCEL, refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc_server.app.webhook_signature import make_secret
from tests.support.baresip import Baresip, Phone, baresip
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import PASSWORD, PHONE_ADDRESS, SERVER_ADDRESS, USER, Stand, edge_alone, stand_behind

AGENT = f"sip:agent@{SERVER_ADDRESS}"
WAIT_SECONDS = 15.0


class Webhooks(HTTPServer):
    """Takes webhooks, each when it is asked for."""

    timeout = WAIT_SECONDS
    latest: dict[str, Any] | None = None


class Taker(BaseHTTPRequestHandler):
    """Of one webhook."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Webhooks)
        self.server.latest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Application:
    """Gets the webhooks of calls that ring."""

    stand: Stand
    webhooks: Webhooks

    def next_call(self) -> dict[str, Any]:
        """What the next webhook says of its call: `call_id` and `sip_headers`."""
        self.webhooks.latest = None
        self.webhooks.handle_request()
        assert self.webhooks.latest is not None, f"no webhook came:\n{self.stand.logs}"
        data: dict[str, Any] = self.webhooks.latest["data"]
        return data


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    require_namespaces("kamailio", "rtpengine", "baresip")
    secret = tmp_path_factory.mktemp("webhook") / "secret"
    secret.write_text(make_secret() + "\n")
    with edge_alone() as alone:
        with alone.machine.entered():
            webhooks = Webhooks(("127.0.0.1", 0), Taker)
        url = f"http://127.0.0.1:{webhooks.server_port}/"
        settings = {"sip.webhook_url": url, "sip.webhook_secret_file": str(secret), "sip.early_media": "ringback"}
        with webhooks, stand_behind(alone, {**settings, "server.max_calls": 4}) as stand:
            yield Application(stand, webhooks)
            assert "Traceback" not in stand.server.log


@contextmanager
def calling(application: Application, folder: Path) -> Iterator[tuple[Baresip, str]]:
    """A telephone that has called and hears that it rings; the id of its call."""
    phone = Phone(PHONE_ADDRESS, SERVER_ADDRESS, USER, PASSWORD)
    with baresip(phone, application.stand.phone, folder) as telephone:
        telephone.dial(AGENT)
        call = application.next_call()
        headers = {header["name"]: header["value"] for header in call["sip_headers"]}
        assert headers["X-RTC-User"] == USER
        assert headers["X-RTC-Source"] == f"{PHONE_ADDRESS};udp"
        telephone.wait_for("CALL_PROGRESS")
        yield telephone, call["call_id"]


def loudness(telephone: Baresip) -> float:
    pcm, _rate = telephone.heard()
    return float(np.abs(pcm.astype(np.int32)).max(initial=0))


def no_calls(application: Application) -> None:
    with application.stand.machine.entered():
        application.stand.server.wait_for_calls(0)


def test_the_caller_hears_it_ring_and_is_then_answered(application: Application, tmp_path: Path) -> None:
    with calling(application, tmp_path) as (telephone, call_id):
        telephone.wait_a_while(2.0)
        assert not [event for event in telephone.events if event["type"] == "CALL_ESTABLISHED"]
        status, reply = application.stand.post(f"/v1/realtime/calls/{call_id}/accept", {"type": "realtime"})
        assert status == 200, reply
        telephone.wait_for("CALL_ESTABLISHED")
        telephone.command("hangup")
        telephone.wait_for("CALL_CLOSED")
        assert loudness(telephone) > 1_000  # of the tone before the answer: the model has said nothing
    no_calls(application)


def test_a_caller_who_gives_up_is_gone(application: Application, tmp_path: Path) -> None:
    with calling(application, tmp_path) as (telephone, call_id):
        telephone.command("hangup")
        telephone.wait_for("CALL_CLOSED")
        no_calls(application)
        assert application.stand.post(f"/v1/realtime/calls/{call_id}/accept", {"type": "realtime"})[0] == 404


def test_a_caller_who_is_refused_hears_why(application: Application, tmp_path: Path) -> None:
    with calling(application, tmp_path) as (telephone, call_id):
        assert application.stand.post(f"/v1/realtime/calls/{call_id}/reject", {"status_code": 486})[0] == 200
        assert telephone.wait_for("CALL_CLOSED")["param"].startswith("486")
    no_calls(application)
