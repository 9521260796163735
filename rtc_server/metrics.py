"""Every metric of the server, declared once with its unit, for Prometheus at `GET /metrics`.

Latency buckets sit around the targets: endpoint and turn stages 50/200/500 ms, whole response 300/500 ms,
playout lateness 20/40 ms. Labels have a fixed, small set of values.
"""

from __future__ import annotations

import asyncio
import threading

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

CALLS = Gauge("rtc_server_calls", "Calls that hold a slot, connecting ones included.", registry=REGISTRY)
CALLS_STARTED = Counter("rtc_server_calls_started", "Calls admitted.", registry=REGISTRY)
CALLS_ENDED = Counter("rtc_server_calls_ended", "Calls ended, by reason.", ["reason"], registry=REGISTRY)
CALLS_REFUSED = Counter("rtc_server_calls_refused", "Calls refused, by code.", ["code"], registry=REGISTRY)
SESSIONS_RESUMED = Counter(
    "rtc_server_sessions_resumed",
    "Resume tokens shown, by outcome: resumed, not_found.",
    ["outcome"],
    registry=REGISTRY,
)
REQUESTS_REFUSED = Counter(
    "rtc_server_requests_refused",
    "HTTP requests refused before their handler: unknown key, foreign origin, too many... by code.",
    ["code"],
    registry=REGISTRY,
)
RESPONSES = Counter("rtc_server_responses", "Responses ended, by status.", ["status"], registry=REGISTRY)
RESPONSE_LATENCY = Histogram(
    "rtc_server_response_latency_seconds",
    "Last voiced input sample at the server to first voiced output sample leaving it.",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0),
    registry=REGISTRY,
)
TURN_STAGE = Histogram(
    "rtc_server_turn_stage_seconds",
    "Duration of one stage of a turn.",
    ["stage"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
    registry=REGISTRY,
)
SPECULATIONS = Counter(
    "rtc_server_speculations",
    "Responses started before the endpoint, by outcome.",
    ["outcome"],
    registry=REGISTRY,
)
INTERRUPTIONS = Counter("rtc_server_interruptions", "Voice during a reply, by verdict.", ["verdict"], registry=REGISTRY)
PLAYOUT_LATENESS = Histogram(
    "rtc_server_playout_lateness_seconds",
    "How late a 20 ms playout frame was pulled.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5),
    registry=REGISTRY,
)
PLAYOUT_SKIPPED = Counter(
    "rtc_server_playout_skipped_frames", "Playout frames skipped after a stall.", registry=REGISTRY
)
PLAYOUT_UNDERRUNS = Counter(
    "rtc_server_playout_underruns", "Times a reply ran dry while it was playing.", registry=REGISTRY
)
ENGINE_RESTARTS = Counter("rtc_server_engine_restarts", "Engines lost and started again.", registry=REGISTRY)
MEDIA_WORKER_RESTARTS = Counter(
    "rtc_server_media_worker_restarts", "Media workers lost and started again.", registry=REGISTRY
)
ASYNCIO_TASKS = Gauge("rtc_server_asyncio_tasks", "Tasks alive on the event loop.", registry=REGISTRY)
THREADS = Gauge("rtc_server_threads", "Threads of the media process.", registry=REGISTRY)
RSS_BYTES = Gauge("rtc_server_rss_bytes", "Resident memory of the media process.", registry=REGISTRY)
RECORDINGS = Gauge("rtc_server_recordings", "Calls that are being recorded.", registry=REGISTRY)
RECORDING_BYTES = Counter(
    "rtc_server_recording_bytes", "Bytes of recordings written, as they lie on the disk.", registry=REGISTRY
)
RECORDING_FAILURES = Counter(
    "rtc_server_recording_failures",
    "Recordings that stopped while their call went on: disk_full, disk_error, too_slow, internal_error.",
    ["reason"],
    registry=REGISTRY,
)
RTP_PACKETS_IN = Counter(
    "rtc_server_rtp_packets_in", "Packets of ended calls, by what became of them.", ["kind"], registry=REGISTRY
)
DATA_CHANNEL_DROPPED = Counter(
    "rtc_server_data_channel_dropped_packets", "SCTP packets of callers that were malformed.", registry=REGISTRY
)
RTP_PACKETS_OUT = Counter("rtc_server_rtp_packets_out", "Packets sent in calls that ended.", registry=REGISTRY)
INPUT_AUDIO_SECONDS = Counter(
    "rtc_server_input_audio_seconds",
    "Callers' audio of ended calls: decoded, recovered from redundancy, concealed, filled with silence, skipped.",
    ["kind"],
    registry=REGISTRY,
)
RTP_REMOTE_LOSS = Histogram(
    "rtc_server_rtp_remote_loss_ratio",
    "Share of our packets that the peer lost, by its last report.",
    buckets=(0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    registry=REGISTRY,
)
RTP_REMOTE_JITTER = Histogram(
    "rtc_server_rtp_remote_jitter_seconds",
    "Jitter of our packets at the peer, by its last report.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    registry=REGISTRY,
)
RTP_ROUND_TRIP = Histogram(
    "rtc_server_rtp_round_trip_seconds",
    "Round trip to the peer, by RTCP, at the end of a call.",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    registry=REGISTRY,
)


def page() -> bytes:
    """This process's metrics in Prometheus text format, its own gauges read now. On the event loop."""
    ASYNCIO_TASKS.set(len(asyncio.all_tasks()))
    THREADS.set(threading.active_count())
    RSS_BYTES.set(psutil.Process().memory_info().rss)
    return generate_latest(REGISTRY)
