"""Telephone calls: an adapter between a SIP proxy and the media nodes."""
