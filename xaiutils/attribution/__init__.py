"""Heatmaps by passing a signal backwards: the gradient, its relatives, Grad-CAM and LRP.

Every method is called as ``method(model, x, target, **options)``, never changes the model, and is
one rule for passing a signal through the operations of :mod:`xaiutils.graph`. The model may be a
module or the :class:`~xaiutils.graph.Graph` of one, and ``output=`` chooses what is explained where
it returns several things.

The gradient, its relatives and LRP take any network that :func:`xaiutils.graph.trace` reads, vision
transformers included; the gradient and what is made of it fall back to autograd for others.
Deconvolution, guided backpropagation and DMBP ask which side of a bend an activation is on, and
refuse networks with smooth ones.

A method of your own is a few lines around ``Graph.record`` and ``Graph.backward``; a rule of LRP is
a class derived from :class:`Rule` or :class:`NonlinearRule`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from xaiutils.attribution._baselines import Baselines, Units
from xaiutils.attribution._cam import grad_cam
from xaiutils.attribution._cams import (
    ablation_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)
from xaiutils.attribution._common import Named, Network, Target
from xaiutils.attribution._composites import COMPOSITES, Composite
from xaiutils.attribution._contrastive import clrp, sglrp
from xaiutils.attribution._deeplift import deeplift
from xaiutils.attribution._dmbp import Disentangled, dmbp, dmbp_heatmap
from xaiutils.attribution._dmbp_objectives import (
    Extraction,
    FilterExtraction,
    Objective,
    Purity,
    Separation,
)
from xaiutils.attribution._fullgrad import FullGradients, full_gradients, fullgrad
from xaiutils.attribution._grad_lam import WEIGHTINGS, LatentMaps, LatentMean, grad_lam
from xaiutils.attribution._grad_lam_covector import CovectorMap, grad_lam_covector
from xaiutils.attribution._grad_lam_decoder import decoder_gram, decoder_norms
from xaiutils.attribution._gradients import gradient, input_x_gradient, sensitivity
from xaiutils.attribution._label_free import (
    exp_vae,
    label_free_gradient,
    lafam,
    random_map,
    relax,
)
from xaiutils.attribution._lrp import (
    GAIN_LIMIT,
    GAP_LIMIT,
    RelevanceExplosionWarning,
    RelevanceGapWarning,
    lrp,
)
from xaiutils.attribution._modified import deconvnet, guided_backprop, random
from xaiutils.attribution._noise import smoothgrad, smoothgrad_squared, vargrad
from xaiutils.attribution._nonlinear_rules import (
    Half,
    Held,
    NonlinearRule,
    NonlinearStep,
    SignalTakesAll,
    Taylor,
)
from xaiutils.attribution._occluded import occlusion
from xaiutils.attribution._paths import (
    CompletenessWarning,
    expected_gradients,
    integrated_gradients,
)
from xaiutils.attribution._report import LayerRelevance, RelevanceReport
from xaiutils.attribution._rise import rise
from xaiutils.attribution._route import Conditions
from xaiutils.attribution._rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Outcome,
    Pass,
    Ratio,
    Rule,
    Step,
    WithBias,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from xaiutils.attribution._shapley import shapley
from xaiutils.attribution._targets import (
    Contrast,
    Difference,
    LogOdds,
    LogProbability,
    Margin,
    Probability,
    value_of,
)
from xaiutils.graph.errors import UnpreprocessedWarning

METHODS: dict[str, Callable[..., Any]] = Named(
    "method",
    {
        "gradient": gradient,
        "sensitivity": sensitivity,
        "input_x_gradient": input_x_gradient,
        "smoothgrad": smoothgrad,
        "smoothgrad_squared": smoothgrad_squared,
        "vargrad": vargrad,
        "integrated_gradients": integrated_gradients,
        "deeplift": deeplift,
        "deeplift_reveal_cancel": partial(deeplift, rule="reveal_cancel"),
        "fullgrad": fullgrad,
        "fullgrad_signed": partial(fullgrad, signed=True),
        "deconvnet": deconvnet,
        "deconvnet_l2": partial(deconvnet, norm="l2"),
        "guided_backprop": guided_backprop,
        "guided_backprop_l2": partial(guided_backprop, norm="l2"),
        "grad_cam": grad_cam,
        "grad_cam_plus_plus": grad_cam_plus_plus,
        "xgrad_cam": xgrad_cam,
        "hires_cam": hires_cam,
        "layer_cam": layer_cam,
        "score_cam": score_cam,
        "ablation_cam": ablation_cam,
        "guided_grad_cam": guided_grad_cam,
        "occlusion": occlusion,
        "shapley": shapley,
        "rise": rise,
        "lrp": lrp,
        **{
            name if name.endswith("lrp") else f"lrp_{name}": partial(lrp, composite=name)
            for name in COMPOSITES
        },
        "clrp": clrp,
        "sglrp": sglrp,
        "dmbp": dmbp_heatmap,
        "dmbp_l2": partial(dmbp_heatmap, norm="l2"),
        "dmbp_greedy": partial(dmbp_heatmap, iterations=0),
        "dmbp_greedy_l2": partial(dmbp_heatmap, iterations=0, norm="l2"),
        "random": random,
    },
)
"""Each method by its name; ``f(model, x, target, **options)`` gives (N, C, H, W) heatmaps.

