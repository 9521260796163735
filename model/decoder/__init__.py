"""From speech tokens to sound: flow-matching decoder and HiFT vocoder of GLM-4-Voice, the ones OpenS2S speaks with.

Reading order: config.py (sizes), flow.py (tokens → mel), vocoder.py (mel → samples), decoder.py (both), chunks.py
(how a reply is cut), parity_stream.py (chunked as the reference does it), live_stream.py (chunked as we do it, several
replies at once: live_batch.py), weights.py (files). Importing this package imports no torch.
"""
