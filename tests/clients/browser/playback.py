"""What Chromium received and played, beside what the events say about it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.clients.dialogue import Report, events_of

FRAME_MS = 20.0
RTP_TICKS_PER_MS = 48
SOUND = 2e-4  # -74 dBFS: a pause between two words is louder, what the codec has left over after a reply is not
AUDIBLE = 0.004
TOLERANCE_MS = 60.0
STAMP_MS = 20.0  # an event and a packet that leave together are noted at different moments
BLOCK_MS = 256 / 48  # in which played sound is measured


def sent_packets(report: Report) -> Iterator[tuple[float, float]]:
    """When each packet was sent, on the page's clock, and how loud it is.

    By its RTP timestamp, which the server counts in real time, from those packets that took no longer than they had to:
    on a busy machine the page may see a packet much later than it came."""
    packets = report["packets"]
    times = [((packet["rtp"] - packets[0]["rtp"]) & 0xFFFFFFFF) / RTP_TICKS_PER_MS for packet in packets]
    offset = min(packet["at"] - time for packet, time in zip(packets, times, strict=True))
    for packet, time in zip(packets, times, strict=True):
        yield time + offset, packet["rms"]


def assert_nothing_after_cleared(report: Report, response_id: str) -> None:
    """No sound is sent between `output_audio_buffer.cleared` and the next reply."""
    (cleared,) = events_of(report, "output_audio_buffer.cleared", response_id=response_id)
    begins = [event["at"] for event in events_of(report, "output_audio_buffer.started")]
    until = min([at for at in begins if at > cleared["at"]], default=float("inf"))
    late = [
        round(at - cleared["at"])
        for at, rms in sent_packets(report)
        if cleared["at"] + STAMP_MS < at < until - 2 * STAMP_MS and rms > AUDIBLE
    ]
    assert not late, f"packets with sound were sent {late} ms after the reply was cleared"


def assert_truncated_where_it_stopped(report: Report, response_id: str) -> None:
    """`audio_end_ms` is what has arrived of the reply, and what was played of it."""
    (started,) = events_of(report, "output_audio_buffer.started", response_id=response_id)
    (cleared,) = events_of(report, "output_audio_buffer.cleared", response_id=response_id)
    (item,) = events_of(report, "response.output_item.added", response_id=response_id)
    (cut,) = events_of(report, "conversation.item.truncated", item_id=item["item_id"])
    end_ms = cut["audio_end_ms"]

    begin, end = started["at"] - 2 * STAMP_MS, cleared["at"] + STAMP_MS
    arrived = [at for at, rms in sent_packets(report) if begin < at < end and rms > SOUND]
    arrived_ms = arrived[-1] - arrived[0] + FRAME_MS
    assert abs(arrived_ms - end_ms) <= TOLERANCE_MS, f"{arrived_ms} ms arrived, the server says {end_ms}"

    # The loudspeaker is behind by the jitter buffer, up to some 300 ms on a busy machine; it also stretches the sound.
    played = [at for at, rms in report["played"] if started["at"] < at < end + 500 and rms > SOUND]
    played_ms = played[-1] - played[0] + BLOCK_MS - (stretched_ms(report, played[-1]) - stretched_ms(report, begin))
    assert abs(played_ms - end_ms) <= TOLERANCE_MS, f"{played_ms} ms were played, the server says {end_ms}"


def stretched_ms(report: Report, until: float) -> float:
    """How much longer than what has arrived the sound was until then."""
    return float(next((ms for at, ms in reversed(report["stretches"]) if at <= until), 0.0))
