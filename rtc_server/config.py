"""The settings: one frozen, typed object that is built once, before anything else.

Every key has a type, a range, a default and a sentence; `config/server.toml` and `docs/configuration.md` are
written from them (`python -m scripts.configuration`). Values come from the command line, then the environment,
then the file, then the defaults; `explain` tells which. A name that does not exist is refused with the nearest
one that does, so that a typing error cannot silently leave a default in force.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from rtc_server.errors import ConfigError
from rtc_server.paths import default_config_file

ENV_PREFIX = "RTC_SERVER__"
"""`RTC_SERVER__TURNS__THRESHOLD=0.6` sets `turns.threshold`."""

LOCAL_CONFIG_FILE = Path("config/server.toml")
"""Read from the current folder when no file is named."""

HASH_PREFIX = "sha256:"
MIN_KEY_CHARS = 20  # shorter ones may be guessed

DEFAULT = "default"
COMMAND_LINE = "command line"


def _check_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None
    return value


def _check_ice_url(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme not in ("stun", "stuns", "turn", "turns") or not rest:
        raise ValueError(f"{value!r} is not an ICE server; write for example 'stun:stun.example.org:3478'")
    return value


def _check_origin(value: str) -> str:
    if value == "*":
        return value
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or value != f"{url.scheme}://{url.netloc}":
        raise ValueError(f"{value!r} is not an origin; write for example 'https://app.example', or '*'")
    return value.lower()


def _hash_key(value: str) -> str:
    """Keys are hashed as they are read, so that nothing in the process holds one."""
    if value.startswith(HASH_PREFIX):
        if not re.fullmatch(r"[0-9a-f]{64}", value.removeprefix(HASH_PREFIX)):
            raise ValueError(f"a hash is '{HASH_PREFIX}' and 64 hexadecimal digits")
        return value
    if len(value) < MIN_KEY_CHARS:
        raise ValueError(
            f"a key needs at least {MIN_KEY_CHARS} characters; `rtc-server keys add NAME` makes a good one"
        )
    return HASH_PREFIX + hashlib.sha256(value.encode()).hexdigest()


class Hidden:
    """Marks a setting whose value is nobody's business: it is not printed, nor quoted in messages."""


IpAddress = Annotated[str, AfterValidator(_check_address)]
IceUrl = Annotated[str, AfterValidator(_check_ice_url)]
WebOrigin = Annotated[str, AfterValidator(_check_origin)]
KeyHash = Annotated[str, AfterValidator(_hash_key)]
Port = Annotated[int, Field(ge=0, le=65_535)]
CpuNumber = Annotated[int, Field(ge=0, le=4_095)]
VoiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
VoiceFile = Annotated[str, Field(pattern=r"\.np[yz]$")]


