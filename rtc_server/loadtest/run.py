"""One load test: prepare what is sent, run the native client, watch the server's processes, make the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from yarl import URL

from rtc_server.errors import RtcServerError

from .analysis import ARRIVAL, SENT, audio, clock_error_ms, echoes, growth_per_hour, percentiles, read_payloads
from .impairment import FRAME_MS, Impairment, plan
from .speech import encode, read_wav, with_tones, write_packets

CLIENT_FILES = Path(__file__).parent / "client"
DEFAULT_RECORDINGS = ("f0_rms.wav", "f1_rms.wav", "f2_rms.wav", "f3_rms.wav", "librivox_0880.wav")
SETTLE_SECONDS = 1.5  # after the last call began: what is measured is the steady state
INSTALL_TIMEOUT_SECONDS = 300.0
MEMORY_EVERY_SECONDS = 5.0
MIN_GROWTH_SECONDS = 60.0  # the slope of the memory over less says nothing


class LoadTestError(RtcServerError):
    """The load test cannot run; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to do."""

    url: str
    recordings: Sequence[Path]
    calls: int = 10
    seconds: float = 20.0
    """Measured time; set-up and settling come on top."""
    path: str = "/api/echo"
    ramp_ms: float = 50.0
    """Between two calls; 0 = all at once."""
    impairment: Impairment = field(default_factory=Impairment)
    probes: int = 4
    seed: int = 1
    pids: Sequence[int] = ()
    """Processes of the server whose CPU and memory are counted."""
    client_cpu: int | None = None
    bind: str = "127.0.0.1"
    expects_audio: bool = True
    """False: the server has nothing to say, so what is delivered, its gaps and its echo are not measured."""


def installed_client() -> Path:
    """Folder with the client and its npm package, made on first use. Raises LoadTestError without node or npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise LoadTestError("The load test's client needs Node.js 18 or newer with npm: apt-get install nodejs npm.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtc-server" / "loadtest"
    lock = (CLIENT_FILES / "package-lock.json").read_bytes()
    installed, kept = cache / "node_modules" / ".package-lock.json", cache / "package-lock.json"
    if not (installed.is_file() and kept.is_file() and kept.read_bytes() == lock):
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENT_FILES / name, cache / name)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            subprocess.run(
                command, cwd=cache, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = str(error.stderr or "").strip().splitlines()
            reason = said[-1] if said else type(error).__name__
            raise LoadTestError(f"The npm package node-datachannel could not be installed: {reason}") from error
    shutil.copy(CLIENT_FILES / "client.mjs", cache / "client.mjs")  # beside its node_modules, where node looks
    return cache


def default_recordings() -> tuple[Path, ...]:
    """The project's own recordings. Raises LoadTestError where they are not installed."""
    folder = Path(__file__).resolve().parents[2] / "tests" / "data" / "speech"
    found = tuple(folder / name for name in DEFAULT_RECORDINGS)
    if not all(path.is_file() for path in found):
        raise LoadTestError("There is no speech to send here: pass recordings with --say (16-bit mono WAV at 16 kHz).")
    return found


def run(load: LoadPlan) -> dict[str, Any]:
    """The report, ready for JSON. Raises LoadTestError when it cannot be made: no client, nobody answers."""
    client = installed_client()
    host = URL(load.url).host or ""
    with tempfile.TemporaryDirectory(prefix="rtc-loadtest-") as name:
        folder = Path(name)
        speech = np.concatenate([read_wav(path) for path in load.recordings])
        probe = encode(with_tones(speech))
        write_packets(folder / "speech", encode(speech))
        write_packets(folder / "probe", probe)
        settle = SETTLE_SECONDS + load.calls * load.ramp_ms / 1e3
        total = load.seconds + settle
        num_packets = int(total * 1_000 / FRAME_MS)
        whole = [plan(num_packets, load.impairment, load.seed * 10_000 + call) for call in range(load.calls)]
        np.concatenate(whole).tofile(folder / "plan")
        config = {
            "url": load.url.rstrip("/"),
            "path": load.path,
            "calls": load.calls,
            "durationMs": total * 1e3,
            "rampMs": load.ramp_ms,
            "bind": load.bind,
            "allow": [load.bind, "127.0.0.1" if host == "localhost" else host],
            "speech": str(folder / "speech"),
            "probe": str(folder / "probe"),
            "probes": min(load.probes, load.calls),
            "plan": str(folder / "plan"),
            "out": str(folder / "out"),
        }
        (folder / "config").write_text(json.dumps(config))
        begin_ms = settle * 1e3
        done, usage = _run_client(client, folder, load, settle)
        arrivals = np.fromfile(folder / "out.log", ARRIVAL)
        sent = np.fromfile(folder / "out.sent", SENT)
        payloads = read_payloads((folder / "out.payload").read_bytes())
    return _report(load, done, usage, arrivals, sent, probe, payloads, begin_ms)


def _run_client(client: Path, folder: Path, load: LoadPlan, settle: float) -> tuple[dict[str, Any], dict[str, Any]]:
    command = ["node", str(client / "client.mjs"), str(folder / "config")]
    if load.client_cpu is not None and shutil.which("taskset"):
        command = ["taskset", "-c", str(load.client_cpu), *command]
    server = [psutil.Process(pid) for pid in load.pids]
    rss_before = _rss_mb(server)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # "started"
            time.sleep(settle)
            cpu_begin, clock_begin = _cpu_seconds(server), time.monotonic()
            memory = _watch_memory(server, load.seconds)
            cpu_end, clock_end = _cpu_seconds(server), time.monotonic()
            out, err = process.communicate(timeout=load.seconds + 60)
        except BaseException:  # interrupted or failed: the client must not outlive us
            process.kill()
            raise
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        said = err.strip().splitlines()
        raise LoadTestError(f"The client ended without a result: {said[-1] if said else process.returncode}")
    seconds = clock_end - clock_begin
    rss_end = memory[-1][1]
    usage = {
        "cpu_share": (cpu_end - cpu_begin) / seconds if server else float("nan"),
        "cpu_ms_per_call_second": (cpu_end - cpu_begin) * 1e3 / seconds / load.calls if server else float("nan"),
        "rss_mb": rss_end if server else float("nan"),
        "rss_mb_start": memory[0][1] if server else float("nan"),
        "rss_mb_per_call": (rss_end - rss_before) / load.calls if server else float("nan"),
        "rss_mb_per_hour": growth_per_hour(memory) if server and seconds >= MIN_GROWTH_SECONDS else None,
    }
    return json.loads(lines[-1]), usage


def _watch_memory(processes: Sequence[psutil.Process], seconds: float) -> list[tuple[float, float]]:
    """Wait that long; (seconds since the begin, MB) every few seconds, at the begin and at the end."""
    begin = time.monotonic()
    samples = [(0.0, _rss_mb(processes))]
    while (left := begin + seconds - time.monotonic()) > 0:
        time.sleep(min(left, MEMORY_EVERY_SECONDS))
        samples.append((time.monotonic() - begin, _rss_mb(processes)))
    return samples


def _rss_mb(processes: Sequence[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes)) / 2**20


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def _report(
    load: LoadPlan,
    done: dict[str, Any],
    usage: dict[str, Any],
    arrivals: np.ndarray,
    sent: np.ndarray,
    probe: Sequence[bytes],
    payloads: Sequence[Any],
    begin_ms: float,
) -> dict[str, Any]:
    calls = done["calls"]
    failures = [call["error"] for call in calls if call["error"]]
    if len(failures) == len(calls):
        hint = ""
        if "not_enabled" in failures[0] or "404" in failures[0]:
            hint = " Start the server with server.echo_test = true."
        raise LoadTestError(f"No call could be made: {failures[0]}.{hint}")
    end_ms = begin_ms + load.seconds * 1e3 - 50.0
    returned = audio(arrivals, range(load.calls), begin_ms, end_ms)
    found = [echo for echo in echoes(sent, probe, payloads) if begin_ms <= echo.sent_at < end_ms - 900]
    half = (begin_ms + end_ms) / 2
    early = [echo.delay_ms for echo in found if echo.sent_at < half]
    late = [echo.delay_ms for echo in found if echo.sent_at >= half]
    setup = [call["firstMedia"] - call["offered"] for call in calls if call["firstMedia"] is not None]
    impaired_until = load.impairment.until_seconds
    recovered = None
    if impaired_until is not None:
        after = [e.delay_ms for e in found if e.sent_at >= begin_ms + 0 and e.sent_at >= (impaired_until + 5) * 1e3]
        recovered = percentiles(after)
    return {
        "calls": load.calls,
        "connected": len(setup),
        "failures": failures[:3],
        "seconds": load.seconds,
        "delivered": returned.delivered if load.expects_audio else None,
        "gap_ms": dict(returned.gap_ms) if load.expects_audio else {},
        "long_gaps": returned.long_gaps if load.expects_audio else None,
        "lost": returned.lost,
        "clock_error_ms": clock_error_ms(arrivals, range(load.calls), begin_ms, end_ms),
        "echo_ms": percentiles([echo.delay_ms for echo in found]),
        "echoes": len(found),
        "echo_growth_ms": float(np.median(late) - np.median(early)) if early and late else None,
        "echo_after_impairment_ms": recovered,
        "setup_ms": percentiles(setup),
        "server": usage,
        "client_late_max_ms": done["lateMaxMs"],
        "client_late_share": done["lateShare"],
        "client_cpu_seconds": done["cpuSeconds"],
    }
