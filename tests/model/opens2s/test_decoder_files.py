"""The decoder's folder: what is read from it, and everything that can be wrong with it. Nothing in it is ever run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from model.decoder.config import RELEASED
from model.decoder.config_file import parse_config, read_config
from model.decoder.decoder import Decoder
from model.decoder.errors import ConfigurationError, DecoderError, MissingFileError, TensorError
from model.decoder.weights import build, checkpoint_shapes, dummy_decoder, load_decoder
from tests.support.opens2s_fixtures import BUNDLED, Fixtures

FULL_FLOW = json.loads((BUNDLED / "state_dict_flow.json").read_text())
FULL_VOCODER = json.loads((BUNDLED / "state_dict_hift.json").read_text())
WEIGHTS = ("flow.pt", "hift.pt")


@pytest.fixture
def folder(bundled: Fixtures, tmp_path: Path) -> Path:
    """A copy of the small decoder, to be damaged."""
    copy = tmp_path / "decoder"
    copy.mkdir()
    for path in bundled.decoder.iterdir():
        shutil.copyfile(path, copy / path.name)
    return copy


def test_the_released_sizes_have_every_released_key_and_shape() -> None:
    flow, vocoder = build(RELEASED)
    for module, listed, count in ((flow, FULL_FLOW, 1185), (vocoder, FULL_VOCODER, 227)):
        shapes = checkpoint_shapes(module)
        assert shapes == {name: tuple(shape) for name, shape in listed["tensors"].items()}
        assert len(shapes) == count
        assert all(parameter.is_meta for parameter in module.parameters())


def released_yaml() -> str:
    """The released file's layout: tags, references, seeds and an unused section, around the listed sizes."""
    flow = json.loads(json.dumps(FULL_FLOW["_config"]))
    content = flow["decoder"]["cfm_params"]
    flow["decoder"]["cfm_params"] = {"content": content}
    text = yaml.safe_dump({"flow": flow, "hift": FULL_VOCODER["_config"]})
    for name, tag in (
        ("flow", "cosyvoice.flow.flow.MaskedDiffWithXvec"),
        ("  encoder", "cosyvoice.transformer.encoder.BlockConformerEncoder"),
        ("    cfm_params", "omegaconf.DictConfig"),
        ("hift", "cosyvoice.hifigan.generator.HiFTGenerator"),
    ):
        assert f"\n{name}:\n" in f"\n{text}"
        text = f"\n{text}".replace(f"\n{name}:\n", f"\n{name}: !new:{tag}\n", 1)[1:]
    text = text.replace("sampling_rate: 22050", "sampling_rate: !ref <sample_rate>")
    text = text.replace("spk_embed_dim: 192", "spk_embed_dim: !ref <spk_embed_dim>")
    return (
        "__set_seed1: !apply:random.seed [1986]\nsample_rate: 22050\nspk_embed_dim: 192\n"
        f"llm: !new:cosyvoice.llm.llm.TransformerLM\n    length: !ref <nowhere>\n    call: !name:os.system\n{text}"
    )


def test_a_file_in_the_released_layout_gives_the_released_sizes() -> None:
    assert "!ref" in released_yaml()
    assert parse_config(released_yaml(), Path("config.yaml")) == RELEASED


