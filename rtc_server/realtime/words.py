"""Types that all of `realtime` speaks in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
"""One server event, ready for JSON."""
NewId: TypeAlias = Callable[[str], str]
"""Makes an id from a prefix: new_id("item") -> "item_8f3a..."; given in, so that tests are reproducible."""
