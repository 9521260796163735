"""Forms (`multipart/form-data`, RFC 7578) of a few small parts, in memory. Pure.

The body is bounded before it comes here. `email` reads it, which takes a part for what it is whether it came as a plain
field, as a file, or with a content type and no file name, as different clients send the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

from rtc_server.errors import InvalidParameterError

MAX_PARTS = 8
MAX_HEADER_CHARS = 1_024  # a boundary has at most 70


def read_form(content_type: str, body: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The content of each part by its name. Raises InvalidParameterError for what is no form, for a part that is not
    one of `names`, and for one that comes twice."""
    if len(content_type) > MAX_HEADER_CHARS or not content_type.isascii() or not content_type.isprintable():
        raise InvalidParameterError("The Content-Type of the form is not usable.")
    # One header line of our own, then the body as it came.
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = message.get_payload()
    if not message.is_multipart() or not isinstance(parts, list) or message.defects:
        raise InvalidParameterError("The body is not 'multipart/form-data' with the boundary that its header names.")
    if len(parts) > MAX_PARTS:
        raise InvalidParameterError(f"The form has {len(parts)} parts; at most {MAX_PARTS} are read.")
    found: dict[str, bytes] = {}
    for part in parts:
        assert isinstance(part, Message), "what `is_multipart` says"
        name = str(part.get_param("name", "", header="Content-Disposition"))
        if name not in names:
            known = ", ".join(f"'{known}'" for known in names)
            message_text = f"The form has a part '{name[:64]}'; its parts are: {known}."
            raise InvalidParameterError(message_text, param=name[:64] or None, code="unknown_parameter")
        if name in found:
            raise InvalidParameterError(f"The form has the part '{name}' twice.", param=name)
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            raise InvalidParameterError(f"The part '{name}' is a form itself.", param=name)
        found[name] = content
    return found
