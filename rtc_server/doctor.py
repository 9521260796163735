"""Checks whether this machine can run the server, each with what to do if it cannot.

Nothing is changed and nothing leaves the machine: network checks send packets from one of its own sockets to
another. Native libraries are tried in a child process, so that one that crashes is a finding and not our end.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from model.weights import FETCH_COMMAND, Weight, verify
from rtc_server import certs
from rtc_server.config import Settings
from rtc_server.errors import CertificateError, ConfigError
from rtc_server.exposure import exposure
from rtc_server.findings import Finding
from rtc_server.relays.checks import check_turn
from rtc_server.scheduling import (
    Scheduling,
    engine_environment,
    engine_scheduling,
    media_scheduling,
    ranges,
    try_out,
    unused_media_settings,
)
from rtc_server.sip.edge import run as edge
from rtc_server.sip.edge.users import UsersFile

UDP_TIMEOUT_SECONDS = 1.0
NATIVE_TIMEOUT_SECONDS = 60.0  # a cold disk; beyond it the import hangs
FILES_BASE = 128  # listening sockets, pipes, libraries and log files of an idle server
FILES_PER_CALL = 16  # one UDP socket per address and ICE component, with room to spare
MIN_MEMORY_BYTES = 1_000_000_000  # the embedded models take 0.6 GB
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
REALTIME_RUNTIME = Path("/proc/sys/kernel/sched_rt_runtime_us")  # microseconds of each second; -1 = no limit
EARLIEST_YEAR = 2026  # this program is not older, so an earlier clock is wrong

NATIVE_MODULES = {
    "cascade": ("onnxruntime", "xllamacpp", "hibari", "scipy.signal"),
    "opens2s": ("torch", "transformers", "safetensors", "tokenizers", "yaml"),
}
"""Libraries with machine code that a backend needs besides those of the media path."""

DEVICE_PROBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps([f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus]))
"""
"""Run in a child process: torch is large, and a broken driver may take its process along."""


def run_checks(settings: Settings, models_dir: Path, needed: tuple[Weight, ...]) -> Iterator[Finding]:
    """Run all checks, a few seconds in total; findings come as they are made.

    `needed` are the model files that the settings make necessary.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        lambda: check_access(settings),
        lambda: check_ports(settings),
        lambda: check_tls(settings),
        lambda: check_models(models_dir, needed),
        lambda: check_opens2s(settings, models_dir),
        check_opus,
        lambda: check_native(settings),
        check_gpu,
        lambda: check_device(settings),
        lambda: check_udp(settings),
        lambda: check_turn(settings),
        lambda: check_sip_edge(settings),
        check_clock,
        lambda: check_limits(settings.server.max_calls),
        lambda: check_scheduling(settings),
        lambda: check_shared_cpus(settings),
        check_machine,
    )
    for check in checks:
        yield from check()


def check_python() -> Iterator[Finding]:
    """The interpreter is one that the server is tested with."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "fail", f"{version} is not supported.", "Use Python 3.11, 3.12 or 3.13.")


def check_access(settings: Settings) -> Iterator[Finding]:
    """Who may use the server is what the operator wants."""
    host = settings.server.host
    try:
        found = exposure(settings)
    except ConfigError as error:
        yield Finding("access", "fail", error.message)
        return
    if found == "keys":
        yield Finding("access", "ok", f"On {host}; every caller needs a key.")
    elif found == "this machine":
        yield Finding(
            "access",
            "ok",
            f"On {host}, open to this machine only.",
            "For phones and other machines: `rtc-server keys add NAME`, then `rtc-server serve --host 0.0.0.0`.",
        )
    else:
        advice = "Make a key with `rtc-server keys add NAME`; as soon as there is one, every caller needs one."
        yield Finding("access", "warn", f"On {host}, open to everybody who reaches it, without a key.", advice)


def check_ports(settings: Settings) -> Iterator[Finding]:
    """The TCP ports can be listened on."""
    server = settings.server
    ports = [("http", server.http_port)] + ([("https", server.https_port)] if server.tls else [])
    if server.realtime_port:
        ports.append(("realtime", server.realtime_port))
    for kind, port in ports:
        problem = _listen_problem(server.host, port)
        where = f"{server.host} port {port}" if port else f"{server.host}, any free port"
        if problem is None:
            yield Finding(f"{kind} port", "ok", f"{where} is free.")
        else:
            yield Finding(
                f"{kind} port",
                "fail",
                f"{where}: {problem}.",
                f"Stop what uses it (an rtc-server that is running?) or choose another with --{kind}-port.",
            )


