"""The first page: what it says is in results/, and the bet can be placed, turned and repeated."""

import contextlib
import csv
import json
import re
from collections import Counter

import build
import front_door
import front_door_data
import page_checks
import page_scripts
import pytest
import torch
from PIL import Image

from xaiutils import data, models

PICTURES = build.ROOT / front_door_data.PICTURES
MEASURED = front_door.bets()
PAGE = "book/intro"


# ------------------------------------------------------------------------------ what was measured


def test_the_pictures_are_there_and_light():
    names = [p["name"] for p in MEASURED["photographs"]]
    wanted = {*names, *(f"{name}-{m}" for name in names for m in MEASURED["names"])}
    found = {path.stem: path for path in PICTURES.glob("*.webp")}
    assert wanted <= set(found)
    assert sum(path.stat().st_size for path in found.values()) <= 300_000
    assert {Image.open(found[name]).size for name in names} == {(224, 224)}


@pytest.mark.parametrize("photograph", MEASURED["photographs"], ids=lambda p: p["name"])
def test_a_photograph_has_five_maps_with_their_curves(photograph):
    assert {tile["method"] for tile in photograph["tiles"]} == set(MEASURED["names"])
    for tile in photograph["tiles"]:
        assert sorted(tile["order"]) == list(range(MEASURED["regions"]))
        for order in ("morf", "lerf"):
            assert len(tile[order]) == MEASURED["steps"] + 1
            assert tile[order][0] == photograph["lot"][0]
    assert len({tuple(tile["order"]) for tile in photograph["tiles"]}) == 5


def test_the_curves_start_at_what_the_network_says():
    classifier, photographs = models.load_classifier("efficientnet_lite0"), data.photos()
    for found in MEASURED["photographs"][:2]:
        image, label = photographs[found["name"]]
        with torch.no_grad():
            logits = classifier.module(classifier.batch([image]))[0]
        assert found["label"] == classifier.categories[label]
        assert found["lot"][0] == pytest.approx(float(logits[label]), abs=0.01)
        chance = float(logits.softmax(dim=0)[label])
        assert found["probability"] == pytest.approx(chance, abs=0.01)


def test_the_trap_is_the_map_of_another_photograph():
    """By its first regions: those of score zero are ordered by lot, anew in each photograph."""
    orders = {
        p["name"]: {t["method"]: t["order"][:16] for t in p["tiles"]}
        for p in MEASURED["photographs"]
    }
    own = {name: found["grad_cam"] for name, found in orders.items()}
    lent = {name: found[MEASURED["trap"]] for name, found in orders.items()}
    assert sorted(own.values()) == sorted(lent.values())
    assert all(own[name] != lent[name] for name in own)


def test_the_area_is_the_mean_fall():
    assert front_door.area([4.0, 3.0, 1.0]) == pytest.approx((0 + 1 + 3) / 3)


# ------------------------------------------------------------------------------ what is said


