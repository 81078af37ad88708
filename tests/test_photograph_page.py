"""A photograph comes in by every way, is named, explained, erased and shared; none leaves."""

import base64
import contextlib
import io
import json
import re

import build
import numpy as np
import page_checks
import page_scripts
import photograph_page
import pytest
import torch
from PIL import Image

from xaiutils import data, models, plot
from xaiutils.widgets._common import script

PAGE = "book/explore_photograph"
FAKE = build.ROOT / "tests/fake_network.js"
SCRIPTS = build.ROOT / "assets/photograph"
LIMIT = 1_000_000  # bytes of the page with its style and script, without the network
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DROP = """([name, type, content, kind]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  if (name) dataTransfer.items.add(new File([bytes], name, { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: dataTransfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
  document.querySelector(".ph-stage").dispatchEvent(event);
}"""


# ------------------------------------------------------------------------------ pictures


def packed(image, format="PNG", **options):
    """A picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def corner(width=300, height=300, mode="RGB"):
    """Black, with a white top left quarter: the stand-in says "class 0"."""
    image = Image.new(mode, (width, height))
    image.paste("white", (0, 0, width // 2, height // 2))
    return image


def give(page, name, content, kind="drop", type=""):
    """Drop or paste a file; without a name nothing but text is dropped."""
    page.evaluate(DROP, [name, type, base64.b64encode(content).decode(), kind])


def choose(page, name, content):
    """Choose a file by the button."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator(".ph-file").first.set_input_files(file)


# ------------------------------------------------------------------------------ the scripts


def test_linter_finds_nothing_in_the_scripts():
    parts = [SCRIPTS / f"{name}.js" for name in photograph_page.PARTS]
    page_scripts.assert_linted(*parts, FAKE)


def run_parts(run_script, body, argument):
    """What the page's functions answer."""
    names = [name for name in photograph_page.PARTS if name != "explorer"]
    parts = [(SCRIPTS / f"{name}.js").read_text() for name in names]
    source = "\n".join([script("pictures.js"), *parts, f"export function run(given) {{ {body} }}"])
    return run_script(source, argument)


def test_a_map_is_drawn_and_told_as_the_package_does(run_script):
    values = torch.randn(224, 224, generator=torch.Generator().manual_seed(0)) ** 3
    values[10:60, 160:] += 5
    body = "return [saturation(given), described(given, 224)];"
    limit, told = run_parts(run_script, body, values.flatten().tolist())
    assert limit == pytest.approx(plot.colour_limit(values), rel=1e-5)
    assert told == plot.describe(values).removeprefix("heatmap: ").replace("%", "\N{NBSP}%")


@pytest.mark.parametrize(
    ("falls", "says"),
    [
        ({"morf": 2, "borrowed": 3, "lot": 2}, "erasing by lot did as much harm"),
        ({"morf": 2, "borrowed": 2, "lot": 1}, "nothing shows that the map knew this picture"),
        ({"morf": 3, "borrowed": 2, "lot": 1}, "of this picture would; yet the borrowed map"),
        ({"morf": 3, "borrowed": 1, "lot": 2}, "map that knows something of this picture would."),
    ],
)
def test_the_verdict_says_what_the_curves_show(run_script, falls, says):
    scores = {racer: [5, 5 - 2 * fall] for racer, fall in {**falls, "lerf": -0.5}.items()}
    body = "return verdictOn(given, { map: 'LRP', lender: 'rocket' });"
    found = run_parts(run_script, body, scores)
    assert says in found["learned"]
    assert f"{falls['morf']:.2f} most important first" in found["numbers"]
    assert "\N{MINUS SIGN}0.50 least important first" in found["numbers"]


def test_orders_are_the_maps_its_reverse_and_a_lot(run_script):
    body = """
      const levels = new Uint8Array(3 * 224 * 224);
      const picture = { levels, channels: 3, height: 224, width: 224 };
      const own = Float32Array.from({ length: 224 * 224 }, (_, k) => k);
      const borrowed = own.map((value) => -value);
      return [0, 2].map((seed) => ordersOf({ own, borrowed, picture, seed }));"""
    first, second = run_parts(run_script, body, None)
    assert first["morf"][:8] == list(range(63, 55, -1))
    assert first["lerf"] == first["morf"][::-1]
    assert first["borrowed"][:8] == list(range(8))
    assert sorted(first["lot"]) == sorted(second["lot"]) == list(range(64))
    assert first["lot"] != second["lot"]


