"""How the codecs sound, and what the recogniser makes of a voice that lost packets, with plain aiortc beside it.

    python -m benchmarks.audio_quality               both tables, 20 passes over the recordings
    python -m benchmarks.audio_quality --quick       fewer recordings and passes
    python -m benchmarks.audio_quality --json FILE   and everything as JSON

Sound: Zimtohrli's opinion score, 1 to 5, of recordings of `tests/data/speech` after encoder and decoder against the
recording itself, both at 48 kHz; CPU per 20 ms frame beside it. Recognition: the recordings with a transcript, as Opus
packets through seeded losses on virtual time, into our receiver and into aiortc's jitter buffer and decoder; then
Moonshine, as the cascade calls it. Word error rates are pooled over all passes; each pass moves the frame grid, for all
links alike, because the recogniser is sensitive to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
from aiortc.codecs.opus import OpusDecoder as AiortcDecoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcrtpreceiver import TimestampMapper
from aiortc.rtp import RtpPacket
from av import AudioFrame, AudioResampler
from av.audio.codeccontext import AudioCodecContext
from av.codec import CodecContext
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, provenance
from benchmarks.support.words import word_errors, words
from model.backends.cascade.asr import Recognizer
from model.interface import INPUT_SAMPLE_RATE, Pcm16
from model.weights import default_models_dir
from rtc_server.audio.resample import StreamResampler
from rtc_server.codecs import opus
from rtc_server.codecs.base import AudioDecoder, AudioEncoder, PayloadFormat
from rtc_server.codecs.factory import create_decoder
from rtc_server.codecs.libopus import version as libopus_version
from rtc_server.codecs.narrowband import SAMPLE_RATES, NarrowbandDecoder, NarrowbandEncoder
from rtc_server.codecs.opus import OpusDecoder, OpusEncoder, OpusMode, OpusOptions
from rtc_server.loadtest.impairment import Impairment, plan
from rtc_server.loadtest.speech import encode, read_wav
from rtc_server.rtp.receiver import MAX_WAIT_SECONDS, AudioReceiver, ReceiverStatistics

SPEECH = ROOT / "tests/data/speech"
FRAME = INPUT_SAMPLE_RATE // 50
FRAME_SECONDS = 0.02
SCORE_RATE = 48_000  # Zimtohrli takes no other
MAX_DELAY = FRAME * 3 // 2  # samples that a codec may hold back: SILK 6.5 ms, with a resampler around it 8
SETTLING_REPORTS = 12  # of the peer's loss, until the encoder's average has come within 2 % of it
LEAD_SECONDS, TAIL_SECONDS = 0.5, 1.0  # of silence: a beginning to lose, and packets that push the last word out
OPUS_FORMAT = PayloadFormat(111, "opus", 48_000, 2)
RESAMPLES = 2_000  # of the bootstrap

Repair = Literal["zero", "conceal", "fec"]
Sender = Callable[[Pcm16, float], list[bytes]]
"""(16 kHz PCM, share lost that the encoder was told of) -> 20 ms Opus packets."""


# --- sound


def resample(pcm: Pcm16, in_rate: int, out_rate: int) -> Pcm16:
    """All of int16 mono `pcm`, at another rate."""
    resampler = StreamResampler(in_rate, out_rate)
    return np.concatenate([resampler.resample(pcm), resampler.flush()])


def packets(pcm: Pcm16, encoder: AudioEncoder) -> list[bytes]:
    """`pcm` at 16 kHz as 20 ms packets, with two frames of silence that push out what the encoder holds back."""
    size = encoder.frame_samples
    whole = np.concatenate([resample(pcm, INPUT_SAMPLE_RATE, encoder.sample_rate), np.zeros(3 * size, np.int16)])
    payloads = [encoder.encode(whole[start : start + size]) for start in range(0, len(whole) - size + 1, size)]
    encoder.close()
    return payloads


def opus_encoder(
    mode: OpusMode, bitrate: int, *, sample_rate: int = 24_000, complexity: int | None = None, told: float = 0.0
) -> OpusEncoder:
    """An encoder of the server's; `told` is the share that the peer reports lost, `complexity` in place of ours."""
    with patch.dict(opus.COMPLEXITY, {} if complexity is None else dict.fromkeys(opus.COMPLEXITY, complexity)):
        encoder = OpusEncoder(OpusOptions(sample_rate, mode, bitrate))
    for _ in range(SETTLING_REPORTS if told else 0):
        encoder.report_loss(told)
    return encoder


