"""The sections of the signaling process: listening, who may use the server and how much, log lines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from .kinds import CpuNumber, Hidden, IpAddress, KeyHash, Port, Section, WebOrigin


class ServerSection(Section):
    """Listening, TLS and limits on calls."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on. "127.0.0.1" admits only this machine; "0.0.0.0" is for the network, and then needs a key
    (`rtc-server keys add NAME`) or auth.insecure_no_auth."""
    http_port: Port = 8000
    """TCP port for HTTP. Browsers allow the microphone over plain HTTP only on this machine. 0 takes a free one."""
    https_port: Port = 8443
    """TCP port for HTTPS, which phones and other machines need for the microphone. 0 takes a free one."""
    realtime_port: Port = 8765
    """One more TCP port for plain HTTP: where earlier servers had their WebSocket, so that clients that know only that
    address find /v1/realtime there. 0 = none."""
    tls: bool = True
    """Listen on the HTTPS port too."""
    certs_dir: str = Field("certs", min_length=1)
    """Folder of the TLS certificate; a local one is made there when it holds none."""
    max_calls: int = Field(10, ge=1, le=10_000)
    """Calls at once; the next caller gets 503 and is told when to try again. An engine that measured how many calls it
    serves in time may allow fewer, never more."""
    media_workers: int = Field(1, ge=0, le=256)
    """Processes that carry the calls, each with its own event loop and sockets; 0 = in the signaling process."""
    media_worker_timeout_seconds: float = Field(10.0, ge=1.0, le=60.0)
    """A media worker whose event loop does not answer for so long is ended and started again; its calls are lost, and
    their clients may resume them."""
    media_cpu_affinity: tuple[CpuNumber, ...] = ()
    """CPUs of the media workers, one each in turn; [] = wherever the system puts them."""
    echo_test: bool = False
    """Answer POST /v1/echo with a call that plays the caller's own audio back: to test a line, or the server's load."""
    max_call_seconds: int = Field(3600, ge=1, le=86_400)
    """Length after which a call is ended."""
    setup_timeout_seconds: float = Field(15.0, ge=1.0, le=120.0)
    """Time a caller has from the answer until media flows; then the call is removed."""
    drain_timeout_seconds: float = Field(30.0, ge=0.0, le=86_400.0)
    """Time that running calls have to end by themselves once the server is told to stop (SIGTERM, POST /admin/drain);
    no new ones are taken meanwhile. Ctrl-C and a second SIGTERM do not wait."""
    shutdown_timeout_seconds: float = Field(5.0, ge=0.0, le=600.0)
    """Time that the calls left then have to finish the reply that they are in, and to end."""

    @model_validator(mode="after")
    def _ports_differ(self) -> ServerSection:
        if self.tls and self.http_port and self.http_port == self.https_port:
            raise ValueError(f"http_port and https_port are both {self.http_port}; they must differ")
        if self.realtime_port:
            for name in ("http_port", *(["https_port"] if self.tls else [])):
                if getattr(self, name) == self.realtime_port:
                    raise ValueError(f"{name} and realtime_port are both {self.realtime_port}; they must differ")
        return self


class AuthSection(Section):
    """Who may use the server. Without any key it is open, and then listens on this machine only."""

    model_config = ConfigDict(hide_input_in_errors=True)

    keys_file: str = "config/keys"
    """API keys as hashes, one per line; `rtc-server keys` writes it, and changes take effect at once. "" means none."""
    api_keys: Annotated[tuple[KeyHash, ...], Hidden()] = ()
    """Further keys, for containers: the keys themselves or, better, "sha256:" and their hash."""
    jwt_secret_file: str = ""
    """Secret of at least 32 bytes with which your own back end signs short-lived tokens (JWT, HS256). "" means none."""
    jwt_public_key_file: str = ""
    """The same with a key pair: the public key as PEM. RSA means RS256, P-256 means ES256, Ed25519 means EdDSA."""
    jwt_audience: str = Field("", max_length=200)
    """Audience (`aud`) that a token must name; "" means any."""
    jwt_issuer: str = Field("", max_length=200)
    """Issuer (`iss`) that a token must name; "" means any."""
    jwt_max_lifetime_seconds: int = Field(3600, ge=60, le=86_400)
    """A token whose end (`exp`) is further away is refused."""
    max_client_secrets: int = Field(10_000, ge=1, le=1_000_000)
    """Ephemeral secrets (`ek_...`) that are valid at once; one more gets 429."""
    admin_keys: tuple[str, ...] = ()
    """Names of the API keys that may operate the server (POST /admin/...); [] = every API key."""
    insecure_no_auth: bool = False
    """Without any key, let everybody in who reaches the server, whatever server.host is."""
    trust_loopback: bool = False
    """Programs on this machine need no key even when others do. Requests through a reverse proxy always need one."""
    allowed_origins: tuple[WebOrigin, ...] = ()
    """Web pages from elsewhere that may use the server: exact origins such as "https://app.example", or "*"."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which a server without keys may be addressed, besides addresses, localhost and the machine's name."""
    trusted_proxies: tuple[IpAddress, ...] = ("127.0.0.1", "::1")
    """Reverse proxies whose X-Forwarded-For names the caller's address."""
    public_metrics: bool = False
    """Show /metrics to everybody; otherwise to this machine and to holders of a key."""

    @model_validator(mode="after")
    def _one_kind_of_token(self) -> AuthSection:
        if self.jwt_secret_file and self.jwt_public_key_file:
            raise ValueError("jwt_secret_file and jwt_public_key_file exclude each other; name one of them")
        return self


