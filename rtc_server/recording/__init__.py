"""Calls on disk: both directions as they were on the wire, the words beside them, sealed if the operator wants it."""
