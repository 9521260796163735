"""What every model of client data shares: strictness, and pydantic's complaint turned into the API's error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from rtc_server.errors import ProtocolError


class Strict(BaseModel):
    """Unknown fields are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def protocol_error(
    error: ValidationError, payload: object, root: str = "", event_id: str | None = None
) -> ProtocolError:
    """The first complaint about `payload`, as an error that names the field as the client wrote it. `root` is put
    before the path."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = _path(payload, first["loc"], ends_outside=first["type"] in ("extra_forbidden", "missing"))
    param = ".".join([root, *path] if root else path)
    match first["type"]:
        case "extra_forbidden":
            return ProtocolError("unknown_parameter", f"Unknown parameter: '{param}'.", param=param, event_id=event_id)
        case "missing":
            message = f"Missing required parameter: '{param}'."
            return ProtocolError("missing_required_parameter", message, param=param, event_id=event_id)
        case "union_tag_not_found":
            param = f"{param}.type" if param else "type"
            message = f"Missing required parameter: '{param}'."
            return ProtocolError("missing_required_parameter", message, param=param, event_id=event_id)
        case "union_tag_invalid":
            param = f"{param}.type" if param else "type"
            message = f"'{param}' is not supported; use one of {first['ctx']['expected_tags']}."
            return ProtocolError("invalid_value", message, param=param, event_id=event_id)
        case _:
            reason = str(first["msg"]).removeprefix("Value error, ")
            return ProtocolError("invalid_value", f"'{param}': {reason}.", param=param, event_id=event_id)


def _path(payload: object, loc: tuple[int | str, ...], *, ends_outside: bool) -> list[str]:
    """pydantic's location without the tags and class names that its unions put in between."""
    path: list[str] = []
    here = payload
    tagged: object = None
    for number, part in enumerate(loc):
        if isinstance(here, Mapping):
            if here.get("type") == part and tagged is not here:
                tagged = here  # once per union: a field may have the same name
                continue
            if part in here:
                path.append(str(part))
                here = here[part]
                continue
        elif isinstance(here, Sequence) and isinstance(part, int) and part < len(here):
            path.append(str(part))
            here = here[part]
            continue
        if ends_outside and number == len(loc) - 1:
            path.append(str(part))
    return path
