"""RFC 4028: who refreshes, how often, and when it is over."""

from __future__ import annotations

import pytest

from rtc_server.sip.session_timer import IntervalTooSmallError, agree_as_answerer, agree_as_caller


def test_a_caller_without_timers_is_asked_by_us() -> None:
    timer = agree_as_answerer(None, "", preferred=1800)
    assert (timer.seconds, timer.is_ours, timer.is_known) == (1800, True, False)


@pytest.mark.parametrize(
    ("asked", "supported", "is_ours", "header"),
    [
        ("600;refresher=uac", "timer", False, "600;refresher=uac"),
        ("600;refresher=uas", "100rel, timer", True, "600;refresher=uas"),
        ("600", "timer", False, "600;refresher=uac"),
        ("600 ; refresher = UAC ; x=y", "TIMER", False, "600;refresher=uac"),
        ("600;refresher=uac", "", True, "600;refresher=uas"),  # section 9, table 2
    ],
)
def test_who_refreshes(asked: str, supported: str, is_ours: bool, header: str) -> None:
    timer = agree_as_answerer(asked, supported, preferred=1800)
    assert (timer.seconds, timer.is_ours, timer.header(is_answerer=True)) == (600, is_ours, header)


def test_an_interval_is_made_shorter_and_never_longer() -> None:
    assert agree_as_answerer("86400", "timer", preferred=1800).seconds == 1800
    with pytest.raises(IntervalTooSmallError):
        agree_as_answerer("89", "timer", preferred=1800)


@pytest.mark.parametrize("garbage", ["", "soon", "-5", "99999999999999999999"])
def test_what_cannot_be_read_counts_as_none(garbage: str) -> None:
    assert agree_as_answerer(garbage, "timer", preferred=1800).is_ours


def test_a_peer_cannot_make_us_refresh_all_the_time() -> None:
    assert agree_as_caller("1;refresher=uac", preferred=1800).refresh_after == 45.0


def test_the_call_ends_before_the_session_would() -> None:
    long, short = agree_as_caller("1800;refresher=uas", preferred=1800), agree_as_caller("90", preferred=1800)
    assert (long.is_ours, long.ends_after) == (False, 1768.0)
    assert (short.is_ours, short.refresh_after, short.ends_after) == (True, 45.0, 60.0)
    assert short.header(is_answerer=False) == "90;refresher=uac"
