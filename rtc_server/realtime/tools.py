"""Function tools as clients declare them, and who may be called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from model.interface import ToolChoice, ToolSpec
from rtc_server.errors import ProtocolError

from .validation import Strict

MAX_TOOLS = 64
MAX_SCHEMA_BYTES = 16 * 1024
MAX_SCHEMA_DEPTH = 16


class FunctionTool(Strict):
    """A function that runs at the client."""

    type: Literal["function"] = "function"
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = Field("", max_length=2_000)
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of an object."""
    strict: bool | None = None
    """Accepted because SDKs send it: arguments are always generated inside the schema."""

    @field_validator("parameters")
    @classmethod
    def _check(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type", "object") != "object":
            raise ValueError("the schema must be of type 'object'")
        if _depth(value) > MAX_SCHEMA_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if len(json.dumps(value)) > MAX_SCHEMA_BYTES:
            raise ValueError(f"the schema is longer than {MAX_SCHEMA_BYTES} bytes")
        return value

    def spec(self) -> ToolSpec:
        """For the engine."""
        return ToolSpec(self.name, self.description, self.parameters)


class NamedTool(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    name: str = Field(max_length=64)


def check_tools(tools: Sequence[FunctionTool], choice: str | NamedTool, supports_tools: bool, root: str) -> None:
    """Raises ProtocolError when these cannot be used together; `root` is the path of the object that holds them."""
    if tools and not supports_tools:
        raise ProtocolError("invalid_value", "This server's backend cannot call tools.", param=f"{root}.tools")
    names = [tool.name for tool in tools]
    if len(set(names)) != len(names):
        raise ProtocolError("invalid_value", "Two tools have the same name.", param=f"{root}.tools")
    if isinstance(choice, NamedTool) and choice.name not in names:
        message = f"There is no tool '{choice.name}'; the tools are: {', '.join(names) or 'none'}."
        raise ProtocolError("invalid_value", message, param=f"{root}.tool_choice")


def for_engine(tools: Sequence[FunctionTool], choice: str | NamedTool) -> tuple[tuple[ToolSpec, ...], ToolChoice]:
    """Tools and choice as a request carries them: a named function stands there alone and is required."""
    if isinstance(choice, NamedTool):
        return tuple(tool.spec() for tool in tools if tool.name == choice.name), "required"
    if choice == "none" or not tools:
        return (), "none"
    return tuple(tool.spec() for tool in tools), "required" if choice == "required" else "auto"


def _depth(value: object, limit: int = MAX_SCHEMA_DEPTH + 1) -> int:
    """How deep containers are nested, at most `limit`."""
    if limit == 0 or not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item, limit - 1) for item in inner), default=0)
