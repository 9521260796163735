"""What can be wrong with the decoder's files.

DecoderError               names the file, what was found, what was expected, and what to do
├── MissingFileError       a file of the released layout is absent
├── ConfigurationError     config.yaml does not describe a decoder that this code runs
└── TensorError            a weights file is cut short, holds code, or a tensor is missing, extra or mis-shaped
"""

from __future__ import annotations

FETCH_COMMAND = "rtc-server models fetch opens2s"


class DecoderError(ValueError):
    """The decoder's files cannot be used; the message is a full sentence."""


class MissingFileError(DecoderError):
    pass


class ConfigurationError(DecoderError):
    pass


class TensorError(DecoderError):
    pass
