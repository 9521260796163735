"""`rtc-server sip`: the telephone edge for development, its users, and its configuration for production."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import ConfigOption, JsonOption, err, print_json

if TYPE_CHECKING:
    from rtc_server.config import Settings
    from rtc_server.sip.edge.render import EdgePaths, Rendered
    from rtc_server.sip.edge.run import Part
    from rtc_server.sip.edge.users import UsersFile

EPILOG = """
First steps:

  rtc-server sip up     start proxy, media relay and server; prints whom to call, and a password

  rtc-server sip user add desk     one more telephone

  rtc-server sip check     does the edge of this machine take calls?

For production: `rtc-server sip run proxy` and `sip run relay`; docs/sip-edge.md.
"""

FIRST_USER = "phone"
CHECK_SECONDS = 0.2
SERVER_STOP_SECONDS = 30.0

app = typer.Typer(
    help="Telephone calls: start the edge, add telephones.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
user_app = typer.Typer(help="Add and remove telephones.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(user_app, name="user")

NameArgument = Annotated[str, typer.Argument(help="What it is called: letters, digits, '.', '_', '+' and '-'.")]
NG_PORT = 2223
NgPortOption = Annotated[
    int, typer.Option("--ng-port", min=1, max=65_535, help="UDP port on loopback between proxy and relay.")
]
FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="File of the users; default: sip_edge.users_file.")
]


@app.command("up", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def up(
    context: typer.Context,
    config: ConfigOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="FOLDER", help="Where configurations and logs go; default: a temporary one."),
    ] = None,
) -> None:
    """Start proxy, media relay and server on this machine, for development. Ctrl-C ends all of it.

    Further options are those of `rtc-server serve`, such as `--backend echo`.
    """
    from rtc_server.config import load_settings
    from rtc_server.errors import ConfigError
    from rtc_server.sip.edge import run

    settings = load_settings(config)
    run.require_programs()
    edge = settings.sip_edge
    address = edge.address or _first_address()
    _require_ports(settings)
    with ExitStack() as stack:
        where = folder.absolute() if folder is not None else _temporary_folder(stack)
        users = _users(settings, None)
        known = users.read()
        if stale := [user.name for user in known if user.realm != edge.realm]:
            raise ConfigError(
                f"The passwords of {', '.join(stale[:5])} in {users.path} are for another realm than sip_edge.realm = "
                f"{edge.realm!r}; remove and add these users again."
            )
        password = None if known else users.add(FIRST_USER, edge.realm)
        ng_port = run.free_udp_port()
        paths = _paths(settings, where, users, ng_port, address)
        rendered = _render(settings, address, paths)
        stopping = _Stopping()
        relay, proxy = stack.enter_context(run.running_edge(rendered, where, ng_port, settings.sip.proxy))
        command = [sys.executable, "-m", "rtc_server", "serve", *context.args]
        if config is not None:
            command += ["--config", str(config)]
        server = run.start_part("rtc-server", command, None, {"RTC_SERVER__SIP__ENABLED": "true"})
        stack.callback(server.stop, SERVER_STOP_SECONDS, signal.SIGINT)  # as if it had Ctrl-C for itself
        if _wait_for_calls(settings, (relay, proxy, server), stopping):
            _announce(settings, address, paths, password)
        while not stopping.is_set:
            for part in (relay, proxy, server):
                part.check()
            time.sleep(CHECK_SECONDS)


@app.command("render")
def render_files(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the proxy will read them.")],
    config: ConfigOption = None,
    ng_port: NgPortOption = NG_PORT,
) -> None:
    """Write the proxy's configuration for production, and print the commands of relay and proxy."""
    import shlex

    from rtc_server.sip.edge import run

    rendered = _write(folder, config, ng_port)
    if not run.missing_programs():
        run.check_configuration(rendered)
    for command in (rendered.relay, rendered.proxy):
        print(shlex.join(command))


