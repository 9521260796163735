"""The patches of docs/upstream: the bug is there without them, and gone with them."""

from __future__ import annotations

import shutil
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


@pytest.mark.parametrize(
    ("patch", "reproduction"),
    [
        ("aiortc-empty-datagram.patch", EMPTY_DATAGRAM),
        ("aioice-short-stun-attributes.patch", SHORT_ATTRIBUTE),
        ("aiortc-audio-level.patch", AUDIO_LEVEL),
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
    assert before.returncode == 1, "the bug is not there any more: the patch can go"
    with (PATCHES / patch).open("rb") as file:
        subprocess.run(["patch", "-p1", "-s"], cwd=tmp_path, stdin=file, check=True, timeout=30)
    after = run()
    assert after.returncode == 0, after.stderr
