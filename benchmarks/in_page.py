"""The digit classifier in a page: plain JavaScript against onnxruntime-web, in headless Chromium.

    npm install --prefix FOLDER onnxruntime-web
    python benchmarks/in_page.py --ort FOLDER [--rounds 7] [--save]

Both pages hold the same trained network and classify the same digits, each on one thread, and the
script stops if an answer is not PyTorch's. onnxruntime-web is loaded in its smallest form
(WebAssembly only). It needs the packages onnx and onnxscript for the export, which this project
does not. What it cannot do in a page is not timed: gradients and relevance.

``bytes`` is what the page sends for, ``gzipped`` the same compressed. ``first answer`` counts from
the navigation to the first logits, ``ready`` is the part that makes the network ready to run,
``forward`` a forward pass later on. Everything comes from this machine, so the time that a network
would take for the bytes is not in it. Each time is the smallest of the rounds, in each of which
both pages are opened anew: other programs only ever add time.
"""

import argparse
import gzip
import http.server
import importlib.metadata
import json
import shutil
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from playwright.sync_api import sync_playwright

from xaiutils import data, models
from xaiutils.reproduce._provenance import provenance, write_json, write_text
from xaiutils.widgets._common import script
from xaiutils.widgets._network import export_network

RESULTS = Path(__file__).resolve().parents[1] / "results"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ORT_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
RUNS = 20  # forward passes that are timed together, because a page's clock is coarse

PLAIN = """
import { loadNetwork } from "./network.mjs";
const begun = performance.now();
const net = loadNetwork(await (await fetch("network.json")).json());
const ready = performance.now() - begun;
const classify = async (digit) => net.forward(digit).output;
"""
ORT = """
import * as ort from "./ort.wasm.bundle.min.mjs";
const begun = performance.now();
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", location.href).href };
const session = await ort.InferenceSession.create("network.onnx");
const ready = performance.now() - begun;
const classify = async (digit) => {
  const input = new ort.Tensor("float32", Float32Array.from(digit), [1, 1, 28, 28]);
  return (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].data;
};
"""
MEASURE = """
const digits = %s;
const logits = [[...(await classify(digits[0]))]];
const first = performance.now();
for (const digit of digits.slice(1)) logits.push([...(await classify(digit))]);
let forward = Infinity;
for (let block = 0; block < 10; block += 1) {
  const start = performance.now();
  for (let run = 0; run < %d; run += 1) await classify(digits[run %% digits.length]);
  forward = Math.min(forward, (performance.now() - start) / %d);
}
window.found = { ready, first, forward, logits };
"""


def write_page(folder, body, digits):
    """A page of nothing but a script."""
    folder.mkdir()
    measure = MEASURE % (json.dumps(digits), RUNS, RUNS)
    folder.joinpath("main.mjs").write_text(body + measure)
    head = '<!doctype html><link rel="icon" href="data:,">'
    main = '<script type="module" src="main.mjs"></script>'
    folder.joinpath("index.html").write_text(head + main)


def write_plain(folder, network, digits):
    """The page that runs xaiutils/widgets/network.js."""
    write_page(folder, PLAIN, digits)
    folder.joinpath("network.mjs").write_text(script("network.js") + "\nexport { loadNetwork };\n")
    folder.joinpath("network.json").write_text(json.dumps(export_network(network, (1, 28, 28))))


def write_ort(folder, network, digits, ort):
    """The page that runs onnxruntime-web."""
    write_page(folder, ORT, digits)
    for name in ORT_FILES:
        shutil.copy(ort / "node_modules" / "onnxruntime-web" / "dist" / name, folder)
    example = torch.zeros(1, 1, 28, 28)
    torch.onnx.export(
        network, (example,), folder / "network.onnx", external_data=False, verbose=False
    )


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves scripts and WebAssembly under the types that browsers ask for, and silently."""

    extensions_map = {  # noqa: RUF012 - as in the class that it extends
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_):
        """Say nothing."""


def measure(browser, address):
    """Open the page in a context without a cache, and return what its script found."""
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: print("page:", message.text))
    page.on("pageerror", lambda error: print("page:", error))
    page.goto(address)
    page.wait_for_function("window.found", timeout=20_000)
    found = page.evaluate("window.found")
    context.close()
    return found


def sizes(folder):
    """Bytes of all that the page sends for, less digits and measuring; the same gzipped."""
    sent = [path.read_bytes() for path in folder.iterdir() if path.name != "main.mjs"]
    return sum(map(len, sent)), sum(len(gzip.compress(content)) for content in sent)


def check(found, expected):
    """Stop if a page's logits are not PyTorch's; return the largest difference."""
    error = float((torch.tensor(found["logits"]) - expected).abs().max())
    if error > 1e-4:
        raise SystemExit(f"the logits are off by {error:.2g}")
    return error


def main():
    """Measure both, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ort", type=Path, required=True, help="where npm installed it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    network = models.load_classifier("mnist_cnn").module
    x = data.mnist("test", source="embedded").images[:20]
    with torch.no_grad():
        expected = network(x)
    digits = x.flatten(1).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_plain(root / "plain", network, digits)
        write_ort(root / "ort", network, digits, options.ort)
        rows = measured(root, expected, options.rounds)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if options.save:
        save(table, options)


def measured(root, expected, rounds):
    """A row for each page under `root`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = {"plain": "plain JavaScript", "ort": "onnxruntime-web"}
    found = {name: [] for name in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(rounds):
            for name in pages:
                address = f"http://127.0.0.1:{server.server_port}/{name}/"
                found[name].append(measure(browser, address))
        browser.close()
    server.shutdown()
    return [row(what, root / name, found[name], expected) for name, what in pages.items()]


def row(what, folder, found, expected):
    """One page's line of the table; times in milliseconds."""
    size, gzipped = sizes(folder)
    times = {name: min(f[name] for f in found) for name in ("ready", "first", "forward")}
    return {
        "what": what,
        "bytes": size,
        "gzipped": gzipped,
        "ready_ms": times["ready"],
        "first_answer_ms": times["first"],
        "forward_ms": times["forward"],
        "largest_error": max(check(f, expected) for f in found),
    }


def save(table, options):
    """Keep the table with its record."""
    package = options.ort / "node_modules" / "onnxruntime-web" / "package.json"
    version = json.loads(package.read_text())["version"]
    facts = {
        "digits": 20,
        "rounds": options.rounds,
        "onnxruntime-web": version,
        "onnx": importlib.metadata.version("onnx"),
    }
    words = ["python", "benchmarks/in_page.py", "--ort", "FOLDER"]
    command = " ".join([*words, "--rounds", str(options.rounds), "--save"])
    write_text(RESULTS / "benchmark-in-page.csv", table.to_csv(index=False, float_format="%.4g"))
    write_json(RESULTS / "benchmark-in-page.json", provenance(command, **facts))


if __name__ == "__main__":
    sys.exit(main())