class Section(BaseModel):
    """One table of the settings file. The doc string under a field is its comment everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
    """Calls at once; the next caller gets 503 and is told when to try again."""
    media_workers: int = Field(1, ge=0, le=256)
    """Processes that carry the calls, each with its own event loop and sockets; 0 = in the signaling process."""
    media_cpu_affinity: tuple[CpuNumber, ...] = ()
    """CPUs of the media workers, one each in turn; [] = wherever the system puts them."""
    echo_test: bool = False
    """Answer POST /v1/echo with a call that plays the caller's own audio back: to test a line, or the server's load."""
    max_call_seconds: int = Field(3600, ge=1, le=86_400)
    """Length after which a call is ended."""
    setup_timeout_seconds: float = Field(15.0, ge=1.0, le=120.0)
    """Time a caller has from the answer until media flows; then the call is removed."""
    shutdown_timeout_seconds: float = Field(5.0, ge=0.0, le=600.0)
    """Time that running calls have to end once the server is told to stop."""

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


class EngineSection(Section):
    """What generates the speech, and how it is run."""

    backend: str = Field("cascade", min_length=1)
    """What speaks: "cascade" (embedded recognition, language model and voice), "opens2s" (for a GPU) or "echo"."""
    isolation: Literal["process", "thread"] = "process"
    """Where it runs: "process" keeps playout punctual and survives its crash; "thread" is for tests."""
    nice: int = Field(5, ge=0, le=19)
    """How far the engine's process steps back for the media process (0 = not at all)."""
    cpu_affinity: tuple[CpuNumber, ...] = ()
    """Processor numbers that the engine's process may use; [] means all."""
    max_pending: int = Field(32, ge=1, le=1_000)
    """Responses queued and running at once; one more fails with "engine_busy"."""
    audio_credit_ms: int = Field(1000, ge=200, le=60_000)
    """Audio that may be generated ahead of playout; little is then thrown away on an interruption."""
    response_timeout_seconds: float = Field(20.0, ge=1.0, le=600.0)
    """A response that shows no progress for this long is ended as failed."""
    restart_backoff_seconds: float = Field(0.5, ge=0.0, le=60.0)
    """Wait before a lost engine is started again; doubled each time it is lost at once again."""
    restart_backoff_max_seconds: float = Field(30.0, ge=0.0, le=3_600.0)
    """Upper bound of that wait."""

    @model_validator(mode="after")
    def _backoff_grows(self) -> EngineSection:
        if self.restart_backoff_max_seconds < self.restart_backoff_seconds:
            raise ValueError(
                f"restart_backoff_max_seconds {self.restart_backoff_max_seconds} is less than "
                f"restart_backoff_seconds {self.restart_backoff_seconds}"
            )
        return self


class ModelsSection(Section):
    """The embedded models' files."""

    cache_dir: str = ""
    """Folder of the files; "" means rtc-server/models in your cache folder (~/.cache)."""
    offline: bool = False
    """Never use the network for them: missing files are an error instead of a download."""


class CascadeSection(Section):
    """The backend "cascade": speech recognition, language model and voice, one after the other."""

    llm_path: str = ""
    """A chat model of your own as GGUF file; "" means the embedded small one."""
    llm_threads: int = Field(1, ge=1, le=64)
    """Threads of the language model. More than one pays only where cores are idle."""
    asr_threads: int = Field(1, ge=1, le=64)
    """Threads of the speech recognition. More than one pays only where cores are idle."""
    tts_threads: int = Field(1, ge=1, le=64)
    """Threads of the voice. More than one pays only where cores are idle."""
    max_output_tokens: int = Field(48, ge=1, le=4_096)
    """Length of a reply in text tokens, unless the session asks for fewer."""
    temperature: float = Field(0.2, ge=0.0, le=2.0)
    """How freely words are chosen; 0 always takes the likeliest."""
    top_p: float = Field(0.9, gt=0.0, le=1.0)
    """Share of the likeliest words to choose from."""
    max_sequences: int = Field(4, ge=1, le=64)
    """Replies written at the same time; more wait."""
    context_tokens: int = Field(2048, ge=512, le=131_072)
    """Conversation that the language model sees, in tokens; the oldest turns fall out."""
    voice: str = Field("heart", min_length=1)
    """Voice of the replies; the embedded one is "heart"."""
    instructions: str = Field("", max_length=20_000)
    """What the language model is told first; "" means the built-in persona."""