def _rows(name):
    with (build.ROOT / f"results/{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _shown(sentence):
    plain = re.sub(r"<[^>]*>", "", sentence)
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", plain)]


def _only(rows, *wanted):
    (found,) = [row for row in rows if set(wanted) <= set(row.values())]
    return found


def test_findings_are_five_and_hold():
    assert [finding.holds for finding in front_door.findings()] == [True] * 5


def test_numbers_of_the_first_two_findings_are_in_the_results():
    areas = _rows("controls-efficientnet_lite0-areas")
    differences = _rows("controls-efficientnet_lite0-differences")
    own = _only(areas, "uniform", "lrp_epsilon_plus", "own", "aopc_morf")
    lent = _only(areas, "uniform", "lrp_epsilon_plus", "borrowed", "aopc_morf")
    lead = _only(differences, "uniform", "lrp_epsilon_plus", "own", "borrowed", "aopc_morf")
    share = round(100 * float(lent["mean"]) / float(own["mean"]))
    wanted = [share, *(round(float(lead[key]), 2) for key in ("mean", "low", "high")), 100]
    assert _shown(front_door.findings()[0].sentence) == wanted
    turned = [
        _only(differences, "uniform", "input_x_gradient", "own", "borrowed", f"aopc_{order}")
        for order in ("morf", "lerf")
    ]
    wanted = [
        abs(round(float(found[key]), 2))
        for found, keys in zip(
            turned, (("mean", "low", "high"), ("mean", "high", "low")), strict=True
        )
        for key in keys
    ]
    wanted.append(100)
    assert _shown(front_door.findings()[1].sentence) == wanted


def test_numbers_of_the_other_findings_are_in_the_results():
    shares = [
        row
        for row in _rows("ceiling-efficientnet_lite0-shares")
        if {"uniform", "other", "aopc_morf"} <= set(row.values()) and row["method"][0] != "("
    ]
    best = max(shares, key=lambda row: float(row["share"]))
    wanted = [len(shares), *(round(float(best[key])) for key in ("share", "low", "high")), 50]
    assert _shown(front_door.findings()[2].sentence) == wanted
    likeness = _rows("blindness-efficientnet_lite0-likeness")
    blind = _only(likeness, "guided_backprop", "logit", "cosine", "far")
    wanted = [*(round(float(blind[key]), 3) for key in ("mean", "low", "high")), 100]
    assert _shown(front_door.findings()[3].sentence) == wanted
    ahead = front_door.findings()[4].sentence
    found = [
        row
        for row in _rows("claims")
        if row["statement"].startswith("LRP finds what the network uses better than deconvolution")
        and row["of_kind"] == "True"
    ]
    assert {row["verdict"] for row in found} == {"supported"}
    for row in found:
        mean, low, high = (f"{float(row[key]):.2f}" for key in ("mean", "low", "high"))
        assert f" {mean} [{low}, {high}]" in ahead


def test_a_finding_that_is_gone_stops_the_build(monkeypatch):
    monkeypatch.setattr(front_door, "findings", lambda: [front_door.Finding("No.", holds=False)])
    with pytest.raises(ValueError, match="no longer say"):
        front_door.five_lines()


def test_a_result_that_is_gone_is_named():
    with pytest.raises(LookupError, match=r"claims\.csv has 0 rows"):
        front_door.row("claims", paper="nobody2000nothing")


def test_the_strip_counts_the_ledger():
    rows = [r for r in _rows("claims") if r["paper"] and r["best_chance"] == "True"]
    verdicts = {r["statement"]: r["verdict"] for r in rows}
    assert len(rows) < sum(bool(r["paper"]) for r in _rows("claims"))
    assert not any("by the first search" in statement for statement in verdicts)
    html = front_door.ledger()
    assert html.count('title="') == len(verdicts)
    for verdict, number in Counter(verdicts.values()).items():
        assert f"{number} {verdict}" in html


def test_every_chapter_is_on_a_card():
    toc = (build.ROOT / "_toc.yml").read_text()
    cards = front_door.parts()
    for file in re.findall(r"notebooks/[1-5]\w+", toc):
        assert f'href="../{file}.html"' in cards


def test_photographers_are_named():
    page = front_door.game()
    owed = [credit for credit in data.photos().credits if credit.licence.startswith("CC BY")]
    assert len(owed) == 2
    for credit in owed:
        assert f"{credit.author} ({credit.licence})" in page


def test_linter_finds_nothing_in_the_script():
    page_scripts.assert_linted(build.ROOT / "assets/front_door.js")


# ------------------------------------------------------------------------------ in a browser


@pytest.fixture
def bet(open_page):
    """The page after the first map was tapped, and the race is over."""

    def bet(**options):
        page = open_page(PAGE, reduced_motion="reduce", **options)
        page.locator(".fd-tile").first.click()
        return page

    return bet


def _best(photograph, order):
    sign = 1 if order == "morf" else -1
    return max(photograph["tiles"], key=lambda tile: sign * front_door.area(tile[order]))


def test_before_a_bet_no_name_is_shown(open_page):
    page = open_page(PAGE)
    assert page.locator(".fd-tile").count() == 5
    assert page.locator(".fd-name:visible").count() == 0
    assert page.locator(".fd-chart path.fd-lot").first.is_visible()
    assert "bet on" not in page.locator(".fd-verdict").inner_text()
    assert page.locator(".fd-turn").is_disabled()
    assert page.get_by_role("button", name=re.compile("positive, strongest at")).count() == 5


def test_a_bet_gives_curves_erased_pictures_and_a_verdict(bet):
    page = bet()
    lines = page.locator(".fd-chart path[class]:not(.fd-axis)").evaluate_all(
        "paths => paths.map((path) => path.getAttribute('d').split('L').length)"
    )
    assert lines.count(MEASURED["steps"] + 1) == 6  # five maps and one by lot
    erased = page.locator(".fd-tile canvas").evaluate_all("all => all.map((c) => c.toDataURL())")
    assert len(set(erased)) == 5
    verdict = page.locator(".fd-verdict").inner_text()
    first = MEASURED["photographs"][0]
    assert f"You bet on {MEASURED['names'][first['tiles'][0]['method']]}" in verdict
    if _best(first, "morf") is first["tiles"][0]:
        assert "first of five" in verdict
    else:
        assert f"The first is {MEASURED['names'][_best(first, 'morf')['method']]}" in verdict
    assert "One picture, one draw" in page.locator(".fd-caveat").inner_text()
    assert page.locator(".fd-name:visible").count() == 5


def test_the_race_takes_its_time_and_ends(open_page):
    page = open_page(PAGE)
    page.locator(".fd-tile").nth(2).click()
    assert int(page.locator(".fd-scrub input").input_value()) < MEASURED["steps"]
    page.wait_for_function("document.querySelector('.fd-verdict').textContent.includes('bet on')")
    assert int(page.locator(".fd-scrub input").input_value()) == MEASURED["steps"]


def test_the_test_can_be_turned_round(bet):
    page = bet()
    before = page.locator(".fd-chart path.fd-chosen").first.get_attribute("d")
    page.locator(".fd-turn").click()
    assert page.locator(".fd-turn").get_attribute("aria-pressed") == "true"
    assert page.locator(".fd-chart path.fd-chosen").first.get_attribute("d") != before
    first = MEASURED["photographs"][0]
    winners = [_best(first, order)["method"] for order in ("morf", "lerf")]
    told = "the same winner" if winners[0] == winners[1] else "another winner"
    assert told in page.locator(".fd-verdict").inner_text()
    assert "least important first" in page.locator(".fd-chart").text_content()


def test_another_picture_comes_and_they_go_round(bet):
    page = bet()
    seen = []
    for _ in MEASURED["photographs"]:
        page.locator(".fd-another").click()
        seen.append(page.locator(".fd-photo .fd-class").inner_text())
        assert page.locator(".fd-name:visible").count() == 0
    labels = [photograph["label"] for photograph in MEASURED["photographs"]]
    assert seen == labels[1:] + labels[:1]


def test_it_can_be_played_by_keyboard(open_page):
    page = open_page(PAGE, reduced_motion="reduce")
    page.locator(".fd-tile").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".fd-tile").nth(1).get_attribute("aria-pressed") == "true"
    page.locator(".fd-scrub input").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".fd-scrub input").input_value() == str(MEASURED["steps"] - 1)
    assert page.locator(".fd-verdict").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [320, 390, 820])
