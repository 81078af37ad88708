"""Complexity of heatmaps: from real numbers to levels, files and bits."""

import io

import pytest
import torch
from PIL import Image

from xaiutils import evaluation

NOISE = torch.randn(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))


def blob(side=40):
    line = torch.linspace(-2, 2, side)
    return torch.exp(-(line[:, None] ** 2) - line**2)[None]


def test_the_levels_of_a_map_with_signs_are_centred_on_zero():
    found = evaluation.as_picture(torch.tensor([[[-2.0, -1.0, 0.0, 4.0]]]))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[64, 96, 128, 255]]]


def test_a_map_without_signs_uses_all_levels():
    assert evaluation.as_picture(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist() == [[[0, 51, 255]]]


def test_a_map_without_signs_can_be_drawn_on_the_scale_of_signed_ones():
    maps = torch.tensor([[[0.0, 1.0, 5.0]]])
    assert evaluation.as_picture(maps, signed=True).tolist() == [[[128, 153, 255]]]
    signed = torch.tensor([[[-5.0, 1.0, 5.0]]])
    assert torch.equal(evaluation.as_picture(signed, signed=True), evaluation.as_picture(signed))
    assert evaluation.as_picture(signed)[0, 0, 0] == 1


def test_channels_are_summed_and_scale_does_not_matter():
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = evaluation.as_picture(maps.double().sum(1))
    assert torch.equal(evaluation.as_picture(maps), expected)
    assert torch.equal(evaluation.as_picture(maps * 1024), expected)


def test_a_percentile_saturates_the_strongest_pixels():
    maps = torch.arange(101.0).view(1, 1, 101)
    assert (evaluation.as_picture(maps, percentile=80) == 255).sum() == 21
    assert (evaluation.as_picture(maps) == 255).sum() == 1


def test_a_sparse_map_falls_back_to_its_maximum():
    maps = torch.zeros(1, 10, 10)
    maps[0, 3, 4] = 7
    levels = evaluation.as_picture(maps, percentile=50)
    assert levels[0, 3, 4] == 255
    assert levels.sum() == 255


def test_colours_are_those_of_the_colour_map():
    found = evaluation.as_picture(torch.tensor([[[0.0, 1.0]]]), colours="gray")
    assert found.tolist() == [[[[0, 0, 0], [255, 255, 255]]]]


@pytest.mark.parametrize("size", [evaluation.png_size, evaluation.jpeg_size])
@pytest.mark.parametrize("colours", [None, "jet"])
def test_a_constant_map_is_smallest_and_noise_is_largest(size, colours):
    sizes = [int(size(m, colours=colours)[0]) for m in (torch.zeros(1, 40, 40), blob(), NOISE)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_sizes_are_those_of_the_files():
    levels = evaluation.as_picture(NOISE)
    for name, size, options in (
        ("PNG", evaluation.png_size, {"compress_level": 9}),
        ("JPEG", evaluation.jpeg_size, {"quality": 90}),
    ):
        file = io.BytesIO()
        Image.fromarray(levels[1].numpy()).save(file, name, **options)
        assert int(size(NOISE)[1]) == len(file.getvalue())


def test_a_lower_quality_gives_a_smaller_file():
    assert (evaluation.jpeg_size(NOISE, quality=50) < evaluation.jpeg_size(NOISE)).all()


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.0),  # one level
        ([0.0, 0.0, 1.0, 1.0], 1.0),  # two levels, half and half
        ([0.0, 0.25, 0.5, 1.0], 2.0),  # four levels
        ([0.0, 0.0, 0.0, 1.0], 0.811278),  # 3/4 log2(4/3) + 1/4 log2 4
        ([-1.0, 0.0, 0.0, 1.0], 1.5),  # 1/4, 1/2, 1/4
    ],
)
def test_entropy_of_known_histograms(values, bits):
    assert evaluation.entropy(torch.tensor([[values]])).item() == pytest.approx(bits, abs=1e-6)


def test_entropy_does_not_ask_where_the_pixels_lie():
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(2))
    shuffled = blob().flatten(1)[:, order].view(1, 40, 40)
    torch.testing.assert_close(evaluation.entropy(blob()), evaluation.entropy(shuffled))
    assert evaluation.png_size(shuffled) > evaluation.png_size(blob())


def test_all_levels_alike_make_eight_bits():
    assert evaluation.entropy(torch.arange(256.0).view(1, 16, 16)).item() == pytest.approx(8)


@pytest.mark.parametrize("f", [evaluation.png_size, evaluation.jpeg_size, evaluation.entropy])
@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (torch.zeros(4, 4), "shape|must be"),
        (torch.zeros(0, 4, 4), "must be"),
        (torch.full((1, 4, 4), torch.nan), "NaN"),
        (torch.full((1, 4, 4), torch.inf), "infinity"),
    ],
)
def test_bad_maps_are_refused(f, maps, words):
    with pytest.raises(ValueError, match=words):
        f(maps)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="percentile"):
        evaluation.entropy(NOISE, percentile=0)
    with pytest.raises(ValueError, match="quality"):
        evaluation.jpeg_size(NOISE, quality=100)
    with pytest.raises(ValueError, match="colours"):
        evaluation.png_size(NOISE, colours="beige and blue")
