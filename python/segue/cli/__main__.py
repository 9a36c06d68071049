"""``python -m segue.cli``: the command `segue`."""

from segue.cli.main import main

main(prog_name="segue")