class OpenS2SSection(Section):
    """The backend "opens2s": one large model that hears speech and answers with speech."""

    checkpoint: str = ""
    """Folder of the OpenS2S checkpoint; "" means OpenS2S in the folder of the models (models.cache_dir)."""
    decoder: str = ""
    """Folder of the decoder of its speech tokens; "" means glm-4-voice-decoder in the folder of the models."""
    load_format: Literal["auto", "dummy"] = "auto"
    """"dummy" fills the released model's shapes with random weights, without files; it speaks noise, for benchmarks."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """"cpu", "cuda" or one GPU as "cuda:1"; "auto" takes the first GPU, or the processor where there is none."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the checkpoint's weights; "auto" means bfloat16 on a GPU and float32 on the processor."""
    quantization: Literal["none", "int8", "fp8"] = "none"
    """Store the large matrices in 8 bits: half the memory, slower, and slightly different replies."""
    decoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the decoder, which makes sound from speech tokens."""
    max_sequences: int = Field(8, ge=1, le=64)
    """Replies generated at the same time; more wait. Each holds memory for context_tokens."""
    max_output_tokens: int = Field(256, ge=1, le=1_024)
    """Length of a reply in text tokens, unless the session asks for fewer."""
    temperature: float = Field(0.2, ge=0.0, le=2.0)
    """How freely words are chosen; 0 always takes the likeliest. 0.2 is what the model's own demo uses."""
    top_p: float = Field(0.8, gt=0.0, le=1.0)
    """Share of the likeliest words to choose from."""
    context_tokens: int = Field(4_096, ge=512, le=40_960)
    """Conversation that the model sees, in tokens; the oldest turns fall out."""
    voices: dict[VoiceName, VoiceFile] = {}
    """Voices by name: .npy or .npz files of 512 numbers, such as { anna = "voices/anna.npy" }. There is always
    "default": zeros, unless it is named here."""
    instructions: str = Field("", max_length=20_000)
    """What the model is told first; "" means the checkpoint's own "You are a helpful assistant."."""
    threads: int = Field(0, ge=0, le=256)
    """Threads of the model on the processor; 0 leaves it to torch."""

    def folders(self, models_dir: Path) -> tuple[Path, Path]:
        """Those of checkpoint and decoder, whether or not they are there."""
        checkpoint = Path(self.checkpoint).expanduser() if self.checkpoint else models_dir / "OpenS2S"
        return checkpoint, Path(self.decoder).expanduser() if self.decoder else models_dir / "glm-4-voice-decoder"


class SessionSection(Section):
    """What a new session starts with; clients may change it with `session.update`."""

    instructions: str = Field("", max_length=20_000)
    """Instructions of new sessions; "" means the backend's own."""
    model_aliases: tuple[str, ...] = ("gpt-realtime*", "gpt-4o*realtime*", "gpt-4o*transcribe*", "whisper-*")
    """Names of other models that clients may ask for and get this server's: patterns, * stands for anything."""
    responses_per_minute: int = Field(120, ge=1, le=10_000)
    """Responses that one call may ask for, at once and per minute; spoken turns count and are always answered."""
    kept_audio_seconds: float = Field(60.0, ge=0.0, le=3_600.0)
    """Sound of each call that is kept for `conversation.item.retrieve`; about 40 KB per second."""


class TurnsSection(Section):
    """When somebody is speaking, has finished, or interrupts. Clients may change the OpenAI-named keys."""

    vad: Literal["gated", "silero", "webrtcvad"] = "gated"
    """Voice detector: "gated" (silero, asleep while webrtcvad hears nothing at all), "silero" on every frame, or
    "webrtcvad" alone (cheapest, fooled by noise)."""
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    """Speech probability from which a frame counts as speech; raise it in noisy rooms."""
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    """Audio kept from before the detected start, so that no first consonant is lost."""
    silence_duration_ms: int = Field(400, ge=100, le=10_000)
    """Silence that ends a turn. Shorter answers faster and cuts into pauses."""
    create_response: bool = True
    """Answer every finished turn by itself."""
    interrupt_response: bool = True
    """Stop the reply when the user speaks into it."""
    min_speech_ms: int = Field(100, ge=0, le=2_000)
    """Speech needed before a turn starts; keeps clicks and coughs out."""
    max_utterance_ms: int = Field(28_000, ge=1_000, le=120_000)
    """A turn is closed after this long; the embedded recognition needs less than 30 s."""
    speculation_silence_ms: int = Field(120, ge=0, le=5_000)
    """Silence after which the reply is begun, held, while the end of the turn is still awaited; 0 = off."""
    turn_model: Literal["smart-turn", "transcript"] = "smart-turn"
    """What shortens the wait under `semantic_vad`: "smart-turn" (a small model hears how the last words sound, and the
    transcript tells which they are), or "transcript" (the words alone; no model, no processor time)."""
    interruption_min_ms: int = Field(500, ge=0, le=5_000)
    """Voice that ends a reply whatever its words. The reply is silent from the first sound on; shorter voice is
    judged by its words ("mm-hm" lets the reply go on). The detector's lag of about 80 ms counts as voice."""
    echo_guard: bool = True
    """Recognise the server's own voice coming back from a loudspeaker, and do not answer it."""
    webrtcvad_mode: int = Field(2, ge=0, le=3)
    """Aggressiveness of webrtcvad where it stands alone: 0 passes most, 3 rejects most."""


