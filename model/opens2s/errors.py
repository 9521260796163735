"""What can be wrong with a checkpoint.

CheckpointError           names the file, what was found, what was expected, and what to do
├── MissingFileError      a file of the released layout is absent
├── ConfigurationError    config.json does not describe a model that this code runs
├── TensorError           a tensor is missing, extra, mis-shaped or of a wrong type, or its file is cut short
└── TokenizerError        the tokenizer does not belong to the weights
"""

from __future__ import annotations

FETCH_COMMAND = "rtc-server models fetch opens2s"


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message is a full sentence."""


class MissingFileError(CheckpointError):
    pass


class ConfigurationError(CheckpointError):
    pass


class TensorError(CheckpointError):
    pass


class TokenizerError(CheckpointError):
    pass
