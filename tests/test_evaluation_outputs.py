"""Region perturbation of networks that return something else than class scores (N, K)."""

import pytest
import torch
from torch import nn

from xaiutils import evaluation, graph

RUN = evaluation.region_perturbation


class Returning(nn.Module):
    """A small network whose scores are handed back in some form."""

    def __init__(self, form, first=None):
        super().__init__()
        torch.manual_seed(2)
        self.first = first or nn.Identity()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(352, 3))
        self.form = form
        self.eval()

    def forward(self, x):
        return self.form(self.layers(self.first(x)))


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 2, 10, 13, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("windowed", [None, False])
@pytest.mark.parametrize(
    "form",
    [lambda y: {"out": y}, lambda y: (y,), lambda y: [y, None]],
    ids=["dict", "tuple", "list"],
)
def test_scores_that_are_wrapped_are_unwrapped(x, form, windowed):
    wanted = RUN(Returning(lambda y: y), x, 1, x, 4, 5, repeats=1)
    found = RUN(Returning(form), x, 1, x, 4, 5, repeats=1, windowed=windowed)
    torch.testing.assert_close(found.scores, wanted.scores)


def test_one_number_for_each_image_is_its_own_target(x):
    wanted = RUN(Returning(lambda y: y), x, 2, x, 4, 5, repeats=1)
    for target in (None, 0):
        found = RUN(Returning(lambda y: y[:, 2]), x, target, x, 4, 5, repeats=1)
        torch.testing.assert_close(found.scores, wanted.scores)


def test_two_outputs_are_refused_with_a_cure(x):
    with pytest.raises(graph.UnsupportedOperation, match=r"returns 2 values.*returns the one"):
        RUN(Returning(lambda y: (y, y)), x, 1, x, 4, 5)


def test_a_callable_output_takes_whatever_the_network_returns(x):
    def read(outputs, images):
        return outputs["a"][:, 0] + outputs["b"]

    wanted = RUN(Returning(lambda y: y), x, None, x, 4, 5, output=lambda y, n: y[:, 0] + y[:, 1])
    both = Returning(lambda y: {"a": y, "b": y[:, 1]})
    found = RUN(both, x, None, x, 4, 5, output=read)
    torch.testing.assert_close(found.scores, wanted.scores)


@pytest.mark.parametrize("windowed", [None, False])
def test_a_first_operation_in_place_changes_nothing_of_the_caller(x, windowed):
    before = x.clone()
    network = Returning(lambda y: y, first=nn.ReLU(inplace=True))
    found = RUN(network, x, 1, x, 4, 5, repeats=1, windowed=windowed)
    assert torch.equal(x, before)
    wanted = RUN(Returning(lambda y: y, first=nn.ReLU()), x, 1, x, 4, 5, repeats=1)
    torch.testing.assert_close(found.scores, wanted.scores)
    evaluation.parameter_randomisation(
        network, x, 1, {"x": lambda model, x, target: x.clone()}, layers=["layers"]
    )
    assert torch.equal(x, before)
