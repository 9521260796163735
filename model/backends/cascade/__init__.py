"""The embedded default: speech recognition, a small language model and a voice, one after the other, on the CPU."""
