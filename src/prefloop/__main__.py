"""Runs the command line as `python -m prefloop`."""

from prefloop.cli.main import main

if __name__ == "__main__":
    main()
