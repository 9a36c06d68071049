"""Settings from a TOML file, the environment and flags, in that order of strength.

A command's settings are its own flags, so all three know the same ones: `segue controller --lease`
is ``lease`` under ``[controller]`` in the file and ``SEGUE_CONTROLLER_LEASE`` in the environment.
The file is ``DIR/segue.toml`` of the installation, or the one that ``--config`` (``SEGUE_CONFIG``)
names.  What it says of other commands is not looked at, a word that no setting has is refused.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from segue.cli.options import data_of

C = TypeVar("C", bound=click.Command)

CONFIG_NAME = "segue.toml"
_NAMED = "segue.config.named"
_READ = "segue.config.read"
COMMANDS = ("up", "controller", "agent")
"""The tables of a settings file."""
_NO_SETTINGS = ("data", "config", "help", "version", "json", "detach", "with-parent")
"""Flags that say where or how, for one run."""


def configured(command: C) -> C:
    """Lets this command read its settings from file and environment as well."""
    for param in settings_of(command).values():
        assert command.name is not None
        param.envvar = f"SEGUE_{command.name}_{_flag(param)}".upper().replace("-", "_")
    command.params.append(
        click.Option(
            ["--config"],
            metavar="FILE",
            envvar="SEGUE_CONFIG",
            is_eager=True,
            expose_value=False,
            callback=_take_config,
            type=click.Path(dir_okay=False),
            help="Settings (TOML) [DIR/segue.toml].",
        )
    )
    return command


def read_config(path: str) -> dict[str, dict[str, Any]]:
    """The tables of a settings file; raises `click.UsageError` in one sentence."""
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}") from None
    for name, table in tables.items():
        if name not in COMMANDS or not isinstance(table, dict):
            tables_there = ", ".join(f"[{command}]" for command in COMMANDS)
            raise click.UsageError(f"{path}: {name!r} is no table of settings: {tables_there} are")
    return tables


def blame(error: click.UsageError) -> None:
    """Lets the error name the variable, or the file, where no flag is to blame."""
    if isinstance(error, click.BadParameter) and error.ctx is not None and error.param is not None:
        origin = came_from(error.ctx, error.param)
        error.param_hint = origin or error.param_hint


def came_from(ctx: click.Context, param: click.Parameter) -> str:
    """The variable, or the setting in its file, that a value comes from; empty: none of these."""
    source = ctx.get_parameter_source(param.name) if param.name is not None else None
    if source is ParameterSource.ENVIRONMENT:
        return str(param.envvar)
    if source is ParameterSource.DEFAULT_MAP and isinstance(param, click.Option):
        return f"{_flag(param)} in [{ctx.command.name}] of {ctx.meta[_READ]}"
    return ""


def config_named(ctx: click.Context) -> str | None:
    """The settings file that ``--config`` or ``SEGUE_CONFIG`` names, absolute."""
    return ctx.meta.get(_NAMED)


def _config_path(ctx: click.Context, named: str | None) -> str | None:
    """The settings file to read, if there is one."""
    if named is not None:
        ctx.meta[_NAMED] = os.path.abspath(named)
        return os.path.abspath(named)
    folder = data_of(ctx)
    path = os.path.join(folder, CONFIG_NAME) if folder else ""
    return path if path and os.path.exists(path) else None


def _take_config(ctx: click.Context, _: click.Parameter, named: str | None) -> None:
    _check_variables(ctx.command)
    path = _config_path(ctx, named)
    if path is None:
        return
    ctx.meta[_READ] = path
    table = read_config(path).get(ctx.command.name or "", {})
    settings = settings_of(ctx.command)
    values = {}
    for key, value in table.items():
        param = settings.get(key)
        if param is None or param.name is None:
            there = ", ".join(settings)
            raise click.UsageError(
                f"{path}: [{ctx.command.name}] has no setting {key!r}, only {there}"
            )
        if wanted := _wanted(param, value):
            raise click.UsageError(f"{path}: [{ctx.command.name}] {key} takes {wanted}")
        values[param.name] = value
    ctx.default_map = values


def _wanted(param: click.Option, value: Any) -> str:
    """What kind of value the setting takes; empty: this is one."""
    if isinstance(value, list) is not param.multiple:
        return "a list" if param.multiple else "one value"
    values = value if param.multiple else [value]
    if param.is_flag:
        return "" if isinstance(value, bool) else "true or false"
    if any(isinstance(one, bool | dict | list) for one in values):
        return "a list of texts" if param.multiple else "one value, a number or a text"
    return ""


def _check_variables(command: click.Command) -> None:
    """Raises `click.UsageError` for a variable that looks like a setting and is none."""
    there = [param.envvar for param in settings_of(command).values()]
    begin = f"SEGUE_{command.name}_".upper()
    for name in os.environ:
        if name.startswith(begin) and name not in there:
            raise click.UsageError(f"{name} is no setting, only {', '.join(map(str, there))} are")


def settings_of(command: click.Command) -> dict[str, click.Option]:
    """A command's settings: name in the file -> option."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {_flag(param): param for param in options if _flag(param) not in _NO_SETTINGS}


def _flag(param: click.Option) -> str:
    """The longest of an option's names, without dashes."""
    return max(param.opts, key=len).lstrip("-")
