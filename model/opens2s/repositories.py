"""What OpenS2S is fetched from: two repositories of the Hugging Face hub, and the licences they are under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

DISK_NEEDED = "23 GB"  # 22 GB of bfloat16 weights and 0.5 GB of the decoder


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of the hub, and what becomes of it here."""

    names: tuple[str, ...]
    """Owner and name; the first that exists is taken, since owners rename themselves."""
    folder: str
    """Below the models folder."""
    suffixes: tuple[str, ...]
    """Of the files that are wanted, besides licence and readme."""
    last_file: str
    """Appears when everything else is there: whoever finds it finds a whole folder."""
    terms: str
    """What whoever fetches it has to know, in a few lines."""

    def wants(self, path: str) -> bool:
        name = PurePosixPath(path).name
        return not name.startswith(".") and name.endswith((*self.suffixes, "LICENSE", "NOTICE", ".md"))


CHECKPOINT = Repository(
    names=("CASIA-LM/OpenS2S",),
    folder="OpenS2S",
    suffixes=(".json", ".safetensors", ".txt", ".jinja"),
    last_file="config.json",
    terms=(
        "OpenS2S, the language models (CASIA-LM/OpenS2S): Apache-2.0, as its model card says.\n"
        "  https://huggingface.co/CASIA-LM/OpenS2S"
    ),
)
DECODER = Repository(
    names=("THUDM/glm-4-voice-decoder", "zai-org/glm-4-voice-decoder"),
    folder="glm-4-voice-decoder",
    suffixes=(".json", ".yaml", ".pt", ".txt"),
    last_file="config.yaml",
    terms=(
        'glm-4-voice-decoder, which makes the sound (THUDM/glm-4-voice-decoder): "The glm-4-voice License".\n'
        "  Free for academic research. Commercial use needs a registration with Zhipu AI.\n"
        '  Copies keep the licence and show "Built with glm-4"; names of derived models begin with "glm-4".\n'
        "  No military and no illegal use. It can be revoked; the law is that of China.\n"
        "  This is a summary; what counts is the text: https://huggingface.co/THUDM/glm-4-voice-decoder (LICENSE)"
    ),
)
REPOSITORIES = (CHECKPOINT, DECODER)


def terms() -> str:
    """What has to be shown before the first byte is fetched."""
    intro = f"Two sets of weights are fetched from the Hugging Face hub; they need {DISK_NEEDED} of disk."
    return "\n\n".join([intro, *(repository.terms for repository in REPOSITORIES)])
