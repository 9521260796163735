"""One reply in the engine: its phases, where its sound is cut, when it stops for credit, and when it is due."""

from __future__ import annotations

import random
from math import inf

import pytest

from model.decoder.chunks import ChunkPlan
from model.engine.sequence import AHEAD_MS, FIRST_SOUND_SECONDS, Cut, Sequence, SoundShape
from model.opens2s.config import Interleaving
from model.opens2s.interleave import ReplyOrder

UNIT_MS = 80.0
HELD_MS = 60.0
SHAPE = SoundShape(ChunkPlan(), UNIT_MS, HELD_MS)
BLOCK = SHAPE.plan.block_units
TEXT, END_OF_TEXT = 5, 1
UNIT, END_OF_SPEECH = 7, 2
NOW = 100.0


def sequence(max_text: int = 100, max_units: int = 300, **fields: object) -> Sequence:
    """One text token, two units, and so on."""
    has_speech = bool(fields.get("has_speech", True))
    order = ReplyOrder(
        Interleaving(1, 2),
        max_text=max_text,
        max_units=max_units,
        text_ends=frozenset({END_OF_TEXT}),
        unit_ends=frozenset({END_OF_SPEECH}),
        has_speech=has_speech,
    )
    given = {"arrival": NOW, "num_prompt": 40, "max_units": max_units, "credit_ms": 100_000.0} | fields
    return Sequence("one", order, SHAPE, **given)


def generating(**fields: object) -> Sequence:
    made = sequence(**fields)
    made.start(0)
    made.text.num_tokens = made.num_prompt
    made.phase = "generate"
    return made


def go_on(one: Sequence, is_end: bool = False) -> None:
    """The next token; `is_end`: it ends its kind."""
    if one.order.next == "text":
        one.add_text(END_OF_TEXT if is_end else TEXT)
    else:
        one.add_unit(END_OF_SPEECH if is_end else UNIT, is_sound=not is_end)


def decode(one: Sequence, now: float = NOW) -> Cut:
    """The next piece of sound, as long as it will be: the end of a piece is kept back until the next one."""
    assert one.wants_sound
    cut = one.cuts.popleft()
    one.is_decoding = True
    assert not one.wants_sound, "one piece at a time"
    held = HELD_MS if one.produced_ms == 0 else 0.0
    ms = len(cut.units) * UNIT_MS - held + (HELD_MS if cut.is_final else 0.0)
    one.add_sound(ms, cut.is_final, now)
    return cut


# --- phases


def test_a_reply_without_audio_is_read_made_and_over_once_its_sound_is() -> None:
    one = sequence(max_text=1, max_units=3)
    assert one.phase == "queued"
    one.start(num_cached=16)
    assert (one.phase, one.num_cached) == ("read", 16)
    one.text.num_tokens = 16
    assert one.num_unread == 24
    one.phase = "generate"
    for _ in range(4):
        assert one.wants_tokens
        go_on(one)
    assert one.phase == "finished"
    assert not one.wants_tokens
    assert not one.is_over
    assert decode(one) == Cut((UNIT,) * 3, is_final=True)
    assert one.is_over


def test_a_text_reply_has_no_sound_and_needs_no_credit() -> None:
    one = generating(max_text=3, has_speech=False, credit_ms=0.0)
    for _ in range(3):
        assert one.wants_tokens
        go_on(one)
    assert one.is_over
    assert not one.cuts
    assert one.num_bridged == 0
    assert one.most_speech == 0


def test_marks_are_tokens_but_no_sound() -> None:
    one = generating(max_text=2, max_units=50)
    go_on(one)
    go_on(one)
    go_on(one, is_end=True)  # of this group
    assert one.last_unit == END_OF_SPEECH
    go_on(one)
    go_on(one)
    go_on(one, is_end=True)
    assert one.phase == "finished"
    assert [len(cut.units) for cut in one.cuts] == [2]


def test_a_reply_that_says_nothing_ends_with_an_empty_piece() -> None:
    one = generating(max_text=1, max_units=5)
    go_on(one)
    go_on(one, is_end=True)
    assert decode(one) == Cut((), is_final=True)
    assert one.is_over


def test_states_of_the_text_model_wait_until_they_are_read() -> None:
    one = generating()
    assert (one.num_bridged, one.last_unit) == (0, None)
    go_on(one)
    assert one.num_bridged == 1
    assert one.last_text == TEXT


@pytest.mark.parametrize(("fields", "text", "speech"), [({}, 140, 401), ({"keeps_nothing": True}, 40, 0)])
def test_the_worst_case_is_known_from_the_start(fields: dict[str, object], text: int, speech: int) -> None:
    one = sequence(**fields)
    assert (one.most_text, one.most_speech) == (text, speech)


@pytest.mark.parametrize("seed", range(20))
def test_no_reply_outgrows_its_worst_case(seed: int) -> None:
    numbers = random.Random(seed)
    one = generating(max_text=numbers.randrange(1, 12), max_units=numbers.randrange(1, 30))
    text, speech = one.num_prompt, 0
    most = one.most_text, one.most_speech
    while one.phase == "generate":
        kind, bridged = one.order.next, one.num_bridged
        go_on(one, is_end=numbers.random() < 0.15)
        if kind == "text":
            text += 1
        else:
            speech += 1 + bridged
            one.num_bridged = 0
        assert text - 1 <= most[0]
        assert speech <= most[1]


