"""The sections of what speaks: the engine, its models' files, and the backends with options of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .kinds import CpuNumber, Section

VoiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
VoiceFile = Annotated[str, Field(pattern=r"\.np[yz]$")]


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
    max_pending: int = Field(64, ge=1, le=1_000)
    """Responses queued and running at once, guesses and listening ahead included; one more fails with "engine_busy"."""
    audio_credit_ms: int = Field(1000, ge=200, le=60_000)
    """Audio that may be generated ahead of playout; little is then thrown away on an interruption."""
    response_timeout_seconds: float = Field(20.0, ge=1.0, le=600.0)
    """A response that shows no progress for this long is ended as failed."""
    answer_timeout_seconds: float = Field(5.0, ge=0.1, le=600.0)
    """An engine that does not look at its requests for this long makes /readyz red, until it does."""
    step_timeout_seconds: float = Field(60.0, ge=1.0, le=3_600.0)
    """An engine process that stands still for this long in one step (behind a GPU that does not answer, say) is ended,
    with where it stood in the log, and started again."""
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
    """Store the large matrices in 8 bits: half the memory, sooner replies ("int8"), slightly different ones."""
    decoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the decoder, which makes sound from speech tokens."""
    max_sequences: int = Field(16, ge=1, le=64)
    """Replies generated at the same time; more wait. The caches are as large as all of them may need."""
    max_batch: int = Field(0, ge=0, le=64)
    """Replies in one step of the models; 0 means max_sequences. Fewer make steps shorter, and the others wait for the
    next one."""
    admission: Literal["measured", "none"] = "measured"
    """What bounds the replies at once. "measured": the engine measures at its start what its work costs, takes no
    more than it can make in time, and the server no more calls. "none": max_sequences, whatever that sounds like."""
    kv_cache_gb: float = Field(0.0, ge=0.0, le=10_000.0)
    """Most memory for the caches, in GB (10^9 bytes); 0 means three quarters of what the weights leave. With less than
    max_sequences replies may need, fewer of full length run at once."""
    max_output_tokens: int = Field(256, ge=1, le=1_024)
    """Length of a reply in text tokens, unless the session asks for fewer."""
    temperature: float = Field(0.2, ge=0.0, le=2.0)
    """How freely words are chosen; 0 always takes the likeliest. 0.2 is what the model's own demo uses."""
    top_p: float = Field(0.8, gt=0.0, le=1.0)
    """Share of the likeliest words to choose from."""
    context_tokens: int = Field(4_096, ge=512, le=40_960)
    """Conversation that the model sees, in tokens; the oldest turns fall out."""
    voices: dict[VoiceName, VoiceFile] = Field({})
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
