"""The media server: WebRTC, calls and the Realtime API. It tells nobody anything about itself."""

import os

# onnxruntime (1.32) gives each machine an id in ~/.cache/Microsoft and reports to Microsoft, unless this is set before
# it is loaded; processes that we start inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