Sensitivity, FullGrad, the class activation maps but guided Grad-CAM, those that cover regions
(occlusion, Shapley values, RISE) and the methods with a norm (``"..._l2"``) have one channel.
``"lrp_<name>"`` is LRP with that composite; ``"attn_lrp"`` has that name already. CLRP and SGLRP
contrast a class with the others themselves and take no other contrast.
:func:`expected_gradients` is not among them: it asks for a set of baselines.
"""

LABEL_FREE: dict[str, Callable[..., Tensor]] = Named(
    "map of an encoder",
    {
        "lafam": lafam,
        "relax": relax,
        "label_free_gradient": label_free_gradient,
        "exp_vae": exp_vae,
        "random": random_map,
    },
)
"""Each map of an encoder by its name; ``f(encoder, x, **options)`` gives (N, H, W)."""

__all__ = [
    "COMPOSITES",
    "GAIN_LIMIT",
    "GAP_LIMIT",
    "LABEL_FREE",
    "METHODS",
    "WEIGHTINGS",
    "AlphaBeta",
    "Baselines",
    "CompletenessWarning",
    "Composite",
    "Conditions",
    "Contrast",
    "CovectorMap",
    "Difference",
    "Disentangled",
    "Epsilon",
    "Extraction",
    "FilterExtraction",
    "Flat",
    "FullGradients",
    "Gamma",
    "Half",
    "Held",
    "LatentMaps",
    "LatentMean",
    "LayerRelevance",
    "LogOdds",
    "LogProbability",
    "Margin",
    "Network",
    "NonlinearRule",
    "NonlinearStep",
    "Objective",
    "Outcome",
    "Pass",
    "Probability",
    "Purity",
    "Ratio",
    "RelevanceExplosionWarning",
    "RelevanceGapWarning",
    "RelevanceReport",
    "Rule",
    "Separation",
    "SignalTakesAll",
    "Step",
    "Target",
    "Taylor",
    "Units",
    "UnpreprocessedWarning",
    "WSquare",
    "WithBias",
    "ZBox",
    "ZPlus",
    "Zero",
    "ablation_cam",
    "clrp",
    "decoder_gram",
    "decoder_norms",
    "deconvnet",
    "deeplift",
    "dmbp",
    "dmbp_heatmap",
    "exp_vae",
    "expected_gradients",
    "full_gradients",
    "fullgrad",
    "grad_cam",
    "grad_cam_plus_plus",
    "grad_lam",
    "grad_lam_covector",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_x_gradient",
    "integrated_gradients",
    "label_free_gradient",
    "lafam",
    "layer_cam",
    "lrp",
    "occlusion",
    "random",
    "random_map",
    "relax",
    "rise",
    "score_cam",
    "sensitivity",
    "sglrp",
    "shapley",
    "smoothgrad",
    "smoothgrad_squared",
    "value_of",
    "vargrad",
    "xgrad_cam",
]
