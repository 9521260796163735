"""Reads the decoder's config.yaml without running what its tags name.

The released file is written for hyperpyyaml: `!new:package.Class` would import and call, `!ref <name>` points to
another entry. Here a tag is only a label in front of plain data; references to other entries are looked up, anything
else in `!ref` stays text. Sections that the decoder does not use (`llm:`, random seeds) are read over.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from .config import DecoderConfig, EncoderConfig, EstimatorConfig, FlowConfig, VocoderConfig
from .errors import FETCH_COMMAND, ConfigurationError, MissingFileError

CONFIG_FILE = "config.yaml"
MAX_SIZE = 1 << 20  # of any whole number in the file: far above every real size, far below what would exhaust memory
MAX_LAYERS = 256
_REFERENCE = re.compile(r"^<([\w.\[\]]+)>$")

# What the code cannot do otherwise. Absent means the value here.
_FIXED: Mapping[str, Mapping[str, object]] = {
    "flow": {"output_type": "mel"},
    "flow.encoder": {
        "normalize_before": True,
        "input_layer": "linear",
        "pos_enc_layer_type": "rel_pos_espnet",
        "selfattention_layer_type": "block_rel_selfattn",
        "use_cnn_module": False,
        "macaron_style": False,
    },
    "flow.decoder": {"n_spks": 1},
    "flow.decoder.cfm_params": {"solver": "euler", "t_scheduler": "cosine"},
    "flow.decoder.estimator": {"act_fn": "gelu"},
    "hift.f0_predictor": {"num_class": 1},
}


MAX_BYTES = 1 << 18  # the released file has 4,447


_SHORT = reprlib.Repr()  # what a reference of references stands for may be endless
_SHORT.maxlevel = 2


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader to which every local tag (`!anything`) is plain data. `!!python/...` stays an error.

    Merge keys are refused: a few of them, nested, make gigabytes of a few hundred bytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", node.start_mark)
        super().flatten_mapping(node)


def _plain(loader: _PlainLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("!", _plain)


def read_config(folder: Path) -> DecoderConfig:
    """`folder`/config.yaml. Raises MissingFileError or ConfigurationError; executes nothing."""
    path = folder / CONFIG_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content[:MAX_BYTES].decode("utf-8")
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} does not exist; the decoder's folder holds config.yaml, flow.pt and hift.pt. "
            f"Run `{FETCH_COMMAND}` or name the folder that has them."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} could not be read as UTF-8 text: {error}.") from error
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{path} has more than {MAX_BYTES} bytes. Run `{FETCH_COMMAND}`.")
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> DecoderConfig:
    """The decoder that the YAML `text` describes; `path` only names it in errors. Raises ConfigurationError."""
    try:
        root = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{path} is not a YAML file that can be read as plain data: {reason}. "
            f"Run `{FETCH_COMMAND}` to get the released file."
        ) from error
    return _Reader(path, root).decoder()


class _Reader:
    """Takes typed values out of the parsed file; every failure names the file and the dotted entry."""

    def __init__(self, path: Path, root: object) -> None:
        self._path = path
        self._root = root

    def decoder(self) -> DecoderConfig:
        for section, values in _FIXED.items():
            for name, expected in values.items():
                found = self._get(f"{section}.{name}", expected)
                if found != expected:
                    raise self._wrong(f"{section}.{name}", found, f"{expected!r}, the only kind that is built in")
        config = DecoderConfig(self._flow(), self._vocoder())
        self._cross_check(config)
        return config

    def _flow(self) -> FlowConfig:
        ratios = self._ints("flow.length_regulator.sampling_ratios", MAX_LAYERS)
        if set(ratios) != {1}:
            raise self._wrong("flow.length_regulator.sampling_ratios", ratios, "a list of ones")
        rate = Fraction(self._number("flow.input_frame_rate", 0.1, 1000)).limit_denominator(1000)
        return FlowConfig(
            vocab_size=self._int("flow.vocab_size"),
            input_size=self._int("flow.input_size"),
            output_size=self._int("flow.output_size"),
            spk_embed_dim=self._int("flow.spk_embed_dim"),
            token_rate=rate,
            guidance=self._number("flow.decoder.cfm_params.inference_cfg_rate", 0, 100),
            regulator_layers=len(ratios),
            encoder=EncoderConfig(
                input_size=self._int("flow.encoder.input_size"),
                output_size=self._int("flow.encoder.output_size"),
                attention_heads=self._int("flow.encoder.attention_heads"),
                linear_units=self._int("flow.encoder.linear_units"),
                num_blocks=self._int("flow.encoder.num_blocks", MAX_LAYERS),
                block_size=self._int("flow.encoder.block_size"),
            ),
            estimator=EstimatorConfig(
                in_channels=self._int("flow.decoder.estimator.in_channels"),
                out_channels=self._int("flow.decoder.estimator.out_channels"),
                channels=self._ints("flow.decoder.estimator.channels"),
                attention_head_dim=self._int("flow.decoder.estimator.attention_head_dim"),
                n_blocks=self._int("flow.decoder.estimator.n_blocks", MAX_LAYERS),
                num_mid_blocks=self._int("flow.decoder.estimator.num_mid_blocks", MAX_LAYERS),
                num_heads=self._int("flow.decoder.estimator.num_heads"),
            ),
        )

    def _vocoder(self) -> VocoderConfig:
        return VocoderConfig(
            in_channels=self._int("hift.in_channels"),
            base_channels=self._int("hift.base_channels"),
            nb_harmonics=self._int("hift.nb_harmonics", MAX_LAYERS),
            sample_rate=self._int("hift.sampling_rate"),
            sine_amplitude=self._number("hift.nsf_alpha", 0, 1),
            noise_amplitude=self._number("hift.nsf_sigma", 0, 1),
            voiced_threshold=self._number("hift.nsf_voiced_threshold", 0, 1e5),
            upsample_rates=self._ints("hift.upsample_rates"),
            upsample_kernels=self._ints("hift.upsample_kernel_sizes"),
            n_fft=self._int("hift.istft_params.n_fft", 4096),
            hop=self._int("hift.istft_params.hop_len", 4096),
            resblock_kernels=self._ints("hift.resblock_kernel_sizes"),
            resblock_dilations=self._int_lists("hift.resblock_dilation_sizes"),
            source_kernels=self._ints("hift.source_resblock_kernel_sizes"),
            source_dilations=self._int_lists("hift.source_resblock_dilation_sizes"),
            lrelu_slope=self._number("hift.lrelu_slope", 0, 1),
            audio_limit=self._number("hift.audio_limit", 0, 1),
            f0_channels=self._int("hift.f0_predictor.cond_channels"),
        )

    def _cross_check(self, config: DecoderConfig) -> None:
        """What several entries say together."""
        flow, vocoder = config.flow, config.vocoder
        mel, encoder, estimator = flow.output_size, flow.encoder, flow.estimator
        self._equal("flow.encoder.input_size", encoder.input_size, "flow.input_size", flow.input_size)
        self._equal("flow.length_regulator.channels", self._int("flow.length_regulator.channels"), "mel bins", mel)
        self._equal("flow.decoder.spk_emb_dim", self._int("flow.decoder.spk_emb_dim"), "mel bins", mel)
        self._equal("flow.decoder.estimator.out_channels", estimator.out_channels, "mel bins", mel)
        self._equal("flow.decoder.estimator.in_channels", estimator.in_channels, "4 times the mel bins", 4 * mel)
        self._equal("hift.in_channels", vocoder.in_channels, "flow.output_size", mel)
        self._equal("hift.f0_predictor.in_channels", self._int("hift.f0_predictor.in_channels"), "mel bins", mel)
        self._equal("hift.sampling_rate", vocoder.sample_rate, "sample_rate", self._int("sample_rate"))
        stages = len(vocoder.upsample_rates)
        self._equal("number of hift.upsample_kernel_sizes", len(vocoder.upsample_kernels), "stages", stages)
        self._equal("number of hift.source_resblock_kernel_sizes", len(vocoder.source_kernels), "stages", stages)
        for name, kernels, dilations in (
            ("hift.resblock_dilation_sizes", vocoder.resblock_kernels, vocoder.resblock_dilations),
            ("hift.source_resblock_dilation_sizes", vocoder.source_kernels, vocoder.source_dilations),
        ):
            self._equal(f"number of {name}", len(dilations), "kernel sizes", len(kernels))
            if any(kernel % 2 == 0 for kernel in kernels):
                raise self._wrong(f"kernels of {name}", kernels, "odd numbers")
        pairs = zip(vocoder.upsample_rates, vocoder.upsample_kernels, strict=True)
        if any(kernel < rate or (kernel - rate) % 2 for rate, kernel in pairs):
            raise self._wrong("hift.upsample_kernel_sizes", vocoder.upsample_kernels, "rates plus an even number each")
        self._divides("hift.istft_params.n_fft", vocoder.n_fft, 2 * vocoder.hop)
        self._divides("hift.base_channels", vocoder.base_channels, 2**stages)
        self._divides("flow.encoder.output_size", encoder.output_size, encoder.attention_heads)
        self._divides("flow.encoder.output_size", encoder.output_size, 2)
        for width in estimator.channels:
            self._divides("flow.decoder.estimator.channels", width, 8)
        if config.frames_per_token < 1:
            raise self._wrong("flow.input_frame_rate", float(flow.token_rate), "at most the rate of mel frames")

    # Typed access

    def _get(self, name: str, default: object = None) -> Any:
        """The entry `name` (dotted), through references; `default` where it is absent."""
        value: Any = self._root
        for _ in range(8):  # references may point to references, but not for ever
            for part in name.split("."):
                value = self._into(value, part)
            match = _REFERENCE.match(value) if isinstance(value, str) else None
            if match is None:
                return default if value is None else value
            value, name = self._root, match[1]
        raise self._wrong(name, value, "a value, not a ring of references")

    def _into(self, value: Any, part: str) -> Any:
        if isinstance(value, Mapping) and part not in value and isinstance(value.get("content"), Mapping):
            value = value["content"]  # how omegaconf.DictConfig is written
        return value.get(part) if isinstance(value, Mapping) else None

    def _int(self, name: str, largest: int = MAX_SIZE) -> int:
        return self._checked_int(name, self._get(name), largest)

    def _ints(self, name: str, largest: int = MAX_SIZE) -> tuple[int, ...]:
        return self._checked_ints(name, self._get(name), largest)

    def _int_lists(self, name: str) -> tuple[tuple[int, ...], ...]:
        found = self._get(name)
        if not isinstance(found, list) or not 1 <= len(found) <= MAX_LAYERS:
            raise self._wrong(name, found, "a list of lists of whole numbers")
        return tuple(self._checked_ints(name, item, MAX_SIZE) for item in found)

    def _checked_ints(self, name: str, found: object, largest: int) -> tuple[int, ...]:
        if not isinstance(found, list) or not 1 <= len(found) <= MAX_LAYERS:
            raise self._wrong(name, found, "a list of whole numbers")
        return tuple(self._checked_int(name, item, largest) for item in found)

    def _checked_int(self, name: str, found: object, largest: int) -> int:
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= largest:
            raise self._wrong(name, found, f"a whole number from 1 to {largest}")
        return found

    def _number(self, name: str, smallest: float, largest: float) -> float:
        found = self._get(name)
        try:
            # A string too: PyYAML reads "1e-06" (no dot) as text.
            value = math.nan if isinstance(found, bool) or found is None else float(found)
        except (TypeError, ValueError):
            value = math.nan
        if not smallest <= value <= largest:
            raise self._wrong(name, found, f"a number from {smallest:g} to {largest:g}")
        return value

    def _equal(self, name: str, found: int, other: str, expected: int) -> None:
        if found != expected:
            raise self._wrong(name, found, f"{expected} ({other})")

    def _divides(self, name: str, found: int, divisor: int) -> None:
        if found % divisor:
            raise self._wrong(name, found, f"a multiple of {divisor}")

    def _wrong(self, name: str, found: object, expected: str) -> ConfigurationError:
        shown = "missing" if found is None else _SHORT.repr(found)
        return ConfigurationError(
            f"{self._path}: {name} is {shown}, expected {expected}. "
            f"Run `{FETCH_COMMAND}` to get the released decoder, or correct the file."
        )
