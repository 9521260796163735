"""What schemathesis has to be told: descriptions travel as plain text. Loaded by its command line, not by pytest."""

from __future__ import annotations

import schemathesis


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def plain_text(ctx: schemathesis.SerializationContext, value: object) -> bytes:
    """A body as it stands in the schema: a string."""
    return str(value).encode("utf-8", "surrogatepass")
