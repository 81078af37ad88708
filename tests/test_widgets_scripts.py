"""The widgets' scripts: the linter finds nothing, and Python and the page understand each other."""

import json
import re

import build
import numpy as np
import page_scripts
import pytest

from xaiutils import plot
from xaiutils.widgets import _common

SCRIPTS = build.ROOT / "xaiutils/widgets"


# ------------------------------------------------------------------------------------ the linter


def test_linter_finds_nothing():
    page_scripts.assert_linted(*sorted(SCRIPTS.glob("*.js")))


def test_nothing_is_declared_in_vain():
    text = "\n".join(path.read_text() for path in SCRIPTS.glob("*.js"))
    names = re.findall(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", text, re.MULTILINE)
    in_vain = {name for name in names if len(re.findall(rf"\b{name}\b", text)) == 1}
    assert in_vain == set()


def test_lock_file_names_no_address():
    packages = json.loads((page_scripts.LINTER / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/eslint"]["version"]
    assert not any("resolved" in package for package in packages.values())


def test_scripts_ask_for_nothing_from_elsewhere():
    for path in [*SCRIPTS.glob("*.js"), *SCRIPTS.glob("*.css")]:
        addresses = set(re.findall(r"\w+://[^\s\"'`)]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name  # a name, never fetched
        assert "import(" not in path.read_text()


# --------------------------------------------------------------------------- Python and the page


@pytest.fixture(scope="module")
def in_page(browser):
    """Evaluate an expression in an empty page that has the shared script."""
    page = browser.new_page()
    page.add_script_tag(content=_common.script())
    yield page.evaluate
    page.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_arrays_arrive_as_they_were_packed(in_page, dtype):
    values = np.array([[0, 1, 2], [250, 3, 255]], dtype="float64")
    if dtype != "uint8":
        values = np.concatenate([values * 0.37, -values / 1000])
    found = in_page(
        "p => { const a = unpack(p); return [a.shape, [...a]]; }", _common.pack(values, dtype)
    )
    assert found[0] == list(values.shape)
    assert found[1] == values.astype(dtype).astype(float).ravel().tolist()


def test_smallest_halves_arrive(in_page):
    values = np.array([2.0**-24, -(2.0**-15), 65504.0])
    assert in_page("p => [...unpack(p)]", _common.pack(values, "float16")) == values.tolist()


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([np.nan], "float32", "NaN or infinity"),
        ([np.inf], "float32", "NaN or infinity"),
        ([300.0], "uint8", "don't fit into uint8"),
        ([0.5], "uint8", "don't fit into uint8"),
        ([1e6], "float16", "don't fit into float16"),
        ([1.0], "int64", "not 'int64'"),
    ],
)
def test_what_would_arrive_wrong_is_refused(values, dtype, message):
    with pytest.raises(ValueError, match=message):
        _common.pack(values, dtype)


@pytest.mark.parametrize(("colours", "low"), [(plot.SIGNED, -2.0), (plot.MAGNITUDE, 0.0)])
def test_heatmaps_have_the_colours_of_the_package(in_page, colours, low):
    limit = 2.0
    values = np.linspace(low - 0.5, limit + 0.5, 601).astype("float32")
    drawn = in_page(
        """([values, limit, signed]) => {
            const canvas = element("canvas", { width: values.length, height: 1 });
            drawHeatmap(canvas, Float32Array.from(values), limit, signed);
            const { data } = canvas.getContext("2d").getImageData(0, 0, values.length, 1);
            return [...data];
        }""",
        [values.tolist(), limit, low < 0],
    )
    share = (values.astype(float) - low) / (limit - low)
    expected = colours(share, bytes=True)
    np.testing.assert_array_equal(np.reshape(drawn, (-1, 4)), expected)


def test_screen_readers_hear_the_last_of_many_texts(in_page):
    heard = in_page(
        """async () => {
            const { node, status } = frame("name");
            document.body.append(node);
            const heard = [];
            new MutationObserver(() => heard.push(status.textContent))
                .observe(status, { childList: true });
            for (const text of ["one", "two", "three"]) announce(status, text, 20);
            await new Promise((resolve) => { setTimeout(resolve, 300); });
            return [...heard, status.getAttribute("aria-live"), node.getAttribute("aria-label")];
        }"""
    )
    assert heard == ["three", "polite", "name"]


def test_a_widget_without_a_twin_is_refused():
    class Silent(_common.Widget):
        _esm = _common.script()

    with pytest.raises(NotImplementedError, match="Silent has no static twin"):
        Silent()._repr_mimebundle_()
