"""Long runs from the command line: ``python -m xaiutils.reproduce --help``."""
