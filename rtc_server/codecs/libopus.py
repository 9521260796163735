"""libopus, called directly through cffi's ABI mode: no compiler, no extra binary.

The copy inside the `av` wheel is the newest that installs (1.6.1; Debian 12's 1.3.1 encodes 20-40 % slower), so it
comes first; the system's is the fallback. PyAV itself cannot decode to 16 kHz, conceal a loss or use in-band FEC, and
opuslib (last release 2018) loads only the system's library and copies every frame through Python lists.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI  # type: ignore[import-untyped]

from .base import CodecError

ffi: Any = FFI()
ffi.cdef("""
typedef struct OpusDecoder OpusDecoder;
typedef struct OpusEncoder OpusEncoder;
OpusDecoder *opus_decoder_create(int32_t Fs, int channels, int *error);
void opus_decoder_destroy(OpusDecoder *st);
int opus_decode(OpusDecoder *st, const unsigned char *data, int32_t len, int16_t *pcm, int frame_size, int decode_fec);
int opus_decoder_ctl(OpusDecoder *st, int request, ...);
OpusEncoder *opus_encoder_create(int32_t Fs, int channels, int application, int *error);
void opus_encoder_destroy(OpusEncoder *st);
int32_t opus_encode(OpusEncoder *st, const int16_t *pcm, int frame_size, unsigned char *data, int32_t max_data_bytes);
int opus_encoder_ctl(OpusEncoder *st, int request, ...);
int opus_packet_get_nb_samples(const unsigned char packet[], int32_t len, int32_t Fs);
int opus_packet_has_lbrr(const unsigned char packet[], int32_t len);
const char *opus_get_version_string(void);
const char *opus_strerror(int error);
""")


def _paths() -> list[str]:
    """Where a libopus may be, best first."""
    found: list[str] = []
    spec = importlib.util.find_spec("av")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        for folder in (package.parent / "av.libs", package / ".dylibs"):  # Linux wheels; macOS wheels
            found += sorted(str(path) for path in folder.glob("libopus*"))
    system = ctypes.util.find_library("opus")
    return [*found, system] if system is not None else found


@cache
def library() -> Any:
    """The loaded libopus. Raises CodecError, saying what to install, when there is none."""
    for path in _paths():
        try:
            return ffi.dlopen(path)
        except OSError:  # a copy for another platform: the next one may do
            continue
    raise CodecError("libopus was not found: install PyAV from its wheel (pip install av) or the libopus0 package.")


def version() -> str:
    """Such as "libopus 1.6.1"."""
    return str(ffi.string(library().opus_get_version_string()).decode())


def error_text(code: int) -> str:
    """libopus's own words for a negative result."""
    return str(ffi.string(library().opus_strerror(code)).decode())
