"""What a check of this machine, or of what it needs, found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    """"warn": the server works, but something is missing or slower; "fail": it will not work."""
    detail: str
    advice: str = ""
    """What to do; "" when nothing is to be done."""