def test_an_address_says_what_is_shown_and_nonsense_is_let_be(run_script):
    body = "return [wishOf(hashOf(given)), wishOf('#class=-3&less=x'), wishOf('#a-heading')];"
    wish = {"photograph": "coffee", "own": 967, "less": 968, "method": "grad_cam"}
    found, nonsense, heading = run_parts(run_script, body, wish)
    assert found == wish
    assert set(nonsense.values()) == set(heading.values()) == {None}


# ------------------------------------------------------------------------------ in a browser


def wait_for_map(page):
    page.wait_for_function(
        "!document.querySelector('.ph-erase').disabled"
        " && document.querySelector('.ph-working').hidden"
    )


def load(page):
    """Load the stand-in for the network."""
    page.add_script_tag(path=FAKE)
    page.locator(".ph-load").click()
    wait_for_map(page)
    return page


@pytest.fixture(scope="module")
def shared(browser, book):
    """A page for all tests that ask for nothing special."""
    with page_checks.opened(browser, f"{book}/{PAGE}.html") as (page, wrongs):
        yield load(page)
        assert wrongs == []


@pytest.fixture
def explorer(shared, open_page):
    """The page with the stand-in for the network, loaded, as a reader finds it."""

    def explorer(wait=5, **options):
        page = load(open_page(PAGE, **options)) if options else shared
        page.evaluate("wait => { window.fakeWait = wait; fakeClient.asked.explain = []; }", wait)
        for start in ("[data-fill=uniform]", "[data-tool=lens]", "[data-view=both]"):
            page.locator(start).evaluate("button => button.click()")
        page.locator("[data-method=lrp_epsilon_plus]").click()
        page.locator("[data-name=coffee]").click()
        wait_for_map(page)
        page.evaluate("fakeClient.asked.explain = []")
        return page

    return explorer


def says(page):
    return page.locator(".ph-says").inner_text()


def wait_until_it_says(page, text):
    page.locator(".ph-says", has_text=text).wait_for()


def shares(page):
    return page.locator(".ph-share").all_inner_texts()


def painted(page):
    return page.locator(".ph-stage").evaluate("canvas => canvas.toDataURL()")


def brush(page, moves=10):
    """Erase along a line in the top left of the picture."""
    page.locator("[data-tool=brush]").click()
    box = page.locator(".ph-stage").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 50)
    page.mouse.down()
    for step in range(moves):
        page.mouse.move(box["x"] + 30 + 100 * step / moves, box["y"] + 50)
    page.mouse.up()


def let_the_map_erase(page):
    page.locator(".ph-erase").click()
    page.locator(".ph-caveat").wait_for(state="visible")


def saved(page):
    with page.expect_download() as download:
        page.locator(".ph-save").click()
    return Image.open(download.value.path())


def test_before_the_network_is_loaded_the_page_says_what_it_does(open_page):
    page = open_page(PAGE)
    assert "Nothing leaves your machine" in page.locator("article").inner_text()
    assert re.search(r"Load the network\W+\d+\.\d\WMB", page.locator(".ph-load").inner_text())
    assert page.locator(".ph-thumb").count() == len(data.photos().names)
    assert page.locator(".ph-answer").is_hidden()
    assert page.locator("[data-tool=brush]").is_disabled()
    credit = page.locator(".ph-credit").inner_text()
    assert any(known.author in credit for known in data.photos().credits)


def test_a_network_that_does_not_load_can_be_tried_again(open_page):
    page = open_page(PAGE)
    page.evaluate("() => { LiteNetwork.load = async () => { throw new Error('no way there'); }; }")
    page.locator(".ph-load").click()
    page.get_by_text("The network could not be loaded (no way there). Try again.").wait_for()
    load(page)
    assert page.locator(".ph-problem").inner_text() == ""


