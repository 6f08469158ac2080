"""``python -m ctglip`` is the ``ctglip`` command."""

from ctglip.cli.main import run

run()
