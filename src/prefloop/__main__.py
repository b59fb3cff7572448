"""`python -m prefloop`."""

from prefloop.cli.main import main

main()