# --- hearing


def hear(one: Sequence, windows: list[int]) -> list[int]:
    """Encode what it asks for; `windows`: of each audio. Returns the audios in order."""
    asked, left = [], list(windows)
    while one.phase == "hear":
        asked.append(one.next_audio)
        left[one.next_audio] -= 1
        one.heard_window(is_complete=left[one.next_audio] == 0)
    return asked


def test_audios_are_heard_in_order_window_by_window() -> None:
    one = sequence(windows=[(10, 1), (30, 3), (38, 1)])
    one.start(num_cached=0)
    assert one.phase == "hear"
    assert hear(one, [1, 3, 1]) == [0, 1, 1, 1, 2]
    assert one.phase == "read"


@pytest.mark.parametrize(
    ("cached", "heard"), [(0, [0, 1, 1, 1, 2]), (9, [0, 1, 1, 1, 2]), (10, [1, 1, 1, 2]), (16, [1, 1, 1, 2]), (38, [])]
)
def test_what_is_cached_is_not_heard_again(cached: int, heard: list[int]) -> None:
    one = sequence(windows=[(10, 1), (30, 3), (38, 1)])
    one.start(num_cached=cached)
    assert one.phase == ("hear" if heard else "read")
    assert hear(one, [1, 3, 1]) == heard


def test_an_audio_that_is_known_after_all_is_done_at_once() -> None:
    one = sequence(windows=[(30, 3), (38, 1)])
    one.start(0)
    assert hear(one, [1, 1]) == [0, 1]


def test_an_audio_is_not_read_before_it_is_complete() -> None:
    """Somebody else may have dropped what was encoded of it: then it takes more windows than were counted."""
    one = sequence(windows=[(30, 2), (38, 1)])
    one.start(0)
    assert hear(one, [5, 2]) == [0, 0, 0, 0, 0, 1, 1]


def test_after_it_gave_way_it_begins_again() -> None:
    one = sequence(windows=[(30, 2)])
    one.start(0)
    one.heard_window(is_complete=False)
    one.phase = "queued"
    one.start(num_cached=32)
    assert (one.phase, one.num_cached) == ("read", 32)


# --- where sound is cut


def cuts_of(seed: int, is_decoded_at: float, credit_ms: float = 100_000.0) -> list[Cut]:
    """All pieces of a reply whose tokens are given by `seed`, while its sound is decoded sooner or later."""
    tokens, timing = random.Random(seed), random.Random(is_decoded_at)
    one = generating(max_text=60, max_units=tokens.randrange(1, 160), credit_ms=credit_ms)
    found: list[Cut] = []
    now = NOW
    while one.phase == "generate" or one.cuts:
        now += timing.random()
        if one.wants_sound and (timing.random() < is_decoded_at or not one.wants_tokens):
            found.append(decode(one, now))
        elif one.wants_tokens:
            go_on(one, is_end=tokens.random() < 0.02)
        if not (one.wants_tokens or one.wants_sound):
            one.grant(timing.choice([20.0, 200.0]), now)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_equal_tokens_are_cut_equally_whenever_sound_and_credit_come(seed: int) -> None:
    expected = cuts_of(seed, is_decoded_at=1.0)
    assert [cut.is_final for cut in expected] == [False] * (len(expected) - 1) + [True]
    for is_decoded_at in (0.0, 0.1, 0.5):
        for credit_ms in (0.0, 700.0, 100_000.0):
            assert cuts_of(seed, is_decoded_at, credit_ms) == expected


def test_the_first_piece_is_one_block_and_all_but_the_last_end_where_a_block_ends() -> None:
    one = generating(max_text=100, max_units=180)
    sizes = []
    while one.phase == "generate":
        go_on(one)
        while one.cuts:
            sizes.append(len(decode(one).units))
    assert sizes[0] == BLOCK
    assert all(size % BLOCK == 0 for size in sizes[:-1])
    assert sum(sizes) == 180
    assert max(sizes) > BLOCK, "later pieces grow"


def test_as_many_tokens_are_missing_as_the_next_block_needs() -> None:
    one = generating()
    assert one.units_missing() == BLOCK
    while not one.cuts:
        missing, made = one.units_missing(), one.order.num_units
        go_on(one)
        if one.order.num_units > made and not one.cuts:
            assert one.units_missing() == missing - 1
    assert one.units_missing() == 0


# --- credit


def run(one: Sequence, now: float = NOW) -> None:
    """Tokens and sound until it wants neither."""
    while one.wants_tokens or one.wants_sound:
        if one.wants_sound:
            decode(one, now)
        else:
            go_on(one)


def test_without_credit_the_first_piece_still_becomes_whole() -> None:
    one = generating(credit_ms=0.0)
    run(one)
    assert one.produced_ms == BLOCK * UNIT_MS - HELD_MS
    assert one.phase == "generate"
    assert not one.cuts


