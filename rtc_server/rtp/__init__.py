"""RTP: packets, reception, and the order and time of what was received. Pure."""
