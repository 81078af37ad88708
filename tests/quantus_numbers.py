"""Writes quantus_numbers.npz: what Quantus 0.6.0 gives on two small networks.

Quantus is no dependency of the tests (it asks for OpenCV). To write the file again, run this with
xaiutils, ``quantus==0.6.0`` and what that needs: ``python tests/quantus_numbers.py``.

Quantus draws its subsets and its noise from numpy's global state; here it is handed those that
xaiutils draws, so that the two numbers must be equal where both compute the same.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from xaiutils import attribution, evaluation
from xaiutils.evaluation._stability import _uniform

FILE = Path(__file__).with_name("quantus_numbers.npz")
SUBSETS, SIZE, RADIUS, DRAWS, BLACK = 40, 9, 0.05, 6, 0.25


def network():
    """Three classes, images (1, 8, 8)."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(96, 3)).eval()


def linear():
    """A linear network, whose gradient foretells everything."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


def images():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def targets():
    return network()(images()).argmax(1)


def maps():
    return attribution.input_x_gradient(network(), images(), targets())


def labels():
    """Segments; each image has one fewer than the one before."""
    cut = evaluation.slic_segments(images(), 12)
    return torch.stack([one.clamp(max=14 - n) for n, one in enumerate(cut)])


def boxes():
    return torch.tensor([[1, 1, 4, 4], [0, 2, 5, 7], [3, 3, 7, 7], [2, 0, 6, 3]])


def inside():
    found = torch.zeros(4, 1, 8, 8)
    for one, (x0, y0, x1, y1) in zip(found, boxes().tolist(), strict=True):
        one[:, y0 : y1 + 1, x0 : x1 + 1] = 1
    return found


def tied():
    """Maps whose largest value stands inside the box and outside it."""
    found = torch.zeros(4, 1, 8, 8)
    found[:, :, 3, 3], found[:, :, 0, 7] = 2.0, 2.0
    return found


def main():
    import quantus

    np.trapz = np.trapezoid  # gone from numpy 2.4; Quantus 0.6.0 calls it
    x, y, a = images().numpy(), targets().numpy(), maps().detach().numpy()
    common = {"abs": False, "normalise": False, "disable_warnings": True}
    fill = {"perturb_baseline": BLACK}
    call = {"model": network(), "x_batch": x, "y_batch": y, "channel_first": True, "softmax": False}
    found = {}

    drawn = evaluation.subset_falls(
        network(), images(), targets(), 1, SIZE, SUBSETS, evaluation.Constant(BLACK)
    ).gone
    queue = [one.nonzero()[:, 0].numpy() for subset in drawn for one in subset]
    kept, np.random.choice = np.random.choice, lambda *_, **__: queue.pop(0)
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=SUBSETS, subset_size=SIZE, perturb_func_kwargs=fill, return_aggregate=False,
        **common,
    )  # fmt: skip
    found["faithfulness_correlation"] = metric(a_batch=a, **call)
    np.random.choice = kept

    flipping = quantus.PixelFlipping(features_in_step=1, perturb_func_kwargs=fill, **common)
    found["pixel_flipping"] = flipping(a_batch=a, **call)
    area = quantus.PixelFlipping(
        features_in_step=1, perturb_func_kwargs=fill, return_auc_per_sample=True, **common
    )
    found["pixel_flipping_auc"] = area(a_batch=a, **call)

    cut = labels().numpy()
    kept = quantus.helpers.utils.get_superpixel_segments
    queue = list(cut)
    quantus.helpers.utils.get_superpixel_segments = lambda **_: queue.pop(0)
    irof = quantus.IROF(perturb_func_kwargs=fill, return_aggregate=False, **common)
    found["irof"] = irof(a_batch=a, **call | {"softmax": True})
    quantus.helpers.utils.get_superpixel_segments = kept

    slopes = attribution.gradient(network(), images(), targets()).numpy()
    infidelity = quantus.Infidelity(
        perturb_patch_sizes=[4], n_perturb_samples=1, perturb_func_kwargs=fill, **common
    )
    found["infidelity"] = infidelity(a_batch=slopes, **call)

    straight = call | {"model": linear()}
    truth = attribution.gradient(linear(), images(), targets()) * (images() - BLACK)
    sensitivity = quantus.SensitivityN(
        features_in_step=4, n_max_percentage=0.8, perturb_func_kwargs=fill,
        return_aggregate=False, **common,
    )  # fmt: skip
    found["sensitivity_n_of_the_truth"] = sensitivity(a_batch=truth.numpy(), **straight)

    noise = [RADIUS * (2 * _uniform(images(), 0, 0, k) - 1) for k in range(DRAWS)]

    def explain(model, inputs, targets, **_):
        tensors = torch.as_tensor(inputs).float(), torch.as_tensor(targets)
        return attribution.gradient(model, *tensors).numpy()

    queue = [one.numpy() for one in noise]
    stability = quantus.MaxSensitivity(
        nr_samples=DRAWS, return_nan_when_prediction_changes=False,
        perturb_func=lambda arr, **_: arr + queue.pop(0).reshape(arr.shape), **common,
    )  # fmt: skip
    found["max_sensitivity"] = stability(a_batch=slopes, explain_func=explain, **call)

    from quantus.functions.complexity_func import discrete_entropy

    found["discrete_entropy"] = [discrete_entropy(one, one, n_bins=100) for one in a]

    box = {"a_batch": np.abs(a), "s_batch": inside().numpy(), **call}
    found["pointing_game"] = quantus.PointingGame(**common)(**box)
    found["pointing_game_of_a_tie"] = quantus.PointingGame(**common)(
        **box | {"a_batch": tied().numpy()}
    )
    found["mass_accuracy"] = quantus.RelevanceMassAccuracy(**common)(**box)
    signed = box | {"a_batch": a}
    found["mass_accuracy_with_signs"] = quantus.RelevanceMassAccuracy(**common)(**signed)

    np.savez(FILE, **{name: np.asarray(value, dtype=float) for name, value in found.items()})


if __name__ == "__main__":
    main()
    for name, value in np.load(FILE).items():
        print(name, value.shape, np.round(value.flatten()[:6], 4))
