"""Open a built page in a browser and ask what is asked of every page (page_checks.js)."""

import contextlib
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
QUESTIONS = Path(__file__).with_suffix(".js")
FORMULAS_ARE_SET = """() => !document.querySelector('script[src*="mathjax"]')
    || window.MathJax?.startup?.promise?.then(() => true)"""


@contextlib.contextmanager
def served(folder):
    """Serve a folder on this machine only, at a free port; gives the address."""
    handler = functools.partial(_QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def opened(browser, address, **options):
    """Open a page that reaches its own server alone; gives it and what goes wrong on it."""
    origin = "/".join(address.split("/")[:3]) + "/"
    page = browser.new_page(**{"viewport": DESK, **options})
    wrongs = []

    def decide(route):
        if route.request.url.startswith(origin):
            route.continue_()
        else:
            wrongs.append(f"outside request: {route.request.url}")
            route.abort()

    def note_console(message):
        if message.type == "error":
            wrongs.append(f"console: {message.text}")

    page.route("**/*", decide)
    page.on("console", note_console)
    page.on("pageerror", lambda error: wrongs.append(f"script error: {error}"))
    page.add_init_script(path=QUESTIONS)
    page.goto(address, wait_until="load")
    page.wait_for_function(FORMULAS_ARE_SET, timeout=15_000)
    page.wait_for_load_state("networkidle")
    yield page, wrongs
    page.close()


def show_theme(page, theme):
    """Switch the page to "light" or "dark", without the fading over that a reader sees."""
    page.add_style_tag(content="* { transition: none !important; }")
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


def complaints(browser, address):
    """Everything that is wrong with a page."""
    with opened(browser, address) as (page, wrongs):
        found = [*wrongs]
        for question in ("formulas", "pictures", "widgets"):
            found += page.evaluate(f"pageChecks.{question}()")
        for theme in ("light", "dark"):
            show_theme(page, theme)
            found += [f"{theme}: {faint}" for faint in page.evaluate("pageChecks.faintText()")]
        page.set_viewport_size(PHONE)
        return found + page.evaluate("pageChecks.sideways()")
