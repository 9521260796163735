"""The sections of a call: what its session starts with, turns, network paths, and how the voice is coded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .kinds import IpAddress, Port, Section, StunUrl


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
    dtmf_to_model: bool = False
    """Put the keys that a caller presses into the conversation, once "#" or 2.5 s end the entry, and answer them."""
    resume_seconds: float = Field(90.0, ge=0.0, le=3_600.0)
    """How long the session of a lost call can be gone on with (`?resume=`); 0 = off, and nothing is kept."""


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
    ice_servers: tuple[StunUrl, ...] = ()
    """STUN servers, as URLs, for a server behind NAT; callers are told of them too. TURN servers: `[turn]`."""
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
    echo_cancellation: Literal["off", "telephone", "all"] = "telephone"
    """Whose calls have the server's own voice taken out of what is heard: of telephones, or of all. Needs the extra
    `cleaning`; without it telephones have the echo guard alone. Browsers do it themselves."""
    noise_suppression: Literal["off", "near_field", "far_field"] = "off"
    """`noise_reduction` of new sessions: keep noise from turn detection, never from recognition, which gets worse by
    it; "far_field" also cancels the echo. Needs the extra `cleaning`."""