def check_tls(settings: Settings) -> Iterator[Finding]:
    """The certificate can be served, is current, and covers this machine's addresses."""
    if not settings.server.tls:
        yield Finding(
            "certificate", "warn", "HTTPS is off.", "Phones and other machines get no microphone over plain HTTP."
        )
        return
    folder = Path(settings.server.certs_dir)
    try:
        paths = certs.find_certificates(folder)
        if paths is None:
            yield Finding("certificate", "ok", f"None in {folder} yet; the first start makes one.")
            return
        certs.ssl_context(paths)
        details = certs.describe(paths)
    except CertificateError as error:
        yield Finding("certificate", "fail", error.message)
        return
    until = f"{details.not_after:%Y-%m-%d}"
    uncovered = [name for name in certs.machine_names() if name not in details.names]
    if details.is_own:
        fresh = "the next start renews it" if uncovered else f"valid until {until}"
        yield Finding("certificate", "ok", f"Made by the local authority in {folder}; {fresh}.")
    elif details.not_after < datetime.now(UTC):
        yield Finding(
            "certificate", "fail", f"Yours in {folder} ended on {until}.", "Replace it, or remove it to have one made."
        )
    else:
        yield Finding("certificate", "ok", f"Yours in {folder}, valid until {until}.")


def check_models(models_dir: Path, needed: tuple[Weight, ...]) -> Iterator[Finding]:
    """The model files that the settings need are here and undamaged."""
    bad = verify(models_dir, needed)
    if bad:
        names = ", ".join(weight.name for weight in bad)
        yield Finding("models", "fail", f"Missing or damaged in {models_dir}: {names}.", f"Run `{FETCH_COMMAND}`.")
    else:
        yield Finding("models", "ok", f"{len(needed)} files needed, all good, in {models_dir}.")


def check_opens2s(settings: Settings, models_dir: Path) -> Iterator[Finding]:
    """For the backend "opens2s": its checkpoint and decoder are here."""
    if settings.engine.backend != "opens2s":
        return
    if settings.opens2s.load_format == "dummy":
        yield Finding("opens2s", "warn", "Random weights, which speak noise.", "Leave out --load-format dummy.")
        return
    checkpoint, decoder = settings.opens2s.folders(models_dir)
    absent = [str(file) for file in (checkpoint / "config.json", decoder / "config.yaml") if not file.is_file()]
    if absent:
        yield Finding(
            "opens2s",
            "fail",
            f"Missing: {', '.join(absent)}.",
            "Run `rtc-server models fetch opens2s`, or name your folders with --checkpoint and --decoder.",
        )
    else:
        yield Finding("opens2s", "ok", f"Checkpoint in {checkpoint}, decoder in {decoder}.")


def check_opus() -> Iterator[Finding]:
    """Opus survives an encode and decode round trip: a tone comes back as that tone."""
    try:
        found_hz = _opus_round_trip(tone_hz=440.0)
    except (ImportError, OSError, ValueError) as error:  # av's own errors derive from these two
        yield Finding("opus", "fail", f"The audio codec does not work: {error}.", "Install the package `av` again.")
        return
    if abs(found_hz - 440.0) < 25.0:
        yield Finding("opus", "ok", "A tone survives encoding and decoding.")
    else:
        yield Finding("opus", "fail", f"440 Hz came back as {found_hz:.0f} Hz.", "Install the package `av` again.")


def check_native(settings: Settings) -> Iterator[Finding]:
    """Every library with machine code loads on this processor."""
    modules = ["av", "pylibsrtp", "cryptography.hazmat.bindings._rust", "google_crc32c"]
    if settings.turns.vad != "silero":
        modules.append("webrtcvad")
    if settings.turns.vad != "webrtcvad":
        modules.append("onnxruntime")
    modules += [name for name in NATIVE_MODULES.get(settings.engine.backend, ()) if name not in modules]
    package = "'rtc-server[opens2s]'" if settings.engine.backend == "opens2s" else "rtc-server"
    problems = [problem for name in modules if (problem := _import_problem(name))]
    if problems:
        yield Finding(
            "libraries",
            "fail",
            " ".join(problems),
            f"Install them again: `pip install --force-reinstall {package}`; if one crashes, this processor may "
            "lack an instruction that it needs.",
        )
    else:
        yield Finding("libraries", "ok", f"{', '.join(modules)} load.")