def test_nothing_is_wider_than_the_screen(bet, width):
    page = bet(viewport={"width": width, "height": 844})
    assert page.evaluate("pageChecks.sideways()") == []
    boxes = page.locator(".fd-chart text").evaluate_all(
        "texts => texts.map((text) => text.getBoundingClientRect().right)"
    )
    assert max(boxes) <= width


def test_on_a_phone_the_answer_comes_into_view(open_page):
    screen = {"width": 390, "height": 844}
    page = open_page(PAGE, viewport=screen, has_touch=True, is_mobile=True, reduced_motion="reduce")
    page.locator(".fd-tile").last.tap()
    page.wait_for_timeout(200)
    for part in (".fd-tiles", ".fd-verdict"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= screen["height"]
    page.locator(".fd-another").tap()
    page.wait_for_timeout(200)
    assert 0 <= page.locator(".fd-lede").bounding_box()["y"] <= screen["height"] / 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_legible_when_played(bet, theme):
    page = bet()
    page_checks.show_theme(page, theme)
    assert page.evaluate("pageChecks.faintText()") == []


@pytest.mark.parametrize("scripts", [True, False])
def test_it_works_from_a_file(browser, book, scripts):
    address = (build.ROOT / build.HTML / f"{PAGE}.html").as_uri()
    with contextlib.closing(browser.new_page(java_script_enabled=scripts)) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address, wait_until="load")
        if scripts:
            page.locator(".fd-tile").first.click()
            page.locator(".fd-caveat").wait_for(state="visible")
        else:
            assert page.locator(".fd-name:visible").count() == 5
            assert page.locator(".fd-first").is_visible()
            assert page.locator(".fd-live:visible").count() == 0
            widths = "images => images.map((image) => image.naturalWidth)"
            assert set(page.locator(".fd-tile img").evaluate_all(widths)) == {176}
        assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_the_page_is_light(open_page):
    """The data stay small, and the page needs no script for formulas."""
    page = open_page(PAGE)
    content = page.locator("[data-front-door] script").text_content()
    assert len(content) < 60_000
    assert json.loads(content)["steps"] == MEASURED["steps"]
    assert page.locator('script[src*="mathjax"]').count() == 0


def test_nothing_jumps_while_the_page_opens(open_page):
    page = open_page(PAGE)
    shifts = page.evaluate("""() => new Promise((resolve) => {
      let sum = 0;
      const add = (list) => list.getEntries().forEach((shift) => { sum += shift.value; });
      new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
      setTimeout(() => resolve(sum), 500);
    })""")
    assert shifts <= 0.05


def test_a_page_says_what_it_is_about(open_page):
    described = 'meta[name="description"]'
    for page in (open_page(PAGE), open_page("book/notation")):
        assert page.locator(described).count() == 1
        assert len(page.locator(described).get_attribute("content")) > front_door.SHORTEST
        assert page.locator('meta[property="og:title"]').count() == 1
