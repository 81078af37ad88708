"""Instruments with known truth: what is proved is proved here, and the truth scores highest."""

import pytest
import torch
from torch import nn

from xaiutils import attribution, data
from xaiutils.evaluation import AdditiveNetwork, Uniform, energy_inside, expected_falls, truth

CONNECTIONS = ("joint", "part", "full")


def _parts():
    """A small fully convolutional classifier in two parts."""
    features = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
    )  # fmt: skip
    return nn.ModuleList([features, nn.Conv2d(8, 5, 1)]).eval()


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return _parts()


@pytest.fixture
def pictures():
    return torch.rand(4, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


CLASSES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4], [4, 3, 2, 1], [0, 2, 4, 1]])


def _instruments(parts, pictures):
    """One of each, small; the networks need not follow the rule for what is tested with them."""
    network = truth.PlantedCNN(4).eval()
    digits = data.mnist("test", source="embedded", per_class=1).images[1:5]
    grids = [truth.grid_instrument(parts, pictures, CLASSES, c) for c in CONNECTIONS]
    planted = [
        truth.planted_instrument(rule, 4, network=truth.PlantedCNN(4, rule != "suppressor").eval())
        for rule in data.RULES
    ]
    labels = torch.tensor([1, 2, 3, 4])
    classifier = truth.PlantedCNN(10).eval()
    reader = truth.CodeReader(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 3).eval()
    return [
        *grids,
        *planted,
        truth.additive_instrument(digits),
        truth.backdoor_instrument(digits, labels, network=classifier),
        truth.watermark_instrument(digits, labels, network=reader),
    ], network


# ------------------------------------------------------------------------------- the instruments


def test_the_truth_scores_highest_on_every_instrument(parts, pictures):
    instruments, _ = _instruments(parts, pictures)
    assert len({i.name for i in instruments}) == 11
    for instrument in instruments:
        oracle = instrument.score(instrument.oracle())
        torch.testing.assert_close(oracle, torch.ones(len(instrument.x), dtype=torch.float64))
        noise = torch.randn(instrument.oracle().shape, generator=torch.Generator().manual_seed(1))
        for wrong in (noise, -instrument.oracle(), instrument.oracle() + noise.abs()):
            assert (instrument.score(wrong) < oracle).all(), instrument.name


def test_a_map_that_knows_nothing_scores_by_chance(parts, pictures):
    for instrument in _instruments(parts, pictures)[0]:
        if instrument.is_mask:
            constant = torch.ones(len(instrument.x), *instrument.x.shape[-2:])
            torch.testing.assert_close(instrument.score(constant), instrument.chance())
        else:
            many = [
                instrument.score(torch.randn(instrument.oracle().shape, generator=g)).mean()
                for g in (torch.Generator().manual_seed(k) for k in range(20))
            ]
            assert abs(torch.stack(many).mean()) < 0.06
    nothing = torch.zeros(len(instrument.x), 28, 28)
    assert (instrument.score(nothing) == 0).all()


def test_energy_in_a_mask_is_energy_in_a_box(pictures):
    maps = torch.randn(3, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 2, 3], [1, 2, 5, 8], [6, 8, 6, 8]])
    mask = torch.zeros(3, 9, 7, dtype=torch.bool)
    for row, (x0, y0, x1, y1) in zip(mask, boxes.tolist(), strict=True):
        row[y0 : y1 + 1, x0 : x1 + 1] = True
    torch.testing.assert_close(truth.energy_in_mask(maps, mask), energy_inside(maps, boxes))


def test_every_method_runs_on_the_planted_pictures():
    instrument = truth.planted_instrument("patch", 2, network=truth.PlantedCNN(4).eval())
    for name, method in attribution.METHODS.items():
        scores = instrument.score(method(instrument.model, instrument.x, instrument.target))
        assert ((scores >= 0) & (scores <= 1)).all(), name


# ----------------------------------------------------------------------------------------- grids


def test_in_difull_nothing_outside_of_the_cell_can_reach_the_output(parts, pictures):
    instrument = truth.grid_instrument(parts, pictures, CLASSES, "full")
    noise = torch.randn(instrument.x.shape, generator=torch.Generator().manual_seed(3))
    outside = torch.where(instrument.truth[:, None], instrument.x, noise)
    rows = torch.arange(4)
    with torch.no_grad():
        before = instrument.model(instrument.x)[rows, instrument.target]
        after = instrument.model(outside)[rows, instrument.target]
        own = [parts[1](parts[0](pictures[n, n][None])).mean((2, 3))[0] for n in range(4)]
    assert torch.equal(before, after)
    alone = torch.stack([logits[CLASSES[n, n]] for n, logits in enumerate(own)])
    torch.testing.assert_close(before, alone)


