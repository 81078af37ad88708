"""Make your method win: its counts are a loop's, and keyboard and phone can play it."""

import json
import random
from itertools import product

import pandas as pd
import pytest
from page_scripts import functions

from xaiutils import plot
from xaiutils.widgets import MethodWins

SCRIPT = functions("method_wins.js")
QUESTIONS = {
    "fill": {"noise": "noise", "blur": "a blur"},
    "measure": {"morf": "best first", "lerf": "worst first"},
    "size": {2: "2 pixels", 4: "4 pixels", 7: "7 pixels"},
}
METHODS = {"lrp": "LRP", "grad": "gradient", "cam": "Grad-CAM"}


def game_table():
    """Three methods in twelve ways of asking, with numbers that no rule orders."""
    rows, numbers = [], random.Random(0)
    for number, way in enumerate(product(*QUESTIONS.values(), METHODS)):
        mean = numbers.uniform(-1, 3)
        ends = {"mean": mean, "low": mean - 0.3, "high": mean + 0.2}
        p_holm = 0.01 if number % 4 else 0.2
        names = dict(zip((*QUESTIONS, "method"), way, strict=True))
        rows.append({**names, **ends, "p_holm": p_holm, "images": 10})
    other = {"fill": "noise", "measure": "abpc", "size": 2, "method": "lrp", "mean": 9.0}
    return pd.DataFrame([*rows, other]).sample(frac=1, random_state=0)


def wins_by_loop(table):
    """In how many ways each method is first, and surely so, the table looked through by hand."""
    found = {method: [0, 0] for method in METHODS}
    for fill, measure, size in product(*QUESTIONS.values()):
        best = None
        for _, row in table.iterrows():
            if (row["fill"], row["measure"], row["size"]) == (fill, measure, size):
                good = -row["mean"] if measure == "lerf" else row["mean"]
                if best is None or good > best[0]:
                    best = good, row
        found[best[1]["method"]][0] += 1
        found[best[1]["method"]][1] += best[1]["p_holm"] < 0.05
    return found


def make(**changes):
    options = {"smaller": ["lerf"], "axis": ["measure"], "method": "grad"}
    given = {"table": game_table(), "questions": QUESTIONS, "methods": METHODS}
    return MethodWins(**{**given, **options, **changes})


# ------------------------------------------------------------------------------------ its numbers


def test_no_two_methods_tie_in_the_table_of_these_tests():
    table = game_table().dropna()
    assert table.groupby(list(QUESTIONS))["mean"].nunique().eq(len(METHODS)).all()


def test_wins_are_those_of_a_loop():
    counts = make().wins().set_index("method")
    for method, (wins, surely) in wins_by_loop(game_table()).items():
        assert counts.loc[METHODS[method]].tolist() == [wins, surely]
    assert counts["wins"].sum() == 12
    assert 0 < counts["surely"].sum() < 12


def test_the_page_counts_the_same_and_finds_the_surest_way(run_script):
    code = """
    export function run({ setup }) {
      const { numbers, smaller, sure } = setup;
      const data = { numbers: unpack(numbers), smaller: unpack(smaller), sure };
      const ways = data.numbers.shape[0];
      const rows = Array.from({ length: ways }, (_, fork) => rowsOf(data, fork));
      const counts = [2, 2, 3];
      return {
        wins: winsOf(data),
        orders: rows.map((one) => one.map(({ method }) => method)),
        best: setup.methods.map((_, method) => bestWay(data, method)),
        forks: rows.map((_, fork) => forkOf(choiceOf(fork, counts), counts)),
        said: rows.map((one) => verdict(one, 1, setup.methods, sure)),
        ordinals: [1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111].map(ordinal),
      };
    }
    """
    game = make()
    found = run_script(SCRIPT + code, {"setup": game.setup})
    counts = game.wins()
    assert found["wins"] == counts[["wins", "surely"]].to_dict("records")
    orders = [[place.index(k + 1) for k in range(3)] for place in game._places.tolist()]
    assert found["orders"] == orders
    assert found["forks"] == list(range(12))
    for method, fork in enumerate(found["best"]):
        first = [k for k in range(12) if orders[k][0] == method]
        surest = min((game._numbers[k, method, 3] for k in first), default=None)
        assert (fork is None) == (surest is None)
        assert fork is None or game._numbers[fork, method, 3] == surest
    for fork, text in enumerate(found["said"]):
        place, sure = game._places[fork, 1], game._numbers[fork, 1, 3] < 0.05
        assert text.startswith(f"gradient is {place}{['st', 'nd', 'rd'][place - 1]} of 3")
        assert ("not surely" in text) == (not sure)
        assert ("behind" in text) == (place > 1)
    expected = "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 103rd 111th"
    assert " ".join(found["ordinals"]) == expected


