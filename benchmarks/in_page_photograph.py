"""EfficientNet-Lite0 in a page: kernels of our own against onnxruntime-web, in headless Chromium.

    npm install --prefix FOLDER onnxruntime-web
    export PYTHONPATH=book/_tools
    python benchmarks/in_page_photograph.py --ort FOLDER [--rounds 5] [--save]

Both pages hold the same network, with the weights of the book's page, and see the same
photographs, each on one thread, the page's own, since only that can be slowed down: ``slowed`` says
how many times. The script stops if an answer is not PyTorch's. Sizes, ``ready``, ``first answer``
and ``forward`` are those of in_page.py, whose packages it needs too.

onnxruntime-web runs forwards only. What our page does beyond that: the ``gradient`` and ``lrp``
(epsilon-plus) of a new picture with the forward pass that each needs, ``five maps`` of one picture
with one (these, z+, Grad-CAM, and epsilon-plus for another class), and ``occlusion`` of 64 regions.
"""

import argparse
import base64
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
from in_page import FLAGS, ORT, ORT_FILES, RESULTS, Handler, check, sizes
from photograph import export, scripts
from playwright.sync_api import sync_playwright

from xaiutils import data, models
from xaiutils.reproduce._provenance import provenance, write_json, write_text

SLOWED = (1, 4)
PICTURES = 2
OURS = """
const begun = performance.now();
const weights = new Uint8Array(LiteNetworkAbout.bytes);
LiteNetworkAbout.chunks.reduce((at, name) => {
  weights.set(received[name], at);
  return at + received[name].length;
}, 0);
const wasm = bytesOf(LITE_KERNELS.wasm);
const network = await liteEngine().createNetwork({ ...LiteNetworkAbout, wasm, weights });
const ready = performance.now() - begun;
const classify = async (pixels) => network.logits(pixels);
const explain = (pixels, method, k = 7) => network.explain(pixels, method, { [k]: 1 });
const others = {
  gradient: (pixels) => explain(pixels, "gradient"),
  lrp: (pixels) => explain(pixels, "lrp_epsilon_plus"),
  five_maps: (pixels) => {
    for (const method of ["gradient", "lrp_epsilon_plus", "lrp_z_plus", "grad_cam"]) {
      explain(pixels, method);
    }
    explain(pixels, "lrp_epsilon_plus", 8);
  },
};
const last = {
  occlusion: (pixels) => network.occlusion(pixels, { 7: 1 }, () => {}, () => false),
};
"""
RECEIVE = """
const bytesOf = (text) => {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < bytes.length; k += 1) bytes[k] = letters.charCodeAt(k);
  return bytes;
};
const received = {};
const LiteNetwork = { receive: (name, text) => { received[name] = bytesOf(text); } };
"""
MEASURE = """
const pictures = %s.map((text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
});
const logits = [[...(await classify(pictures[0]))]];
const first = performance.now();
for (const picture of pictures.slice(1)) logits.push([...(await classify(picture))]);
const timed = async (run, picture) => {
  const start = performance.now();
  await run(picture);
  return performance.now() - start;
};
const found = { ready, first, logits };
for (const [name, run] of Object.entries({ forward: classify, ...others })) {
  found[name] = Infinity;
  for (let k = 0; k < 12; k += 1) { // another picture each time: nothing is kept
    found[name] = Math.min(found[name], await timed(run, pictures[k %% pictures.length]));
  }
}
for (const [name, run] of Object.entries(last)) found[name] = await timed(run, pictures[0]);
window.found = found;
"""
TIMES = ("ready", "first", "forward", "gradient", "lrp", "five_maps", "occlusion")


def write_page(folder, before, body, pictures):
    """A page of nothing but scripts."""
    texts = [
        base64.b64encode(picture.numpy().astype("<f4").tobytes()).decode() for picture in pictures
    ]
    (folder / "main.mjs").write_text(body + MEASURE % json.dumps(texts))
    tags = "".join(f'<script src="{name}"></script>' for name in before)
    head = '<!doctype html><link rel="icon" href="data:,">'
    main = '<script type="module" src="main.mjs"></script>'
    (folder / "index.html").write_text(head + tags + main)