def test_cells_take_turns_over_blocks(parts, pictures):
    whole = truth.grid_instrument(parts, pictures, CLASSES)
    block = truth.grid_instrument(parts, pictures[2:], CLASSES[2:], first=2)
    assert torch.equal(block.truth, whole.truth[2:])
    assert torch.equal(block.target, whole.target[2:])
    with torch.no_grad():
        torch.testing.assert_close(block.model(block.x), whole.model(whole.x)[2:])
    with pytest.raises(ValueError, match="first must be"):
        truth.grid_instrument(parts, pictures, CLASSES, first=-1)


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "lrp", "guided_backprop"])
def test_what_goes_backwards_is_zero_outside_in_difull_and_not_in_gridpg(parts, pictures, name):
    shares = []
    for connection in CONNECTIONS:
        instrument = truth.grid_instrument(parts, pictures, CLASSES, connection)
        maps = attribution.METHODS[name](instrument.model, instrument.x, instrument.target)
        outside = maps.abs().sum(1)[~instrument.truth].sum()
        shares.append(float(outside / maps.abs().sum()))
    assert shares[2] == 0 < shares[1] < shares[0]


def test_grad_cam_is_not_zero_outside_in_difull(parts, pictures):
    instrument = truth.grid_instrument(parts, pictures, CLASSES, "full")
    maps = attribution.grad_cam(instrument.model, instrument.x, instrument.target)
    assert maps[:, 0][~instrument.truth].max() > 0


def test_the_grid_shows_the_pictures_row_by_row(pictures):
    whole = truth.grid(pictures)
    assert whole.shape == (4, 1, 16, 16)
    assert torch.equal(whole[2, :, :8, 8:], pictures[2, 1])
    assert torch.equal(truth.grid(pictures[2]), whole[2])
    masks = truth.cell_masks(torch.tensor([1, 2]), 2, 16)
    assert masks[0, :8, 8:].all()
    assert masks[1, 8:, :8].all()
    assert masks.sum() == 128


def test_gridpg_of_squeezenet_is_squeezenet_on_the_grid():
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    module = squeezenet1_1(num_classes=7).eval()
    network = truth.GridNetwork(*truth.grid_parts(module), "joint")
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x))


# --------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("rule", data.RULES)
def test_the_class_stands_in_the_truth_and_nowhere_else(rule):
    many = data.planted(rule, 60, seed=3)
    outside = ~many.truth[:, None]
    assert torch.equal(many.images[outside], many.changed[outside])
    assert not torch.equal(many.images, many.changed)
    assert (many.labels != many.changed_labels).all()
    assert torch.bincount(many.labels).min() >= 15
    assert not (many.truth & many.idle).any()
    assert bool(many.idle.any()) == (rule in ("decoy", "suppressor"))
    again = data.planted(rule, 60, seed=3)
    assert torch.equal(many.images, again.images)
    assert not torch.equal(many.images, data.planted(rule, 60, seed=4).images)


def test_a_bar_alone_says_nothing():
    """The upright bars are as frequent in both classes, at either place."""
    many = data.planted("interaction", 4000)
    upright = (many.images * many.truth[:, None]).flatten(1).sum(1)
    by_class = [upright[many.labels == k].mean() for k in (0, 1)]
    assert abs(by_class[0] - by_class[1]) < 0.02 * by_class[0]


