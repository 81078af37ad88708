"""Measure how often the page's weights name what the original ones do.

Run as ``PYTHONPATH=book/_tools python -m photograph.agreement``, with the 1000 sample pictures of
ImageNet at hand. It writes results/benchmark-simd-weights.json.
"""

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from photograph import export, scripts
from xaiutils import data, models
from xaiutils.reproduce._provenance import provenance, write_json

RESULT = Path("results/benchmark-simd-weights.json")
COMMAND = "PYTHONPATH=book/_tools python -m photograph.agreement"


@torch.no_grad()
def logits_of(network: nn.Module, pages: nn.Module, pictures: data.ImageSet) -> list[Tensor]:
    """Return the logits (N, K) of both networks, and the labels (N,)."""
    found = []
    for done, (x, labels) in enumerate(DataLoader(pictures, batch_size=20), start=1):
        found.append((network(x), pages(x), labels))
        print(f"{done * len(x)} of {len(pictures)} pictures", flush=True)
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def main() -> None:
    """Measure and write."""
    classifier = models.load_classifier(scripts.NETWORK)
    exported = export.export(classifier.module)
    pages = copy.deepcopy(classifier.module)
    pages.load_state_dict(exported.state)
    pictures = data.imagenet_sample(transform=classifier.preprocess)
    own, page, labels = logits_of(classifier.module, pages, pictures)
    facts = {
        "model": classifier.name,
        "weights": classifier.source,
        "data": pictures.name,
        "bytes": len(exported.weights),
        "pictures": len(labels),
        "same_top_class": int((own.argmax(1) == page.argmax(1)).sum()),
        "top_class_right": int((own.argmax(1) == labels).sum()),
        "top_class_of_the_page_right": int((page.argmax(1) == labels).sum()),
        "mean_difference_of_logits": round(float((own - page).abs().mean()), 4),
        "largest_difference_of_logits": round(float((own - page).abs().max()), 4),
    }
    write_json(scripts.ROOT / RESULT, provenance(COMMAND, **facts))


if __name__ == "__main__":
    sys.exit(main())
