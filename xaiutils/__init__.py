"""xaiutils: attribution maps, derived, run on real networks, and measured.

The package behind the book *Heatmaps Under Test*. Data flows one way through its modules:
``data -> models -> graph -> windows -> attribution -> evaluation -> plot / widgets``.
"""

__version__ = "0.1.0"
