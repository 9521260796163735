"""Reads a backend's options from the plain mapping that its factory is given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def read_options(kind: type[T], backend: str, options: Mapping[str, object]) -> T:
    """An instance of the dataclass `kind`, all of whose fields have defaults, which tell their types.

    Raises ValueError for unknown keys, with the nearest name, and for values of the wrong type."""
    defaults = kind()
    known = {field.name: type(getattr(defaults, field.name)) for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}."
            raise ValueError(f"The {backend} backend has no option {key!r}; {hint}")
        wanted = known[key]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise ValueError(f"Option {key} is {value!r}; it must be of type {wanted.__name__}.")
        values[key] = value
    return kind(**values)
