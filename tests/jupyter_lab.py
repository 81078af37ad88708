"""A live JupyterLab on this machine alone, and a notebook that is run in it by a browser."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat

START_LIMIT = 60  # seconds
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--expose-app-in-browser",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token=",
    "--LabApp.news_url=None",  # it asks nothing of the network
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)


@contextlib.contextmanager
def running(folder):
    """Run JupyterLab on the notebooks of a folder, with settings of nobody; gives a `Lab`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS]
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [*command, f"--ServerApp.port={port}", f"--ServerApp.root_dir={notebooks}"],
        env={**os.environ, **kept},
        stdout=log,
        stderr=log,
    )
    try:
        lab = Lab(f"http://127.0.0.1:{port}", notebooks)
        lab.wait(server)
        yield lab
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab.

    Attributes:
        address: Where it is.
        folder: Its notebooks.
    """

    address: str
    folder: Path

    def wait(self, server):
        """Wait until it answers."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{self.address}/api")
                return
            time.sleep(0.2)
        log = (self.folder.parent / "log").read_text()
        raise RuntimeError(f"JupyterLab did not start:\n{log}")

    @contextlib.contextmanager
    def notebook(self, browser, name, cells):
        """Open a new notebook with the given code in its cells, and run it; gives the page."""
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        content.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(content, self.folder / f"{name}.ipynb")
        with self._opened(browser, name) as page:
            page.evaluate(RUN_ALL)
            yield page

    @contextlib.contextmanager
    def chapter(self, browser, file):
        """Open a copy of an executed notebook as a reader does, without running it."""
        shutil.copy(file, self.folder)
        with self._opened(browser, file.stem) as page:
            yield page

    @contextlib.contextmanager
    def _opened(self, browser, name):
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.route(lambda url: not url.startswith(self.address), lambda route: route.abort())
        page.goto(f"{self.address}/doc/tree/{name}.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        yield page
        page.evaluate(SHUT_DOWN)
        page.close()

    def shut_kernels_down(self, page):
        """Do as the reader who closes the kernel and leaves the notebook open."""
        page.evaluate(SHUT_DOWN)


RUN_ALL = """async () => {
    const panel = jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    jupyterapp.commands.execute("notebook:run-all-cells");
}"""
SHUT_DOWN = "() => jupyterapp.serviceManager.sessions.shutdownAll()"
TEXTS = """async () => {
    // For each cell of text, what a reader sees of it; a cell is drawn once it is scrolled to.
    const panel = jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    const notebook = panel.content;
    const texts = [];
    for (const [place, cell] of notebook.widgets.entries()) {
        if (cell.model.type !== "markdown") continue;
        const isEmpty = /^`+\\{solution-end\\}\\s*`+$/.test(cell.model.sharedModel.source.trim());
        const shown = () => cell.node.querySelector(".myst")?.innerText.trim();
        const until = Date.now() + 20000;
        while (!shown() && !isEmpty && Date.now() < until) {
            await notebook.scrollToItem(place, "start");
            await new Promise((done) => setTimeout(done, 50));
        }
        if (!isEmpty) texts.push(cell.node.innerText);
    }
    return texts;
}"""
