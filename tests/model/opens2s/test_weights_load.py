"""Loading checkpoints: full size by name and shape, shards, heads, and everything that can be wrong with a folder."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.opens2s import model as opens2s_model
from model.opens2s.checkpoint import open_checkpoint
from model.opens2s.config import RELEASED
from model.opens2s.errors import CheckpointError, ConfigurationError, MissingFileError, TensorError, TokenizerError
from model.opens2s.model import OpenS2S, build, dummy
from tests.support.opens2s_fixtures import BUNDLED, Fixtures

FULL_SIZE = json.loads((BUNDLED / "state_dict_full.json").read_text())


def test_the_full_size_model_has_every_released_key_and_shape() -> None:
    targets = [target for target in build(RELEASED, device="meta").targets() if target.name]
    released = {name: tuple(shape) for name, shape in FULL_SIZE["tensors"].items()}
    assert {target.name: target.shape for target in targets} == released
    assert len(targets) == len(released) == 1211
    # every element of every parameter is filled exactly once: biases that the checkpoint lacks are the k projections'
    filled = sum(target.tensor.numel() for target in build(RELEASED, device="meta").targets())
    assert filled == sum(parameter.numel() for parameter in build(RELEASED, device="meta").parameters())


def test_a_restricted_head_takes_the_same_tensors() -> None:
    rows = (*range(151_669, 168_053), 151_645)
    targets = [target for target in build(RELEASED, rows, device="meta").targets() if target.name]
    assert {target.name: list(target.shape) for target in targets} == FULL_SIZE["tensors"]


@pytest.fixture
def folder(tmp_path: Path, bundled: Fixtures) -> Path:
    """A copy of the bundled checkpoint that a test may spoil."""
    return Path(shutil.copytree(bundled.checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def model(bundled: Fixtures) -> OpenS2S:
    """What the unspoilt folder holds."""
    return open_checkpoint(bundled.checkpoint).load(restrict_head=False)


def in_shards(
    folder: Path, num_shards: int, change: Callable[[dict[str, torch.Tensor]], None] = lambda _: None
) -> None:
    """Replace the folder's weights by shards with an index."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    change(tensors)
    names = sorted(tensors)
    files = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        part = {key: tensors[key] for key in names[number::num_shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def equal(first: OpenS2S, second: OpenS2S) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_shards_give_what_one_file_gives(folder: Path, model: OpenS2S) -> None:
    in_shards(folder, 3)
    assert equal(open_checkpoint(folder).load(restrict_head=False), model)


def test_tensors_arrive_in_the_wanted_type(folder: Path, model: OpenS2S) -> None:
    in_shards(folder, 2, lambda tensors: tensors.update({k: v.bfloat16() for k, v in tensors.items()}))
    loaded = open_checkpoint(folder).load(dtype=torch.float32, restrict_head=False)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.llm.lm_head.weight, model.llm.lm_head.weight.bfloat16().float())
    half = open_checkpoint(folder).load(dtype=torch.float16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}


def test_an_absent_head_is_the_embedding_table(folder: Path) -> None:
    in_shards(folder, 2, lambda tensors: tensors.pop("tts_lm_model.lm_head.weight"))
    loaded = open_checkpoint(folder).load()
    assert loaded.speech.lm.lm_head.weight is loaded.speech.lm.embed_tokens.weight
    assert loaded.llm.lm_head.weight is not loaded.llm.embed_tokens.weight


def edit_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in values.items():
        place = content
        *sections, last = key.split("__")
        for section in sections:
            place = place[section]
        place[last] = value
    path.write_text(json.dumps(content))


def truncate(folder: Path) -> None:
    in_shards(folder, 2)
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def missing_shard(folder: Path) -> None:
    in_shards(folder, 2)
    (folder / "model-00001-of-00002.safetensors").unlink()


def integers(folder: Path) -> None:
    in_shards(folder, 2, lambda tensors: tensors.update({"llm_ln.bias": tensors["llm_ln.bias"].int()}))


def wrong_shape(folder: Path) -> None:
    in_shards(folder, 2, lambda tensors: tensors.update({"llm_ln.bias": tensors["llm_ln.bias"][:-1].clone()}))


def missing_tensor(folder: Path) -> None:
    in_shards(folder, 2, lambda tensors: tensors.pop("audio_adapter.fc2.weight"))


def extra_tensor(folder: Path) -> None:
    in_shards(folder, 2, lambda tensors: tensors.update({"llm_model.lora_A.weight": torch.zeros(2)}))


def lying_index(folder: Path) -> None:
    in_shards(folder, 2)
    path = folder / "model.safetensors.index.json"
    files = json.loads(path.read_text())["weight_map"]
    name = next(key for key, value in files.items() if "00001" in value)
    edit_json(path, weight_map=files | {name: "model-00002-of-00002.safetensors"})


def outside(folder: Path) -> None:
    in_shards(folder, 2)
    edit_json(folder / "model.safetensors.index.json", weight_map={"llm_ln.bias": "../secret.safetensors"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Explosive(folder / "executed")))


class Explosive:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def swapped_tokenizers(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        root, speech = (folder / name).read_bytes(), (folder / "tts" / name).read_bytes()
        (folder / name).write_bytes(speech)
        (folder / "tts" / name).write_bytes(root)


def larger_tokenizer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", llm_config__vocab_size=config["llm_config"]["vocab_size"] - 10)


def remote_code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(folder / 'executed')!r}).touch()\n")
    edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]},
        tokenizer_class="Tokenizer",
    )


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def folder_instead(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def edited(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, **values)


BAD: list[tuple[str, Callable[[Path], None], type[CheckpointError], str]] = [
    ("truncated shard", truncate, TensorError, "model-00002-of-00002.safetensors is damaged or cut short"),
    ("not safetensors", garbage, TensorError, "model.safetensors is damaged or cut short"),
    ("missing shard", missing_shard, MissingFileError, "model-00001-of-00002.safetensors is missing"),
    ("integer tensor", integers, TensorError, "tensor llm_ln.bias is I32"),
    ("wrong shape", wrong_shape, TensorError, "tensor llm_ln.bias has shape"),
    ("missing tensor", missing_tensor, TensorError, "audio_adapter.fc2.weight"),
    ("extra tensor", extra_tensor, TensorError, "llm_model.lora_A.weight"),
    ("index names the wrong shard", lying_index, TensorError, "it is not"),
    ("index names a file elsewhere", outside, ConfigurationError, "secret.safetensors"),
    ("pickled weights", pickled, MissingFileError, "pytorch_model.bin"),
    ("no weights", without("model.safetensors"), MissingFileError, "neither"),
    ("swapped tokenizers", swapped_tokenizers, TokenizerError, "the tokenizer"),
    ("tokenizer of a larger model", larger_tokenizer, TokenizerError, "different checkpoints"),
    ("no config", without("config.json"), MissingFileError, "config.json is missing"),
    ("no tokenizer", without("tokenizer.json"), MissingFileError, "tokenizer.json is missing"),
    ("no speech tokenizer", without("tts/tokenizer.json"), MissingFileError, "tts/tokenizer.json is missing"),
    ("damaged tokenizer", written("tokenizer.json", "{}"), TokenizerError, "cannot be read"),
    (
        "no front end",
        without("audio/preprocessor_config.json"),
        MissingFileError,
        "preprocessor_config.json is missing",
    ),
    ("no generation config", without("tts/generation_config.json"), MissingFileError, "tts/generation_config.json"),
    ("config is no JSON", written("config.json", "{"), ConfigurationError, "is not JSON"),
    ("config is nested without end", written("config.json", "[" * 100_000), ConfigurationError, "is not JSON"),
    ("config has an endless number", written("config.json", "9" * 5_000), ConfigurationError, "is not JSON"),
    ("config is a folder", folder_instead("config.json"), ConfigurationError, "is not JSON"),
    (
        "endless layers",
        edited("config.json", llm_config__num_hidden_layers=2_000_000_000),
        ConfigurationError,
        "to 512",
    ),
    ("endless widths", edited("config.json", llm_config__hidden_size=2**31 - 1), ConfigurationError, "hidden_size"),
    ("endless windows", edited("audio/preprocessor_config.json", chunk_length=65_520), ConfigurationError, "to 1000"),
    ("config is a list", written("config.json", "[]"), ConfigurationError, "an object was expected"),
    (
        "another model",
        edited("config.json", llm_config__model_type="llama"),
        ConfigurationError,
        "model_type is 'llama'",
    ),
    ("whisper", edited("config.json", audio_encoder_config__model_type="whisper"), ConfigurationError, "whisper"),
    ("layers", edited("config.json", llm_config__num_hidden_layers=7), TensorError, "num_hidden_layers is 7"),
    ("negative", edited("config.json", llm_config__hidden_size=-1), ConfigurationError, "hidden_size is -1"),
    ("text", edited("config.json", tts_lm_config__hidden_size="48"), ConfigurationError, "hidden_size is '48'"),
    ("scaled", edited("config.json", llm_config__rope_scaling={"type": "yarn"}), ConfigurationError, "rope_scaling"),
    ("adapters", edited("config.json", lora_config={"r": 8}), ConfigurationError, "lora_config"),
    ("strategy", edited("config.json", interleave_strategy="fast"), ConfigurationError, "'fast'"),
    ("kernels", edited("config.json", conv_kernel_sizes="5,4"), ConfigurationError, "conv_kernel_sizes"),
    ("bands", edited("audio/preprocessor_config.json", feature_size=80), ConfigurationError, "feature_size is 80"),
    ("window", edited("audio/preprocessor_config.json", chunk_length=5), ConfigurationError, "chunk_length is 5"),
    ("fft", edited("audio/preprocessor_config.json", n_fft=512), ConfigurationError, "n_fft is 512"),
    ("ends", edited("generation_config.json", eos_token_id=None), ConfigurationError, "eos_token_id"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_checkpoint_gives_one_clear_error(
    folder: Path, spoil: Callable[[Path], None], error: type[CheckpointError], words: str
) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=r"^.*[.]$") as caught:
        open_checkpoint(folder).load()
    assert isinstance(caught.value, error), caught.value
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "rtc-server models fetch opens2s" in str(caught.value)  # what to do
    assert not (folder / "executed").exists()


def test_code_beside_a_tokenizer_is_not_run(folder: Path) -> None:
    remote_code(folder)
    with pytest.raises(TokenizerError, match="cannot be read"):
        open_checkpoint(folder)
    assert not (folder / "executed").exists()


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="rtc-server models fetch opens2s"):
        open_checkpoint(tmp_path / "nowhere")


MEMORY_PROBE = """
import resource, sys, threading, time
from pathlib import Path
import psutil
import torch
from model.opens2s import model, shards
from model.opens2s.config import read_config

folder = Path(sys.argv[1])
config = read_config(folder)
# The parameters exist before the measurement begins, as they would on a device.
built = model.build(config)
for parameter in built.parameters():
    parameter.fill_(0.0)
stored = shards.read_headers(folder)
process, peak, running = psutil.Process(), 0, True
before = process.memory_info().rss

def watch():
    global peak
    while running:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
shards.fill(built.targets(), stored)
running = False
thread.join()
largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
print((peak - before) / largest)
"""


def test_a_larger_checkpoint_in_shards_loads_within_the_largest_shard(tmp_path: Path, bundled: Fixtures) -> None:
    """360 million random parameters in five shards: the released layout at a sixth of its widths."""
    config = replace(
        RELEASED,
        audio=replace(RELEASED.audio, hidden_size=240, intermediate_size=960),
        llm=replace(RELEASED.llm, vocab_size=20_000, hidden_size=704, intermediate_size=2048, head_dim=32),
        tts=replace(RELEASED.tts, vocab_size=37_000, hidden_size=352, intermediate_size=1024, head_dim=32),
        adapter_inner_dim=96,
    )
    folder = Path(shutil.copytree(bundled.checkpoint, tmp_path / "large"))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(as_json(config)))
    written_model = dummy(config, dtype=torch.bfloat16)
    tensors = {target.name: target.tensor for target in written_model.targets() if target.name}
    names, shards = sorted(tensors), 5
    files = {}
    for number in range(shards):
        part = {name: tensors[name].clone() for name in names[number::shards]}
        save_file(part, folder / f"model-{number:05}-of-{shards:05}.safetensors")
        files |= dict.fromkeys(part, f"model-{number:05}-of-{shards:05}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    loaded = opens2s_model.load(folder, config, dtype=torch.bfloat16)
    assert equal(loaded, written_model)
    assert sum(parameter.numel() for parameter in loaded.parameters()) > 300_000_000
    del loaded, written_model, tensors
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.2


def as_json(config: Any) -> dict[str, Any]:
    """config.json of a configuration."""

    def language(part: Any) -> dict[str, Any]:
        return {
            "model_type": "qwen3",
            "vocab_size": part.vocab_size,
            "hidden_size": part.hidden_size,
            "intermediate_size": part.intermediate_size,
            "num_hidden_layers": part.num_layers,
            "num_attention_heads": part.num_heads,
            "num_key_value_heads": part.num_kv_heads,
            "head_dim": part.head_dim,
            "rope_theta": part.rope_theta,
            "max_position_embeddings": part.max_positions,
        }

    return {
        "audio_encoder_config": {
            "model_type": "qwen2_audio_encoder",
            "d_model": config.audio.hidden_size,
            "encoder_ffn_dim": config.audio.intermediate_size,
        },
        "llm_config": language(config.llm),
        "tts_lm_config": language(config.tts),
        "adapter_inner_dim": config.adapter_inner_dim,
    }