def test_every_photographer_is_named(open_page):
    page = open_page(PAGE)
    for thumb, credit in zip(page.locator(".ph-thumb").all(), data.photos().credits, strict=True):
        thumb.click()
        page.get_by_text(f"Photograph: {credit.author} ({credit.licence})").wait_for()


def test_classes_and_a_map_come_with_the_network(explorer):
    page = explorer()
    assert page.locator(".ph-classes li").count() == 5
    assert re.match(r"The network says “class \d”, \d+\W%\.", says(page))
    legend = page.locator(".ph-caption").inner_text()
    assert "LRP ε⁺: gold speaks for" in legend
    assert "strongest at the" in page.locator(".ph-stage").get_attribute("aria-label")
    spoken = page.locator(".ph-spoken[aria-live=polite]")
    spoken.get_by_text(says(page)).wait_for(state="attached")
    both = painted(page)
    page.locator("[data-view=map]").click()
    alone = painted(page)
    page.locator("[data-view=photograph]").click()
    assert len({both, alone, painted(page)}) == 3


def test_a_class_is_explained_and_a_difference_of_two(explorer):
    page = explorer()
    page.locator(".ph-class-name").nth(2).click()
    wait_for_map(page)
    page.locator(".ph-class-less:visible").nth(0).click()
    wait_for_map(page)
    page.get_by_role("button", name="Grad-CAM").click()
    wait_for_map(page)
    names = page.locator(".ph-class-name > span:first-child").all_inner_texts()
    own, less = (name.removeprefix("class ") for name in (names[2], names[0]))
    assert f"Why “class {own}” and not “class {less}”?" in page.locator(".ph-caption").inner_text()
    asked = page.evaluate("fakeClient.asked.explain")
    assert [question["weights"] for question in asked] == [
        {own: 1},
        {own: 1, less: -1},
        {own: 1, less: -1},
    ]
    assert [question["method"] for question in asked][-2:] == ["lrp_epsilon_plus", "grad_cam"]
    assert page.locator(".ph-class-less[aria-pressed=true]").count() == 1


def test_a_long_map_shows_how_far_it_is_and_gives_way(explorer):
    page = explorer(wait=300)  # a map of occlusion takes 16 times as long
    page.get_by_role("button", name="Occlusion").click()
    page.wait_for_function("document.querySelector('.ph-working').value > 0.1")
    page.get_by_role("button", name="Gradient").click()
    wait_for_map(page)
    assert "Gradient: gold" in page.locator(".ph-caption").inner_text()
    page.get_by_role("button", name="Occlusion").click()
    brush(page, 2)  # wants an answer at once
    page.get_by_text("The map was stopped").wait_for()
    assert page.locator(".ph-problem").inner_text() == ""


def test_the_lens_looks_through_the_map(explorer):
    page = explorer()
    whole = painted(page)
    box = page.locator(".ph-stage").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    assert painted(page) == whole
    page.mouse.down()
    assert painted(page) != whole
    page.mouse.up()
    assert painted(page) == whole
    page.locator(".ph-stage").focus()
    page.keyboard.press("ArrowRight")
    assert painted(page) != whole
    page.keyboard.press("Escape")
    assert painted(page) == whole


def test_the_brush_erases_and_the_classes_follow(explorer):
    page = explorer()
    before, picture = shares(page), painted(page)
    brush(page)
    wait_until_it_says(page, re.compile(r"^Without \d+\W% of the picture"))
    assert shares(page) != before
    page.locator(".ph-undo").click()
    wait_until_it_says(page, re.compile("^The network says"))
    assert shares(page) == before
    page.locator("[data-tool=lens]").click()
    assert painted(page) == picture


def test_fills_differ_and_all_comes_back(explorer):
    page = explorer()
    brush(page)
    seen = []
    for fill in photograph_page.FILLS:
        page.locator(f"[data-fill={fill}]").click()
        seen.append(painted(page))
    assert len(set(seen)) == len(photograph_page.FILLS)
    page.locator(".ph-restore").click()
    wait_until_it_says(page, re.compile("^The network says"))
    assert page.locator(".ph-restore").is_disabled()


