"""Figures that answer: in a notebook with a kernel, and in the built page without one.

Each widget is one `anywidget <https://anywidget.dev>`__ whose script stands in a file of its own.
What it shows before anybody has touched it, and on paper, is its static twin.
"""

from xaiutils.widgets._latent import LatentExplorer
from xaiutils.widgets._lrp_stepper import LRPStepper
from xaiutils.widgets._method_wins import MethodWins
from xaiutils.widgets._network import NotExportable, export_network
from xaiutils.widgets._perturbation import PerturbationExplorer
from xaiutils.widgets._pictures import PAGE_FILLS, PageFill

__all__ = [
    "PAGE_FILLS",
    "LRPStepper",
    "LatentExplorer",
    "MethodWins",
    "NotExportable",
    "PageFill",
    "PerturbationExplorer",
    "export_network",
]