def decode(
    payloads: Sequence[bytes], decoder: AudioDecoder, lost: Iterable[int] = (), repair: Repair = "zero"
) -> Pcm16:
    """int16 mono 16 kHz; the packets in `lost` are missing, "fec" conceals where there is nothing to recover from."""
    missing = set(lost)
    pieces = []
    for number, payload in enumerate(payloads):
        if number not in missing:
            pieces.append(decoder.decode(payload))
            continue
        recovered = None
        if repair == "fec" and number + 1 < len(payloads) and number + 1 not in missing:
            recovered = decoder.recover(payloads[number + 1], FRAME)
        if recovered is None:
            recovered = np.zeros(FRAME, np.int16) if repair == "zero" else decoder.conceal(FRAME)
        pieces.append(recovered)
    decoder.close()
    return np.concatenate(pieces)


def lost_packets(count: int, share: float, seed: int) -> list[int]:
    """Numbers of the packets that independent losses take."""
    return np.flatnonzero(np.isnan(plan(count, Impairment(loss=share), seed)[:, 0])).tolist()


def delay_samples(reference: Pcm16, heard: Pcm16) -> int:
    """By how much `heard` is late: where the two correlate best."""
    ours, theirs = reference.astype(np.float64), heard.astype(np.float64)
    count = min(len(ours), len(theirs) - MAX_DELAY)
    products = [float(ours[:count] @ theirs[lag : lag + count]) for lag in range(MAX_DELAY)]
    return int(np.argmax(products))


def opinion(reference: Pcm16, heard: Pcm16) -> float:
    """Zimtohrli's score of `heard` against `reference` (int16 mono 16 kHz): 1 bad to 5 not to be told apart."""
    from zimtohrli import mos_from_signals  # here: there are no wheels for ARM, where recognition is still tested

    delay = delay_samples(reference, heard)
    heard = heard[delay : delay + len(reference)]
    full = [
        resample(pcm, INPUT_SAMPLE_RATE, SCORE_RATE).astype(np.float32) / 32_768
        for pcm in (reference[: len(heard)], heard)
    ]
    return float(mos_from_signals(*full))


@dataclass(frozen=True, slots=True)
class Coding:
    """One way to code a voice."""

    name: str
    make_encoder: Callable[[], AudioEncoder]
    make_decoder: Callable[[], AudioDecoder] = OpusDecoder
    band_rate: int = INPUT_SAMPLE_RATE
    """What is spoken and what is heard are compared at this rate: against a band that the codec does not have every
    telephone scores 2, and noise in that band counts for or against it."""

    def score(self, pcm: Pcm16, heard: Pcm16) -> float:
        """`opinion` of what was heard of `pcm`, in the codec's own band."""
        spoken, heard = (
            resample(resample(each, INPUT_SAMPLE_RATE, self.band_rate), self.band_rate, INPUT_SAMPLE_RATE)
            for each in (pcm, heard)
        )
        return opinion(spoken, heard)


def opus_coding(
    mode: OpusMode, bitrate: int, complexity: int | None = None, sample_rate: int = 24_000, told: float = 0.0
) -> Coding:
    """Named after its parameters."""
    used = opus.COMPLEXITY[mode] if complexity is None else complexity
    name = f"{mode.upper()} {bitrate // 1_000} kb/s, complexity {used}, {sample_rate // 1_000} kHz"
    return Coding(
        name + (f", told {told:.0%} lost" if told else ""),
        lambda: opus_encoder(mode, bitrate, sample_rate=sample_rate, complexity=complexity, told=told),
    )