def check_gpu() -> Iterator[Finding]:
    """Whether there is an NVIDIA GPU. The embedded models need none."""
    tool = shutil.which("nvidia-smi")
    names = ""
    if tool is not None:
        command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
            )
            names = "; ".join(done.stdout.split("\n")[:8]).strip("; ") if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            names = ""
    if names:
        yield Finding("gpu", "ok", names)
    elif tool is not None or Path("/dev/nvidia0").exists():
        yield Finding("gpu", "warn", "There is a GPU whose driver does not answer.", "Run `nvidia-smi` to see why.")
    else:
        yield Finding("gpu", "ok", "None found; the embedded models need none.")


def check_device(settings: Settings) -> Iterator[Finding]:
    """For the backend "opens2s": the device that the settings name, as torch sees it."""
    if settings.engine.backend != "opens2s":
        return
    device = settings.opens2s.device
    try:
        done = _run_python(DEVICE_PROBE)
        gpus = json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        gpus = None
    if gpus is None:
        yield Finding("device", "fail", "torch cannot be asked for its devices.", "See the finding about libraries.")
        return
    number = int(device.partition(":")[2] or 0)
    if device == "cpu" or (device == "auto" and not gpus):
        advice = "Speech is generated much slower than it is spoken; use a GPU and a torch that is built for it."
        yield Finding("device", "warn", "The processor.", advice)
    elif number < len(gpus):
        yield Finding("device", "ok", f"cuda:{number}, {gpus[number]}.")
    else:
        there = f"torch sees {len(gpus)}" if gpus else "torch sees none"
        advice = "Check `nvidia-smi` and that torch is the CUDA build, or choose another with --device."
        yield Finding("device", "fail", f"There is no GPU {number} ({there}).", advice)


def check_udp(settings: Settings) -> Iterator[Finding]:
    """A UDP packet passes between two sockets of this machine, on each address that media may use."""
    configured = settings.webrtc.host_addresses
    addresses = configured or ["127.0.0.1", *(name for name in certs.machine_names() if _is_lan_ipv4(name))]
    for address in addresses:
        problem = udp_echo_problem(address)
        if problem is None:
            yield Finding("udp", "ok", f"{address} passes packets.")
            continue
        is_needed = address == "127.0.0.1" or address in configured
        advice = "Check webrtc.host_addresses and the firewall: media needs UDP on all high ports (ufw, nft, ...)."
        yield Finding("udp", "fail" if is_needed else "warn", f"{address}: {problem}.", advice)


def check_sip_edge(settings: Settings) -> Iterator[Finding]:
    """Where telephone calls are taken: proxy, relay and users are there, and the proxy's port is."""
    if not settings.sip.enabled:
        return
    if importlib.util.find_spec("sippy") is None:
        yield Finding("telephone", "fail", "The extra 'sip' is not installed.", "pip install 'rtc-server[sip]'")
    if absent := edge.missing_programs():
        detail = f"Not installed: {' and '.join(absent)}."
        yield Finding("telephone edge", "warn", detail, f"If they are to run on this machine: {edge.INSTALL_COMMAND}")
    else:
        yield Finding("telephone edge", "ok", "Kamailio and rtpengine are installed.")
    file = UsersFile(Path(settings.sip_edge.users_file))
    try:
        users = file.read()
    except ConfigError as error:
        yield Finding("telephone users", "fail", error.message, "Repair it, or remove it and add the users again.")
        return
    realm = settings.sip_edge.realm
    if stale := [user.name for user in users if user.realm != realm]:
        detail = f"{', '.join(stale[:5])} cannot log in: their passwords are for another realm than {realm!r}."
        yield Finding("telephone users", "warn", detail, "Remove and add them, or set sip_edge.realm back.")
    elif users or settings.sip_edge.allowed_addresses:
        trunks = len(settings.sip_edge.allowed_addresses)
        yield Finding("telephone users", "ok", f"{len(users)} with a password, {trunks} trunk addresses.")
    else:
        advice = "`rtc-server sip user add NAME` makes one; sip_edge.allowed_addresses names trunks."
        yield Finding("telephone users", "warn", f"There is none in {file.path}, and no trunk.", advice)
    host, _, port = settings.sip.proxy.rpartition(":")
    to = (host.strip("[]"), int(port))
    if edge.ask(to, edge.options_request(to, max_forwards=0)):
        yield Finding("telephone proxy", "ok", f"It answers on {settings.sip.proxy}.")
    else:
        advice = "`rtc-server sip up` starts all for development; docs/sip-edge.md says what to run in production."
        yield Finding("telephone proxy", "warn", f"It does not answer on {settings.sip.proxy}.", advice)


