"""The long table says what the tables say, each file is described, and the explorer shows it."""

import contextlib
import csv
import json
import re
from collections import Counter
from fnmatch import fnmatchcase

import build
import page_checks
import page_scripts
import pandas as pd
import pytest
import results_page

from xaiutils.reproduce import _recipes, measures

RESULTS = build.ROOT / "results"
PAGE = "book/explore_results"
DICTIONARY = (build.ROOT / "book/results.md").read_text(encoding="utf-8")
LIMIT = 1_000_000  # bytes of the page with its style and script
NUMBERS = ("mean", "difference", "share", "alpha", "spearman")  # what the files call a number


def _rows(name):
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(row, name):
    """The mean of a row, whichever of its columns it is; `share` may also be a condition."""
    key = next(key for key in NUMBERS if key in row)
    if name.startswith(("verdicts", "placement")) and key == "share":
        key = next(key for key in ("mean", "alpha", "spearman") if key in row)
    return float(row[key])


@pytest.fixture(scope="module")
def table():
    return measures.table()


@pytest.fixture(scope="module")
def groups(table):
    return results_page.groups(table)


@pytest.fixture(scope="module")
def packed(groups):
    return results_page.page_data(groups)


# ------------------------------------------------------------------------------ the dictionary


def _described():
    """File patterns with the columns that have to be there, and those that may."""
    entries = re.findall(r"^(`[^\n]+`)\n: ([^\n]+)$", DICTIONARY, flags=re.MULTILINE)
    for files, text in entries:
        columns = text.partition("Columns: ")[2]
        may = re.findall(r"\[`(\w+)`\]", columns)
        must = [column for column in re.findall(r"`(\w+)`", columns) if column not in may]
        yield re.findall(r"`([^`]+)`", files), text, must, may


ENTRIES = list(_described())


def _fitting(file):
    """The entry of the longest pattern that fits: it says most."""
    found = [(len(p), entry) for entry in ENTRIES for p in entry[0] if fnmatchcase(file, p)]
    return max(found, key=lambda one: one[0])[1] if found else None


FILES = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.*"))


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_described_as_it_is(file):
    entry = _fitting(file)
    assert entry is not None, f"book/results.md does not say what results/{file} is"
    if file.endswith(".csv"):
        _, text, must, may = entry
        with (RESULTS / file).open(encoding="utf-8", newline="") as opened:
            columns = next(csv.reader(opened))
        assert set(must) <= set(columns) <= {*must, *may}
        left_out = "ot in the long table" in text
        assert left_out == (_recipes.recipe(file.removesuffix(".csv")) is None)
    elif file.endswith(".json"):
        record = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        assert {"command", "versions", "date"} <= set(record)


def test_nothing_is_described_that_is_not_there():
    for patterns, *_ in ENTRIES:
        assert any(fnmatchcase(file, pattern) for file in FILES for pattern in patterns), patterns


def test_no_two_entries_share_a_pattern():
    counted = Counter(pattern for patterns, *_ in ENTRIES for pattern in patterns)
    assert [pattern for pattern, number in counted.items() if number > 1] == []


def test_columns_of_the_long_table_are_described():
    section = DICTIONARY.partition("## The long table")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, flags=re.M)) == measures.COLUMNS


# ------------------------------------------------------------------------------ the long table


def test_a_number_has_one_row(table):
    names = ["network", "method", "map", "fill", "order", "measure", "control", "setting", "file"]
    twice = table[table.duplicated(names, keep=False)]
    assert twice[names].to_dict("records") == []


def test_no_number_is_lost_or_changed(table):
    for file, rows in table.groupby("file"):
        if file.startswith("cards"):  # a line of a card becomes two rows
            continue
        name = file.removesuffix(".csv")
        assert Counter(rows["mean"]) == Counter(_number(row, name) for row in _rows(name)), file


def test_gains_over_an_order_by_lot_have_it_as_their_control(table):
    name = "samek-squeezenet1_1-fills-areas"
    gains = table[(table["file"] == f"{name}.csv") & (table["control"] != measures.NONE)]
    assert set(gains["control"]) == {measures.BY_LOT}
    found = gains.set_index(["fill", "measure", "method"])["mean"]
    raw = [row for row in _rows(name) if row["measure"].endswith("_minus_random")]
    assert len(raw) == len(found) > 10
    for row in raw:
        key = row["fill"], row["measure"].removesuffix("_minus_random"), row["method"]
        assert found[key] == float(row["mean"])


def test_a_line_of_a_card_is_its_number_and_its_lead(table):
    cards = table[table["file"] == "cards.csv"]
    for row in _rows("cards")[::97]:
        if row["low"]:
            mine = cards[cards["method"] == row["method"]]
            value, lead = float(row["value"]), float(row["lead"])
            own = mine[(mine["control"] == measures.NONE) & (mine["mean"] == value)]
            led = mine[(mine["control"] != measures.NONE) & (mine["mean"] == lead)]
            assert len(own) >= 1
            assert (led["low"] == float(row["lead_low"])).any()
            assert (led["n"] == float(row["images"])).any()


