"""How media and events reach a peer: `base` (the seam), `webrtc`, `loopback`, `sdp` (offer validation)."""
