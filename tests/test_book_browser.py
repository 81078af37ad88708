"""Every page of the built book, in a headless browser that reaches nothing but the book."""

import re

import build
import page_checks
import pytest
import yaml
from bs4 import BeautifulSoup

HTML = build.ROOT / build.HTML


def _pages():
    toc = yaml.safe_load((build.ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *(chapter["file"] for chapter in chapters), "search", "genindex"]


@pytest.mark.parametrize("name", _pages())
def test_page_is_whole_and_legible(browser, book, name):
    assert page_checks.complaints(browser, f"{book}/{name}.html") == []


def test_reader_can_switch_to_dark(browser, book):
    with page_checks.opened(browser, f"{book}/{_pages()[0]}.html") as (page, _):
        background = "getComputedStyle(document.body).backgroundColor"
        seen = set()
        for _ in range(3):  # the button goes round through light, dark and what the system prefers
            page.locator("button.theme-switch-button").first.click()
            page.wait_for_timeout(500)
            seen.add(page.evaluate(background))
        assert len(seen) == 2


def test_links_inside_the_book_lead_somewhere(book):
    pages = {path: BeautifulSoup(path.read_text(), "html.parser") for path in HTML.rglob("*.html")}
    names = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    dead = []
    for path, soup in pages.items():
        for link in soup.find_all("a", href=True):
            address, _, fragment = link["href"].partition("#")
            if ":" in address:
                continue
            target = (path.parent / address).resolve() if address else path
            if not target.exists() or (fragment and fragment not in names.get(target, {fragment})):
                dead.append(f"{path.relative_to(HTML)}: {link['href']}")
    assert dead == []


def test_launch_buttons_name_the_configured_repository(book):
    config = yaml.safe_load((build.ROOT / "_config.yml").read_text())
    repository = config["repository"]["url"].removeprefix("https://github.com/")
    page = build.ROOT / build.HTML / f"{_pages()[0]}.html"
    chapters = sorted(HTML.glob("notebooks/*.html")) or [page]
    for chapter in chapters:
        soup = BeautifulSoup(chapter.read_text(), "html.parser")
        links = [a["href"] for a in soup.select(".article-header-buttons a[href]")]
        assert any(repository in link for link in links)
        if chapter != page:
            for host in ("mybinder.org", "colab.research.google.com"):
                assert any(host in link and repository in link for link in links)
            assert any(link.endswith(".ipynb") and "://" not in link for link in links)


CHAPTER = "notebooks/11_what_is_a_heatmap"


def brightness(colour):
    """Of "rgb(r, g, b)", from 0 to 255."""
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue


def test_dark_pages_are_printed_black_on_white(open_page):
    page = open_page(CHAPTER, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.evaluate(
        "() => { const of = (selector, name) => getComputedStyle(document.querySelector(selector))"
        "[name]; return [of('body', 'backgroundColor'), of('.highlight pre', 'backgroundColor'),"
        " of('h1', 'color'), of('.highlight span', 'color'), of('.highlight pre', 'whiteSpace')]; }"
    )
    page_colour, code, heading, word, space = colours
    assert min(brightness(page_colour), brightness(code)) > 230
    assert max(brightness(heading), brightness(word)) < 60
    assert space == "pre-wrap"  # a long line of code is not cut off


def test_maps_of_dark_pages_are_printed_dark_and_buttons_not_at_all(open_page):
    page = open_page("book/explore_results", color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.locator(".rx-plot g").evaluate_all(
        "all => all.map(e => getComputedStyle(e).color)"
    )
    assert colours
    assert max(map(brightness, colours)) < 130
    assert page.locator(".rx-button:visible").count() == 0


def test_the_keyboard_is_seen_in_the_header(open_page):
    page = open_page(CHAPTER, viewport={"width": 1440, "height": 900})
    page.keyboard.press("Tab")  # from now on focus is the keyboard's
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.bd-header-article :is(a, button)')]"
        ".filter(e => e.checkVisibility()).map(e => { e.focus(); const s = getComputedStyle(e);"
        " return s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth); })"
    )
    assert len(widths) >= 5
    assert min(widths) >= 2


def test_a_formula_that_is_cut_says_so_and_no_other_does(open_page):
    page = open_page(CHAPTER, viewport={"width": 390, "height": 800})
    page.wait_for_selector("mjx-container[display=true]", state="attached")
    found = page.evaluate(
        "() => [...document.querySelectorAll('mjx-container[display=true]')].map(e => "
        "[e.scrollWidth > e.clientWidth + 1, getComputedStyle(e).boxShadow !== 'none'])"
    )
    assert {tuple(each) for each in found} == {(True, True), (False, False)}


def test_lines_are_no_longer_than_the_eye_can_follow(open_page):
    page = open_page(CHAPTER, viewport={"width": 1440, "height": 900})
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article section > p')]"
        ".map(e => e.getBoundingClientRect().width)"
    )
    assert max(widths) <= 720
