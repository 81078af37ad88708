"""``train``: make the weights that the package embeds, from the full data sets."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.reproduce._provenance import command_line, provenance, write_json

_WEIGHTS = Path(models.__file__).parent / "weights"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train`` to the command line."""
    train = commands.add_parser("train", help="train a small network on a full data set")
    networks = train.add_subparsers(dest="network", required=True)
    mnist = networks.add_parser("mnist-cnn", help="the digit classifier, on all of MNIST")
    mnist.add_argument("--epochs", type=int, default=12)
    mnist.add_argument("--seed", type=int, default=0)
    mnist.add_argument("--device", default="cpu")
    mnist.add_argument("--checkpoint", type=Path, help="resume from, and save to, this file")
    mnist.add_argument("--out", type=Path, default=_WEIGHTS / "mnist_cnn.safetensors")
    mnist.set_defaults(run=train_mnist_cnn)


def train_mnist_cnn(options: argparse.Namespace) -> int:
    """Train on the 60,000 digits, test on the 10,000, store weights and record."""
    train, test = data.mnist("train"), data.mnist("test")
    _refuse_embedded(train, test)
    inputs, digits = (torch.as_tensor(split.images).to(options.device) for split in (train, test))
    module = models.load_classifier("mnist_cnn", weights="random").module.to(options.device)
    plan = models.TrainingPlan(epochs=options.epochs, seed=options.seed)
    labels = train.labels.to(options.device)
    models.fit(
        module,
        cross_entropy,
        inputs,
        labels,
        plan,
        augment=random_shift,
        checkpoint=options.checkpoint,
    )
    accuracy = test_accuracy(module, digits, test.labels)
    facts = {
        "accuracy": {"test": round(accuracy, 4), "digits": len(test)},
        "data": {"train": _describe(train), "test": _describe(test)},
        "plan": vars(plan) | {"augmentation": "shift by up to 2 pixels"},
        "device": options.device,
    }
    _store(module, options.out, facts)
    print(f"test accuracy {accuracy:.4f} on {len(test)} digits; weights in {options.out.name}")
    return 0


def cross_entropy(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of a batch of logits (N, K) and labels (N,)."""
    return nn.functional.cross_entropy(module(inputs), labels)


def random_shift(digits: Tensor, generator: torch.Generator, most: int = 2) -> Tensor:
    """Shift a whole batch by the same random number of pixels; the margins of MNIST are empty."""
    rows, columns = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return digits.roll((rows, columns), dims=(2, 3))


@torch.no_grad()
def test_accuracy(module: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of inputs (N, 1, 28, 28) whose largest logit is at their label, in [0, 1]."""
    found = torch.cat([module(batch).argmax(dim=1).cpu() for batch in torch.split(inputs, 1000)])
    return (found == labels).double().mean().item()


def _refuse_embedded(*splits: data.ImageSet) -> None:
    """The embedded digits all come from the training set: no accuracy could be told from them."""
    for split in splits:
        if split.source.kind == "embedded":
            raise SystemExit(
                f"{split.name} could only be had as the embedded part ({split.source.note}). "
                "Let XAIUTILS_DATA name a folder with MNIST/raw, or connect to the network."
            )


def _describe(split: data.ImageSet) -> dict[str, Any]:
    """Which digits these were: origin, number and a hash of their pixels and labels."""
    images = torch.as_tensor(split.images)
    content = hashlib.sha256(images.numpy().tobytes() + split.labels.numpy().tobytes())
    return {"images": len(split), "sha256": content.hexdigest()}


def _store(module: nn.Module, path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(state, part)
    part.replace(path)
    write_json(path.with_suffix(".json"), provenance(command_line(), **facts))