def test_a_lead_over_a_borrowed_map_is_found_by_its_words(table):
    name = "controls-squeezenet1_1-differences"
    asked = {"fill": "blur", "method": "grad_cam", "measure": "aopc_lerf"}
    (raw,) = [
        row for row in _rows(name) if {**row, **asked, "first": "own", "second": "borrowed"} == row
    ]
    words = {**asked, "control": "borrowed", "map": "own", "file": f"{name}.csv"}
    (row,) = table[(table[list(words)] == pd.Series(words)).all(axis=1)].to_dict("records")
    kept = ("mean", "low", "high", "p", "p_holm", "n")
    given = ("mean", "low", "high", "p_value", "p_holm", "images")
    assert [row[key] for key in kept] == [float(raw[key]) for key in given]
    assert (row["network"], row["order"], row["unit"]) == ("squeezenet1_1", "lerf", "logit")
    assert (row["better"], row["against"], row["of"]) == ("more", 0.0, "pictures")
    record = json.loads((RESULTS / "controls-squeezenet1_1.json").read_text())
    assert row["command"] == record["command"]


def test_rows_are_whole(table):
    assert table[["mean", "low", "high", "n", "command", "unit"]].notna().all(axis=None)
    assert (table["unit"] != "").all()
    assert (table["n"] > 0).all()
    assert (table["low"] <= table["high"]).all()
    assert table["p_holm"].dropna().between(0, 1).all()
    assert set(table["better"]) == {"more", "less", ""}
    assert set(table["of"]) == {"pictures", "networks"}
    assert (table["p"].isna() | table["against"].notna()).all()


def test_rows_that_were_added_later_have_their_own_command(table):
    rows = table[table["file"] == "samek-squeezenet1_1-areas.csv"]
    added = json.loads((RESULTS / "samek-squeezenet1_1.json").read_text())["added"][-1]
    commands = rows.groupby("method")["command"].unique()
    assert list(commands["lrp_epsilon_100"]) == [added["command"]]
    assert list(commands["grad_cam"]) != [added["command"]]