def test_only_the_newest_stroke_is_answered_for(explorer):
    page = explorer(wait=80)
    before = page.evaluate("fakeClient.asked.logits")
    brush(page, moves=40)
    page.wait_for_timeout(400)
    asked = page.evaluate("fakeClient.asked.logits") - before
    assert 2 <= asked <= 20
    last = says(page)
    page.wait_for_timeout(300)
    assert says(page) == last


def test_it_goes_by_keyboard(explorer):
    page = explorer()
    page.locator("[data-tool=brush]").focus()
    page.keyboard.press("Enter")
    page.locator(".ph-stage").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", " "):
        page.keyboard.press(key)
    wait_until_it_says(page, re.compile(r"^Without \d+\W% of the picture"))
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.locator(".ph-class-name").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".ph-class-name").nth(1).get_attribute("aria-pressed") == "true"


def test_the_map_erases_against_its_controls(explorer):
    page = explorer()
    let_the_map_erase(page)
    for racer in photograph_page.RACERS:
        curve = page.locator(f".ph-chart .ph-line-{racer}").get_attribute("d")
        assert curve.count("L") == 16
    erased = page.locator(".ph-tile canvas").evaluate_all("all => all.map((c) => c.toDataURL())")
    assert len(set(erased)) == 4
    numbers = page.locator(".ph-numbers").inner_text()
    found = re.findall(r"(\W?\d+\.\d\d) (most|by the|by lot|least)", numbers)
    falls = {name: float(text.replace("\N{MINUS SIGN}", "-")) for text, name in found}
    assert falls["most"] >= falls["least"]
    learned = page.locator(".ph-learned").inner_text()
    assert learned.startswith("Here ")
    assert ("erasing by lot did as much" in learned) == (falls["most"] <= falls["by lot"])
    assert "One picture, one draw" in page.locator(".ph-caveat").inner_text()
    let_the_map_erase(page)  # with another draw
    assert page.locator(".ph-numbers").inner_text() != numbers
    page.locator(".ph-class-name").nth(1).click()
    assert page.locator(".ph-race").is_hidden()


def test_who_wants_no_movement_sees_the_end_alone(explorer):
    page = explorer(wait=15, reduced_motion="reduce")
    page.locator(".ph-erase").click()
    page.get_by_text("Four orders erase").wait_for()
    assert page.locator(".ph-chart path").count() == 0
    page.locator(".ph-caveat").wait_for(state="visible")
    assert page.locator(".ph-chart .ph-line-lot").count() == 1


def test_what_was_found_is_saved_as_a_picture(explorer):
    page = explorer()
    plain = saved(page)
    let_the_map_erase(page)
    whole = saved(page)
    assert plain.format == whole.format == "PNG"
    assert plain.width == whole.width == 1200
    assert whole.height > plain.height + 200
    assert plain.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    panel = np.asarray(plain.convert("RGB"))[100:490, 45:435]
    assert panel.std() > 10  # the photograph is there


def test_a_link_restores_what_was_shown(browser, book, explorer):
    page = explorer()
    page.locator(".ph-thumb").nth(2).click()
    wait_for_map(page)
    page.locator(".ph-class-name").nth(1).click()
    page.locator(".ph-class-less:visible").nth(0).click()
    page.get_by_role("button", name="Gradient").click()
    wait_for_map(page)
    legend = page.locator(".ph-caption").inner_text()
    fragment = page.url.partition("#")[2]
    with page_checks.opened(browser, f"{book}/{PAGE}.html#{fragment}") as (again, _):
        assert load(again).locator(".ph-caption").inner_text() == legend
    page.locator(".ph-thumb").first.click()
    page.wait_for_function("wish => !window.location.hash.endsWith(wish)", arg=fragment)
    page.evaluate("wish => { window.location.hash = wish; }", fragment)
    page.get_by_text(legend).wait_for()


def test_a_photograph_of_ones_own_has_no_link(explorer):
    page = explorer()
    choose(page, "mine.png", packed(corner()))
    wait_until_it_says(page, "The network says “class 0”")
    wait_for_map(page)
    assert "#" not in page.url
    assert page.locator(".ph-link").is_disabled()
    assert "it never left this page" in page.locator(".ph-link-why").inner_text()