@app.command("run")
def run_part(
    part: Annotated[Literal["proxy", "relay"], typer.Argument(help="Which one.")],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="For the proxy's configuration; of its user alone.")
    ],
    config: ConfigOption = None,
    ng_port: NgPortOption = NG_PORT,
) -> None:
    """Become the proxy or the relay, for a service or a container of its own."""
    import os

    from rtc_server.config import load_settings
    from rtc_server.sip.edge import run

    run.require_programs()
    rendered = _write(folder, config, ng_port)
    if part == "proxy":  # it would not say so itself: its log says little, for the callers' sake
        _require_ports(load_settings(config))
    command = rendered.proxy if part == "proxy" else rendered.relay
    program = run.find_program(command[0]) or command[0]
    sys.stdout.flush()
    os.execv(program, [program, *command[1:]])


def _require_ports(settings: Settings) -> None:
    from rtc_server.sip.edge.run import require_port

    edge = settings.sip_edge
    for port in filter(None, (edge.port, edge.tls_port)):
        require_port(edge.address or _first_address(), port)
    require_port(*_proxy_address(settings))


def _write(folder: Path, config: Path | None, ng_port: int) -> Rendered:
    from rtc_server.config import load_settings
    from rtc_server.sip.edge import run

    settings = load_settings(config)
    users = _users(settings, None)
    users.ensure()
    address = settings.sip_edge.address or _first_address()
    rendered = _render(settings, address, _paths(settings, folder.absolute(), users, ng_port, address))
    run.write(rendered, folder.absolute())
    return rendered


@app.command("check")
def check(
    config: ConfigOption = None,
    relay: Annotated[bool, typer.Option("--relay", help="Ask the media relay alone.")] = False,
    ng_port: NgPortOption = NG_PORT,
) -> None:
    """Ask the edge of this machine whether it takes calls; exit code 1 if it does not."""
    from rtc_server.config import load_settings
    from rtc_server.sip.edge.run import PING, ask, options_request

    if relay:
        if not ask(("127.0.0.1", ng_port), PING, 2.0):
            err().print(f"The media relay does not answer on UDP port {ng_port}.", markup=False)
            raise typer.Exit(1)
        return
    settings = load_settings(config)
    to = _proxy_address(settings)
    where = settings.sip.proxy
    if not ask(to, options_request(to, max_forwards=0), 2.0):
        err().print(f"The proxy does not answer on {where}; `rtc-server sip up` starts it.", markup=False)
        raise typer.Exit(1)
    status = ask(to, options_request(to), 8.0).partition(b"\r\n")[0].decode("ascii", "replace")
    if not status.startswith("SIP/2.0 200"):
        err().print(
            f"The proxy answers on {where}, but the server takes no calls: {status or 'no answer'}", markup=False
        )
        raise typer.Exit(1)
    print(f"Telephone calls are taken on {where}.")


@app.command("users")
def list_users(config: ConfigOption = None, file: FileOption = None, json_output: JsonOption = False) -> None:
    """List who may call and register."""
    from rtc_server.config import load_settings

    users = _users(load_settings(config), file)
    known = users.read()
    if json_output:
        print_json([{"name": user.name, "realm": user.realm} for user in known])
        return
    for user in known:
        print(f"{user.name:20}  {user.realm}")
    if not known:
        err().print(f"There is no user in {users.path} yet; `rtc-server sip user add NAME` makes one.", markup=False)


@user_app.command("add")
def add(
    name: NameArgument,
    config: ConfigOption = None,
    file: FileOption = None,
    ask_password: Annotated[
        bool, typer.Option("--ask", help="Ask for the password instead of making one, or read it from standard input.")
    ] = False,
) -> None:
    """Add a telephone and print its password. It is shown this once: the file holds a hash only."""
    from rtc_server.config import load_settings

    settings = load_settings(config)
    users = _users(settings, file)
    given = _read_password() if ask_password else None
    password = users.add(name, settings.sip_edge.realm, given)
    err().print(f"User '{name}', realm '{settings.sip_edge.realm}', kept as a hash in {users.path}.", markup=False)
    if given is None:
        err().print("This is the only time that you see the password:", markup=False)
        print(password)


@user_app.command("remove")
def remove(name: NameArgument, config: ConfigOption = None, file: FileOption = None) -> None:
    """Remove a telephone: it can neither call nor register any more. Running calls go on."""
    from rtc_server.config import load_settings

    users = _users(load_settings(config), file)
    users.remove(name)
    err().print(f"User '{name}' is removed from {users.path}.", markup=False)