def test_it_can_be_written_and_read_again(table, monkeypatch, tmp_path):
    some = table.iloc[::800].reset_index(drop=True)
    monkeypatch.setattr(measures, "table", lambda: some)
    for name in ("one", "two"):
        measures.write(tmp_path / f"{name}.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    again = pd.read_csv(tmp_path / "one.csv.gz", keep_default_na=False, na_values={"p": ""})
    for column in measures.COLUMNS[:8]:
        assert list(again[column]) == list(some[column])
    assert list(again["p"].dropna()) == list(some["p"].dropna())
    assert list(again["mean"]) == pytest.approx(list(some["mean"]), rel=1e-12)


def test_a_table_without_a_record_is_named(tmp_path):
    (tmp_path / "samek-nothing-areas.csv").write_text("fill,measure,method,mean,low,high,images\n")
    with pytest.raises(LookupError, match=r"samek-nothing-areas\.csv has no record"):
        measures.rows("samek-nothing-areas", tmp_path)


def test_a_table_that_lacks_the_method_is_named(tmp_path):
    (tmp_path / "samek-x.json").write_text('{"command": "make it", "model": "x"}')
    (tmp_path / "samek-x-areas.csv").write_text("fill,measure,mean\nblur,abpc,1\n")
    with pytest.raises(ValueError, match="no column is the method"):
        measures.rows("samek-x-areas", tmp_path)


# ------------------------------------------------------------------------------ what is shown


def test_every_name_can_be_read(packed):
    for kind, names in packed["names"].items():
        assert [name for name in names if "_" in name] == [], kind
        assert len(set(names)) == len(names), kind


def test_what_the_page_shows_is_rounded_and_no_more(table, packed):
    words = packed["words"]
    shown = results_page.shown(table)
    for keys, _, _, rows in packed["groups"][::150]:
        named = {kind: words[kind][k] for kind, k in zip(results_page.KEYS, keys, strict=True)}
        there = shown[(shown[list(named)] == pd.Series(named)).all(axis=1)]
        there = there.set_index(["method", "map"])
        for method, version, *ends in rows:
            label = words["method"][method], words["map"][version]
            if label in there.index:  # an order by lot is of another measure
                row = there.loc[label]
                near = max((row["high"] - row["low"]) / 50, abs(row["mean"]) / 100)
                wanted = [row[column] for column in ("mean", "low", "high")]
                assert ends[:3] == pytest.approx(wanted, abs=near)


def test_the_first_view_has_maps_and_what_they_are_held_to(groups):
    group = results_page.first_group(groups)
    rows = {(method, version) for method, version, *_ in group["rows"]}
    assert {("grad_cam", "own"), ("grad_cam", "borrowed")} <= rows
    assert measures.BY_LOT in {method for method, _ in rows}
    with pytest.raises(LookupError, match="0 groups"):
        results_page.first_group([g for g in groups if g["network"] == "mnist_cnn"])


def test_linter_finds_nothing_in_the_script():
    page_scripts.assert_linted(build.ROOT / "assets/results.js")


# ------------------------------------------------------------------------------ in a browser


def _plotted(page):
    return page.locator(".rx-plot .rx-name").all_text_contents()


def test_a_choice_changes_plot_table_and_command(open_page):
    page = open_page(PAGE)
    before = page.locator(".rx-command").inner_text()
    page.get_by_label("Network", exact=True).select_option(label="CNN, digits")
    page.get_by_label("Measure", exact=True).select_option(
        label="Area between the two curves (ABPC)"
    )
    page.get_by_label("Fill", exact=True).select_option(label="Blur")
    page.get_by_label("Less a control", exact=True).select_option(
        label="The map of another picture"
    )
    title = page.locator(".rx-title").inner_text()
    assert title.startswith("Area between the two curves (ABPC), less the map of another picture.")
    assert "CNN, digits; fill: blur" in title
    assert title.endswith(" pictures.")
    command = page.locator(".rx-command").inner_text()
    assert command != before
    assert "--model mnist_cnn" in command
    heads = page.locator(".rx-table tbody th").all_inner_texts()
    assert set(_plotted(page)) == set(heads)
    dots = page.locator(".rx-plot .rx-dot").count()
    assert dots == len(heads)
    assert page.locator(".rx-table td:nth-child(6):visible").count() == len(heads)


def test_the_table_has_the_numbers_of_the_file(open_page):
    page = open_page(PAGE)
    wish = "network=mnist_cnn&fill=blur&measure=abpc&control=borrowed"
    file = "controls-mnist_cnn-differences.csv"
    page.evaluate("wish => { window.location.hash = wish; }", f"{wish}&file={file}")
    page.get_by_text(f"results/{file}").wait_for()
    wanted = {
        results_page.name("method", row["method"]): float(row["mean"])
        for row in _rows("controls-mnist_cnn-differences")
        if (row["fill"], row["measure"], row["first"], row["second"])
        == ("blur", "abpc", "own", "borrowed")
    }
    shown = {
        line.locator("th").inner_text(): float(line.locator("td").nth(1).inner_text())
        for line in page.locator(".rx-table tbody tr").all()
        if line.locator("td").first.inner_text() == "its own map"
    }
    assert shown == pytest.approx(wanted, abs=0.01)
    means = [float(text) for text in page.locator(".rx-table td:nth-child(3)").all_inner_texts()]
    assert means[0] == max(means)  # the best first


def test_the_ceiling_is_named_and_shown(open_page):
    page = open_page(PAGE)
    assert "best order that a search found" in page.locator(".rx-best").inner_text()
    page.get_by_role("button", name="Show it").click()
    assert page.locator(".rx-plot .rx-line.rx-ceiling").count() == 1
    assert page.locator(".rx-plot .rx-line.rx-lot").count() == 1
    assert page.locator(".rx-best").is_hidden()
    assert "ceiling-efficientnet_lite0" in page.locator(".rx-file").inner_text()


def test_it_goes_by_keyboard(open_page):
    page = open_page(PAGE)
    page.get_by_label("Network", exact=True).focus()
    before = page.locator(".rx-title").inner_text()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(100)
    assert page.locator(".rx-title").inner_text() != before
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(open_page, width):
    page = open_page(PAGE, viewport={"width": width, "height": 844})
    assert page.evaluate("pageChecks.sideways()") == []
    rights = page.locator(".rx-plot text").evaluate_all(
        "texts => texts.map((text) => text.getBoundingClientRect().right)"
    )
    assert max(rights) <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_legible_with_p_values(open_page, theme):
    page = open_page(PAGE)
    page.get_by_label("Less a control", exact=True).select_option(
        label="The map of another picture"
    )
    page_checks.show_theme(page, theme)
    assert page.evaluate("pageChecks.faintText()") == []
    assert page.locator(".rx-key").inner_text().count("Holm") == 1


def test_it_moves_nothing_and_needs_no_other_file(browser, book):
    """No animation in any setting; and from a file, with and without scripts."""
    folder = build.ROOT / build.HTML
    script, style = ((folder / f"_static/results.{kind}").read_text() for kind in ("js", "css"))
    assert not re.search(r"transition|animation|setInterval|requestAnimation", script + style)
    for scripts in (True, False):
        with contextlib.closing(browser.new_page(java_script_enabled=scripts)) as page:
            page.goto((folder / f"{PAGE}.html").as_uri(), wait_until="load")
            assert page.locator(".rx-table tbody tr").count() > 5
            assert page.locator(".rx-plot svg").count() == int(scripts)
            assert page.locator(".rx-form").is_visible() == scripts


def test_the_page_is_light_and_the_table_lies_beside_it(open_page):
    page = open_page(PAGE)
    folder = build.ROOT / build.HTML
    files = [folder / f"{PAGE}.html", *(folder / f"_static/results.{k}" for k in ("js", "css"))]
    assert sum(file.stat().st_size for file in files) < LIMIT
    assert page.locator('script[src*="mathjax"]').count() == 0
    address = page.get_by_role("link", name="All measures in one table").get_attribute("href")
    table = pd.read_csv((folder / PAGE).parent / address, nrows=5)
    assert tuple(table.columns) == measures.COLUMNS