# ------------------------------------------------------------------------------ odd files


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photograph_can_be_dropped_or_pasted(explorer, kind):
    page = explorer()
    give(page, "mine.png", packed(corner()), kind)
    wait_until_it_says(page, "The network says “class 0”")


def test_a_photograph_that_came_before_the_network_is_answered_for(open_page):
    page = open_page(PAGE)
    give(page, "mine.png", packed(corner()))
    page.get_by_text("Photograph: mine.png.").wait_for()
    page.add_script_tag(path=FAKE)
    page.locator(".ph-load").click()
    wait_until_it_says(page, "The network says “class 0”")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"only words", "“notes.txt” is not a picture that this browser can read"),
        ("empty.jpg", b"", "“empty.jpg” is empty"),
        ("broken.png", b"\x89PNG\r\n\x1a\nbroken", "“broken.png” is not a picture"),
        ("", b"", "No file came with that"),
    ],
)
def test_what_is_no_picture_is_told_and_changes_nothing(explorer, name, content, says):
    page = explorer()
    before = painted(page)
    give(page, name, content)
    page.get_by_text(says).wait_for()
    assert page.get_by_role("alert").inner_text().startswith(says)
    assert painted(page) == before
    page.locator(".ph-thumb").first.click()
    page.wait_for_function("!document.querySelector('.ph-problem').textContent")


def rotated():
    """Lies on its side, and says so: upright it is `corner`."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    return packed(corner().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def transparent():
    """White where it can be seen; black behind what can't be, but for the top left quarter."""
    image = Image.new("RGBA", (300, 300), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 150, 150))
    return packed(image)


def striped(width, height):
    """A narrow strip, whose middle square is `corner`."""
    image = Image.new("RGB", (width, height), "white")
    image.paste(corner(height, height), ((width - height) // 2, 0))
    return packed(image)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (rotated(), ""),
        (transparent(), "Where it is transparent, white was put behind it."),
        (packed(corner(), "GIF"), "Of a GIF its first picture is taken."),
        (striped(3000, 40), "It is only 40 pixels wide"),
        (striped(3000, 40), "Of 3000 × 40 pixels the network sees the middle square alone."),
        (packed(corner(mode="L").convert("CMYK"), "JPEG"), ""),
    ],
    ids=["rotated", "transparent", "gif", "small", "narrow", "cmyk"],
)
def test_odd_photographs_get_the_right_answer(explorer, content, note):
    page = explorer()
    choose(page, "odd", content)
    wait_until_it_says(page, "The network says “class 0”")
    shown = page.locator(".ph-note").inner_text()
    assert note in shown
    assert bool(note) == bool(shown)


def test_a_photograph_of_forty_megapixels_is_made_smaller(explorer):
    page = explorer()
    choose(page, "large.jpg", packed(corner(8000, 5000), "JPEG"))
    wait_until_it_says(page, "The network says “class 0”")
    assert page.locator(".ph-problem").inner_text() == ""


# ------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("width", [320, 390, 820])
def test_nothing_is_wider_than_the_screen(explorer, width):
    page = explorer(viewport={"width": width, "height": 844})
    page.locator("[data-tool=brush]").click()
    let_the_map_erase(page)
    assert page.evaluate("pageChecks.sideways()") == []