def write_ours(folder, pictures):
    """The page that runs assets/photograph/engine.js."""
    scripts.write(folder)
    for name in ("kernels.js", "engine.js"):
        shutil.copy(scripts.ROOT / "assets/photograph" / name, folder)
    (folder / "receive.js").write_text(RECEIVE)
    chunks = sorted(path.name for path in folder.glob("weights-*.js"))
    write_page(
        folder, ["about.js", "receive.js", "kernels.js", "engine.js", *chunks], OURS, pictures
    )


def write_ort(folder, network, pictures, ort):
    """The page that runs onnxruntime-web."""
    folder.mkdir()
    body = ORT.replace("[1, 1, 28, 28]", "[1, 3, 224, 224]")
    write_page(folder, [], body + "const [others, last] = [{}, {}];\n", pictures)
    for name in ORT_FILES:
        shutil.copy(ort / "node_modules/onnxruntime-web/dist" / name, folder)
    example = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(
        network, (example,), folder / "network.onnx", external_data=False, verbose=False
    )


def measure(browser, address, slowed):
    """Open the page in a context without a cache, and return what its script found."""
    context = browser.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: print("page:", error))
    context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowed})
    page.goto(address)
    page.wait_for_function("window.found", timeout=300_000)
    found = page.evaluate("window.found")
    context.close()
    return found


def measured(root, expected, rounds):
    """A row for each page under `root`, and each speed of the processor."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = {"ours": "kernels of our own", "ort": "onnxruntime-web"}
    found = {(name, slowed): [] for slowed in SLOWED for name in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for round_ in range(rounds):
            for name, slowed in found:
                address = f"http://127.0.0.1:{server.server_port}/{name}/"
                found[name, slowed].append(measure(browser, address, slowed))
            print(f"round {round_ + 1} of {rounds}", flush=True)
        browser.close()
    server.shutdown()
    return [
        row(pages[name], slowed, root / name, runs, expected)
        for (name, slowed), runs in found.items()
    ]


def row(what, slowed, folder, found, expected):
    """One page's line of the table; times in milliseconds."""
    size, gzipped = sizes(folder)
    times = {
        f"{'first_answer' if name == 'first' else name}_ms": min(f[name] for f in found)
        for name in TIMES
        if name in found[0]
    }
    error = max(check(f, expected) for f in found)
    return (
        {"what": what, "slowed": slowed, "bytes": size, "gzipped": gzipped}
        | times
        | {"largest_error": error}
    )


def main():
    """Measure both, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ort", type=Path, required=True, help="where npm installed it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    classifier = models.load_classifier(scripts.NETWORK)
    classifier.module.load_state_dict(export.export(classifier.module).state)
    x = classifier.batch(data.photos().images[:PICTURES])
    with torch.no_grad():
        expected = classifier.module(x)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_ours(root / "ours", x)
        write_ort(root / "ort", classifier.module, x, options.ort)
        table = pd.DataFrame(measured(root, expected, options.rounds))
    table["largest_error"] = table.pop("largest_error")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if options.save:
        save(table, options)


def save(table, options):
    """Keep the table with its record."""
    package = options.ort / "node_modules/onnxruntime-web/package.json"
    facts = {
        "pictures": PICTURES,
        "rounds": options.rounds,
        "threads": 1,
        "onnxruntime-web": json.loads(package.read_text())["version"],
        "onnx": importlib.metadata.version("onnx"),
    }
    words = ["PYTHONPATH=book/_tools", "python", "benchmarks/in_page_photograph.py"]
    command = " ".join([*words, "--ort", "FOLDER", "--rounds", str(options.rounds), "--save"])
    write_text(RESULTS / "benchmark-simd-speed.csv", table.to_csv(index=False, float_format="%.4g"))
    write_json(RESULTS / "benchmark-simd-speed.json", provenance(command, **facts))


if __name__ == "__main__":
    sys.exit(main())
