"""Every metric of the server, declared once with its unit, for Prometheus at `GET /metrics`.

Latency buckets sit around the targets: endpoint and turn stages 50/150/200/500 ms, whole response 300/500 ms, network
50 ms, playout lateness 20/40 ms. Labels have a fixed, small set of values: `LABELS`. Every process has all of them;
`media.merge` makes one page of theirs. What depends on time alone is read by `process_metrics`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

OTHER = "other"
LABELS: dict[str, frozenset[str]] = {
    "reason": frozenset(
        {
            *("hangup", "peer_closed", "connection_failed", "setup_timeout", "time_limit", "client_not_reading"),
            *("shutdown", "media_worker_lost", "internal_error", "disk_full", "disk_error", "too_slow", OTHER),
        }
    ),
    "code": frozenset(
        {
            *("server_full", "not_ready", "no_media_port", "rate_limit_exceeded", "invalid_sdp", "sdp_too_large"),
            *("draining", "invalid_api_key", "insufficient_permissions", "origin_not_allowed", "host_not_allowed"),
            *("call_id_not_found", "request_timeout", "not_enabled", "upgrade_required", "invalid_request"),
            *("invalid_json", "model_not_found", "conflict", "call_not_ringing", "listener_not_possible"),
            *("media_worker_lost", "precondition_failed", "precondition_required", "unprocessable"),
            *(
                "unsupported_media_type",
                "sideband_limit_reached",
                "too_many_connections",
                "resume_not_found",
                "settings_refused",
                "webhook_failed",
                OTHER,
            ),
        }
    ),
    "status": frozenset({"completed", "cancelled", "failed", "incomplete"}),
    "stage": frozenset(
        {
            *("jitter_buffer", "endpoint", "queue", "recognition", "first_text", "first_audio", "playout"),
            "inference",
        }
    ),
    "outcome": frozenset(
        {
            *("used", "resumed", "restarted", "stale", "failed", "unwanted", "committed", "cleared", "replaced"),
            *("backchannel", "not_found", "delivered"),
        }
    ),
    "direction": frozenset({"in", "out"}),
    "result": frozenset({"answered", "refused", "cancelled", "not_answered", "failed"}),
    "leg": frozenset({"ringing", "accepting", "answered", "calling"}),
    "drop": frozenset({"foreign", "malformed", "bug", OTHER}),
    "verdict": frozenset({"resumed", "interrupted"}),
    "kind": frozenset(
        {
            *("received", "lost", "late", "duplicates", "reordered", "corrupt", "recovered", "rejected"),
            *("decoded", "concealed", "filled", "skipped"),
        }
    ),
    "state": frozenset({"running", "waiting"}),
    "cache": frozenset({"text", "speech"}),
}
"""All values that a label may have, but for `gpu`, the number of a device, and `process` (see `OF_PROCESS`)."""


def bounded(label: str, value: str) -> str:
    """`value` if the label may have it, else "other": what a peer or a library says must not make new series."""
    return value if value in LABELS[label] else OTHER


CALLS = Gauge("rtc_server_calls", "Calls that hold a slot, connecting ones included.", registry=REGISTRY)
CALLS_STARTED = Counter("rtc_server_calls_started", "Calls admitted.", registry=REGISTRY)
MAX_CALLS = Gauge("rtc_server_max_calls", "Calls that are taken at once.", registry=REGISTRY)
CALLS_ENDED = Counter("rtc_server_calls_ended", "Calls ended, by reason.", ["reason"], registry=REGISTRY)
CALLS_REFUSED = Counter("rtc_server_calls_refused", "Calls refused, by code.", ["code"], registry=REGISTRY)
TURN_CREDENTIALS = Counter("rtc_server_turn_credentials", "Credentials for TURN servers given out.", registry=REGISTRY)
SIP_CALLS = Counter(
    "rtc_server_sip_calls",
    "Telephone calls, by direction and result.",
    ["direction", "result"],
    registry=REGISTRY,
)
SIP_READY = Gauge("rtc_server_sip_ready", "1 while the SIP adapter listens; 0 where there is none.", registry=REGISTRY)
SIP_LEGS = Gauge(
    "rtc_server_sip_legs",
    "Telephone calls now: ringing here, accepting, answered, calling (ringing there).",
    ["leg"],
    registry=REGISTRY,
)
SIP_MESSAGES_DROPPED = Counter(
    "rtc_server_sip_messages_dropped",
    "SIP messages that were not looked at: foreign (not from the proxy), malformed, or a bug met them.",
    ["drop"],
    registry=REGISTRY,
)
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
    "Duration of one stage of a turn; inference is queue, recognition and first_text together.",
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
MEDIA_WORKER_RESTARTS = Counter(
    "rtc_server_media_worker_restarts", "Media workers lost and started again.", registry=REGISTRY
)
# --- telephone calls

WEBHOOKS = Counter(
    "rtc_server_webhooks",
    "Applications told of telephone calls that ring, by outcome: delivered, failed.",
    ["outcome"],
    registry=REGISTRY,
)

# --- recordings

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

# --- media: counted once a second while a call runs

RTP_PACKETS_IN = Counter(
    "rtc_server_rtp_packets_in", "Packets of callers, by what became of them.", ["kind"], registry=REGISTRY
)
DATA_CHANNEL_DROPPED = Counter(
    "rtc_server_data_channel_dropped_packets", "SCTP packets of callers that were malformed.", registry=REGISTRY
)
RTP_PACKETS_OUT = Counter("rtc_server_rtp_packets_out", "Packets sent.", registry=REGISTRY)
INPUT_AUDIO_SECONDS = Counter(
    "rtc_server_input_audio_seconds",
    "Callers' audio: decoded, recovered from redundancy, concealed, filled with silence, skipped.",
    ["kind"],
    registry=REGISTRY,
)
JITTER_BUFFER_DELAY = Histogram(
    "rtc_server_jitter_buffer_delay_seconds",
    "Longest time that audio waited in the receive buffer, in each second of each call.",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2),
    registry=REGISTRY,
)
RTP_JITTER = Histogram(
    "rtc_server_rtp_jitter_seconds",
    "Jitter of callers' packets here, in each second of each call.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    registry=REGISTRY,
)
RTP_REMOTE_LOSS = Histogram(
    "rtc_server_rtp_remote_loss_ratio",
    "Share of our packets that the peer lost, by each of its reports.",
    buckets=(0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    registry=REGISTRY,
)
RTP_REMOTE_JITTER = Histogram(
    "rtc_server_rtp_remote_jitter_seconds",
    "Jitter of our packets at the peer, by each of its reports.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    registry=REGISTRY,
)
RTP_ROUND_TRIP = Histogram(
    "rtc_server_rtp_round_trip_seconds",
    "Round trip to the peer, by RTCP, with each of its reports.",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    registry=REGISTRY,
)

# --- what waits: distributions over the calls, sampled, beside the bound of each

VOICE_BACKLOG = Histogram(
    "rtc_server_voice_backlog_seconds",
    "Callers' audio that waits for the voice detector, in each second of each call. Beyond 0.5 s clients have to wait.",
    buckets=(0.005, 0.02, 0.04, 0.1, 0.2, 0.5, 1.0),
    registry=REGISTRY,
)
TURN_QUESTIONS_DROPPED = Counter(
    "rtc_server_turn_questions_dropped",
    "Pauses that the turn model was not asked about because eight were waiting: they last as long as without it.",
    registry=REGISTRY,
)
EVENT_BACKLOG = Histogram(
    "rtc_server_event_backlog_bytes",
    "Events that a client had not read when the next was sent. It is disconnected at 256 KB, over a WebSocket at 1 MB.",
    buckets=(0, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 20),
    registry=REGISTRY,
)

# --- certificate: set in signaling

CERTIFICATE_EXPIRES = Gauge(
    "rtc_server_certificate_expires_timestamp_seconds",
    "When the HTTPS certificate ends, as Unix time; 0 where there is none.",
    registry=REGISTRY,
)

# --- engine: set where its host is

ENGINE_READY = Gauge("rtc_server_engine_ready", "1 while a warm engine answers.", registry=REGISTRY)
ENGINE_RESTARTS = Counter("rtc_server_engine_restarts", "Engines lost and started again.", registry=REGISTRY)
ENGINE_RESPONSES = Gauge(
    "rtc_server_engine_responses",
    "Responses inside the engine: worked on, or waiting for a place.",
    ["state"],
    registry=REGISTRY,
)
ENGINE_MAX_RESPONSES = Gauge(
    "rtc_server_engine_max_responses", "Responses that the engine takes, in both states.", registry=REGISTRY
)
ENGINE_UNSENT = Gauge(
    "rtc_server_engine_unsent_bytes",
    "Requests that the engine has not read yet. Beyond 16 MB they are refused.",
    registry=REGISTRY,
)
ENGINE_UNREAD = Gauge(
    "rtc_server_engine_unread_bytes",
    "Events of the engine that media workers have not read yet. One that leaves 16 MB is disconnected.",
    registry=REGISTRY,
)
ENGINE_STEP = Histogram(
    "rtc_server_engine_step_seconds",
    "Duration of one step of the engine.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 1.0),
    registry=REGISTRY,
)
ENGINE_BATCH = Histogram(
    "rtc_server_engine_batch_responses",
    "Responses that were worked on together in one pass of the model.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    registry=REGISTRY,
)
ENGINE_COMPUTE_SECONDS = Counter(
    "rtc_server_engine_compute_seconds", "Time that the engine computed, over its threads.", registry=REGISTRY
)
ENGINE_AUDIO_SECONDS = Counter("rtc_server_engine_audio_seconds", "Audio that it generated.", registry=REGISTRY)
ENGINE_REAL_TIME_FACTOR = Gauge(
    "rtc_server_engine_real_time_factor_ratio",
    "Compute seconds per second of audio generated, lately.",
    registry=REGISTRY,
)
ENGINE_CACHE_USED = Gauge(
    "rtc_server_engine_cache_used_blocks", "Blocks of the KV cache that responses hold.", ["cache"], registry=REGISTRY
)
ENGINE_CACHE_BLOCKS = Gauge("rtc_server_engine_cache_blocks", "Blocks of the KV cache.", ["cache"], registry=REGISTRY)

# --- machine

GPU_MEMORY_USED = Gauge("rtc_server_gpu_memory_used_bytes", "Memory in use.", ["gpu"], registry=REGISTRY)
GPU_MEMORY = Gauge("rtc_server_gpu_memory_bytes", "Memory of the GPU.", ["gpu"], registry=REGISTRY)
GPU_UTILISATION = Gauge(
    "rtc_server_gpu_utilisation_ratio", "Share of the last moments in which a kernel ran.", ["gpu"], registry=REGISTRY
)

# --- each process

ASYNCIO_TASKS = Gauge("rtc_server_asyncio_tasks", "Tasks alive on the event loop.", registry=REGISTRY)
THREADS = Gauge("rtc_server_threads", "Threads of the process.", registry=REGISTRY)
RSS_BYTES = Gauge("rtc_server_rss_bytes", "Resident memory of the process.", registry=REGISTRY)
OPEN_FILES = Gauge("rtc_server_open_fds", "Open file descriptors of the process.", registry=REGISTRY)
MAX_FILES = Gauge("rtc_server_max_fds", "File descriptors that the process may open.", registry=REGISTRY)
CPU_SECONDS = Counter("rtc_server_cpu_seconds", "CPU time of the process.", registry=REGISTRY)
LOOP_LAG = Histogram(
    "rtc_server_event_loop_lag_seconds",
    "How late the event loop ran a timer, twice a second.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0),
    registry=REGISTRY,
)

OF_PROCESS = (
    *("rtc_server_asyncio_tasks", "rtc_server_threads", "rtc_server_rss_bytes", "rtc_server_open_fds"),
    *("rtc_server_max_fds", "rtc_server_cpu_seconds", "rtc_server_event_loop_lag_seconds"),
)
"""They describe one process and get its name as the label `process` ("signaling", "media-0", "engine"); all others
are added up over the processes."""


# These are there from the start, at 0: the first bug must be seen as a rise, and from nothing there is none.
for _counter, _label in ((CALLS_ENDED, "reason"), (CALLS_REFUSED, "code"), (RESPONSES, "status")):
    for _value in LABELS[_label]:
        _counter.labels(_value)
for _value in ("disk_full", "disk_error", "too_slow", "internal_error"):
    RECORDING_FAILURES.labels(_value)
for _value in ("delivered", "failed"):
    WEBHOOKS.labels(_value)


def exposition() -> bytes:
    """This process's metrics in Prometheus text format, as they stand; see `process_metrics.page`."""
    return generate_latest(REGISTRY)