def test_the_twin_says_who_wins_how_often():
    text = plot.alternative_text(make().static_twin())
    for method, (wins, surely) in wins_by_loop(game_table()).items():
        assert f"{METHODS[method]} {wins} ({surely})" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"lrp": "LRP"}}, "two methods"),
        ({"questions": {}}, "a question"),
        ({"questions": {"fill": {}}}, "a question"),
        ({"method": "dmbp"}, "choose from"),
        ({"start": {"size": 3}}, "start says size: 3"),
        ({"start": {"colour": "red"}}, "start says colour"),
        ({"axis": ["colour"]}, "the questions are"),
        ({"questions": QUESTIONS | {"colour": {"red": "red"}}}, r"no column \['colour'\]"),
        ({"methods": METHODS | {"ig": "integrated gradients"}}, "12|48, not 36"),
        ({"table": pd.concat([game_table()] * 2)}, "one row for each method: 36, not 72"),
        ({"table": game_table().assign(low=float("nan"))}, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_it_starts_where_it_is_told():
    game = make(start={"measure": "lerf", "size": 4})
    assert (game.choice, game.tried, game.method) == ([0, 1, 1], [4], 1)
    assert make().tried == [0]


@pytest.mark.parametrize(
    ("name", "value"), [("method", 3), ("method", -1), ("choice", [0, 0]), ("choice", [0, 0, 3])]
)
def test_choices_that_are_not_there_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be numbers below"):
        setattr(make(), name, value)


# ----------------------------------------------------------------------------------------- a page

PAGE = """<!doctype html><html data-theme="%s"><meta name="viewport" content="width=device-width">
<style>%s</style><body><div id="here"></div><script type="module">%s
class Model {
  constructor(state) { Object.assign(this, { state, listeners: [] }); }
  get(name) { return this.state[name]; }
  set(values) { Object.assign(this.state, values); }
  save_changes() { this.listeners.forEach((listener) => listener()); }
  on(names, listener) { this.listeners.push(listener); }
  off(names, listener) { this.listeners = this.listeners.filter((one) => one !== listener); }
}
window.model = new Model(%s);
window.remove = render({ model, el: document.getElementById("here") });
</script></body></html>"""
STATE = ("setup", "method", "choice", "tried")


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser):
    """The widget on a page of its own, which reaches nothing and logs nothing."""
    phone = request.param == "phone"
    viewport = {"width": 390 if phone else 900, "height": 800}
    context = browser.new_context(viewport=viewport, has_touch=phone, reduced_motion="reduce")
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.complaints.append(asked.url))
    game = make()
    state = {name: getattr(game, name) for name in STATE}
    page.set_content(PAGE % ("light", game._css, SCRIPT, json.dumps(state)))
    page.wait_for_selector(".xai-verdict:has-text('of 3')")
    yield page
    assert page.complaints == []
    context.close()


def shown_order(page):
    """The names of the methods from top to bottom, by where they stand on the screen."""
    rows = page.locator(".xai-contestant").all()
    boxes = [(row.bounding_box()["y"], row.locator(".xai-name").text_content()) for row in rows]
    return [name for _, name in sorted(boxes)]


def test_choices_sort_the_methods_and_count_the_ways(page):
    game, names = make(), list(METHODS.values())
    for fork, way in enumerate(product(*QUESTIONS.values())):
        for question, answer in zip(QUESTIONS.values(), way, strict=True):
            page.get_by_role("radio", name=question[answer], exact=True).check()
        order = [names[k] for k in game._places[fork].argsort()]
        assert shown_order(page) == order
        heard = page.get_by_role("img").get_attribute("aria-label")
        assert [name for name in heard.split() if name in names] == order
        small = "small is good" in page.locator(".xai-measure").text_content()
        assert small == (way[1] == "lerf")
    assert page.get_by_text("Ways tried: 12 of 12").is_visible()


def test_it_finds_a_way_to_win_and_counts_all(page):
    counts = make().wins()
    for name, wins, surely in counts.itertuples(index=False):
        page.get_by_role("radio", name=name, exact=True).check()
        page.get_by_role("button", name="Find a way to win").click()
        text = page.locator(".xai-verdict").text_content()
        assert f"{name} is 1st of 3" in text if wins else f"{name} wins in none" in text
        assert ("surely." in text and "not surely" not in text) == (surely > 0)
    button = page.get_by_role("button", name="Count all ways")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    cells = page.locator("tbody tr").all()
    table = {row.locator("th").text_content(): row.locator("td").all_text_contents()
             for row in cells}  # fmt: skip
    assert table == {n: [str(w), str(s)] for n, w, s in counts.itertuples(index=False)}
    button.click()
    assert page.locator("table").count() == 0


def test_arrow_keys_change_an_answer(page):
    page.get_by_role("radio", name="2 pixels").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("model.get('choice')") == [0, 0, 1]
    assert page.get_by_role("radio", name="4 pixels").is_checked()
    assert page.get_by_text("Ways tried: 2 of 12").is_visible()


def test_all_is_in_reach_of_a_finger_and_nothing_hangs_over(page):
    for control in page.locator("button, .xai-chip").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 44
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    for part in page.locator(".xai-whisker, .xai-dot, .xai-name").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width[1]


def test_python_can_choose_too_and_a_removed_widget_listens_no_more(page):
    page.evaluate("model.set({ choice: [1, 1, 2], method: 0 }); model.save_changes()")
    assert page.get_by_role("radio", name="7 pixels").is_checked()
    assert "LRP is" in page.locator(".xai-verdict").text_content()
    page.evaluate("remove()")
    assert page.evaluate("model.listeners.length") == 0
