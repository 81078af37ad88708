"""Run what the widgets' scripts define: in node, which starts fast, or in a page."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xaiutils.widgets._common import script


def functions(*names):
    """The files of a widget as one module that exports nothing."""
    return script(*names).replace("export default { render };", "")


def node():
    """Node's path, or None."""
    return shutil.which("node", path=Path(sys.executable).parent) or shutil.which("node")


def in_node(source, argument, folder):
    """What `run` of a module answers, in node."""
    if node() is None:
        pytest.skip("no node on this machine")
    (folder / "widget.mjs").write_text(source)
    (folder / "argument.json").write_text(json.dumps(argument))
    (folder / "main.mjs").write_text(
        'import { readFileSync, writeFileSync } from "node:fs";\n'
        'import { run } from "./widget.mjs";\n'
        'const answer = await run(JSON.parse(readFileSync("argument.json", "utf8")));\n'
        'writeFileSync("answer.json", JSON.stringify(answer));\n'
    )
    subprocess.run([node(), "main.mjs"], cwd=folder, check=True, timeout=120)
    return json.loads((folder / "answer.json").read_text())


def in_chromium(source, argument, browser):
    """What `run` of a module answers, in a page."""
    page = browser.new_page()
    call = """async ([source, argument]) => {
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      return (await import(address)).run(argument);
    }"""
    answer = page.evaluate(call, [source, argument])
    page.close()
    return answer