@app.command("secret")
def secret(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the secret; name it in the settings.")],
) -> None:
    """Make the secret that signs webhooks of incoming calls (sip.webhook_secret_file), and print it."""
    import os

    from rtc_server.app.webhook_signature import make_secret
    from rtc_server.errors import ConfigError

    made = make_secret()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(made + "\n")
    except FileExistsError:
        raise ConfigError(f"{file} exists already; a new secret would lock out whoever has the old one.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    err().print(f"Kept in {file}. Give it to the application that gets the webhooks:", markup=False)
    print(made)


class _Stopping:
    """SIGINT or SIGTERM came."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.is_set = True


def _wait_for_calls(settings: Settings, parts: tuple[Part, ...], stopping: _Stopping) -> bool:
    """True when a call would be taken; False when it is time to stop. Raises EdgeError when a part ends."""
    from rtc_server.sip.edge.run import ask, options_request

    to = _proxy_address(settings)
    while not stopping.is_set:
        for part in parts:
            part.check()
        if ask(to, options_request(to)).startswith(b"SIP/2.0 200"):
            return True
        time.sleep(CHECK_SECONDS)
    return False


def _announce(settings: Settings, address: str, paths: EdgePaths, password: str | None) -> None:
    from rtc_server.sip.edge.render import uri_host

    edge = settings.sip_edge
    host = uri_host(edge.external_address or address)
    port = "" if edge.port == 5060 else f":{edge.port}"
    lines = [f"Telephones can call: sip:agent@{host}{port} (UDP, TCP)"]
    if paths.certificate is not None:
        lines.append(f"  encrypted:  sip:agent@{host}:{edge.tls_port};transport=tls, media SRTP (SDES)")
    if settings.server.echo_test:
        lines.append(f"  echo test:  sip:echo@{host}{port}")
    if password is None:
        lines.append("  account:    one of `rtc-server sip users`")
    else:
        lines.append(f"  account:    user {FIRST_USER}, password {password} (shown this once), server {host}{port}")
    lines.append(f"  logs:       {paths.folder}")
    lines.append("Ctrl-C ends all of it.")
    print("\n".join(lines), flush=True)


def _render(settings: Settings, address: str, paths: EdgePaths) -> Rendered:
    from rtc_server.errors import ConfigError
    from rtc_server.sip.edge.render import render

    password = ""
    if settings.sip_edge.registrar:
        file = Path(settings.sip_edge.registrar_password_file)
        try:
            password = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"sip_edge.registrar_password_file {file} cannot be read: {error}.") from error
    return render(settings, address, paths, password)


def _paths(settings: Settings, folder: Path, users: UsersFile, ng_port: int, address: str) -> EdgePaths:
    from rtc_server.certs import ensure_certificates, machine_names
    from rtc_server.sip.edge.render import EdgePaths

    edge = settings.sip_edge
    certificate: Path | None = None
    key: Path | None = None
    if edge.tls_port and edge.tls_certificate:
        certificate, key = Path(edge.tls_certificate).absolute(), Path(edge.tls_key).absolute()
    elif edge.tls_port:
        names = list(dict.fromkeys([*machine_names(), address, *filter(None, [edge.external_address])]))
        made = ensure_certificates(Path(settings.server.certs_dir), names)
        certificate, key = made.certificate.absolute(), made.private_key.absolute()
    return EdgePaths(folder, users.path, certificate, key, ng_port)


def _users(settings: Settings, file: Path | None) -> UsersFile:
    from rtc_server.sip.edge.users import UsersFile

    return UsersFile((file or Path(settings.sip_edge.users_file)).absolute())


def _proxy_address(settings: Settings) -> tuple[str, int]:
    host, _, port = settings.sip.proxy.rpartition(":")
    return host.strip("[]"), int(port)


def _first_address() -> str:
    from rtc_server.errors import ConfigError
    from rtc_server.network.addresses import machine_addresses

    found = [address for address in machine_addresses() if address != "127.0.0.1"]
    if not found:
        raise ConfigError("This machine has no address but loopback; name one with sip_edge.address.")
    return next((address for address in found if ":" not in address), found[0])


def _temporary_folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtc-server-sip-", ignore_cleanup_errors=True)))


def _read_password() -> str:
    import getpass

    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\n")
