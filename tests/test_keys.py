"""API keys: kept as hashes, found again, and gone when they are removed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.exposure import exposure
from rtc_server.keys import ApiKey, KeyRing, KeysFile, hash_key, parse_keys


def settings(**auth: object) -> Settings:
    return Settings.model_validate({"auth": {"keys_file": "", **auth}})


def test_a_new_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "folder" / "keys")
    key = file.add("phone", "my  own\nphone")
    text = file.path.read_text()
    assert key.startswith("sk_")
    assert len(key) > 40
    assert key not in text
    assert f"phone sha256:{hash_key(key)}  # my own phone" in text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.read() == (ApiKey("phone", hash_key(key), "my own phone"),)
    assert [entry.name for entry in file.path.parent.iterdir()] == ["keys"], "no temporary file is left"


def test_names_are_plain_and_given_once(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys")
    file.add("phone")
    with pytest.raises(ConfigError, match="There is a key 'phone' already"):
        file.add("phone")
    for name in ("", "a b", "a/b", "x" * 65, "#"):
        with pytest.raises(ConfigError, match="cannot name a key"):
            file.add(name)
    with pytest.raises(ConfigError, match="There is no key 'tablet'"):
        file.remove("tablet")
    file.remove("phone")
    assert file.read() == ()


@pytest.mark.parametrize(
    "line", ["phone", "phone sha256:abc", "phone sk_secretsecretsecret", "a b sha256:" + "0" * 64, "a/b " + "0" * 64]
)
def test_a_broken_line_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(ConfigError, match="keys, line 2") as refused:
        parse_keys(f"# comment\n{line}\n", "keys")
    assert "secretsecret" not in str(refused.value)


def test_a_running_server_sees_changes_within_a_second(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys")
    ring = KeyRing(settings(keys_file=str(file.path)).auth)
    assert ring.keys(0.0) == ()
    key = file.add("phone")
    assert ring.find(key, 0.5) is None, "it does not look again so soon"
    found = ring.find(key, 1.5)
    assert found is not None
    assert found.name == "phone"
    assert ring.find(key + "x", 1.6) is None
    file.remove("phone")
    assert ring.find(key, 3.0) is None


def test_a_file_that_breaks_while_the_server_runs_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = KeysFile(tmp_path / "keys")
    key = file.add("phone")
    ring = KeyRing(settings(keys_file=str(file.path)).auth)
    file.path.write_text("nonsense\n")
    assert ring.find(key, 5.0) is not None
    assert "line 1" in caplog.text
    with pytest.raises(ConfigError):
        KeyRing(settings(keys_file=str(file.path)).auth)


def test_keys_of_the_settings_are_hashed_as_they_are_read() -> None:
    plain, hashed = "sk_0123456789abcdefghij", "sk_another0123456789abc"
    made = settings(api_keys=[plain, f"sha256:{hash_key(hashed)}"])
    assert plain not in repr(made)
    ring = KeyRing(made.auth)
    assert ring.find(plain, 0.0) is not None
    assert ring.find(hashed, 0.0) is not None
    assert ring.find("sk_third0123456789abcde", 0.0) is None
    assert ring.find("\udcff", 0.0) is None


# --- who can reach the server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_loopback_is_open_without_keys(host: str) -> None:
    made = Settings.model_validate({"server": {"host": host}, "auth": {"keys_file": ""}})
    assert exposure(made) == "this machine"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "server.example"])
def test_other_addresses_need_a_key_or_the_operators_word(host: str) -> None:
    def of(**auth: object) -> Settings:
        return Settings.model_validate({"server": {"host": host}, "auth": {"keys_file": "", **auth}})

    with pytest.raises(ConfigError, match="rtc-server keys add"):
        exposure(of())
    assert exposure(of(insecure_no_auth=True)) == "everybody"
    assert exposure(of(api_keys=["sk_0123456789abcdefghij"])) == "keys"
    assert exposure(of(insecure_no_auth=True, api_keys=["sk_0123456789abcdefghij"])) == "keys"
