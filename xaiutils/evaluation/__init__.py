"""Measure heatmaps: replace regions in their order, and watch what the network makes of it.

>>> from xaiutils import evaluation
>>> morf = evaluation.region_perturbation(model, x, None, maps)                # doctest: +SKIP
>>> lerf = evaluation.region_perturbation(model, x, None, maps, order="lerf")  # doctest: +SKIP
>>> evaluation.bootstrap(evaluation.abpc(morf, lerf))                          # doctest: +SKIP
"""

from xaiutils.evaluation._boxes import energy_inside, pointing_game
from xaiutils.evaluation._complexity import as_picture, entropy, jpeg_size, png_size
from xaiutils.evaluation._curves import Curves, abpc, gain_over_random
from xaiutils.evaluation._fills import FILLS, Blur, Constant, Dirichlet, Fill, Uniform
from xaiutils.evaluation._jobs import OUTPUTS, Output
from xaiutils.evaluation._occlusion import occlusion_agreement, region_occlusion
from xaiutils.evaluation._oracle import AdditiveNetwork, expected_falls
from xaiutils.evaluation._perturbation import (
    ORDERS,
    ConstantHeatmapWarning,
    FillName,
    Order,
    region_perturbation,
)
from xaiutils.evaluation._regions import Edge, Reduce, Regions, count_ties, morf_ranks
from xaiutils.evaluation._sanity import (
    Randomisation,
    map_similarity,
    parameter_randomisation,
    randomised,
    rank_correlation,
)
from xaiutils.evaluation._statistics import (
    Comparison,
    Interval,
    bootstrap,
    compare,
    equivalence,
    holm,
    sign_flip,
)
from xaiutils.evaluation._windows import Windows

__all__ = [
    "FILLS",
    "ORDERS",
    "OUTPUTS",
    "AdditiveNetwork",
    "Blur",
    "Comparison",
    "Constant",
    "ConstantHeatmapWarning",
    "Curves",
    "Dirichlet",
    "Edge",
    "Fill",
    "FillName",
    "Interval",
    "Order",
    "Output",
    "Randomisation",
    "Reduce",
    "Regions",
    "Uniform",
    "Windows",
    "abpc",
    "as_picture",
    "bootstrap",
    "compare",
    "count_ties",
    "energy_inside",
    "entropy",
    "equivalence",
    "expected_falls",
    "gain_over_random",
    "holm",
    "jpeg_size",
    "map_similarity",
    "morf_ranks",
    "occlusion_agreement",
    "parameter_randomisation",
    "png_size",
    "pointing_game",
    "randomised",
    "rank_correlation",
    "region_occlusion",
    "region_perturbation",
    "sign_flip",
]