class WebRtcSection(Section):
    """Network paths for media."""

    host_addresses: tuple[IpAddress, ...] = ()
    """ICE host candidates; [] means this machine's addresses, plus loopback for callers on this machine."""
    ice_servers: tuple[IceUrl, ...] = ()
    """STUN and TURN servers, as URLs, for a server behind NAT."""
    external_addresses: tuple[IpAddress, ...] = ()
    """Offered in place of local addresses: the public side of a 1:1 NAT (a cloud machine, a forwarded port)."""
    udp_port: Port = 0
    """The one UDP port of all calls, so that a firewall or container opens just this; 0 = any. Media worker number i
    uses this plus i."""
    udp_port_range: tuple[Port, ...] = ()
    """First and last of a range out of which each call gets a port of its own; [] = one shared port."""
    ice_lite: bool = False
    """Answer connectivity checks and send none: for a server that every caller can reach directly."""

    @model_validator(mode="after")
    def _check_range(self) -> WebRtcSection:
        ports = self.udp_port_range
        if ports and (len(ports) != 2 or not 1 <= ports[0] <= ports[1]):
            raise ValueError("webrtc.udp_port_range must be [] or [first, last], with first not above last")
        return self


class AudioSection(Section):
    """How the server's voice is coded."""

    sample_rate: Literal[8000, 12000, 16000, 24000, 48000] = 24_000
    """Of the voice that is sent, in Hz; 24000 keeps all that the synthesisers give."""
    opus_mode: Literal["auto", "celt", "silk"] = "auto"
    """CELT is quick and clear; SILK repeats itself against loss and lives below 32 kb/s. "auto" follows the path."""
    opus_bitrate: int = Field(48_000, ge=6_000, le=128_000)
    """Of CELT, in bits per second; SILK uses at most 24000 of it."""
    dtx: bool = True
    """Ask callers to send almost nothing while they are silent."""


class LoggingSection(Section):
    """Log lines on standard error. They never hold speech, transcripts or prompts."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least serious line to print."""
    format: Literal["text", "json"] = "text"
    """"text" for people, "json" (one object per line) for machines."""


class Settings(BaseModel):
    """The effective settings. `Settings()` is all defaults; `load_settings` reads every source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: ServerSection = ServerSection()
    auth: AuthSection = AuthSection()
    limits: LimitsSection = LimitsSection()
    engine: EngineSection = EngineSection()
    models: ModelsSection = ModelsSection()
    cascade: CascadeSection = CascadeSection()
    opens2s: OpenS2SSection = OpenS2SSection()
    session: SessionSection = SessionSection()
    turns: TurnsSection = TurnsSection()
    webrtc: WebRtcSection = WebRtcSection()
    audio: AudioSection = AudioSection()
    logging: LoggingSection = LoggingSection()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)


class SettingsKey(NamedTuple):
    """One key of the settings, for documents and checks."""

    name: str
    """Dotted: "turns.threshold"."""
    section: type[Section]
    field: FieldInfo

    @property
    def is_hidden(self) -> bool:
        """The value must not be shown."""
        return any(isinstance(mark, Hidden) for mark in self.field.metadata)


class Explained(NamedTuple):
    """One effective value and where it came from."""

    key: str
    value: object
    """A hidden one is replaced by how many there are."""
    source: str
    """"default", the file's path, the environment variable's name, or "command line"."""


def settings_keys() -> Iterator[SettingsKey]:
    """Every key, in the order of the file."""
    for section_name, section in _sections().items():
        for name, field in section.model_fields.items():
            yield SettingsKey(f"{section_name}.{name}", section, field)


def load_settings(config_path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Read all sources: `overrides` (dotted keys, from the command line) > environment > file > defaults.

    Without `config_path`, `config/server.toml` of the current folder is read, else the file that ships with
    the server. Raises ConfigError for a missing or broken file, an unknown name or an unusable value; the
    message lists every problem found, each with its source.
    """
    path = config_path or (LOCAL_CONFIG_FILE if LOCAL_CONFIG_FILE.is_file() else default_config_file())
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    layers = (
        ((key, value, str(path)) for key, value in _from_file(path)),
        _from_environment(),
        ((key, value, COMMAND_LINE) for key, value in _from_overrides(overrides or {})),
    )
    for layer in layers:
        for key, value, source in layer:
            values[key], sources[key] = value, source
    settings = _validate(values, sources)
    settings._sources.update(sources)
    return settings