def test_on_a_phone_picture_and_answer_are_seen_together(explorer):
    page = explorer(**PHONE, reduced_motion="reduce")
    page.locator("[data-tool=brush]").tap()
    page.wait_for_timeout(200)
    for part in (".ph-stage", ".ph-says", ".ph-classes li:nth-child(3)"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= PHONE["viewport"]["height"]
    before = shares(page)
    box = page.locator(".ph-stage").bounding_box()
    page.touchscreen.tap(box["x"] + 60, box["y"] + 60)
    wait_until_it_says(page, re.compile("^Without"))
    assert shares(page) != before
    touch = "e => getComputedStyle(e).touchAction"
    assert page.locator(".ph-stage").evaluate(touch) == "none"
    page.locator("[data-tool=lens]").tap()
    assert "pan-y" in page.locator(".ph-stage").evaluate(touch)  # a swipe scrolls the page
    assert page.locator(".ph-camera").is_visible()


def test_a_finger_that_rests_has_the_lens_and_one_that_swipes_scrolls(explorer):
    page = explorer(**PHONE, reduced_motion="reduce")
    finger = page.context.new_cdp_session(page)
    box = page.locator(".ph-stage").bounding_box()
    start = {"x": box["x"] + 100, "y": box["y"] + 300}

    def touch(kind, *points):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    whole = painted(page)
    touch("touchStart", start)
    page.wait_for_timeout(400)
    assert painted(page) != whole
    touch("touchEnd")
    assert painted(page) == whole
    before = page.evaluate("scrollY")
    touch("touchStart", start)
    for step in range(1, 6):
        touch("touchMove", {**start, "y": start["y"] - 40 * step})
    touch("touchEnd")
    page.wait_for_function("before => scrollY > before + 50", arg=before)
    assert painted(page) == whole


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_legible_when_played(explorer, theme):
    page = explorer()
    page.locator("[data-tool=brush]").click()
    let_the_map_erase(page)
    page_checks.show_theme(page, theme)
    assert page.evaluate("pageChecks.faintText()") == []
    assert page.evaluate("pageChecks.pictures()") == []


def test_on_paper_stand_answers_and_no_buttons(explorer):
    page = explorer(color_scheme="dark")
    let_the_map_erase(page)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".ph-stage").is_visible()
    assert page.locator(".ph-learned").is_visible()
    assert page.locator(":is(.ph-button, .ph-pick):visible").count() == 0


def test_the_page_is_light_and_nothing_jumps(open_page):
    page = open_page(PAGE)
    folder = build.ROOT / build.HTML
    own = [folder / f"{PAGE}.html", folder / f"_static/{photograph_page.JOINED}"]
    assert sum(file.stat().st_size for file in own) < LIMIT
    assert page.locator('script[src*="mathjax"]').count() == 0
    fed = json.loads(page.locator("[data-photograph-explorer] script").text_content())
    assert fed["preprocess"]["crop"] == 224


# ------------------------------------------------------------------------------ the real network


@pytest.fixture(scope="module")
def classifier():
    return models.load_classifier("efficientnet_lite0")


def in_python(classifier, image):
    """The likeliest class and its share."""
    with torch.no_grad():
        chances = classifier.module(classifier.batch([image])).softmax(dim=1)[0]
    return classifier.categories[int(chances.argmax())], float(chances.max())


def test_a_photograph_is_named_as_python_names_it_from_a_file(browser, book, classifier):
    """All of it with the network itself, where a page may read no other file."""
    image, _ = data.photos()["camera"]
    address = (build.ROOT / build.HTML / f"{PAGE}.html").as_uri()
    with contextlib.closing(browser.new_page(viewport=page_checks.DESK)) as page:
        asked, wrongs = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrongs.append(str(error)))
        page.goto(address, wait_until="load")
        give(page, "camera.png", packed(image))
        page.get_by_text("Photograph: camera.png.").wait_for()
        page.locator(".ph-load").click()
        wait_until_it_says(page, "The network says")
        label, share = in_python(classifier, image)
        found = re.fullmatch(r"The network says “(.+)”, (\d+)\W%\.", says(page))
        assert found[1] == label
        assert int(found[2]) / 100 == pytest.approx(share, abs=0.05)  # weights of eight bits
        wait_for_map(page)
        before = shares(page)
        brush(page)
        wait_until_it_says(page, re.compile("^Without"))
        assert shares(page) != before
        page.locator(".ph-class-less:visible").first.click()
        wait_for_map(page)
        let_the_map_erase(page)
        assert saved(page).width == 1200
        assert wrongs == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_the_embedded_photographs_are_near_enough(classifier):
    """They are packed; the network names them as it does the originals."""
    for name in ("coffee", "camera", "rocket"):
        image, _ = data.photos()[name]
        content = photograph_page._square(image).partition(",")[2]
        square = Image.open(io.BytesIO(base64.b64decode(content)))
        assert square.width == square.height == min(image.size)
        label, share = in_python(classifier, image)
        assert in_python(classifier, square) == (label, pytest.approx(share, abs=0.12))