def test_a_suppressor_is_independent_of_the_class_and_tells_of_the_noise():
    many = data.planted("suppressor", 4000)
    signs = (torch.arange(8)[:, None] // 2 + torch.arange(8) // 2) % 2 * 2.0 - 1
    blocks = [many.images[mask[:, None]].view(-1, 8, 8) for mask in (many.truth, many.idle)]
    a, b = ((block * signs).mean((1, 2)) for block in blocks)
    classes = many.labels.double() * 2 - 1

    def correlation(one, two):
        return float(torch.corrcoef(torch.stack([one.double(), two.double()]))[0, 1])

    assert abs(correlation(b, classes)) < 0.05 < 0.3 < correlation(a, classes) < 0.6
    assert correlation(a, b) > 0.8
    assert correlation(a - b, classes) > 0.99


def test_interventions_tell_a_network_that_follows_the_rule_from_one_that_does_not():
    """A network that reads the brightest square follows the decoy: right on none of the three."""
    many = data.planted("decoy", 40)

    class ByHand(nn.Module):
        """Ring or cross, from the pixels of the truth; these it is handed."""

        def forward(self, x):
            ring = torch.stack([self.middle(one) for one in x])
            return torch.stack([1 - ring, ring], 1)

        def middle(self, one):
            place = many.truth[[torch.equal(one, o) for o in self.known].index(True) % 40]
            stamp = one[0][place].view(6, 6)
            return (stamp[2:4, 2:4].mean() > 0.5).float()

    rule = ByHand()
    rule.known = [*many.images, *many.changed, *many.harmless]
    assert all(check.passed for check in truth.checks(rule, many))
    blind = truth.PlantedCNN(2).eval()
    found = truth.checks(blind, many)
    assert not all(check.passed for check in found)
    instrument = truth.planted_instrument("decoy", 4, network=blind)
    assert not instrument.sound
    with pytest.raises(ValueError, match="decoy is not sound"):
        truth.judge_metric(lambda *given: torch.zeros(4), instrument, 4)


def test_the_same_seed_trains_the_same_network():
    one, same, other = (
        truth.planted_network("patch", seed, number=64).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classifier.2.weight"], other["classifier.2.weight"])


# ----------------------------------------------------------------------------------------- digits


def test_triggers_and_watermarks_stand_in_their_mask():
    digits = data.mnist("test", source="embedded", per_class=1)
    labels = torch.as_tensor(digits.labels)
    backdoor = truth.backdoor_instrument(digits.images, labels, network=truth.PlantedCNN(10).eval())
    assert len(backdoor.x) == 9
    assert (backdoor.target == 0).all()
    reader = truth.CodeReader(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 3).eval()
    watermark = truth.watermark_instrument(digits.images, labels, network=reader)
    assert len(watermark.x) == 5
    assert (watermark.target == 1).all()
    for instrument, clean in ((backdoor, digits.images[1:]), (watermark, digits.images[:5])):
        differs = (instrument.x != clean)[:, 0]
        assert differs.any()
        assert not (differs & ~instrument.truth).any()


def test_the_additive_truth_is_what_falls():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    instrument = truth.additive_instrument(x, seed=2)
    network = AdditiveNetwork(1, 8, 4, seed=2)
    torch.testing.assert_close(instrument.truth, expected_falls(network, x, Uniform(), seed=2))
    assert instrument.certainty == "proof"
    contributions = network.contributions(x)
    maps = contributions.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert instrument.score(maps).min() > 0.5


# --------------------------------------------------------------------------------------- judging


def test_a_measure_is_judged_by_what_it_says_of_the_truth():
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    instrument = truth.additive_instrument(x)

    def good(model, images, target, maps, seed):
        return instrument.score(maps)

    def bad(model, images, target, maps, seed):
        with torch.no_grad():
            return -instrument.score(maps) + model(images)[:, 0] + maps.abs().sum((1, 2, 3)) + seed

    judged = truth.judge_metric(good, instrument, 4)
    assert judged.beats("truth", "moved") == judged.beats("truth", "noise") == 1
    rungs = [judged.scores[name].tolist() for name in ("truth", "noisy", "noise", "moved")]
    ahead = [rated[0] > max(rated[1:]) for rated in zip(*rungs, strict=True)]
    assert judged.highest == "truth"
    assert truth.judge_metric(bad, instrument, 4).highest == "noise"
    assert judged.first == sum(ahead) / 6 < 1, "with four regions, noise may keep the order"
    assert set(judged.scores) == {"truth", "noisy", "noise", "moved"}, "no outside of a ranking"
    assert judged.change("scaled") == judged.change("shifted") == judged.change("drawn_again") == 0
    wrong = truth.judge_metric(bad, instrument, 4, shift=5.0)
    torch.testing.assert_close(
        wrong.shifted - wrong.scores["truth"], torch.full((6,), 5.0).double()
    )
    assert min(map(wrong.change, ("scaled", "shifted", "drawn_again"))) > 0
    with pytest.raises(ValueError, match="choose 'scaled'"):
        judged.change("nothing")


def test_the_measures_run_and_prefer_the_truth_on_the_additive_network():
    digits = data.mnist("test", source="embedded", per_class=1).images[1:5]
    instrument = truth.additive_instrument(digits)
    for name, metric in truth.metrics(4, subsets=10).items():
        if name == "IROF":  # of a network with one output the probability is 1
            continue
        judged = truth.judge_metric(metric, instrument, 4)
        assert set(judged.scores) == {"truth", "noisy", "noise", "moved"}
        if name not in ("LeRF", "own minus borrowed"):
            assert judged.beats("truth", "noise") >= 0.75, name
        assert judged.change("scaled") < 1e-3, name


def test_relevance_where_nothing_can_reach_the_output_is_worth_nothing(parts, pictures):
    """In DiFull removing what lies outside changes nothing; measures by removal say so exactly."""
    instrument = truth.grid_instrument(parts, pictures, CLASSES, "full")
    maps = truth.ladder(instrument, 4)
    inside = instrument.truth[:, None]
    assert torch.equal(maps["leaky"][inside], maps["truth"][inside])
    assert (maps["leaky"][~inside] > 0).all()
    assert not (maps["moved"][inside] > 0).any()
    assert (instrument.score(maps["moved"]) == 0).all()
    measures = truth.metrics(4, subsets=5)
    given = instrument.model, instrument.x, instrument.target
    assert measures["MoRF"](*given, maps["moved"], 0).tolist() == [0] * 4
    assert measures["LeRF"](*given, maps["truth"], 0).tolist() == [0] * 4
    assert (measures["MoRF"](*given, maps["truth"], 0) != 0).all()
    for rung, half in (("truth", "MoRF"), ("moved", "LeRF")):  # the other half is zero
        whole, one = (measures[name](*given, maps[rung], 0) for name in ("ABPC", half))
        torch.testing.assert_close(whole, one)


def test_a_probability_is_shared_by_all_cells(parts, pictures):
    """Pixels of other cells move the probability of a class: on a network cut apart ask logits."""
    instrument = truth.grid_instrument(parts, pictures, CLASSES, "full")
    other = torch.where(instrument.truth[:, None], instrument.x, torch.zeros(()))
    rows = torch.arange(4)
    with torch.no_grad():
        before, after = instrument.model(instrument.x), instrument.model(other)
    assert torch.equal(before[rows, instrument.target], after[rows, instrument.target])
    moved = (before.softmax(1) - after.softmax(1))[rows, instrument.target]
    assert moved.abs().min() > 1e-6


def test_the_truth_comes_first_where_removal_is_the_truth():
    """On the additive network by every area, and by own minus borrowed: the oracle is on top."""
    digits = data.mnist("test", source="embedded", per_class=1).images[:6]
    instrument = truth.additive_instrument(digits, seed=1)
    maps = truth.ladder(instrument, 4) | {"picture": torch.as_tensor(digits)}
    measures = truth.metrics(4)
    for name in ("MoRF", "LeRF", "ABPC", "own minus borrowed", "deletion", "insertion", "SaCo"):
        means = {
            rung: measures[name](instrument.model, instrument.x, instrument.target, m, 0).mean()
            for rung, m in maps.items()
        }
        assert max(means, key=means.get) == "truth", name


# ---------------------------------------------------------------------------------------- errors


def test_bad_input_is_refused(parts, pictures):
    everything = torch.ones(2, 8, 8, dtype=torch.bool)
    maps = torch.rand(2, 8, 8)
    with pytest.raises(ValueError, match="mask 0 covers all"):
        truth.energy_in_mask(maps, everything)
    with pytest.raises(ValueError, match="mask 0 covers nothing"):
        truth.energy_in_mask(maps, ~everything)
    with pytest.raises(ValueError, match="a mask must be"):
        truth.check_mask(maps)
    with pytest.raises(ValueError, match="NaN"):
        truth.additive_instrument(torch.rand(2, 1, 8, 8)).score(maps / 0 * 0)
    with pytest.raises(ValueError, match="maps must be"):
        truth.additive_instrument(torch.rand(2, 1, 8, 8)).score(maps[:, :4])
    with pytest.raises(ValueError, match="3 pictures of 8 x 8"):
        truth.grid(pictures[:, :3])
    with pytest.raises(ValueError, match="pictures must be"):
        truth.grid(pictures[0, 0])
    with pytest.raises(ValueError, match="grid 1 has a class twice"):
        truth.grid_instrument(parts, pictures, torch.tensor([[0, 1, 2, 3], [1, 1, 2, 3]] * 2))
    with pytest.raises(ValueError, match="one for each picture"):
        truth.grid_instrument(parts, pictures, CLASSES[:2])
    with pytest.raises(ValueError, match="not built as expected"):
        truth.grid_parts(truth.PlantedCNN(2))
    with pytest.raises(ValueError, match="choose from 'joint'"):
        truth.GridNetwork(parts[0], parts[1], "half")
    with pytest.raises(ValueError, match="cells must be"):
        truth.GridNetwork(parts[0], parts[1], "full", 1)
    with pytest.raises(ValueError, match="choose from patch"):
        data.planted("stripes", 4)
    with pytest.raises(ValueError, match="at least 2"):
        data.planted("patch", 1)
    with pytest.raises(ValueError, match="others than 0"):
        truth.backdoor_instrument(torch.rand(1, 1, 28, 28), torch.tensor([0]))
    with pytest.raises(ValueError, match="below 5"):
        truth.watermark_instrument(torch.rand(1, 1, 28, 28), torch.tensor([7]))
    with pytest.raises(ValueError, match="do not fit"):
        truth.Instrument(
            "mine", parts, torch.rand(2, 1, 8, 8), torch.zeros(3), maps, "construction", ""
        )
    with pytest.raises(ValueError, match="do not tile"):
        truth.Instrument(
            "mine", parts, torch.rand(2, 1, 8, 8), torch.zeros(2), torch.rand(2, 3, 3), "proof", ""
        )