def check_clock() -> Iterator[Finding]:
    """The clocks that pace audio and date certificates are sane."""
    resolution = time.get_clock_info("monotonic").resolution
    year = datetime.now(UTC).year
    if year < EARLIEST_YEAR:
        yield Finding("clock", "fail", f"It says {year}; certificates would not be valid.", "Set the date (NTP).")
    elif resolution > 0.001:
        yield Finding(
            "clock", "warn", f"Its steps of {resolution * 1000:.0f} ms are coarse.", "Audio may stutter here."
        )
    else:
        yield Finding("clock", "ok", f"{year}, monotonic steps below 1 ms.")


def check_limits(max_calls: int) -> Iterator[Finding]:
    """Enough files may be open for the calls that are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_BASE + FILES_PER_CALL * max_calls
    limit = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield Finding("open files", "ok", f"{limit} allowed, about {wanted} wanted for {max_calls} calls.")
        return
    can_raise = hard == resource.RLIM_INFINITY or hard >= wanted
    how = f"Run `ulimit -n {wanted}` first" if can_raise else "Raise the limit (limits.conf, LimitNOFILE=)"
    yield Finding("open files", "warn", f"{limit} allowed, {max_calls} calls may need {wanted}.", f"{how}.")


def check_scheduling(settings: Settings) -> Iterator[Finding]:
    """What the system will do of what the settings ask for each kind of process; tried in child processes."""
    workers = settings.server.media_workers
    if unused := unused_media_settings(settings):
        detail = f"Without media workers these do nothing: {', '.join(unused)}."
        yield Finding("media scheduling", "warn", detail, "Set server.media_workers to 1 or more.")
    elif workers:
        cpus = settings.server.media_cpu_affinity[:workers]
        request = replace(media_scheduling(settings, 0), cpus=cpus)
        notes = ["one CPU for each worker"] if len(cpus) > 1 else []
        if request.nice and _text(AUTOGROUP) == "1":
            notes.append("the nice counts within the server's session only (kernel.sched_autogroup_enabled)")
        yield _scheduling("media scheduling", request, "; ".join(notes))
    if settings.engine.isolation == "process":
        wanted = engine_environment(settings)
        parts = [f"{name}={os.environ.get(name, value)}" for name, value in wanted.items()]
        if overruled := ", ".join(sorted(wanted.keys() & os.environ)):
            parts.append(f"your environment decides {overruled}")
        parts.append(f"the system's huge pages: {_huge_pages_mode()}")
        yield _scheduling("engine scheduling", engine_scheduling(settings), "; ".join(parts))
    if settings.system.executor_cpu_affinity:
        yield _scheduling("thread scheduling", Scheduling(settings.system.executor_cpu_affinity))


def _scheduling(name: str, request: Scheduling, more: str = "") -> Finding:
    outcome = try_out(request)
    done = outcome.applied or (() if outcome.refused else ("nothing asked for",))
    refused = [f"{refusal.wanted} refused: {refusal.reason}" for refusal in outcome.refused]
    detail = "; ".join(part for part in (*done, more, *refused) if part) + "."
    advice = " ".join(refusal.advice for refusal in outcome.refused)
    return Finding(name, "warn" if refused else "ok", detail[0].upper() + detail[1:], advice)


def _huge_pages_mode() -> str:
    """The word in brackets: "always", "madvise" or "never"."""
    return _text(HUGE_PAGES).partition("[")[2].partition("]")[0] or "none"


def check_shared_cpus(settings: Settings) -> Iterator[Finding]:
    """Media stays punctual beside the engine, and leaves it something."""
    workers, engine = settings.server.media_workers, settings.engine
    if not workers or engine.isolation != "process" or not hasattr(os, "sched_getaffinity"):
        return
    there = os.sched_getaffinity(0)
    media = set(settings.server.media_cpu_affinity[:workers]) or there
    shared = media & (set(engine.cpu_affinity) or there)
    is_realtime = settings.system.media_realtime_priority > 0
    if not shared:
        yield Finding("shared CPUs", "ok", "Media and engine have CPUs of their own.")
    elif is_realtime and not (set(engine.cpu_affinity) or there) - media and workers >= len(media):
        detail = f"The engine has CPUs {ranges(shared)} only while real-time media workers sleep on them."
        advice = "Keep a CPU free of media: server.media_cpu_affinity, or fewer server.media_workers."
        yield Finding("shared CPUs", "warn", detail, advice)
    elif not is_realtime and engine.nice <= settings.system.media_nice:
        detail = f"Media and engine share CPUs {ranges(shared)} with equal rights."
        yield Finding("shared CPUs", "warn", detail, "Set engine.nice to 5, or give each CPUs of its own.")
    else:
        yield Finding("shared CPUs", "ok", f"Media goes before the engine on CPUs {ranges(shared)}.")
    if is_realtime and _text(REALTIME_RUNTIME) == "-1":
        detail = "The kernel does not limit real-time threads; one that spins would take its CPU for good."
        yield Finding("real time", "warn", detail, "Run `sysctl kernel.sched_rt_runtime_us=950000`.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def check_machine() -> Iterator[Finding]:
    """Processors and memory suffice for the embedded models."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    free = psutil.virtual_memory().available
    detail = f"{cores} processors, {free / 1e9:.1f} GB of memory free."
    if cores < 2:
        yield Finding("machine", "warn", detail, "With one processor replies are slow and sound may stutter.")
    elif free < MIN_MEMORY_BYTES:
        yield Finding("machine", "warn", detail, "The embedded models take 0.6 GB; close something.")
    else:
        yield Finding("machine", "ok", detail)


