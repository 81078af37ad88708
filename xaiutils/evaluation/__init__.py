"""Measure heatmaps: replace regions in their order, and watch what the network makes of it.

>>> from xaiutils import evaluation
>>> morf = evaluation.region_perturbation(model, x, None, maps)                # doctest: +SKIP
>>> lerf = evaluation.region_perturbation(model, x, None, maps, order="lerf")  # doctest: +SKIP
>>> evaluation.bootstrap(evaluation.abpc(morf, lerf))                          # doctest: +SKIP
"""

from xaiutils.evaluation import truth
from xaiutils.evaluation._boxes import energy_inside, pointing_game
from xaiutils.evaluation._complexity import as_picture, entropy, jpeg_size, png_size
from xaiutils.evaluation._controls import borrowed, centre_prior, picture_as_map, unsigned
from xaiutils.evaluation._curves import (
    Curves,
    abpc,
    gain_over,
    gain_over_random,
    own_minus_borrowed,
)
from xaiutils.evaluation._faithfulness import (
    deletion,
    faithfulness_correlation,
    infidelity,
    insertion,
    saco,
    sensitivity_n,
)
from xaiutils.evaluation._fills import (
    FILLS,
    BlindFill,
    Blur,
    Constant,
    Dirichlet,
    Fill,
    SeeingFill,
    Uniform,
)
from xaiutils.evaluation._imputers import Decoded, Histogram, Inpaint, NoisyLinear, Patches
from xaiutils.evaluation._jobs import OUTPUTS, Output
from xaiutils.evaluation._occlusion import occlusion_agreement, region_occlusion
from xaiutils.evaluation._options import MetricOptions, PerturbationOptions
from xaiutils.evaluation._oracle import AdditiveNetwork, expected_falls
from xaiutils.evaluation._perturbation import (
    ORDERS,
    ConstantHeatmapWarning,
    FillName,
    Order,
    region_perturbation,
)
from xaiutils.evaluation._ranks import count_ties, morf_ranks
from xaiutils.evaluation._report import (
    CONTROLS,
    MEASURES,
    Measure,
    Report,
    measure_of_maps,
    report,
)
from xaiutils.evaluation._sanity import (
    EntropyRise,
    Randomisation,
    efficient_randomisation,
    map_similarity,
    parameter_randomisation,
    randomised,
    rank_correlation,
)
from xaiutils.evaluation._search import GOALS, Goal, order_map, search, share_of_ceiling
from xaiutils.evaluation._segments import irof, slic_segments
from xaiutils.evaluation._stability import max_sensitivity, smoothed
from xaiutils.evaluation._statistics import (
    Comparison,
    FewImagesWarning,
    Interval,
    IntervalMethod,
    Tail,
    bootstrap,
    compare,
    equivalence,
    holm,
    sign_flip,
)
from xaiutils.evaluation._subsets import SubsetFalls, subset_falls
from xaiutils.windows import Edge, Reduce, Regions, Windows

__all__ = [
    "CONTROLS",
    "FILLS",
    "GOALS",
    "MEASURES",
    "ORDERS",
    "OUTPUTS",
    "AdditiveNetwork",
    "BlindFill",
    "Blur",
    "Comparison",
    "Constant",
    "ConstantHeatmapWarning",
    "Curves",
    "Decoded",
    "Dirichlet",
    "Edge",
    "EntropyRise",
    "FewImagesWarning",
    "Fill",
    "FillName",
    "Goal",
    "Histogram",
    "Inpaint",
    "Interval",
    "IntervalMethod",
    "Measure",
    "MetricOptions",
    "NoisyLinear",
    "Order",
    "Output",
    "Patches",
    "PerturbationOptions",
    "Randomisation",
    "Reduce",
    "Regions",
    "Report",
    "SeeingFill",
    "SubsetFalls",
    "Tail",
    "Uniform",
    "Windows",
    "abpc",
    "as_picture",
    "bootstrap",
    "borrowed",
    "centre_prior",
    "compare",
    "count_ties",
    "deletion",
    "efficient_randomisation",
    "energy_inside",
    "entropy",
    "equivalence",
    "expected_falls",
    "faithfulness_correlation",
    "gain_over",
    "gain_over_random",
    "holm",
    "infidelity",
    "insertion",
    "irof",
    "jpeg_size",
    "map_similarity",
    "max_sensitivity",
    "measure_of_maps",
    "morf_ranks",
    "occlusion_agreement",
    "order_map",
    "own_minus_borrowed",
    "parameter_randomisation",
    "picture_as_map",
    "png_size",
    "pointing_game",
    "randomised",
    "rank_correlation",
    "region_occlusion",
    "region_perturbation",
    "report",
    "saco",
    "search",
    "sensitivity_n",
    "share_of_ceiling",
    "sign_flip",
    "slic_segments",
    "smoothed",
    "subset_falls",
    "truth",
    "unsigned",
]
