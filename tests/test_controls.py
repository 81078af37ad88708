"""Controls: orders by lot, maps that know nothing of the image, and fills that see the mask."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from xaiutils import evaluation
from xaiutils.evaluation._pictures import generator

RUN = evaluation.region_perturbation
N, SIDE, SIZE = 4, 12, 3


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 5)).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(N, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def maps():
    return torch.randn(N, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


class Neighbours:
    """The mean of what is left of the image, and noise: what is put there depends on the mask."""

    random: ClassVar[bool] = True
    sees_mask: ClassVar[bool] = True

    def __call__(self, images, generator, gone):
        left = (~gone).expand_as(images)
        mean = (images * left).sum((2, 3), keepdim=True) / left.sum((2, 3), keepdim=True).clamp(1)
        return mean + torch.randn(images[:1].shape, generator=generator)


# ---------------------------------------------------------------------------------- orders by lot


def test_a_block_grows_from_one_place_and_asks_no_map(net, x):
    curves = RUN(net, x, None, None, SIZE, 8, "block", evaluation.Constant(7.0), 3)
    pictures = curves.perturbed(range(1, 9), repeat=1)
    for one in (pictures == 7.0).all(dim=2).flatten(0, 1):  # (SIDE, SIDE), the pixels that are gone
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert one.sum() >= box / 2, "half of the box around a block belongs to it"
    assert not curves.constant.any()
    assert not curves.tied.any()


def test_the_place_of_a_block_is_drawn_anew_and_shared_by_all_settings(net, x):
    def firsts(**options):
        curves = RUN(net, x, None, None, SIZE, 4, "block", repeats=20, **options)
        orders = [
            [curves.perturbation.region_order(i, r)[0].item() for r in range(20)] for i in (0, 1)
        ]
        return torch.tensor(orders)

    first = firsts()
    assert all(len(row.unique()) > 5 for row in first), "not the same place each time"
    assert torch.equal(first, firsts(fill="blur"))
    assert not torch.equal(first, firsts(seed=1))
    assert not torch.equal(first[0], first[1])


def test_a_block_scores_what_the_naive_loop_scores(net, x):
    curves = RUN(net, x, 2, None, SIZE, 5, "block", evaluation.Constant(0.5), 2)
    with torch.no_grad():
        for image in range(N):
            pictures = curves.perturbed(range(6), repeat=1, images=[image])[0]
            wanted = net(pictures)[:, 2]
            assert torch.allclose(curves.scores[image, 1], wanted, atol=1e-5)


# ------------------------------------------------------------------------------ fills with a mask


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_fill_that_sees_the_mask_equals_the_naive_loop(net, x, maps, batch_size):
    fill, steps, repeats = Neighbours(), 6, 2
    curves = RUN(net, x, 1, maps, SIZE, steps, "morf", fill, repeats, batch_size=batch_size, seed=4)
    regions = evaluation.Regions(SIDE, SIDE, SIZE)
    for image in range(N):
        order = regions.scores(maps[:, 0])[image].argsort(descending=True)
        for repeat in range(repeats):
            picture, gone = x[image : image + 1], torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
            for step in range(1, steps + 1):
                gone = gone | (regions.index == order[step - 1])
                filled = fill(picture, generator(4, image, repeat, "fill"), gone)
                with torch.no_grad():
                    wanted = net(torch.where(gone, filled, picture))[0, 1]
                assert torch.allclose(curves.scores[image, repeat, step], wanted, atol=1e-5)


def test_pictures_filled_by_the_mask_are_those_that_were_scored(net, x, maps):
    curves = RUN(net, x, 1, maps, SIZE, 6, "lerf", Neighbours(), 2)
    with torch.no_grad():
        for image in range(N):
            again = net(curves.perturbed(range(7), repeat=1, images=[image])[0])[:, 1]
            assert torch.allclose(curves.scores[image, 1], again, atol=1e-5)


def test_windows_and_a_fill_that_sees_the_mask_do_not_go_together(net, x, maps):
    with pytest.raises(ValueError, match="sees the mask"):
        RUN(net, x, 1, maps, SIZE, 6, fill=Neighbours(), windowed=True)


# ----------------------------------------------------------------------------------- borrowed maps


@pytest.mark.parametrize("number", [2, 3, 10])
def test_every_map_goes_to_one_other_image(number):
    maps = torch.arange(number).view(number, 1, 1, 1).float()
    lent = evaluation.borrowed(maps)
    assert sorted(lent.flatten().tolist()) == list(range(number))
    assert not (lent == maps).any()
    assert torch.equal(evaluation.borrowed({"a": maps})["a"], lent)


@pytest.mark.parametrize("seed", range(5))
def test_maps_are_borrowed_from_other_classes_where_there_are_some(seed):
    classes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    maps = torch.arange(8).view(8, 1, 1)
    lent = evaluation.borrowed(maps, classes, seed).flatten()
    assert sorted(lent.tolist()) == list(range(8))
    assert (classes[lent] != classes).all()


def test_one_class_alone_lends_among_itself_and_the_lot_has_a_seed():
    maps, alike = torch.arange(6).view(6, 1, 1), torch.zeros(6, dtype=torch.int64)
    assert torch.equal(evaluation.borrowed(maps, alike), evaluation.borrowed(maps))
    assert any(
        not torch.equal(evaluation.borrowed(maps, seed=s), evaluation.borrowed(maps))
        for s in range(1, 4)
    )


def test_a_map_knows_more_of_its_image_than_a_borrowed_one_does(x):
    """By the additive network, whose true map is known, and for which the next one is useless."""
    network = evaluation.AdditiveNetwork(2, SIDE, SIZE, seed=3)
    many = torch.randn(40, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    fill = evaluation.Constant(0.0)
    truth = evaluation.expected_falls(network, many, fill, draws=1)
    own = nn.functional.interpolate(truth[:, None], scale_factor=SIZE)
    maps = {"own": own, "other": own.roll(-1, 0), "third": own.roll(-2, 0)}
    morf, lerf = (
        RUN(network, many, 0, maps, SIZE, 8, order, fill, 1) for order in ("morf", "lerf")
    )

    def lead(one, other):
        curves = morf[one], lerf[one], morf[other], lerf[other]
        return evaluation.bootstrap(evaluation.own_minus_borrowed(*curves))

    assert lead("own", "other").low > 0
    nothing = lead("other", "third")
    assert nothing.low < 0 < nothing.high


def test_the_difference_of_the_areas_is_what_it_says(net, x, maps):
    fill = evaluation.Constant(0.0)
    both = {"own": maps, "borrowed": evaluation.borrowed(maps)}
    morf, lerf = (RUN(net, x, 1, both, SIZE, 5, order, fill, 1) for order in ("morf", "lerf"))
    found = evaluation.own_minus_borrowed(
        morf["own"], lerf["own"], morf["borrowed"], lerf["borrowed"]
    )
    areas = [c.aopc() for c in (morf["own"], lerf["own"], morf["borrowed"], lerf["borrowed"])]
    assert torch.allclose(found, areas[0] - areas[1] - areas[2] + areas[3])


# ------------------------------------------------------------------------------ gains and controls


def test_a_gain_is_positive_where_the_order_is_better(net, x, maps):
    fill = evaluation.Constant(0.0)
    morf, lerf = (RUN(net, x, 1, maps, SIZE, 5, order, fill, 1) for order in ("morf", "lerf"))
    by_lot = RUN(net, x, 1, None, SIZE, 5, "random", fill, repeats=10)
    assert torch.equal(evaluation.gain_over(morf, by_lot), morf.aopc() - by_lot.aopc())
    assert torch.equal(evaluation.gain_over(lerf, by_lot), by_lot.aopc() - lerf.aopc())
    assert torch.equal(evaluation.gain_over(morf, morf), torch.zeros(N).double())


def test_gains_of_orders_that_do_not_belong_together_are_refused(net, x, maps):
    run = {o: RUN(net, x, 1, maps, SIZE, 5, o, repeats=1) for o in ("morf", "lerf", "block")}
    with pytest.raises(ValueError, match="control must be of the order 'morf'"):
        evaluation.gain_over(run["morf"], run["lerf"])
    with pytest.raises(ValueError, match="curves must be of the order"):
        evaluation.gain_over(run["block"], run["block"])
    fewer = RUN(net, x[:2], 1, maps[:2], SIZE, 5, repeats=1)
    with pytest.raises(ValueError, match="differ in images"):
        evaluation.gain_over(run["morf"], fewer)
    with pytest.raises(ValueError, match="start at different scores"):
        evaluation.own_minus_borrowed(
            run["morf"],
            run["lerf"],
            *(RUN(net, x.flip(0), 1, maps, SIZE, 5, o, repeats=1) for o in ("morf", "lerf")),
        )


def test_a_table_holds_every_score_once(net, x, maps):
    curves = RUN(net, x, 1, maps, SIZE, 5, repeats=2, first_image=10)
    frame = curves.to_frame()
    assert len(frame) == curves.scores.numel()
    assert set(frame["image"]) == {10, 11, 12, 13}
    row = frame.query("image == 12 and repeat == 1 and step == 4")
    assert row["score"].item() == curves.scores[2, 1, 4].item()
    assert set(frame["order"]) == {"morf"}


def test_maps_that_need_no_network(x, maps):
    prior = evaluation.centre_prior(x)
    assert prior.shape == (N, 1, SIDE, SIDE)
    assert prior[0, 0, 0, 0] == 0
    assert prior[0, 0, 5:7, 5:7].min() == prior.max()
    flat = torch.zeros(1, 2, 3, 3)
    flat[0, :, 1, 1] = torch.tensor([3.0, 4.0])
    assert evaluation.picture_as_map(flat).flatten().tolist() == [0, 0, 0, 0, 5, 0, 0, 0, 0]
    colour = torch.tensor([3.0, 4.0]).view(2, 1, 1)
    assert evaluation.picture_as_map(flat, colour)[0, 0, 1, 1] == 0
    signed = torch.tensor([[1.0, -2.0], [-3.0, 1.0]]).view(1, 2, 2, 1)
    assert evaluation.unsigned(signed).flatten().tolist() == [2, 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: evaluation.borrowed(x[:1]), "only be borrowed from another image"),
        (lambda x: evaluation.borrowed(x, torch.zeros(3)), "targets must be"),
        (lambda x: evaluation.centre_prior(x[0]), "x must be images"),
        (lambda x: evaluation.picture_as_map(x[0]), "x must be images"),
    ],
)
def test_bad_input_is_refused(x, call, words):
    with pytest.raises(ValueError, match=words):
        call(x)
