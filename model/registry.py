"""Backend name -> engine. Backends are imported only when asked for, so that `echo` needs no model library."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from .interface import EngineFactory, SpeechEngine, Wake
from .weights import FETCH_COMMAND

_FACTORIES = {
    "cascade": ("model.backends.cascade.engine", "create"),
    "echo": ("model.backends.echo", "create"),
    "opens2s": ("model.backends.opens2s.engine", "create"),
}


class UnknownBackendError(ValueError):
    """No backend has that name; the message offers the nearest one."""

    def __init__(self, name: str) -> None:
        names = backend_names()
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}."
        super().__init__(f"There is no engine backend {name!r}; {hint}")
        self.name = name


class ModelsMissingError(RuntimeError):
    """Weights that the engine needs are absent; the message is a sentence with the command to run."""

    def __init__(self, models_dir: Path, names: Iterable[str]) -> None:
        self.models_dir = models_dir
        self.names = tuple(names)
        super().__init__(
            f"Model files are missing in {models_dir}: {', '.join(self.names)}. Run `{FETCH_COMMAND}` to fetch them."
        )


def backend_names() -> tuple[str, ...]:
    """All names that `create_engine` knows, sorted."""
    return tuple(sorted(_FACTORIES))


def get_factory(backend: str) -> EngineFactory:
    """The factory of a backend; imports the backend. Raises UnknownBackendError."""
    try:
        module, function = _FACTORIES[backend]
    except KeyError:
        raise UnknownBackendError(backend) from None
    return cast(EngineFactory, getattr(importlib.import_module(module), function))


def create_engine(backend: str, options: Mapping[str, object], wake: Wake) -> SpeechEngine:
    """Build and load an engine; call `warm_up` on it before the first request.

    `options`: for "cascade" and "opens2s" the keys of the settings section of that name and `models_dir`; for
    "echo" nothing.
    `wake` is called from the engine's threads when `step` has something to return.

    Raises UnknownBackendError, ModelsMissingError, or ValueError for options the backend does not accept.
    """
    return get_factory(backend)(options, wake)