def test_tags_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = f'!apply:os.system ["touch {mark}"]'
    text = f"__set_seed1: {command}\nother: !new:os.system\n    command: touch {mark}\n{released_yaml()}"
    assert parse_config(text, Path("config.yaml")) == RELEASED
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["object/apply:os.system", "object/new:os.system", "name:os.system"])
def test_python_objects_in_yaml_are_refused_and_not_made(tmp_path: Path, tag: str) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(ConfigurationError, match=r"config.yaml is not a YAML file"):
        parse_config(f'evil: !!python/{tag} ["touch {mark}"]\n{released_yaml()}', Path("config.yaml"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("block_size: 10", "block_size: 0", "flow.encoder.block_size is 0"),
        ("block_size: 10", "block_size: ten", "flow.encoder.block_size is 'ten'"),
        ("block_size: 10", "block_size: true", "flow.encoder.block_size is True"),
        ("block_size: 10", "block_sise: 10", "flow.encoder.block_size is missing"),
        ("num_blocks: 6", "num_blocks: 1000000000", "flow.encoder.num_blocks is 1000000000"),
        ("attention_heads: 8", "attention_heads: 7", "flow.encoder.output_size is 512, expected a multiple of 7"),
        ("use_cnn_module: false", "use_cnn_module: true", "flow.encoder.use_cnn_module is True"),
        ("solver: euler", "solver: heun", "flow.decoder.cfm_params.solver is 'heun'"),
        ("inference_cfg_rate: 0.7", "inference_cfg_rate: .nan", "inference_cfg_rate is nan"),
        ("input_frame_rate: 12.5", "input_frame_rate: -1", "flow.input_frame_rate is -1"),
        ("input_frame_rate: 12.5", "input_frame_rate: 500", "flow.input_frame_rate is 500"),
        ("out_channels: 80", "out_channels: 96", "flow.decoder.estimator.out_channels is 96, expected 80"),
        ("sample_rate: 22050", "sample_rate: 24000", "flow.decoder"),
        ("!ref <sample_rate>", "!ref <sampling>", "hift.sampling_rate is missing"),
        ("!ref <sample_rate>", "!ref <hift.sampling_rate>", "ring of references"),
        ("audio_limit: 0.99", "audio_limit: loud", "hift.audio_limit is 'loud'"),
        ("base_channels: 512", "base_channels: 510", "hift.base_channels is 510"),
        ("num_class: 1", "num_class: 2", "hift.f0_predictor.num_class is 2"),
    ],
)
def test_a_wrong_entry_is_named_with_what_was_expected(before: str, after: str, named: str) -> None:
    text = released_yaml()
    assert before in text
    if named == "flow.decoder":  # the rate is referred to, so both change: a valid other rate
        assert parse_config(text.replace(before, after), Path("config.yaml")).sample_rate == 24_000
        return
    with pytest.raises(ConfigurationError) as caught:
        parse_config(text.replace(before, after, 1), Path("somewhere/config.yaml"))
    message = str(caught.value)
    assert named in message
    assert message.startswith("somewhere/config.yaml")
    assert "expected" in message
    assert message.endswith(".")


@pytest.mark.parametrize("text", ["", "[]", "3", "flow: 3", "flow: [", "a: &a [*a]", "\x00", "[" * 5000])
def test_a_file_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        parse_config(text, Path("config.yaml"))


def bomb(levels: int, line: str) -> str:
    """Lists of ten references to the list before, and something made of the last."""
    lists = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "\n".join(["l0: &l0 [x]", *lists, line.format(last=levels - 1)])


def test_references_of_references_are_not_written_out(bundled: Fixtures) -> None:
    text = (bundled.decoder / "config.yaml").read_text()
    vocabulary = next(line for line in text.splitlines() if line.strip().startswith("vocab_size:"))
    spoiled = text.replace(vocabulary, vocabulary.split(":")[0] + ": *l11")
    with pytest.raises(ConfigurationError, match="vocab_size") as caught:
        parse_config(bomb(12, "") + "\n" + spoiled, Path("config.yaml"))
    assert len(str(caught.value)) < 1_000


def test_merge_keys_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="merge keys"):
        parse_config("a: &a {x: 1}\nflow: {<<: [*a, *a]}", Path("config.yaml"))


def test_a_huge_file_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "config.yaml").open("a") as file:
        file.write("# " + "x" * (1 << 19))
    with pytest.raises(ConfigurationError, match="more than 262144 bytes"):
        load_decoder(folder)


