"""From settings to the files of the edge: users, rendering, and that Kamailio takes what comes of it."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rtc_server.config import Settings, load_settings
from rtc_server.errors import ConfigError, EdgeError
from rtc_server.paths import sip_dir
from rtc_server.sip.edge.render import EdgePaths, Rendered, render
from rtc_server.sip.edge.run import check_configuration, require_port, start_part, write
from rtc_server.sip.edge.users import UsersFile, ha1, parse_users

ADDRESS = "192.0.2.5"


def settings(**values: object) -> Settings:
    return load_settings(Path("config/server.toml"), {f"sip_edge.{key}": value for key, value in values.items()})


def rendered(folder: Path, **values: object) -> Rendered:
    paths = EdgePaths(folder, folder / "users", folder / "server.pem", folder / "server.key", 2223)
    return render(settings(**values), ADDRESS, paths, "secret:with colons")


# --- users


def test_passwords_are_kept_as_hashes_only(tmp_path: Path) -> None:
    users = UsersFile(tmp_path / "deep" / "users")
    password = users.add("desk", "voice.example.org")
    text = users.path.read_text()
    assert len(password) == 20
    assert password not in text
    assert hashlib.md5(f"desk:voice.example.org:{password}".encode()).hexdigest() in text
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    assert [(user.name, user.realm) for user in users.read()] == [("desk", "voice.example.org")]
    users.remove("desk")
    assert users.read() == ()


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a@b", "x" * 65, "é", "echo", "../x"])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        UsersFile(tmp_path / "users").add(name, "realm")


def test_what_is_wrong_with_a_user_is_said(tmp_path: Path) -> None:
    users = UsersFile(tmp_path / "users")
    users.add("desk", "realm", "long enough for it")
    with pytest.raises(ConfigError, match="already"):
        users.add("DESK", "realm")
    with pytest.raises(ConfigError, match="12 characters"):
        users.add("other", "realm", "short")
    with pytest.raises(ConfigError, match="no user 'nobody'"):
        users.remove("nobody")
    with pytest.raises(ConfigError, match="line 2"):
        parse_users("username(string) realm(string) ha1(string)\ndesk:realm:password\n", "users")
    with pytest.raises(ConfigError, match="no file of telephone users"):
        parse_users("desk:realm:" + ha1("desk", "realm", "x"), "users")


# --- rendering


def test_the_files_say_what_the_settings_say(tmp_path: Path) -> None:
    made = rendered(
        tmp_path,
        external_address="203.0.113.9",
        realm="voice.example.org",
        port=5070,
        allowed_addresses=["198.51.100.0/28", "2001:db8::1"],
        requests_per_second=30,
        rtp_port_min=40_000,
        rtp_port_max=40_399,
    )
    site = made.files["site.cfg"]
    assert f"listen=udp:{ADDRESS}:5070 advertise 203.0.113.9:5070" in site
    assert f"listen=tls:{ADDRESS}:5061 advertise 203.0.113.9:5061" in site
    assert "listen=udp:127.0.0.1:5060\n" in site
    assert '#!define REALM "voice.example.org"' in site
    assert "#!define REQUESTS_IN_TWO_SECONDS 60" in site
    assert "1 198.51.100.0 28 0\n1 [2001:db8::1] 128 0\n" in made.files["trunks"]
    assert f"--interface=phone/{ADDRESS}!203.0.113.9" in made.relay
    assert f"--interface=server/{ADDRESS}" in made.relay
    assert "--max-sessions=100" in made.relay
    assert "uacreg" not in "".join(made.files)


def test_an_extension_of_an_exchange_registers_there(tmp_path: Path) -> None:
    made = rendered(tmp_path, registrar="198.51.100.7:5062", registrar_user="100", registrar_password_file="unused")
    row = made.files["registrations/uacreg"].splitlines()[1]
    assert ":100:198.51.100.7:" in row
    assert "secret\\:with colons" in row
    assert "sip\\:198.51.100.7\\:5062" in row
    assert "1 198.51.100.7 32 0" in made.files["trunks"]


@pytest.mark.parametrize(
    "values",
    [
        {"allowed_addresses": ["everybody"]},
        {"realm": 'x"; exit'},
        {"rtp_port_min": 30_000, "rtp_port_max": 30_001},
        {"tls_certificate": "only.pem"},
        {"registrar": "pbx.example.org"},
        {"port": 5061},
        {"external_address": "example.org"},
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        settings(**values)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        rendered(tmp_path, address="127.0.0.1")
    with pytest.raises(ConfigError, match="one kind"):
        rendered(tmp_path, external_address="2001:db8::1")


@pytest.mark.parametrize("more", [{}, {"tls_port": 0}, {"registrar": "198.51.100.7", "registrar_user": "100"}])
def test_kamailio_takes_its_configuration(tmp_path: Path, more: dict[str, object]) -> None:
    if shutil.which("kamailio", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("kamailio is not installed (scripts/setup.sh --test as root installs it)")
    from rtc_server.certs import ensure_certificates

    certificate = ensure_certificates(tmp_path / "certs", ["localhost"])
    paths = EdgePaths(tmp_path, tmp_path / "users", certificate.certificate, certificate.private_key, 2223)
    UsersFile(paths.users_file).ensure()
    values = {**more, "registrar_password_file": "unused"} if "registrar" in more else more
    made = render(settings(**values), ADDRESS, paths, "secret")
    write(made, tmp_path)
    check_configuration(made)
    assert (tmp_path / "kamailio.cfg").read_bytes() == (sip_dir() / "kamailio.cfg").read_bytes()
    assert stat.S_IMODE((tmp_path / "site.cfg").stat().st_mode) == 0o600
    broken = (tmp_path / "kamailio.cfg").read_text().replace("route(FILTER);", "no_such_function();")
    (tmp_path / "kamailio.cfg").write_text(broken)
    with pytest.raises(EdgeError, match=r"no_such_function|parse error"):
        check_configuration(made)


# --- running


def test_a_part_that_ends_says_its_last_words(tmp_path: Path) -> None:
    script = "import sys; print('cannot open the thing'); sys.exit(3)"
    part = start_part("relay", [sys.executable, "-c", script], tmp_path / "log")
    deadline = time.monotonic() + 20
    while part.process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(EdgeError, match=r"relay ended with exit code 3(.|\n)*cannot open the thing"):
        part.check()
    part.stop()


def test_a_part_that_ignores_its_end_is_ended(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    part = start_part("relay", [sys.executable, "-c", script], tmp_path / "log")
    while "up" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    part.stop(0.2)
    assert part.process.returncode == -9


@pytest.mark.parametrize("is_stopped", [True, False])
def test_what_a_killed_part_had_started_ends_too(tmp_path: Path, is_stopped: bool) -> None:
    part = start_part("kamailio", ["sh", "-c", "sleep 60 & echo $! & wait"], tmp_path / "log")
    deadline = time.monotonic() + 10
    while not (number := (tmp_path / "log").read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = psutil.Process(int(number))
    part.process.kill()
    part.process.wait()
    if is_stopped:
        part.stop()
    else:
        with pytest.raises(EdgeError):
            part.check()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_parts_end_when_whoever_started_them_is_killed(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed (package util-linux)")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rtc_server.sip.edge.run import start_part\n"
        "print(start_part('rtpengine', ['sleep', '60'], Path(sys.argv[1])).process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "log"], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        part = psutil.Process(int(owner.stdout.readline()))
        deadline = time.monotonic() + 20
        while part.name() != "sleep":  # setpriv is done
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.kill()
    while part.is_running() and part.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_port_of_somebody_else_is_named() -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(EdgeError, match="systemctl disable"):
            require_port("127.0.0.1", taken.getsockname()[1])


# --- commands


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rtc_server", "sip", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_users_are_managed_from_the_command_line(tmp_path: Path) -> None:
    added = command("user", "add", "desk", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    assert len(added.stdout.strip()) == 20
    assert added.stdout.strip() not in (tmp_path / "config" / "sip-users").read_text()
    assert "desk" in command("users", cwd=tmp_path).stdout
    assert command("user", "remove", "desk", cwd=tmp_path).returncode == 0
    again = command("user", "remove", "desk", cwd=tmp_path)
    assert again.returncode == 2
    assert "no user" in again.stderr


def test_a_webhook_secret_is_not_overwritten(tmp_path: Path) -> None:
    made = command("secret", "secret", cwd=tmp_path)
    assert made.stdout.startswith("whsec_")
    assert (tmp_path / "secret").read_text() == made.stdout
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert "exists" in command("secret", "secret", cwd=tmp_path).stderr
