"""What several commands share: how the installation is found, sizes, errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from segue.cli import INTERRUPTED
from segue.cli.sizes import parse_size
from segue.client import ApiError, Client
from segue.limits import HANDSHAKE_S

F = TypeVar("F", bound=Callable[..., Any])
_DATA = "segue.data"
_API = "segue.api"
DATA_VARIABLE = "SEGUE_DATA"
TOKEN_VARIABLE = "SEGUE_API_TOKEN"
CA_VARIABLE = "SEGUE_API_CA"


class Failed(click.ClickException):
    """Ends the command: one line on stderr, exit status 1."""

    exit_code = 1


class Interrupted(click.ClickException):
    """Ends the command after Ctrl-C with more to say than that: exit status 130."""

    exit_code = INTERRUPTED


def sentence(error: Exception) -> str:
    """What an exception says, without the system's number for it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class Size(click.ParamType[int]):
    """``10G``, ``10GiB``, ``4096``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Time(click.ParamType[float]):
    """A number of seconds, or of what the unit says."""

    name = "time"

    def __init__(self, unit: str = "seconds") -> None:
        self._unit = unit

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As many; whether they make sense is another's question."""
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is no number: write how many {self._unit}, 2.5", param, ctx)


class Name(click.ParamType[str]):
    """The name of something that exists: a shell completes it from the API."""

    name = "name"

    def __init__(self, names: Callable[[Client], list[str]]) -> None:
        self._names = names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Those that begin so; none if the controller is not there."""
        try:
            names = self._names(client(ctx))
        except (ApiError, click.UsageError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


DISK = Name(lambda client: [disk.name for disk in client.disks()])
CONTAINER = Name(lambda client: [container.name for container in client.containers()])
AGENT = Name(lambda client: sorted({agent.name for agent in client.agents()}))


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Keeps the flag wherever it stood: the verb's own look at the environment is weaker."""
    assert param.name is not None
    said = ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    key = {"data": _DATA, "api": _API}[param.name]
    if value is not None and (said or key not in ctx.meta):
        ctx.meta[key] = (value if key == _API else os.path.abspath(value)), said


class _Folder(click.Path):
    """Looked at when it is used: a verb or a flag may do without what the environment names."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As it is."""
        return value


data_option = click.option(
    "--data",
    metavar="DIR",
    envvar=DATA_VARIABLE,
    expose_value=False,
    is_eager=True,
    callback=_keep,
    type=_Folder(),
    help="Folder of the installation (or SEGUE_DATA).",
)

_api_option = click.option(
    "--api",
    metavar="URL",
    envvar="SEGUE_API",
    expose_value=False,
    is_eager=True,
    callback=_keep,
    help=f"Its API, https://HOST:PORT (or SEGUE_API; {TOKEN_VARIABLE}, {CA_VARIABLE}).",
)


def where_option(command: F) -> F:
    """For verbs that ask the API: ``--data`` or ``--api``."""
    return data_option(_api_option(command))


handshake_option = click.option(
    "--handshake-timeout",
    type=Time(),
    default=HANDSHAKE_S,
    show_default=True,
    metavar="SECONDS",
    help="Cut off clients that take longer to say what they want.",
)

begin_option = click.option(
    "--container",
    type=CONTAINER,
    metavar="NAME",
    help="Where its data begins to lie.  [default: where most room is left]",
)
without_option = click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="Start even if this container is not found; its disks are opened when it is.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def data_of(ctx: click.Context) -> str | None:
    """The installation's folder, absolute, if one was named."""
    folder: tuple[str, bool] | None = ctx.meta.get(_DATA)
    return folder[0] if folder is not None else None


def data_folder() -> str:
    """The installation's folder, absolute; a usage error if none was named, or no folder."""
    folder: tuple[str, bool] | None = click.get_current_context().meta.get(_DATA)
    if folder is None:
        raise click.UsageError("which installation? give --data DIR or set SEGUE_DATA")
    return _usable(*folder)


def _usable(folder: str, said: bool) -> str:
    """The folder, if it is not there yet or can be looked into."""
    if os.path.exists(folder):
        named = "--data" if said else DATA_VARIABLE
        if not os.path.isdir(folder):
            raise click.UsageError(f"{named}: {folder} is no directory")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise click.UsageError(f"{named}: {folder} is not readable for this user")
    return folder


def client(ctx: click.Context | None = None) -> Client:
    """The API of the installation named: what a flag says beats what the environment says."""
    ctx = ctx or click.get_current_context()
    folder: tuple[str, bool] | None = ctx.meta.get(_DATA)
    url: tuple[str, bool] | None = ctx.meta.get(_API)
    if folder is not None and url is not None and folder[1] == url[1]:
        raise click.UsageError("a folder and an API are named: which installation?")
    if folder is not None and (url is None or folder[1]):
        data = _usable(*folder)
        return Client(data, restarts=lambda: _is_kept_running(data))
    if url is None:
        raise click.UsageError("which installation? give --data DIR or set SEGUE_DATA")
    if "://" not in url[0]:
        named = "--api" if url[1] else "SEGUE_API"
        raise click.UsageError(
            f"{named}: {url[0]!r} is no URL (https://HOST:PORT): --data is for folders"
        )
    token, ca = os.environ.get(TOKEN_VARIABLE, ""), os.environ.get(CA_VARIABLE)
    return Client(url[0], token=token.strip(), ca=ca or None)


def _is_kept_running(data: str) -> bool:
    """Whether a `segue up` runs in that folder, so that a controller comes again."""
    from segue.supervisor import Folder, UpError  # noqa: PLC0415

    try:
        return Folder(data).holder() != 0
    except UpError:
        return False
