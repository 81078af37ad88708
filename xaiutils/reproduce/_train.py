"""``train``: make the weights that the package embeds, from the full data sets."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.reproduce._train_autoencoder import RECIPES, train_autoencoder
from xaiutils.reproduce._weights_record import describe, refuse_embedded, store

_WEIGHTS = Path(models.__file__).parent / "weights"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train`` to the command line."""
    train = commands.add_parser("train", help="train a small network on a full data set")
    networks = train.add_subparsers(dest="network", required=True)
    mnist = networks.add_parser("mnist-cnn", help="the digit classifier, on all of MNIST")
    _add_options(mnist, "mnist_cnn", epochs=12)
    mnist.set_defaults(run=train_mnist_cnn)
    for name, recipe in RECIPES.items():
        network = networks.add_parser(name.replace("_", "-"), help=f"an autoencoder, {recipe.data}")
        _add_options(network, name, recipe.epochs)
        network.set_defaults(run=train_autoencoder, name=name)


def _add_options(parser: argparse.ArgumentParser, name: str, epochs: int) -> None:
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="resume from, and save to, this file")
    parser.add_argument("--out", type=Path, default=_WEIGHTS / f"{name}.safetensors")


def train_mnist_cnn(options: argparse.Namespace) -> int:
    """Train on the 60,000 digits, test on the 10,000, store weights and record."""
    train, test = data.mnist("train"), data.mnist("test")
    refuse_embedded(train, test)
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
        "data": {"train": describe(inputs, train.labels), "test": describe(digits, test.labels)},
        "plan": vars(plan) | {"augmentation": "shift by up to 2 pixels"},
        "device": options.device,
    }
    store(module, options.out, facts)
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
