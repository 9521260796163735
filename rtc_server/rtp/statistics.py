"""What a receiver report says about one source (RFC 3550 section 6.4.1 and appendices A.3 and A.8)."""

from __future__ import annotations

MAX_LOST = 0x7FFFFF  # 24 bits, signed


class ReceptionStatistics:
    """Fed with every packet of a source; read by aiortc's receiver reports under the names that it uses."""

    __slots__ = (
        "_arrival",
        "_base",
        "_clock_rate",
        "_expected_before",
        "_highest",
        "_jitter_q4",
        "_received_before",
        "_timestamp",
        "packets_received",
    )

    def __init__(self, clock_rate: int, sequence: int) -> None:
        """`sequence`: the extended sequence number of the first packet."""
        self._clock_rate = clock_rate
        self._base = sequence
        self._highest = sequence - 1
        self._arrival = 0
        self._timestamp: int | None = None
        self._jitter_q4 = 0
        self._expected_before = 0
        self._received_before = 0
        self.packets_received = 0

    def add(self, sequence: int, timestamp: int, now: float) -> None:
        """A packet with extended `sequence`, duplicates included, arrived at `now` (monotonic seconds)."""
        self.packets_received += 1
        if sequence <= self._highest:
            return
        in_order = sequence == self._highest + 1
        self._highest = sequence
        arrival = int(now * self._clock_rate)
        if self._timestamp is not None and timestamp != self._timestamp and in_order:
            transit = (arrival - self._arrival) - (
                ((timestamp - self._timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            )
            difference = abs(transit)
            if difference < self._clock_rate:  # a clock that jumped is not jitter
                self._jitter_q4 += difference - ((self._jitter_q4 + 8) >> 4)
        self._arrival = arrival
        self._timestamp = timestamp

    @property
    def jitter(self) -> int:
        """Interarrival jitter in timestamp ticks."""
        return self._jitter_q4 >> 4

    @property
    def jitter_ms(self) -> float:
        return self._jitter_q4 * 62.5 / self._clock_rate

    @property
    def max_seq(self) -> int:
        """Extended highest sequence number received, 32 bits."""
        return self._highest & 0xFFFFFFFF

    @property
    def packets_expected(self) -> int:
        return self._highest - self._base + 1

    @property
    def packets_lost(self) -> int:
        """Cumulative, negative when there were more duplicates than losses."""
        return max(-MAX_LOST - 1, min(MAX_LOST, self.packets_expected - self.packets_received))

    @property
    def fraction_lost(self) -> int:
        """Share lost since this was read last, in 1/256. Reading it begins the next interval."""
        expected = self.packets_expected - self._expected_before
        received = self.packets_received - self._received_before
        self._expected_before += expected
        self._received_before += received
        lost = expected - received
        return 0 if expected <= 0 or lost <= 0 else min(255, (lost << 8) // expected)
