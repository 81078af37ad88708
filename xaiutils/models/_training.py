"""One training loop for every small network of the project: seeded, resumable, with progress.

Each epoch seeds its random numbers with (seed, epoch), so a run that was stopped and resumed takes
exactly the steps of a run that was not.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import trange

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides the outcome of a training run, apart from the data.

    Attributes:
        epochs: Passes over the data.
        batch_size: Examples per step.
        peak_lr: Highest learning rate of Adam under the one-cycle schedule.
        weight_decay: Decoupled weight decay (AdamW).
        seed: Seeds the shuffling and the augmentation of every epoch.
    """

    epochs: int = 10
    batch_size: int = 128
    peak_lr: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class EarlyStop:
    """Stop when an error on held-out data has ceased to fall, and keep the best epoch's weights.

    Attributes:
        error: Measures the network, which is in evaluation mode, on data that it is not trained on.
        patience: Epochs in a row without a new lowest error after which the training ends.
    """

    error: Callable[[nn.Module], float]
    patience: int = 3


@dataclass
class _Run:
    """The parts of a run that change, and how they are stored and found again."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    history: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def state(self, plan: TrainingPlan) -> dict[str, Any]:
        return {
            "plan": asdict(plan),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "errors": self.errors,
            "best": self.best,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.history = list(saved["history"])
        self.errors = list(saved.get("errors", []))
        self.best = dict(saved.get("best", {}))

    def measure(self, stop: EarlyStop) -> None:
        """Note the held-out error, and the weights if it is the lowest so far."""
        self.errors.append(stop.error(self.module))
        if self.errors[-1] == min(self.errors):
            self.best = {name: t.detach().clone() for name, t in self.module.state_dict().items()}

    def is_over(self, stop: EarlyStop) -> bool:
        """Whether the error has not fallen for `patience` epochs."""
        since_best = len(self.errors) - self.errors.index(min(self.errors)) if self.errors else 0
        return since_best > stop.patience


def fit(
    module: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    plan: TrainingPlan | None = None,
    *,
    augment: Augment | None = None,
    after_epoch: Callable[[int, nn.Module], bool] | None = None,
    after_step: Callable[[int, nn.Module], None] | None = None,
    early_stop: EarlyStop | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> list[float]:
    """Train a network in place and leave it in evaluation mode.

    Args:
        module: The network; it and the tensors must be on the same device.
        loss: ``loss(module, batch_inputs, batch_targets)``, a scalar to be minimised.
        inputs: Training inputs, shape (N, ...).
        targets: Training targets, shape (N, ...); an autoencoder passes its inputs.
        plan: Epochs, batch size, learning rate, seed.
        augment: ``augment(batch_inputs, generator)`` returns changed inputs of the same shape.
        after_epoch: Called with the number of finished epochs and the network; returning True
            stops the training early.
        after_step: Called with the number of finished steps and the network, which stays in
            training mode.
        early_stop: An error to be watched on held-out data; the network ends with the weights of
            the epoch whose error was lowest.
        checkpoint: A file that the state is saved to after each epoch, and resumed from if it
            exists and belongs to the same plan.
        progress: Show a progress bar.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: Inputs and targets differ in number, or the checkpoint is of another plan.
        FloatingPointError: The loss became NaN or infinite; the last checkpoint stays as it was.
    """
    plan = plan or TrainingPlan()
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets do not make pairs.")
    run = _start(module, plan, steps=-(-len(inputs) // plan.batch_size))
    if checkpoint is not None and Path(checkpoint).exists():
        run.restore(_read_checkpoint(Path(checkpoint), plan))
    bar = trange(len(run.history), plan.epochs, disable=not progress, desc="epochs")
    for epoch in bar:
        if early_stop is not None and run.is_over(early_stop):
            break
        with torch.random.fork_rng():  # dropout and sampling draw from the global generator
            torch.manual_seed(_epoch_seed(plan, epoch))
            run.history.append(_epoch(run, loss, inputs, targets, plan, epoch, augment, after_step))
        bar.set_postfix(loss=f"{run.history[-1]:.4f}")
        module.eval()
        if early_stop is not None:
            run.measure(early_stop)
        if checkpoint is not None:
            _write_checkpoint(Path(checkpoint), run.state(plan))
        if after_epoch is not None and after_epoch(epoch + 1, module):
            break
    if run.best:
        module.load_state_dict(run.best)
    module.eval()
    return run.history


def _start(module: nn.Module, plan: TrainingPlan, steps: int) -> _Run:
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=plan.peak_lr, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=plan.peak_lr, total_steps=plan.epochs * steps
    )
    return _Run(module, optimizer, schedule)


def _epoch_seed(plan: TrainingPlan, epoch: int) -> int:
    return plan.seed * 100_003 + epoch


def _epoch(
    run: _Run,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    plan: TrainingPlan,
    epoch: int,
    augment: Augment | None,
    after_step: Callable[[int, nn.Module], None] | None,
) -> float:
    """One pass over the shuffled data; the mean loss over its examples."""
    run.module.train()
    generator = torch.Generator().manual_seed(_epoch_seed(plan, epoch))
    order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    total, batches = 0.0, torch.split(order, plan.batch_size)
    for step, rows in enumerate(batches, start=epoch * len(batches) + 1):
        batch = inputs[rows] if augment is None else augment(inputs[rows], generator)
        value = loss(run.module, batch, targets[rows])
        run.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        run.optimizer.step()
        run.schedule.step()
        if after_step is not None:
            after_step(step, run.module)
        total += value.item() * len(rows)
    if not torch.isfinite(torch.tensor(total)):
        raise FloatingPointError(
            f"The loss became {total} in epoch {epoch + 1}. Lower peak_lr or check the data."
        )
    return total / len(inputs)


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the file and rename, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".{os.getpid()}.part")
    torch.save(state, part)
    part.replace(path)


def _read_checkpoint(path: Path, plan: TrainingPlan) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    if saved["plan"] != asdict(plan):
        raise ValueError(
            f"{path} belongs to another run ({saved['plan']}). Delete it to start afresh, or "
            "give this run a checkpoint file of its own."
        )
    return saved