def telephone_coding(name: str) -> Coding:
    """ "PCMU", "PCMA" or "G722"."""
    return Coding(name, lambda: NarrowbandEncoder(name), lambda: NarrowbandDecoder(name), SAMPLE_RATES[name])


CODINGS = (
    opus_coding("celt", 64_000),
    opus_coding("celt", 48_000),
    opus_coding("celt", 48_000, 5),
    opus_coding("celt", 48_000, sample_rate=16_000),
    opus_coding("celt", 48_000, sample_rate=48_000),
    opus_coding("celt", 32_000),
    opus_coding("celt", 24_000),
    opus_coding("silk", 24_000, 10),
    opus_coding("silk", 24_000),
    opus_coding("silk", 24_000, 0),
    opus_coding("silk", 24_000, told=0.1),
    opus_coding("silk", 16_000),
    telephone_coding("G722"),
    telephone_coding("PCMU"),
    telephone_coding("PCMA"),
)
LOSSY_CODINGS = (
    opus_coding("celt", 48_000),
    opus_coding("silk", 24_000, told=0.05),
    opus_coding("silk", 24_000, told=0.1),
    telephone_coding("G722"),
    telephone_coding("PCMU"),
)


def sound(coding: Coding, recordings: Sequence[Pcm16]) -> dict[str, float]:
    """Mean and lowest score, the bit rate, and CPU in microseconds per frame of 20 ms."""
    scores, frames, size, encode_seconds, decode_seconds = [], 0, 0, 0.0, 0.0
    for pcm in recordings:
        encoder = coding.make_encoder()
        begun = time.process_time()
        payloads = packets(pcm, encoder)
        encode_seconds += time.process_time() - begun
        begun = time.process_time()
        resample(pcm, INPUT_SAMPLE_RATE, encoder.sample_rate)
        encode_seconds -= time.process_time() - begun
        begun = time.process_time()
        heard = decode(payloads, coding.make_decoder())
        decode_seconds += time.process_time() - begun
        scores.append(coding.score(pcm, heard))
        frames += len(payloads)
        size += sum(map(len, payloads))
    return {
        "score": float(np.mean(scores)),
        "lowest": min(scores),
        "kbps": size * 8 / (frames * FRAME_SECONDS) / 1e3,
        "encode_us": encode_seconds * 1e6 / frames,
        "decode_us": decode_seconds * 1e6 / frames,
    }


def sound_under_loss(
    coding: Coding, recordings: Sequence[Pcm16], share: float, seeds: Sequence[int]
) -> dict[Repair, float]:
    """Mean score for each way to fill the holes."""
    scores: dict[Repair, list[float]] = {"zero": [], "conceal": [], "fec": []}
    for pcm in recordings:
        payloads = packets(pcm, coding.make_encoder())
        for seed in seeds:
            lost = lost_packets(len(payloads), share, seed)
            for repair, values in scores.items():
                values.append(coding.score(pcm, decode(payloads, coding.make_decoder(), lost, repair)))
    return {repair: float(np.mean(values)) for repair, values in scores.items()}