class Evil:
    """Pickles as a call that makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self._mark), "w")


def test_a_good_folder_loads(folder: Path) -> None:
    decoder = load_decoder(folder)
    assert decoder.config == read_config(folder)
    assert len(decoder.offline([0] * 3)) == decoder.frames(3) * decoder.config.vocoder.frame_samples
    for path in folder.iterdir():
        path.unlink()  # the weights are copies, not views of the files
    assert len(decoder.offline([0] * 3)) > 0


@pytest.mark.parametrize("name", ["config.yaml", *WEIGHTS])
def test_a_missing_file_is_named_with_the_command_that_fetches_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=rf"{name} does not exist.*rtc-server models fetch opens2s"):
        load_decoder(folder)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(TensorError, match=rf"{name} is not a complete file of tensors.*rtc-server models fetch"):
        load_decoder(folder)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_code_in_a_file_is_refused_and_not_run(folder: Path, tmp_path: Path, name: str, form: str) -> None:
    mark = tmp_path / "ran"
    content = {"input_embedding.weight": Evil(mark)}
    if form == "pickle":
        (folder / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / name, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(TensorError, match=rf"{name} is not a complete file.*nothing in it was run"):
        load_decoder(folder)
    assert not mark.exists()


def first_key(tensors: dict[str, Any]) -> str:
    return next(iter(tensors))


def lose(tensors: dict[str, Any]) -> str:
    name = first_key(tensors)
    del tensors[name]
    return f"lacks {name}"


def add(tensors: dict[str, Any]) -> str:
    tensors["surprise.weight"] = torch.zeros(2)
    return "has surprise.weight, which config.yaml does not call for"


def reshape(tensors: dict[str, Any]) -> str:
    name = first_key(tensors)
    shape = list(tensors[name].shape)
    tensors[name] = torch.zeros((*shape, 2))
    return f"{name} has shape {[*shape, 2]}, expected {shape}"


def round_off(tensors: dict[str, Any]) -> str:
    name = first_key(tensors)
    tensors[name] = tensors[name].to(torch.int64)
    return f"{name} holds torch.int64, expected floating-point numbers"


def thin_out(tensors: dict[str, Any]) -> str:
    name = first_key(tensors)
    tensors[name] = torch.zeros_like(tensors[name]).to_sparse()
    return f"{name} is a torch.sparse_coo tensor, expected a plain tensor"


def replace_by_text(tensors: dict[str, Any]) -> str:
    name = first_key(tensors)
    tensors[name] = "weights"
    return f"{name} is a str, expected a plain tensor"


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("damage", [lose, add, reshape, round_off, thin_out, replace_by_text])
def test_a_wrong_tensor_is_named(folder: Path, name: str, damage: Callable[[dict[str, Any]], str]) -> None:
    tensors = dict(torch.load(folder / name, weights_only=True))
    words = damage(tensors)
    torch.save(tensors, folder / name)
    with pytest.raises(TensorError) as caught:
        load_decoder(folder)
    assert words in str(caught.value)
    assert str(folder / name) in str(caught.value)
    assert isinstance(caught.value, DecoderError)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {1: torch.zeros(2)}])
def test_a_file_that_is_no_dictionary_is_refused(folder: Path, content: object) -> None:
    torch.save(content, folder / "flow.pt")
    with pytest.raises(TensorError, match="expected a dictionary of named tensors"):
        load_decoder(folder)


def test_a_file_in_torchs_old_form_loads(folder: Path) -> None:
    new = load_decoder(folder).offline([1, 2, 3])
    for name in WEIGHTS:
        tensors = torch.load(folder / name, weights_only=True)
        torch.save(tensors, folder / name, _use_new_zipfile_serialization=False)
    assert (load_decoder(folder).offline([1, 2, 3]) == new).all()


def test_weights_of_another_decoder_are_refused(folder: Path) -> None:
    (folder / "config.yaml").write_text(released_yaml())
    with pytest.raises(TensorError, match=r"flow\.pt"):
        load_decoder(folder)


def speak(decoder: Decoder) -> tuple[int, float, float]:
    sound = decoder.offline(list(range(12)))
    return len(sound), float(abs(sound).max()), float(sound.std())


def test_random_weights_need_no_files_and_are_the_same_for_a_seed(bundled: Fixtures) -> None:
    config = read_config(bundled.decoder)
    length, peak, spread = speak(dummy_decoder(config=config, seed=1))
    assert length == config.frames(12) * config.vocoder.frame_samples
    assert 0.001 < spread < peak <= config.vocoder.audio_limit
    assert speak(dummy_decoder(config=config, seed=1)) == (length, peak, spread)
    assert speak(dummy_decoder(config=config, seed=2)) != (length, peak, spread)
    half = dummy_decoder(dtype=torch.bfloat16, config=config)
    assert half.dtype == torch.bfloat16
    assert next(half.vocoder.f0_predictor.parameters()).dtype == torch.float32
