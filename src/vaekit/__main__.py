"""`python -m vaekit` is `vaekit`."""

from vaekit.cli import run

run()
