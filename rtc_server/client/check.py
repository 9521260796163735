"""`rtc-server check`: is the server there, is it ready, does it answer a spoken question? For people and for probes.

`question.wav` beside this file is "What is the capital of France?" in flite's CMU voice rms (BSD-style licence).
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

QUESTION = Path(__file__).with_name("question.wav")
MAX_ANSWER_BYTES = 64 * 1024  # of /readyz; whatever sends more is no server of ours
FULL = "server_full"

EXIT_OK = 0
EXIT_UNWELL = 1
EXIT_INTERRUPTED = 130  # the shell's code for Ctrl-C


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found."""

    ok: bool
    message: str
    """One sentence."""
    ready: dict[str, Any]
    """The body of `/readyz`; {} where there was none."""
    call: dict[str, Any] | None = None
    """The call's report as `rtc-server call --json` gives it; None where none was made."""


def run_check(
    url: str,
    *,
    shallow: bool,
    json_output: bool,
    timeout_s: float,
    insecure: bool,
    ca: Path | None = None,
    api_key: str | None = None,
) -> int:
    """Check and print. Returns 0 when the server is well, 1 when it is not, 130 after Ctrl-C.

    A server whose lines are all busy is well: it cannot be called, and says so."""
    try:
        result = check(url, shallow=shallow, timeout_s=timeout_s, insecure=insecure, ca=ca, api_key=api_key)
    except KeyboardInterrupt:
        print("Hung up.", file=sys.stderr)
        return EXIT_INTERRUPTED
    if json_output:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        print(result.message, file=sys.stdout if result.ok else sys.stderr)
    return EXIT_OK if result.ok else EXIT_UNWELL


def check(
    url: str, *, shallow: bool, timeout_s: float, insecure: bool, ca: Path | None = None, api_key: str | None = None
) -> CheckResult:
    """Ask `/readyz`, then, unless `shallow`, make a call and hear the answer to one spoken question."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_good_port(parts):
        return CheckResult(
            False, f"{url!r} is not a server's address; expected something like http://127.0.0.1:8000.", {}
        )
    try:
        tls = _tls(insecure, ca)
        status, ready = _readyz(f"{parts.scheme}://{parts.netloc}/readyz", tls, timeout_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return CheckResult(False, f"{url} does not answer: {reason}.", {})
    if status != 200 and ready.get("reason") != FULL:
        return CheckResult(False, f"{url} is not ready: {ready.get('reason') or f'HTTP {status}'}.", ready)
    if status != 200:
        return CheckResult(True, f"{url} is well, and full: {ready.get('calls')} calls. No call was made.", ready)
    if shallow:
        return CheckResult(True, f"{url} is ready: {ready.get('calls')} of {ready.get('max_calls')} calls.", ready)
    return _call(url, ready, timeout_s, tls or not insecure, api_key)


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:  # no number, or beyond 65535
        return False


def _readyz(url: str, tls: ssl.SSLContext | None, timeout_s: float) -> tuple[int, dict[str, Any]]:
    """Status and body. Raises OSError or ValueError."""
    try:
        # No proxy, as the call that follows has none.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        with opener.open(url, timeout=timeout_s) as reply:
            status, body = reply.status, reply.read(MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read(MAX_ANSWER_BYTES)
    if status not in (200, 503):
        return status, {}
    ready = json.loads(body)
    if not isinstance(ready, dict):
        raise ValueError("the body of /readyz is not a JSON object; is it an rtc-server?")
    return status, ready


def _tls(insecure: bool, ca: Path | None) -> ssl.SSLContext | None:
    """None = the system's own authorities. Raises OSError (ssl.SSLError among them) for a file that holds none."""
    if insecure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    return None if ca is None else ssl.create_default_context(cafile=str(ca))


def _call(
    url: str, ready: dict[str, Any], timeout_s: float, tls: ssl.SSLContext | bool, api_key: str | None
) -> CheckResult:
    # Not needed for a shallow check, which is asked every few seconds.
    import asyncio

    from .errors import CallError, NoPlaceError
    from .recording import load_recording
    from .session import CallPlan, hold_call

    plan = CallPlan(url=url, recordings=[load_recording(QUESTION)], timeout_s=timeout_s, tls=tls, api_key=api_key)
    try:
        report = asyncio.run(hold_call(plan))
    except NoPlaceError as error:  # places kept for others, or the last one was just taken
        return CheckResult(True, f"{url} is well, and full for this caller. {error.message}", ready)
    except CallError as error:
        return CheckResult(False, error.message, ready)
    call = json.loads(report.to_line())
    (turn,) = report.turns
    if turn.status != "completed":
        what = turn.error or turn.status or "there was none"
        return CheckResult(False, f"{url} took the call, but its reply failed: {what}.", ready, call)
    if not turn.is_answered:
        return CheckResult(False, f"{url} took the call and replied, but nothing was heard of it.", ready, call)
    lost = report.packets["lost_received"]
    message = (
        f"{url} is well: connected after {report.connected_ms:.0f} ms, answered after "
        f"{turn.response_latency_ms or 0:.0f} ms ({turn.server_latency_ms or 0:.0f} at the server), "
        f"{report.packets['received']} packets, {lost} lost."
    )
    return CheckResult(True, message, ready, call)