# --- recognition


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording and its words."""

    name: str
    pcm: Pcm16
    text: str


def utterances() -> list[Utterance]:
    """Every recording of `tests/data/speech` with a transcript."""
    questions = (SPEECH / "questions.txt").read_text(encoding="utf-8").splitlines()
    found = []
    for path in sorted(SPEECH.glob("*.wav")):
        own = path.with_suffix(".txt")
        text = own.read_text(encoding="utf-8") if own.exists() else questions[int(path.stem[1])]
        found.append(Utterance(path.stem, read_wav(path), text.strip()))
    return found


def with_silence(pcm: Pcm16, seed: int) -> Pcm16:
    """Silence before and after; `seed` decides where the 20 ms frames fall."""
    lead = int(LEAD_SECONDS * INPUT_SAMPLE_RATE) + int(np.random.default_rng(seed).integers(FRAME))
    tail = int(TAIL_SECONDS * INPUT_SAMPLE_RATE)
    return np.concatenate([np.zeros(lead, np.int16), pcm, np.zeros(tail, np.int16)])


def load_test_sender(pcm: Pcm16, told: float) -> list[bytes]:
    """The load test's voice: SILK, 24 kb/s at 16 kHz, no redundancy, whatever is lost."""
    return encode(pcm)


def browser_sender(pcm: Pcm16, told: float) -> list[bytes]:
    """As Chromium sends a microphone: 48 kHz mono, 32 kb/s, in-band FEC as much as the reported loss asks for."""
    context = CodecContext.create("libopus", "w")
    assert isinstance(context, AudioCodecContext)
    context.sample_rate = 48_000
    context.layout = "mono"
    context.format = "s16"
    context.bit_rate = 32_000
    context.time_base = Fraction(1, 48_000)
    context.options = {
        "application": "voip",
        "compression_level": "9",
        "fec": "1",
        "packet_loss": str(round(told * 100)),
    }
    whole = resample(pcm, INPUT_SAMPLE_RATE, 48_000)
    payloads = []
    for start in range(0, len(whole) - 959, 960):
        frame = AudioFrame.from_ndarray(whole[None, start : start + 960], format="s16", layout="mono")
        frame.sample_rate = 48_000
        frame.pts = start
        payloads += [bytes(packet) for packet in context.encode(frame)]
    return payloads


SENDERS: dict[str, Sender] = {"load test": load_test_sender, "browser": browser_sender}
BURST = 3  # packets, on average
LINKS = {
    "clean": Impairment(),
    "1 % lost": Impairment(loss=0.01),
    "5 % lost": Impairment(loss=0.05),
    "5 % in bursts": Impairment(loss=0.05, burst=BURST),
    "5 % in bursts, 0-40 ms jitter": Impairment(loss=0.05, burst=BURST, jitter_ms=40),
}


def arrivals(count: int, link: Impairment, seed: int) -> list[tuple[float, int]]:
    """(seconds, number) of each packet that arrives, in the order of arrival."""
    delays = plan(count, link, seed).astype(np.float64) / 1e3
    sent = np.arange(count) * FRAME_SECONDS
    order = [(float(sent[n] + delay), n) for n in range(count) for delay in delays[n] if not np.isnan(delay)]
    return sorted(order)


def rtp(number: int, payload: bytes) -> RtpPacket:
    """Packet `number` of an Opus stream."""
    packet = RtpPacket(payload_type=111, sequence_number=1_000 + number, timestamp=number * 960, ssrc=7)
    packet.payload = payload
    return packet


def hear(payloads: Sequence[bytes], arriving: Sequence[tuple[float, int]]) -> tuple[Pcm16, ReceiverStatistics]:
    """What our receiver gives the call, int16 mono 16 kHz."""
    pieces: list[Pcm16] = []
    decoders: list[AudioDecoder] = []

    def make_decoder(payload_format: PayloadFormat) -> AudioDecoder:
        decoders.append(create_decoder(payload_format))
        return decoders[-1]

    receiver = AudioReceiver([OPUS_FORMAT], make_decoder, lambda pcm, delay_ms: pieces.append(pcm))

    def wait_until(now: float) -> None:
        while (deadline := receiver.next_deadline()) is not None and deadline <= now:
            receiver.handle_deadline(deadline)

    for now, number in arriving:
        wait_until(now)
        receiver.receive(rtp(number, payloads[number]).serialize(), now)
    wait_until(now + MAX_WAIT_SECONDS)  # for what is held behind a hole
    for decoder in decoders:
        decoder.close()
    return np.concatenate(pieces), receiver.statistics