def explain(settings: Settings) -> list[Explained]:
    """Every key with its effective value and its source, in the order of the file."""
    found = []
    for key in settings_keys():
        section, name = key.name.split(".")
        value = getattr(getattr(settings, section), name)
        if key.is_hidden and value:
            value = f"({len(value)} hidden)"
        found.append(Explained(key.name, value, settings._sources.get(key.name, DEFAULT)))
    return found


def _sections() -> dict[str, type[Section]]:
    return {name: type(field.default) for name, field in Settings.model_fields.items()}


def _from_file(path: Path) -> list[tuple[str, object]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} is not valid TOML: {error}.") from error
    values, problems = [], []
    for section, table in tables.items():
        if section not in _sections():
            problems.append(f"{path}: there is no section [{section}]{_nearest(section, _sections())}")
        elif not isinstance(table, dict):
            problems.append(f"{path}: {section} is a section; write [{section}] on a line of its own.")
        else:
            values += [(f"{section}.{name}", value) for name, value in table.items()]
    problems += [f"{path}: {problem}" for problem in _unknown(key for key, _ in values)]
    _raise_if_any(problems)
    return values


def _from_environment() -> list[tuple[str, object, str]]:
    values: list[tuple[str, object, str]] = []
    problems = []
    fields = {ENV_PREFIX + key.name.replace(".", "__").upper(): key for key in settings_keys()}
    for variable, text in sorted(os.environ.items()):
        if not variable.upper().startswith(ENV_PREFIX):
            continue
        key = fields.get(variable.upper())
        if key is None:
            problems.append(f"{variable} (environment) sets nothing{_nearest(variable.upper(), fields)}")
        else:
            values.append((key.name, _parse_variable(text, key.field), variable))
    _raise_if_any(problems)
    return values


def _from_overrides(overrides: Mapping[str, object]) -> list[tuple[str, object]]:
    _raise_if_any(list(_unknown(overrides)))
    return list(overrides.items())


def _parse_variable(text: str, field: FieldInfo) -> object:
    """Lists are JSON (`[0, 1]`) or words with commas between (`0,1`), tables JSON; pydantic reads the rest."""
    if not isinstance(field.default, tuple | dict):
        return text
    if isinstance(field.default, dict) or text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text  # refused by the validation, which names the variable
    return [word.strip() for word in text.split(",") if word.strip()]


def _unknown(keys: Iterable[str]) -> Iterator[str]:
    names = [key.name for key in settings_keys()]
    for key in keys:
        if key not in names:
            yield f"there is no key {key}{_nearest(key, names)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'x'?" or the names there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    if not near and "." in name:  # the right name in the wrong section
        near = [other for other in names if other.split(".")[1] == name.split(".")[-1]][:1]
    return f"; did you mean {near[0]}?" if near else f"; the names are: {', '.join(names)}."


def _validate(values: Mapping[str, object], sources: Mapping[str, str]) -> Settings:
    nested: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        nested.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        problems = [_describe(dict(detail), sources) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from error


def _describe(detail: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"][:2])
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if key not in sources:  # a rule about several keys of one section
        return f"[{key}]: {reason}."
    given = json.dumps(detail["input"], default=str)
    if any(known.name == key and known.is_hidden for known in settings_keys()):
        given = "(hidden)"
    elif len(given) > 80:
        given = given[:80] + "…"
    return f"{key} = {given} ({sources[key]}) cannot be used: {reason[0].lower()}{reason[1:]}."


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