class LimitsSection(Section):
    """How much one caller may ask for. Callers on this machine are not limited while the server is open."""

    requests_per_minute: float = Field(600.0, gt=0.0, le=1_000_000.0)
    """Requests of one key, token or client secret in the long run."""
    burst: int = Field(100, ge=1, le=100_000)
    """How many of them may come at once."""
    address_requests_per_minute: float = Field(300.0, gt=0.0, le=1_000_000.0)
    """Requests without a key from one address (IPv6: from one /64) in the long run."""
    address_burst: int = Field(100, ge=1, le=100_000)
    """How many of them may come at once."""
    failures_per_minute: int = Field(10, ge=1, le=100_000)
    """Wrong keys from one address; after that no key from there is looked at for a while."""
    calls_per_key: int = Field(0, ge=0, le=10_000)
    """Calls at once of one key, with those of its client secrets, or of one token's subject; 0 = any number."""
    calls_per_address: int = Field(8, ge=0, le=10_000)
    """Calls at once from one address, except those made with an API key; 0 = any number."""
    connections: int = Field(2_000, ge=1, le=100_000)
    """Open HTTP and WebSocket connections of all callers."""
    connections_per_address: int = Field(256, ge=1, le=100_000)
    """Open connections from one address; this machine and trusted proxies are not counted."""
    idle_connection_seconds: float = Field(75.0, ge=1.0, le=3_600.0)
    """Time from one request to the end of the next one's headers; proxies should close theirs earlier."""
    body_seconds: float = Field(15.0, ge=0.1, le=600.0)
    """Time from a request's headers to the end of its body."""


class AdmissionSection(Section):
    """Who is let in when there are many: how server.max_calls is shared, and when fewer calls are better."""

    reserved_calls: int = Field(0, ge=0, le=10_000)
    """Calls, of all there may be, that only callers of the priority lane get, and those who resume a lost call."""
    priority_keys: tuple[str, ...] = ()
    """Names of the API keys of the priority lane (`rtc-server keys`); their client secrets belong to it too."""
    max_underruns_per_minute: float = Field(3.0, ge=0.0, le=600.0)
    """Gaps per minute of spoken replies, over all calls; beyond it fewer calls than now are let in until replies have
    been smooth for a while. 0 = never."""


class SystemSection(Section):
    """How the operating system runs the processes, besides engine.nice, engine.cpu_affinity, server.media_cpu_affinity.
    What it does not permit is left out, with a warning; `rtc-server doctor` tells beforehand."""

    media_nice: int = Field(0, ge=-20, le=19)
    """Priority of the media workers, added to that of the server; below 0 needs CAP_SYS_NICE or RLIMIT_NICE. Among
    programs of other sessions or services it counts for nothing; see media_realtime_priority."""
    media_realtime_priority: int = Field(0, ge=0, le=99)
    """SCHED_FIFO priority of the media workers' event loops: they go before every program that has none; 0 = off, 10 is
    enough. Needs CAP_SYS_NICE or RLIMIT_RTPRIO, and a CPU for the rest: an overloaded worker takes 95 % of its own
    (kernel.sched_rt_runtime_us)."""
    executor_cpu_affinity: tuple[CpuNumber, ...] = ()
    """CPUs of the threads beside the event loops (turn model, name resolution, files); [] = those of their process."""
    engine_huge_pages: bool = True
    """false: the engine gets no transparent huge pages, whatever the system's mode; true: as the system has it."""
    engine_returns_memory: bool = False
    """Give what the engine frees back to the system at once (glibc): 60 of 700 MB with the embedded models."""
    engine_cuda_expandable_segments: bool = False
    """Let torch grow its pieces of GPU memory (PYTORCH_ALLOC_CONF) instead of adding more, against what is lost between
    them. Not measured yet."""


class LoggingSection(Section):
    """Log lines on standard error. They never hold speech, transcripts or prompts."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least serious line to print."""
    format: Literal["text", "json"] = "text"
    """"text" for people, "json" (one object per line) for machines."""


class TracingSection(Section):
    """Traces of calls for OpenTelemetry: one per call, with its turns and their stages. No words are in them."""

    enabled: bool = False
    """Send them. Needs the extra "tracing"."""
    otlp_endpoint: str = Field("", pattern=r"^(https?://\S+)?$")
    """Full address of an OTLP/HTTP collector, such as http://localhost:4318/v1/traces; "" means what the standard
    OTEL_EXPORTER_OTLP_* variables say, or that address."""
    sample_ratio: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the calls that are traced; callers that send a `traceparent` decide themselves."""
    service_name: str = Field("rtc-server", min_length=1, max_length=100)
    """Under which name they appear."""