def hear_with_aiortc(payloads: Sequence[bytes], arriving: Iterable[tuple[float, int]]) -> Pcm16:
    """What a track of plain aiortc gives its application, joined, at 16 kHz: `RTCRtpReceiver` without its network,
    thread and queue."""
    buffer = JitterBuffer(capacity=16, prefetch=4)
    mapper = TimestampMapper()
    decoder = AiortcDecoder()
    resampler = AudioResampler(format="s16", layout="mono", rate=INPUT_SAMPLE_RATE)
    pieces = []
    for _, number in arriving:
        packet = rtp(number, payloads[number])
        packet._data = packet.payload  # type: ignore[attr-defined] # as the receiver does
        _, encoded = buffer.add(packet)
        if encoded is None:
            continue
        encoded.timestamp = mapper.map(encoded.timestamp)
        for frame in decoder.decode(encoded):
            assert isinstance(frame, AudioFrame)
            pieces += [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
    pieces += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.int16)


@dataclass(slots=True)
class Recognised:
    """What was made of one link by one receiver; utterances in the same order for every link."""

    errors: list[int] = field(default_factory=list)
    num_words: list[int] = field(default_factory=list)
    samples: int = 0
    """Heard, of `sent_samples`."""
    sent_samples: int = 0
    decoded: int = 0
    recovered: int = 0
    concealed: int = 0
    filled: int = 0
    skipped: int = 0
    late: int = 0

    @property
    def rate(self) -> float:
        """Word error rate, pooled."""
        return sum(self.errors) / sum(self.num_words)

    def add(self, text: str, heard: str, samples: int, sent_samples: int) -> None:
        self.errors.append(word_errors(text, heard))
        self.num_words.append(len(words(text)))
        self.samples += samples
        self.sent_samples += sent_samples

    def add_statistics(self, statistics: ReceiverStatistics) -> None:
        self.decoded += statistics.decoded_samples
        self.recovered += statistics.recovered_samples
        self.concealed += statistics.concealed_samples
        self.filled += statistics.filled_samples
        self.skipped += statistics.skipped_samples
        self.late += statistics.late

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "word_error_rate": self.rate}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One link, both receivers."""

    ours: Recognised
    aiortc: Recognised


def recognise(
    recognizer: Recognizer,
    spoken: Sequence[Utterance],
    sender: Sender,
    links: Mapping[str, Impairment],
    seeds: Sequence[int],
) -> dict[str, Comparison]:
    """Every utterance through every link and both receivers, once per seed."""
    results = {name: Comparison(Recognised(), Recognised()) for name in links}
    for seed in seeds:
        for number, utterance in enumerate(spoken):
            pcm = with_silence(utterance.pcm, seed)
            coded = {told: sender(pcm, told) for told in {link.loss for link in links.values()}}
            for name, link in links.items():
                payloads = coded[link.loss]
                arriving = arrivals(len(payloads), link, 1_000 * seed + number)
                sent = len(payloads) * FRAME
                result = results[name]
                heard, statistics = hear(payloads, arriving)
                result.ours.add(utterance.text, _text(recognizer, heard), len(heard), sent)
                result.ours.add_statistics(statistics)
                heard = hear_with_aiortc(payloads, arriving)
                result.aiortc.add(utterance.text, _text(recognizer, heard), len(heard), sent)
    return results


def _text(recognizer: Recognizer, pcm: Pcm16) -> str:
    return recognizer.recognize(pcm, lambda: False) or ""  # it cuts the silence around the speech itself


def difference(lossy: Recognised, clean: Recognised) -> tuple[float, float, float]:
    """By how many points the word error rate is higher, and its 95 % interval: a bootstrap over utterances."""
    extra = np.array(lossy.errors) - np.array(clean.errors)
    num_words = np.array(clean.num_words)
    drawn = np.random.default_rng(0).integers(len(extra), size=(RESAMPLES, len(extra)))
    points: NDArray[np.float64] = 100 * extra[drawn].sum(axis=1) / num_words[drawn].sum(axis=1)
    low, high = np.percentile(points, (2.5, 97.5))
    return 100 * float(extra.sum()) / float(num_words.sum()), float(low), float(high)


# --- tables


def print_sound(console: Console, rows: Mapping[str, Mapping[str, float]], num_recordings: int) -> None:
    table = Table(title=f"Sound, {num_recordings} recordings: Zimtohrli's score, 1 to 5; CPU per 20 ms frame")
    for name in ("coding", "mean", "lowest", "kb/s", "encode us", "decode us"):
        table.add_column(name, justify="left" if name == "coding" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['score']:.3f}",
            f"{row['lowest']:.3f}",
            *(f"{row[key]:.0f}" for key in ("kbps", "encode_us", "decode_us")),
        )
    console.print(table)


def print_sound_under_loss(console: Console, rows: Mapping[str, Mapping[Repair, float]]) -> None:
    table = Table(title="The same with 5 % lost, independently; holes filled with")
    for name in ("coding", "zeros", "concealment", "in-band FEC, else concealment"):
        table.add_column(name, justify="left" if name == "coding" else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[repair]:.3f}" for repair in ("zero", "conceal", "fec")))
    console.print(table)


def print_recognition(console: Console, sender: str, results: Mapping[str, Comparison]) -> None:
    clean = results["clean"]
    table = Table(title=f"Word error rate, sender: {sender}; {sum(clean.ours.num_words)} words")
    for name in ("link", "ours", "points over clean (95 %)", "decoded / recovered / concealed / filled", "aiortc"):
        table.add_column(name, justify="left" if name == "link" else "right")
    table.add_column("points over its clean", justify="right")
    table.add_column("samples", justify="right")
    for name, result in results.items():
        ours, aiortc = result.ours, result.aiortc
        points, low, high = difference(ours, clean.ours)
        theirs, *_ = difference(aiortc, clean.aiortc)
        shares = (ours.decoded, ours.recovered, ours.concealed, ours.filled)
        table.add_row(
            name,
            f"{ours.rate:.1%}",
            f"{points:+.1f} ({low:+.1f} to {high:+.1f})",
            " / ".join(f"{share / ours.sent_samples:.2%}" for share in shares),
            f"{aiortc.rate:.1%}",
            f"{theirs:+.1f}",
            f"{aiortc.samples / aiortc.sent_samples:.1%}",
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four recordings for the sound, three passes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console(width=150)
    spoken = utterances()
    result: dict[str, object] = {
        "provenance": provenance() | {"libopus": libopus_version(), "zimtohrli": metadata.version("zimtohrli")},
        "utterances": [utterance.name for utterance in spoken],
    }
    heard = [utterance.pcm for utterance in (spoken[::3] if arguments.quick else spoken)]
    sounds = {coding.name: sound(coding, heard) for coding in CODINGS}
    print_sound(console, sounds, len(heard))
    seeds = range(1) if arguments.quick else range(5)
    lossy = {coding.name: sound_under_loss(coding, heard, 0.05, seeds) for coding in LOSSY_CODINGS}
    print_sound_under_loss(console, lossy)
    result |= {"sound": sounds, "sound_at_5_percent_lost": lossy}
    recognizer = Recognizer(default_models_dir())
    recognition = {}
    for name, sender in SENDERS.items():
        results = recognise(recognizer, spoken, sender, LINKS, range(3 if arguments.quick else 20))
        print_recognition(console, name, results)
        recognition[name] = {
            link: {"ours": each.ours.to_json(), "aiortc": each.aiortc.to_json()} for link, each in results.items()
        }
    result["recognition"] = recognition
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
