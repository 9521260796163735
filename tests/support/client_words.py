"""What a client of `VirtualCall` writes, and the errors that it got."""

from __future__ import annotations

from typing import Any

from tests.support.virtual_call import VirtualCall


def text_item(text: str = "Hello.", role: str = "user", **fields: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}


def asked(call: VirtualCall, text: str = "Hello.", **response: Any) -> str:
    """The client writes and asks for a response. Returns its id."""
    call.send(type="conversation.item.create", item=text_item(text))
    call.send(type="response.create", response=response)
    assert not call.sent("error"), call.sent("error")
    return call.requests[-1].response_id


def errors(call: VirtualCall) -> list[tuple[str, str | None]]:
    return [(event["error"]["code"], event["error"]["param"]) for event in call.sent("error")]
