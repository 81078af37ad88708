"""Known truth: networks whose answer is known to come from certain places of their pictures.

>>> from xaiutils import attribution
>>> from xaiutils.evaluation import truth
>>> instrument = truth.planted_instrument("decoy")                               # doctest: +SKIP
>>> maps = attribution.lrp(instrument.model, instrument.x, instrument.target)    # doctest: +SKIP
>>> instrument.score(maps).mean(), instrument.chance().mean()                    # doctest: +SKIP
"""

from xaiutils.evaluation.truth._additive import additive_instrument
from xaiutils.evaluation.truth._digits import (
    CodeReader,
    backdoor_instrument,
    backdoored_classifier,
    watermark_instrument,
    watermarked_reader,
)
from xaiutils.evaluation.truth._grids import (
    Connection,
    GridNetwork,
    cell_masks,
    grid,
    grid_instrument,
    grid_parts,
)
from xaiutils.evaluation.truth._instrument import (
    Certainty,
    Check,
    Instrument,
    check_mask,
    energy_in_mask,
)
from xaiutils.evaluation.truth._judging import Judgement, Metric, judge_metric, ladder, metrics
from xaiutils.evaluation.truth._planted import (
    PlantedCNN,
    checks,
    planted_instrument,
    planted_network,
)

__all__ = [
    "Certainty",
    "Check",
    "CodeReader",
    "Connection",
    "GridNetwork",
    "Instrument",
    "Judgement",
    "Metric",
    "PlantedCNN",
    "additive_instrument",
    "backdoor_instrument",
    "backdoored_classifier",
    "cell_masks",
    "check_mask",
    "checks",
    "energy_in_mask",
    "grid",
    "grid_instrument",
    "grid_parts",
    "judge_metric",
    "ladder",
    "metrics",
    "planted_instrument",
    "planted_network",
    "watermark_instrument",
    "watermarked_reader",
]
