"""The patches of docs/upstream: the bug is there without them, and gone with them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PATCHES = Path(__file__).resolve().parents[2] / "docs" / "upstream"

EMPTY_DATAGRAM = """
import asyncio
from aiortc.rtcdtlstransport import RTCDtlsTransport, RTCCertificate
class Ice:
    async def _recv(self): return b""
async def main():
    transport = RTCDtlsTransport(Ice(), [RTCCertificate.generateCertificate()])
    transport._RTCDtlsTransport__handshake_done = True
    await transport._recv_next()
asyncio.run(main())
"""
SHORT_ATTRIBUTE = """
import struct
from aioice import stun
for kind in (0x0024, 0x0009, 0x0020, 0x8028):
    body = struct.pack("!HH", kind, 1) + b"x\\0\\0\\0"
    message = struct.pack("!HHI", 1, len(body), 0x2112A442) + bytes(12) + body
    try:
        stun.parse_message(message)
    except ValueError:
        pass
"""
AUDIO_LEVEL = """
import numpy as np
from av import AudioFrame
from aiortc.rtp import compute_audio_level_dbov
half = (16384 * np.ones((1, 960 * 2))).astype(np.int16)
frame = AudioFrame.from_ndarray(half, format="s16", layout="stereo")
level = compute_audio_level_dbov(frame)
assert level == -6, level
"""
SCTP = """
import asyncio, signal, struct
import google_crc32c
from aiortc import rtcsctptransport as sctp
def packet(kind, body):
    header = struct.pack("!HHL", 5000, 5000, 1)
    chunk = struct.pack("!BBH", kind, 0, len(body) + 4) + body
    return header + struct.pack("<L", google_crc32c.value(header + bytes(4) + chunk)) + chunk
"""
ENDLESS_PARAMETER = f"""{SCTP}
signal.alarm(2)
try:
    sctp.parse_packet(packet(4, struct.pack("!HH", 1, 0)))
except ValueError:
    pass
"""
SHORT_CHUNK = f"""{SCTP}
for kind in (0, 1, 2, 3, 7, 192):
    try:
        sctp.parse_packet(packet(kind, b"ab"))
    except ValueError:
        pass
"""
WIDE_GAPS = f"""{SCTP}
class Dtls:
    state, role = "connected", "auto"
    async def _send_data(self, data): pass
async def main():
    transport = sctp.RTCSctpTransport(Dtls())
    for number in range(3):
        chunk = sctp.DataChunk()
        chunk.tsn = (transport._local_tsn + number) % sctp.SCTP_TSN_MODULO
        chunk._acked = chunk._abandoned = chunk._retransmit = chunk._in_flight = False
        chunk._misses, chunk._book_size, chunk._sent_count, chunk._expiry, chunk._max_retransmits = 0, 1, 1, None, None
        transport._sent_queue.append(chunk)
    sack = sctp.SackChunk()
    sack.cumulative_tsn = (transport._local_tsn - 1) % sctp.SCTP_TSN_MODULO
    sack.gaps = [(2, 65535)] * 1000
    signal.alarm(2)
    await transport._receive_sack_chunk(sack)
    assert [chunk._acked for chunk in transport._sent_queue] == [False, True, True]
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("patch", "reproduction"),
    [
        ("aiortc-empty-datagram.patch", EMPTY_DATAGRAM),
        ("aioice-short-stun-attributes.patch", SHORT_ATTRIBUTE),
        ("aiortc-audio-level.patch", AUDIO_LEVEL),
        ("aiortc-sctp-endless-parameter.patch", ENDLESS_PARAMETER),
        ("aiortc-sctp-short-chunks.patch", SHORT_CHUNK),
        ("aiortc-sctp-wide-gaps.patch", WIDE_GAPS),
    ],
)
def test_a_patch_mends_what_it_says(patch: str, reproduction: str, tmp_path: Path) -> None:
    if shutil.which("patch") is None:
        pytest.skip("the program 'patch' is not installed")
    source = tmp_path / "src"
    for name in ("aiortc", "aioice"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, source / name, ignore=shutil.ignore_patterns("__pycache__"))

    def run() -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(source)!r})\n{reproduction}"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    before = run()
    assert before.returncode in (1, -signal.SIGALRM), "the bug is not there any more: the patch can go"
    with (PATCHES / patch).open("rb") as file:
        subprocess.run(["patch", "-p1", "-s"], cwd=tmp_path, stdin=file, check=True, timeout=30)
    after = run()
    assert after.returncode == 0, after.stderr
