"""Runs the console command `mbta-assets` as `python -m mbta_assets`."""

from mbta_assets.cli import main

main()
