"""`segue completion`: what a shell needs to complete verbs, flags and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_SEGUE_COMPLETE"
"""click's own convention for a command called ``segue``."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: segue completion bash > ~/.local/share/bash-completion/completions/segue
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    click.echo(kind(root.command, {}, "segue", VARIABLE).source())
