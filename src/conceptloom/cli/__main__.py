"""``python -m conceptloom.cli``."""

from conceptloom.cli import main

main()