def test_it_stops_ahead_of_the_credit_and_goes_on_with_more() -> None:
    one = generating(credit_ms=1_000.0, max_units=200)
    run(one)
    produced = [one.produced_ms]
    for _ in range(4):
        one.grant(500.0, NOW)
        run(one)
        produced.append(one.produced_ms)
    assert produced == sorted(produced)
    assert produced[0] < produced[-1]
    longest = SHAPE.plan.max_units * UNIT_MS
    for number, ms in enumerate(produced):
        credit = 1_000.0 + 500.0 * number
        assert credit + AHEAD_MS < ms <= credit + AHEAD_MS + longest


def test_sound_that_was_cut_waits_for_credit_too() -> None:
    one = generating(credit_ms=0.0, max_text=100, max_units=15)
    while one.phase == "generate":
        go_on(one)  # faster than sound is decoded
    assert len(one.cuts) == 2
    decode(one)
    assert not one.wants_sound, "a second is not played yet"
    one.grant(one.produced_ms - AHEAD_MS, NOW)
    assert one.wants_sound
    assert decode(one).is_final


@pytest.mark.parametrize("step_ms", [1.0, 20.0, 333.0])
def test_a_listener_who_grants_what_he_played_is_served_to_the_end(step_ms: float) -> None:
    one = generating(credit_ms=0.0, max_text=20, max_units=60)
    played = 0.0
    for _ in range(100_000):
        run(one)
        if one.is_over:
            break
        step = min(step_ms, one.produced_ms - played)
        assert step > 0, "nothing to play and nothing wanted: it would stand still for ever"
        played += step
        one.grant(step, NOW)
    assert one.is_over
    assert one.produced_ms == 60 * UNIT_MS


def test_what_is_swapped_out_wants_nothing() -> None:
    one = generating()
    while not one.cuts:
        go_on(one)
    assert one.wants_tokens
    assert one.wants_sound
    one.is_swapped = True
    assert not one.wants_tokens
    assert not one.wants_sound, "or the engine would never rest while it waits for its place"


# --- when it is due


def test_a_newcomer_is_due_soon_after_his_arrival() -> None:
    one = generating()
    assert one.deadline == NOW + FIRST_SOUND_SECONDS
    assert one.is_first
    assert not one.is_playing


def test_a_listener_runs_dry_when_all_that_was_made_is_played() -> None:
    one = generating(credit_ms=5_000.0)
    while not one.cuts:
        go_on(one)
    decode(one, NOW + 2)
    made = one.produced_ms
    assert one.is_playing
    assert not one.is_first
    assert one.deadline == pytest.approx(NOW + 2 + made / 1_000)
    one.grant(300.0, NOW + 2.35)  # the way to him took 50 ms
    assert one.deadline == pytest.approx(NOW + 2.35 + (made - 300) / 1_000)
    while not one.cuts:
        go_on(one)
    decode(one, NOW + 2.5)
    assert one.deadline == pytest.approx(NOW + 2.35 + (one.produced_ms - 300) / 1_000)


def test_credit_that_comes_before_the_first_sound_is_room_and_no_listening() -> None:
    one = generating(credit_ms=0.0)
    one.grant(400.0, NOW + 0.1)
    assert one.deadline == NOW + FIRST_SOUND_SECONDS
    assert not one.is_playing
    while not one.cuts:
        go_on(one)
    decode(one, NOW + 1)
    assert one.deadline == pytest.approx(NOW + 1 + one.produced_ms / 1_000)


def test_nobody_waits_for_a_guess_or_a_text() -> None:
    assert generating(is_held=True).deadline == inf
    assert generating(has_speech=False).deadline == inf


def test_a_guess_that_is_released_is_a_newcomer_unless_there_is_sound() -> None:
    early, late = generating(is_held=True), generating(is_held=True)
    while not late.cuts:
        go_on(late)
    decode(late, NOW + 1)
    assert late.deadline == inf
    assert not late.is_playing
    for one in (early, late):
        one.release(NOW + 3)
        one.release(NOW + 9)
        assert not one.is_held
        assert one.arrival == NOW + 3, "it waits since then"
    assert early.deadline == NOW + 3 + FIRST_SOUND_SECONDS
    assert late.deadline == pytest.approx(NOW + 3 + late.produced_ms / 1_000)
    assert late.is_playing


def test_a_release_of_what_was_not_held_changes_nothing() -> None:
    one = generating()
    one.release(NOW + 5)
    assert one.deadline == NOW + FIRST_SOUND_SECONDS


def test_nobody_hears_a_gap_after_the_end() -> None:
    one = generating(max_text=1, max_units=4)
    while one.phase == "generate":
        go_on(one)
    decode(one)
    assert not one.is_playing


def test_tokens_beyond_a_group_are_the_orders_business() -> None:
    one = generating()
    go_on(one)
    go_on(one)
    go_on(one)
    with pytest.raises(AssertionError, match="text"):
        one.add_unit(UNIT, is_sound=True)
