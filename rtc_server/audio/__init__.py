"""PCM and time, pure: `pcm` (helpers), `resample`, `playout` (what leaves, and when)."""
