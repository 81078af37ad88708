"""Heatmaps: colours that keep their order, honest scales, words for what is drawn."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

from xaiutils import data, plot

mpl.use("agg")
# Linear-light simulation of the three kinds of dichromacy (Machado, Oliveira and Fernandes 2009).
DICHROMACY = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(colours):
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def lightness(colours):
    y = linear(colours) @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def colours_of(colour_map):
    return colour_map(np.linspace(0, 1, 101))[:, :3]


@pytest.mark.parametrize("colour_map", [plot.SIGNED, plot.MAGNITUDE])
def test_lightness_rises_all_the_way_so_grey_prints_keep_the_order(colour_map):
    assert (np.diff(lightness(colours_of(colour_map))) > 0).all()


def test_zero_is_a_neutral_grey():
    red, green, blue = plot.SIGNED(0.5)[:3]
    assert max(red, green, blue) - min(red, green, blue) < 0.02


@pytest.mark.parametrize("kind", DICHROMACY)
def test_signs_differ_for_colour_blind_readers(kind):
    seen = linear(colours_of(plot.SIGNED)) @ np.array(DICHROMACY[kind]).T
    mirrored = np.abs(seen - seen[::-1]).max(axis=1)
    assert (mirrored[:40] > 0.08).all()


def test_channels_are_summed():
    relevance = torch.tensor([[[1.0]], [[-3.0]]])
    assert plot.pixel_relevance(relevance).tolist() == [[-2.0]]


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        plot.pixel_relevance(torch.zeros(shape))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        plot.heatmap(torch.full((2, 2), float("nan")))


def test_the_limit_is_a_percentile_and_never_zero():
    values = torch.arange(-100.0, 101.0)
    assert plot.colour_limit(values, 100) == 100
    assert 40 < plot.colour_limit(values, 50) < 60
    assert plot.colour_limit(torch.zeros(4)) == 1
    single = torch.zeros(1000)
    single[0] = 7
    assert plot.colour_limit(single) == 7
    with pytest.raises(ValueError, match="percentile"):
        plot.colour_limit(values, 0)


def test_a_heatmap_is_centred_on_zero():
    drawn = plot.heatmap(torch.tensor([[1.0, -4.0]]), percentile=100).get_images()[-1]
    assert drawn.get_clim() == (-4.0, 4.0)
    assert np.allclose(drawn.cmap(drawn.norm(0.0)), plot.SIGNED(0.5), atol=0.02)


def test_a_map_without_sign_must_not_be_negative():
    with pytest.raises(ValueError, match="signed=True"):
        plot.heatmap(torch.tensor([[1.0, -4.0]]), signed=False)


def test_an_overlay_is_transparent_where_there_is_no_relevance():
    relevance = torch.tensor([[0.0, 1.0]])
    drawn = plot.heatmap(relevance, torch.ones(3, 1, 2), percentile=100).get_images()[-1]
    assert drawn.get_alpha().tolist() == [[0.0, 1.0]]


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="size"):
        plot.heatmap(torch.zeros(4, 4), torch.zeros(3, 5, 5))


def maps_and_images():
    weak, strong = torch.ones(2, 3, 6, 6), 10 * torch.ones(2, 3, 6, 6)
    strong[1] *= 10
    return {"weak": weak, "strong": strong}, torch.rand(2, 3, 6, 6)


@pytest.mark.parametrize(
    ("scale", "limits"),
    [
        ("each", [3, 30, 3, 300]),
        ("row", [30, 30, 300, 300]),
        ("shared", [300, 300, 300, 300]),
    ],
)
def test_scales_of_a_grid(scale, limits):
    maps, images = maps_and_images()
    figure = plot.grid(maps, images, scale=scale)
    drawn = [ax.get_images()[0].get_clim()[1] for i, ax in enumerate(figure.axes) if i % 3]
    assert drawn == limits


def test_a_grid_is_described_from_its_maps():
    corner = torch.zeros(1, 1, 9, 9)
    corner[0, 0, 7:, 7:] = -1
    figure = plot.grid({"made up": corner}, torch.rand(1, 3, 9, 9), ["a picture"])
    text = plot.alternative_text(figure)
    assert text.startswith("a picture")
    assert "made up: 0% positive, strongest at the bottom right (100% of the total)" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {}}, "at least one"),
        ({"names": ["one"]}, "names"),
        ({"scale": "none"}, "scale"),
        ({"maps": {"few": torch.zeros(1, 3, 6, 6)}}, "1 maps for 2"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(change, message):
    maps, images = maps_and_images()
    with pytest.raises(ValueError, match=message):
        plot.grid(**{"maps": maps, "images": images} | change)


def test_describe_a_map_of_zeros():
    assert plot.describe(torch.zeros(4, 4), "dead") == "dead: zero everywhere"


def test_curves_with_a_band_and_a_name_for_each():
    ax = plot.curves({"a": [1, 2], "b": [2, 1]}, bands={"a": ([0, 1], [2, 3])}, xlabel="step")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert len(ax.collections) == 1
    with pytest.raises(ValueError, match="without a line"):
        plot.curves({"a": [1]}, bands={"c": ([0], [1])})


def test_a_figure_without_words_is_not_shown():
    figure = plot.heatmap(torch.zeros(2, 2)).figure
    with pytest.raises(ValueError, match="alternative text"):
        plot.show(figure)
    with pytest.raises(ValueError, match="say something"):
        plot.show(figure, " ")


def test_the_words_are_stored_beside_the_picture(monkeypatch):
    shown = {}
    monkeypatch.setattr("xaiutils.plot._show.InteractiveShell.initialized", lambda: True)
    monkeypatch.setattr(
        "xaiutils.plot._show.display", lambda content, **kw: shown.update(kw, content=content)
    )
    plot.show(plot.heatmap(torch.zeros(2, 2)).figure, "nothing at all")
    assert shown["metadata"]["image/png"]["alt"] == "nothing at all"
    assert shown["content"]["image/png"].startswith(b"\x89PNG")


def test_in_a_script_without_a_screen_the_words_are_printed(capsys):
    plot.show(plot.heatmap(torch.zeros(2, 2)).figure, "nothing at all")
    assert capsys.readouterr().out == "nothing at all\n"


def test_a_saved_figure_is_whole(tmp_path):
    plot.save(plot.heatmap(torch.zeros(2, 2)).figure, tmp_path / "map.png")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_stack_shows_the_chosen_figure_without_a_script(monkeypatch):
    shown = []
    monkeypatch.setattr("xaiutils.plot._stack.display", shown.append)
    figures = {}
    for label in ("1", "a & b"):
        figures[label], _ = plot.row({label: torch.rand(1, 4, 4)}, size=1)
        plot.set_alternative_text(figures[label], f'picture "{label}"')
    plot.show_stack(figures, "stack-a", "latent")
    page = BeautifulSoup(shown[0].data, "html.parser")
    assert not page.find_all("script")
    buttons = page.find_all("input", type="radio")
    assert [b["id"] for b in buttons] == ["stack-a-0", "stack-a-1"]
    assert [b.has_attr("checked") for b in buttons] == [True, False]
    assert [label["for"] for label in page.find_all("label")] == ["stack-a-0", "stack-a-1"]
    assert [label.text for label in page.find_all("label")] == ["1", "a & b"]
    assert [i["alt"] for i in page.find_all("img")] == ['picture "1"', 'picture "a & b"']
    assert "#stack-a-1:checked ~ .panes > :nth-child(2)" in page.find("style").text
    with pytest.raises(ValueError, match="at least one figure"):
        plot.show_stack({}, "stack-b", "latent")
    bare, _ = plot.row({"x": torch.rand(1, 4, 4)}, size=1)
    with pytest.raises(ValueError, match="No alternative text on \\['x'\\]"):
        plot.show_stack({"x": bare}, "stack-b", "latent")


def test_intervals_stand_where_their_numbers_say():
    series = {"a": {"one": (1, 0.5, 2), "two": (-1, -2, 0)}, "b": {"two": (3, 2, 4)}}
    ax = plot.intervals(series, xlabel="logits")
    dots = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert (list(dots["a"]), list(dots["b"])) == ([1, -1], [3])
    ends = [path.get_segments()[0][:, 0].tolist() for path in ax.collections]
    assert ends[0] == [0.5, 2]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first line is on top


@pytest.mark.parametrize("series", [{}, {"a": {}}, {"a": {"x": (0, 0, 0)}, "b": {"y": (0, 0, 0)}}])
def test_intervals_without_lines_or_with_strange_ones_are_refused(series):
    with pytest.raises(ValueError, match="first series"):
        plot.intervals(series)


def test_arrays_and_swapped_arguments_are_errors_that_say_what_to_do():
    maps, images = {"map": torch.rand(2, 1, 8, 8)}, torch.rand(2, 3, 8, 8)
    numpy = r"is a torch\.Tensor, not ndarray; torch\.from_numpy\(array\)"
    for make, words in (
        (lambda: plot.grid({"map": maps["map"].numpy()}, images), f"map {numpy}"),
        (lambda: plot.grid(maps, images.numpy()), f"The pictures {numpy}"),
        (lambda: plot.grid(images, maps), "maps is a dict of names and maps, not Tensor"),
        (lambda: plot.heatmap(maps["map"][0].numpy()), f"A heatmap {numpy}"),
        (lambda: plot.heatmap(maps["map"][0], images[0].numpy()), f"The image {numpy}"),
        (lambda: plot.picture(images[0].numpy(), ax=plt.gca()), f"A picture {numpy}"),
        (lambda: plot.heatmap([1.0]), "not list"),
    ):
        with pytest.raises(TypeError, match=words):
            make()
    with pytest.raises(ValueError, match=r"\(C, H, W\) with C 1 or 3, not \(2, 3, 8, 8\)"):
        plot.picture(images, ax=plt.gca())
    plt.close("all")


def test_the_line_of_credit_names_those_whose_licence_asks_for_it():
    photos = data.photos()
    for credit in photos.credits:
        named = credit.author in photos.credit_line
        assert named == credit.licence.startswith("CC BY")
        assert not named or credit.licence in photos.credit_line
