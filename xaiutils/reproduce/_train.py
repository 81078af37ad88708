"""``train``: make the weights that the package embeds, from the full data sets."""

import argparse
from pathlib import Path

import torch

from xaiutils import data, models
from xaiutils.reproduce._supervised import accuracy, cross_entropy, random_shift
from xaiutils.reproduce._train_autoencoder import RECIPES, train_autoencoder
from xaiutils.reproduce._train_deletions import train_deletions
from xaiutils.reproduce._train_tiny import ARCHITECTURES, train_tiny_imagenet
from xaiutils.reproduce._weights_record import describe, refuse_embedded, store

_WEIGHTS = Path(models.__file__).parent / "weights"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train`` to the command line."""
    train = commands.add_parser("train", help="train a small network on a full data set")
    networks = train.add_subparsers(dest="network", required=True)
    mnist = networks.add_parser("mnist-cnn", help="the digit classifier, on all of MNIST")
    _add_options(mnist, "mnist_cnn", epochs=12)
    mnist.set_defaults(run=train_digits, name="mnist_cnn", batch_size=128, peak_lr=3e-3)
    vit = networks.add_parser("mnist-vit", help="the digit transformer, on all of MNIST")
    _add_options(vit, "mnist_vit", epochs=10)
    # On a CPU half the batch halves the time of an epoch: its activations stay in the cache.
    vit.set_defaults(run=train_digits, name="mnist_vit", batch_size=64, peak_lr=2e-3)
    deletions = networks.add_parser("mnist-deletions", help="mnist-cnn, used to replaced regions")
    _add_options(deletions, "mnist_cnn_deletions", epochs=1)
    deletions.set_defaults(run=train_deletions)
    for name, recipe in RECIPES.items():
        network = networks.add_parser(name.replace("_", "-"), help=f"an autoencoder, {recipe.data}")
        _add_options(network, name, recipe.epochs)
        network.set_defaults(run=train_autoencoder, name=name)
    tiny = networks.add_parser("tiny-imagenet", help="a torchvision network, on Tiny ImageNet")
    tiny.add_argument("--architecture", choices=ARCHITECTURES, required=True)
    tiny.add_argument("--train-images", type=int, help="so many images by lot; all, if not given")
    _add_options(tiny, "", epochs=20)
    tiny.set_defaults(run=train_tiny_imagenet)


def _add_options(parser: argparse.ArgumentParser, name: str, epochs: int) -> None:
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="resume from, and save to, this file")
    embedded = _WEIGHTS / f"{name}.safetensors" if name else None
    parser.add_argument("--out", type=Path, default=embedded, required=not name)


def train_digits(options: argparse.Namespace) -> int:
    """Train on the 60,000 digits, test on the 10,000, store weights and record."""
    train, test = data.mnist("train"), data.mnist("test")
    refuse_embedded(train, test)
    inputs, digits = (torch.as_tensor(split.images).to(options.device) for split in (train, test))
    module = models.load_classifier(options.name, weights="random").module.to(options.device)
    plan = models.TrainingPlan(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_lr=options.peak_lr,
        seed=options.seed,
    )
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
    right = accuracy(module, digits, test.labels.to(options.device)).item()
    facts = {
        "accuracy": {"test": round(right, 4), "digits": len(test)},
        "data": {"train": describe(inputs, train.labels), "test": describe(digits, test.labels)},
        "plan": vars(plan) | {"augmentation": "shift by up to 2 pixels"},
        "device": options.device,
    }
    store(module, options.out, facts)
    print(f"test accuracy {right:.4f} on {len(test)} digits; weights in {options.out.name}")
    return 0
