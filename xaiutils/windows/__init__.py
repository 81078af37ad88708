"""Recompute a network's output after its input changed in one small window.

What one pixel changes in the early layers lies in a small window too, a few pixels wider after each
convolution. So their outputs are remembered, and only the windows computed anew; once the windows
cover most of a layer, the rest of the network runs as usual. The numbers are those of a whole
forward pass, but for rounding: nothing is left out. Methods that replace regions and watch the
output, and the measures that do so, both stand on this.

>>> from xaiutils import graph, windows
>>> regions = windows.Regions(224, 224, size=16)
>>> spans = regions.row_spans, regions.column_spans
>>> branches = windows.Branches(graph.trace(model, x), *spans, x, 1, 64)        # doctest: +SKIP
>>> branches.begin(x, torch.zeros_like(x))                                      # doctest: +SKIP
>>> tried = branches.outputs(torch.zeros(196).long(), torch.arange(196))        # doctest: +SKIP

A :class:`Regions` says how an image is cut. A :class:`Windows` is the plan: which layers are
computed in windows. :class:`Branches` tries many regions from one state, :class:`Incremental` goes
on from step to step.
"""

from xaiutils.windows._batches import WORTHWHILE, in_question, pictures_at_once
from xaiutils.windows._branches import Branches
from xaiutils.windows._classes import only_classes
from xaiutils.windows._incremental import Incremental
from xaiutils.windows._plan import Span, Windows
from xaiutils.windows._regions import EDGES, REDUCTIONS, Edge, Reduce, Regions

__all__ = [
    "EDGES",
    "REDUCTIONS",
    "WORTHWHILE",
    "Branches",
    "Edge",
    "Incremental",
    "Reduce",
    "Regions",
    "Span",
    "Windows",
    "in_question",
    "only_classes",
    "pictures_at_once",
]
