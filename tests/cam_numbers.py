"""Writes cam_numbers.npz: the maps of TorchCAM 0.5.0 and pytorch-grad-cam 1.5.7 on a small network.

Neither is a dependency of the tests. To write the file again, run this with xaiutils,
``torchcam==0.5.0``, ``grad-cam==1.5.7`` and what these need: ``python tests/cam_numbers.py``.

The maps are those of the layer, before they are enlarged and brought between 0 and 1, which both
libraries do in their own ways.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

FILE = Path(__file__).with_name("cam_numbers.npz")
LAYERS = ("1", "4")  # as large as the picture, and half as large
TARGETS = (1, 2)


def network():
    """Three classes, images (3, 8, 8); not linear in the maps."""
    torch.manual_seed(2)
    features = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features += [nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*features, nn.Linear(80, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    for parameter in model.parameters():
        parameter.data *= 3  # or slopes are so small that what libraries add to divisors matters
    return model


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def torchcam_maps(name, layer):
    from torchcam import methods

    model = network()
    with getattr(methods, name)(model, layer) as extractor:
        scores = model(images())
        return extractor(list(TARGETS), scores, normalized=False)[0].detach().numpy()


def pytorch_grad_cam_maps(name, layer):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = network(), images()
    found = model.get_submodule(layer)
    cam = getattr(pytorch_grad_cam, name)(model, [found])
    targets = [ClassifierOutputTarget(target) for target in TARGETS]
    cam(x, targets)  # fills the hooks
    kept = cam.activations_and_grads
    maps = kept.activations[0].numpy()
    slopes = kept.gradients[0].numpy() if kept.gradients else None
    return np.asarray(cam.get_cam_image(x, found, targets, maps, slopes, False))


def main():
    numbers = {}
    for layer in LAYERS:
        for name in ("GradCAMpp", "XGradCAM", "LayerCAM", "ScoreCAM"):
            numbers[f"torchcam/{name}/{layer}"] = torchcam_maps(name, layer)
        for name in (
            "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "AblationCAM", "ScoreCAM"
        ):  # fmt: skip
            numbers[f"pytorch-grad-cam/{name}/{layer}"] = pytorch_grad_cam_maps(name, layer)
    np.savez_compressed(FILE, **{key: value.astype(np.float32) for key, value in numbers.items()})


if __name__ == "__main__":
    main()
