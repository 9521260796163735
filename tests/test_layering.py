"""Who may import whom. The picture is in docs/architecture.md; this test reads every import to keep it true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    *("rtc_server.config", "rtc_server.errors", "rtc_server.logs", "rtc_server.metrics", "rtc_server.paths"),
    *("rtc_server.scheduling", "rtc_server.process_metrics", "rtc_server.tracing"),
)

LAYERS: dict[str, tuple[str, ...]] = {
    # the words that everybody shares
    "rtc_server.errors": (),
    "rtc_server.metrics": (),
    "rtc_server.process_metrics": ("rtc_server.metrics",),
    "rtc_server.tracing": ("rtc_server.errors",),
    "rtc_server.paths": ("rtc_server.config", "model.weights"),  # the settings only as a type
    "rtc_server.config": ("rtc_server.config", "rtc_server.errors", "rtc_server.paths"),
    "rtc_server.logs": (),
    "rtc_server.scheduling": ("rtc_server.config",),  # only as a type
    "rtc_server.limits": (),
    "rtc_server.secret_file": ("rtc_server.errors",),
    "rtc_server.keys": ("rtc_server.secret_file", "rtc_server.config", "rtc_server.errors"),
    "rtc_server.exposure": ("rtc_server.keys", "rtc_server.config", "rtc_server.errors"),
    # pure: they decide, and leave doing to others
    "rtc_server.audio": ("rtc_server.audio", "rtc_server.errors", "model.interface"),
    "rtc_server.turns": ("rtc_server.turns", "rtc_server.audio", "rtc_server.errors", "model.interface"),
    "rtc_server.realtime": ("rtc_server.realtime", "rtc_server.errors", "model.interface"),
    "rtc_server.codecs": ("rtc_server.codecs", "rtc_server.audio", "rtc_server.errors", "model.interface"),
    "rtc_server.rtp": ("rtc_server.rtp", "rtc_server.codecs.base", "model.interface"),
    # shells: they move bytes
    "rtc_server.network": ("rtc_server.network", "rtc_server.errors"),
    "rtc_server.transports": (
        *("rtc_server.transports", "rtc_server.network", "rtc_server.codecs", "rtc_server.rtp"),
        *("rtc_server.audio", "rtc_server.realtime", "model.interface", *COMMON),
    ),
    "rtc_server.recording": (
        *("rtc_server.recording", "rtc_server.audio", "rtc_server.realtime.words", "model.interface", *COMMON),
    ),
    "rtc_server.inference": ("rtc_server.inference", "model.interface", "model.registry", *COMMON),
    "rtc_server.calls": (
        *("rtc_server.calls", "rtc_server.transports.base", "rtc_server.inference.client", "model.interface"),
        *("rtc_server.realtime", "rtc_server.turns", "rtc_server.audio", "rtc_server.rtp.elastic"),
        *("rtc_server.codecs.g711", "rtc_server.recording"),
        *COMMON,
    ),
    "rtc_server.media": (
        *(
            "rtc_server.media",
            "rtc_server.calls",
            "rtc_server.transports",
            "rtc_server.network",
            "rtc_server.inference",
        ),
        *("rtc_server.codecs.opus", "rtc_server.turns", "rtc_server.realtime", "rtc_server.logs", "model.weights"),
        *("rtc_server.audio.playout", "rtc_server.audio.cleaning", "rtc_server.recording.store", "model.interface"),
        *COMMON,
    ),
    # TURN servers: what callers are told of them, and whether they work
    "rtc_server.relays": ("rtc_server.relays", "rtc_server.findings", "rtc_server.network.addresses", *COMMON),
    "rtc_server.findings": (),
    # telephone calls: between a SIP proxy and the nodes
    "rtc_server.sip": (
        *("rtc_server.sip", "rtc_server.media", "rtc_server.calls.sessions", "rtc_server.transports.sdp"),
        *("rtc_server.realtime.session", "rtc_server.realtime.words", "rtc_server.network.addresses", *COMMON),
        "rtc_server.secret_file",
    ),
    # the outside: wires everything together, once
    "rtc_server.certs": ("rtc_server.errors",),
    "rtc_server.doctor": (
        *("rtc_server.certs", "rtc_server.exposure", "rtc_server.sip.edge", "model.weights", *COMMON),
        *("rtc_server.findings", "rtc_server.relays.checks"),
    ),
    "rtc_server.client": (  # a peer of its own; aiortc's private names are kept in one file for both sides
        *("rtc_server.client", "rtc_server.audio", "rtc_server.codecs", "rtc_server.rtp", "model.interface"),
        *("rtc_server.transports.aiortc_media", "rtc_server.network.addresses"),
        *COMMON,
    ),
    "rtc_server.app": (
        *("rtc_server.app", "rtc_server.media", "rtc_server.inference", "rtc_server.sip", "rtc_server.relays"),
        *("rtc_server.transports.sdp", "rtc_server.transports.fragments"),
        *(
            "rtc_server.realtime",
            "rtc_server.calls.early_media",
            "rtc_server.calls.sessions",
            "rtc_server.calls.status",
            "rtc_server.calls.turn_records",
            "rtc_server.limits",
            "rtc_server.keys",
            "rtc_server.exposure",
            "rtc_server.network.addresses",
            "rtc_server.certs",
            "rtc_server.recording.store",
            *COMMON,
        ),
    ),
    # a cluster: the same parts, put together on Ray
    "rtc_server.inference.ray": (
        *("rtc_server.inference", "rtc_server.app", "rtc_server.media", "rtc_server.exposure", "rtc_server.certs"),
        *("model.interface", "model.registry", *COMMON),
    ),
    "rtc_server.loadtest": ("rtc_server.loadtest", "rtc_server.codecs", "model.interface", "rtc_server.errors"),
    "rtc_server.cli": (
        "rtc_server",
        "model.registry",
        "model.weights",
        "model.opens2s",
        "model.backends.opens2s.verify",
    ),
    "rtc_server.__main__": ("rtc_server.cli",),
    # the model knows nothing of the server
    "model.interface": (),
    "model.weights": (),
    "model.registry": ("model.interface", "model.weights", "model.backends"),
    "model.backends": ("model",),
    "model.engine": ("model.engine", "model.opens2s", "model.decoder", "model.graphs", "model.interface"),
    "model.graphs": (),
    "model.decoder": ("model.decoder", "model.graphs"),
    "model.opens2s": ("model.opens2s", "model.interface", "model.graphs"),
}

PURE = (
    "rtc_server.audio",
    "rtc_server.turns",
    "rtc_server.realtime",
    "rtc_server.transports.sdp",
    "rtc_server.transports.fragments",
    "rtc_server.transports.video",
    "rtc_server.app.forms",
    "rtc_server.rtp",
    "rtc_server.codecs.base",
    "rtc_server.codecs.formats",
    "rtc_server.codecs.g711",
    "rtc_server.app.client_messages",
    "rtc_server.media.merge",
    "rtc_server.media.snapshots",
    "rtc_server.network.stun",
    *(f"rtc_server.recording.{name}" for name in ("ogg", "opus_packets", "track", "transcript")),
    "rtc_server.limits",
    "rtc_server.media.owners",
    "rtc_server.app.secret_table",
    "rtc_server.app.webhook_signature",
    "rtc_server.app.origins",
    *("rtc_server.inference.ray.routing", "rtc_server.inference.ray.scaling", "rtc_server.inference.ray.messages"),
    "model.opens2s.config",
    "model.opens2s.features",
    "model.opens2s.interleave",
    "model.decoder.chunks",
    "model.decoder.config",
    "model.decoder.live_window",
    "model.backends.opens2s.options",
    *("model.engine.blocks", "model.engine.costs", "model.engine.sequence", "model.engine.scheduler"),
    "model.engine.core",
)
PURE_CALLS = (
    *("core", "client_events", "announcements", "responses", "replies", "reply_playout", "intents", "user_turns"),
    *("plans", "transcripts", "contexts", "idle", "budget", "turn_endings", "wire_audio", "endings"),
    *("admission", "leases", "listening", "snapshot", "turn_records"),
)
IMPURE_LIBRARIES = {
    *("asyncio", "socket", "select", "selectors", "ssl", "subprocess", "multiprocessing", "concurrent"),
    *("threading", "queue", "time", "signal", "http", "urllib"),
}
PURE_LIBRARIES = {
    "rtc_server.audio.resample": {"numpy", "av"},
    "rtc_server.audio.cleaning": {"numpy", "livekit"},
    "rtc_server.codecs.g711": {"numpy", "av"},
    "rtc_server.turns.onnx_session": {"onnxruntime"},
    "rtc_server.turns.vad_webrtc": {"numpy", "webrtcvad"},
    "rtc_server.realtime": {"numpy", "pydantic"},
    "rtc_server.network.stun": {"aioice"},  # its parser
}
"""Libraries that a pure module may use besides the standard library; numpy for all others."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "torch": ("model.opens2s", "model.decoder", "model.engine", "model.backends.opens2s", "model.graphs"),
    "transformers": ("model.opens2s",),
    "triton": ("model.opens2s",),
    "safetensors": ("model.opens2s",),
    "huggingface_hub": ("model.opens2s",),
    "httpx2": ("model.opens2s",),
    "yaml": ("model.decoder",),
    "xllamacpp": ("model.backends",),
    "hibari": ("model.backends",),
    "onnxruntime": ("model.backends", "rtc_server.turns"),
    "webrtcvad": ("rtc_server.turns",),
    "aiortc": ("rtc_server.transports", "rtc_server.network", "rtc_server.client"),
    "aioice": ("rtc_server.network", "rtc_server.relays"),
    "pylibsrtp": ("rtc_server.transports", "rtc_server.client"),
    "cffi": ("rtc_server.codecs",),
    "livekit": ("rtc_server.audio.cleaning",),
    "av": ("rtc_server.codecs", "rtc_server.client", "rtc_server.audio", "rtc_server.doctor"),
    "jwt": ("rtc_server.app",),
    "cryptography": ("rtc_server.app", "rtc_server.certs", "rtc_server.recording.crypto"),
    "aiohttp": ("rtc_server.app", "rtc_server.client", "rtc_server.inference.ray"),
    "typer": ("rtc_server.cli",),
    "rich": ("rtc_server.cli", "rtc_server.client"),
    "trustme": ("rtc_server.certs",),
    "pynvml": ("rtc_server.process_metrics",),
    "opentelemetry": ("rtc_server.tracing",),
    "ray": ("rtc_server.inference.ray",),
    "starlette": ("rtc_server.inference.ray",),  # what Ray Serve speaks
}
"""The only places where a library may be imported, so that it can be replaced there."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, inside functions and for type checking too."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from rtc_server import certs` imports a module; `from rtc_server.certs import x` a name of one
            found |= {
                f"{origin}.{alias.name}" if _is_module(f"{origin}.{alias.name}") else origin for alias in node.names
            }
    return found


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_inside(name: str, prefixes: tuple[str, ...] | set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


FILES = sorted([*(ROOT / "rtc_server").rglob("*.py"), *(ROOT / "model").rglob("*.py")])
MODULES = {module_name(path): imports_of(path) for path in FILES}


def layer_of(module: str) -> str:
    layers = [layer for layer in LAYERS if is_inside(module, (layer,))]
    assert layers, f"{module} belongs to no layer of this test; add it to LAYERS"
    return max(layers, key=len)


def is_pure(module: str) -> bool:
    return is_inside(module, PURE) or module in {f"rtc_server.calls.{name}" for name in PURE_CALLS}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("rtc_server", "model")])
def test_imports_go_in_one_direction(module: str) -> None:
    allowed = LAYERS[layer_of(module)]
    for name in MODULES[module]:
        if is_inside(name, ("rtc_server", "model")):
            assert is_inside(name, allowed), f"{module} imports {name}; its layer may import {', '.join(allowed)}"


@pytest.mark.parametrize("module", [name for name in MODULES if is_pure(name)])
def test_pure_modules_know_no_clock_thread_or_network(module: str) -> None:
    allowed = next((libraries for name, libraries in PURE_LIBRARIES.items() if is_inside(module, (name,))), {"numpy"})
    for name in MODULES[module]:
        library = name.split(".")[0]
        assert library not in IMPURE_LIBRARIES, f"{module} imports {name}, but is pure"
        if library in ONLY_IN or library in ("numpy", "scipy", "pydantic", "psutil"):
            assert library in allowed, f"{module} imports {name}; it may use {', '.join(sorted(allowed))}"
        if name.startswith("rtc_server.") and name != "rtc_server.errors":
            assert is_pure(name) or name.split(".")[1] in ("audio", "turns", "realtime"), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_places(module: str) -> None:
    for name in MODULES[module]:
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or is_inside(module, places), f"{module} imports {name}; only {places} may"


@pytest.mark.parametrize("module", [name for name in MODULES if is_inside(name, ("model",))])
def test_the_model_never_meets_the_server(module: str) -> None:
    forbidden = MODULES[module] & {"asyncio", "aiohttp", "aiortc", "rtc_server"}
    assert not forbidden, f"{module} imports {forbidden}"


def test_the_contract_needs_only_numpy() -> None:
    libraries = {name.split(".")[0] for name in MODULES["model.interface"]}
    assert libraries <= {"__future__", "collections", "dataclasses", "typing", "numpy"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, "split it: one idea per file"
