"""Fixtures that several test modules share."""

import contextlib
import os
import shutil
import subprocess

import page_checks
import pytest
from hypothesis import settings

# The same examples in every run, so that a run that passes passes again. Others are looked for on
# purpose: HYPOTHESIS_PROFILE=explore make test
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config):
    """Several workers share the cores: one computing thread each, in the chapters' kernels too."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the machine's own."""
    import printed

    may_install = os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0
    if printed.chromium() is None and may_install:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False)
    if printed.chromium() is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    with printed.browser() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def book():
    """The address of the book, built anew by one worker if anything in it has changed."""
    import build
    import vendor
    from filelock import FileLock

    (build.ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(build.ROOT / "_build/tests.lock"):
        assert build.is_current() or build.build(), "the book does not build: see above"
    if not vendor.is_filled():
        pytest.skip("npm could not be reached, so this book takes scripts from a CDN")
    with page_checks.served(build.ROOT / build.HTML) as address:
        yield address


@pytest.fixture
def open_page(browser, book):
    """Open a page of the book, by its name; in the end nothing must have gone wrong on it.

    Options are playwright's for a page: ``viewport``, ``has_touch``, ``color_scheme`` ...
    """
    with contextlib.ExitStack() as pages:
        every_wrong = []

        def open_page(name, **options):
            address = f"{book}/{name}.html"
            page, wrongs = pages.enter_context(page_checks.opened(browser, address, **options))
            every_wrong.append(wrongs)
            return page

        yield open_page
        assert not any(every_wrong), every_wrong


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A live JupyterLab with an empty folder; see `jupyter_lab.Lab`."""
    pytest.importorskip("jupyterlab", reason="no JupyterLab here (it comes with the extra `book`)")
    import jupyter_lab

    with jupyter_lab.running(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def run_script(request, tmp_path_factory):
    """Calls `run(argument)` of a script: in node, which starts fast, or else in a page."""
    import page_scripts

    if page_scripts.node():
        folder = tmp_path_factory.mktemp("node")
        return lambda source, argument: page_scripts.in_node(source, argument, folder)
    browser = request.getfixturevalue("browser")
    return lambda source, argument: page_scripts.in_chromium(source, argument, browser)
