"""Audio codecs: payloads to 16 kHz PCM and frames to payloads."""
