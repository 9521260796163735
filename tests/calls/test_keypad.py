"""Keys become an entry, and too many become nothing."""

from __future__ import annotations

from rtc_server.calls.keypad import BURST, ENTRY_SECONDS, MAX_ENTRY, Keypad, entry_text


def test_an_entry_ends_with_the_hash_key() -> None:
    keypad = Keypad()
    for number, key in enumerate("159"):
        assert keypad.press(key, number)
        assert keypad.take(number) is None
    assert keypad.press("#", 3.0)
    assert keypad.take(3.0) == "159#"
    assert keypad.next_deadline() is None


def test_an_entry_ends_with_a_pause() -> None:
    keypad = Keypad()
    keypad.press("1", 10.0)
    keypad.press("2", 11.0)
    assert keypad.next_deadline() == 11.0 + ENTRY_SECONDS
    assert keypad.take(11.0 + ENTRY_SECONDS - 0.01) is None
    assert keypad.take(11.0 + ENTRY_SECONDS) == "12"
    assert keypad.take(20.0) is None


def test_a_flood_of_keys_does_not_count() -> None:
    keypad = Keypad()
    taken = sum(keypad.press("1", 0.0) for _ in range(1_000))
    assert taken == BURST
    assert not keypad.press("1", 0.05)
    assert keypad.press("1", 1.0)


def test_an_entry_is_bounded() -> None:
    keypad = Keypad()
    for number in range(MAX_ENTRY):
        keypad.press("7", float(number))
    assert keypad.take(float(MAX_ENTRY - 1)) == "7" * MAX_ENTRY


def test_the_model_reads_the_keys_one_by_one() -> None:
    assert "1 5 9 #" in entry_text("159#")