def udp_echo_problem(address: str) -> str | None:
    """Send one packet there and back between two sockets bound to `address`; None if both arrive."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as two:
            for end in (one, two):
                end.settimeout(UDP_TIMEOUT_SECONDS)
                end.bind((address, 0))
            one.sendto(b"ping", two.getsockname())
            data, sender = two.recvfrom(16)
            two.sendto(data, sender)
            one.recvfrom(16)
    except TimeoutError:
        return "packets do not arrive"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _listen_problem(host: str, port: int) -> str | None:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(place)
            probe.listen()
    except OSError as error:
        return "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return None


def _opus_round_trip(tone_hz: float) -> float:
    """Encode half a second of a tone at 48 kHz mono, decode it, and return its frequency in Hz."""
    import av

    rate, frame = 48_000, 960
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    decoder = av.CodecContext.create("libopus", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate, decoder.layout = rate, "mono"
    wave = (0.5 * 32_767 * np.sin(2 * np.pi * tone_hz * np.arange(rate // 2) / rate)).astype(np.int16)
    packets = []
    for start in range(0, len(wave), frame):
        audio = av.AudioFrame.from_ndarray(wave[None, start : start + frame], format="s16", layout="mono")
        audio.sample_rate, audio.pts = rate, start
        packets += encoder.encode(audio)
    packets += encoder.encode(None)
    decoded = [frame.to_ndarray().reshape(-1) for packet in packets for frame in decoder.decode(packet)]
    if not decoded:
        raise ValueError("nothing was decoded")
    sound = np.concatenate(decoded).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.fft.rfftfreq(len(sound), 1 / rate)[int(np.argmax(spectrum))])


def _run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=NATIVE_TIMEOUT_SECONDS,
        check=False,
    )


def _import_problem(name: str) -> str | None:
    try:
        done = _run_python(f"import {name}")
    except subprocess.TimeoutExpired:
        return f"{name} hangs when it is loaded."
    if done.returncode < 0:
        return f"{name} crashes when it is loaded (signal {-done.returncode})."
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"{name} does not load: {last}."
    return None


def _is_lan_ipv4(name: str) -> bool:
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return name.count(".") == 3 and not name.startswith("127.")
