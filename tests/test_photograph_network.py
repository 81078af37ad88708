"""The network of photographs in the page: it sees, computes and explains what Python does."""

import base64
import importlib.metadata
import json
import re
import shutil

import numpy as np
import page_scripts
import pytest
import torch
from photograph import export, kernels, scripts
from PIL import Image
from torch import nn

from xaiutils import attribution, data, models, plot
from xaiutils.widgets._common import pack

ASSETS = scripts.ROOT / "assets/photograph"
OWN = ("kernels.js", "engine.js", "resizing.js", "client.js")
METHODS = ("gradient", "lrp_epsilon_plus", "lrp_z_plus", "grad_cam")
PHOTOGRAPHS = data.photos()
QUESTIONS = ({282: 1.0}, {967: 1.0, 504: -1.0}, {657: -0.5, 812: 2.0})  # of the first photographs

RUN = """
const packed = ({ buffer }) =>
  btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
let network = null;
async function start({ weights, plan, side }) {
  const wasm = bytesOf(LITE_KERNELS.wasm);
  network ??= await liteEngine().createNetwork({ wasm, plan, side, weights: bytesOf(weights) });
  return network;
}
"""


def scripted(*names):
    """Some of the scripts, and what lets node call them, as one module."""
    parts = [(ASSETS / name).read_text(encoding="utf-8") for name in names]
    return "\n".join([page_scripts.functions(), *parts, RUN])


def unpacked(text):
    """The numbers that a script has packed."""
    return torch.tensor(np.frombuffer(base64.b64decode(text), "<f4"))


# ------------------------------------------------------------------------------------ the kernels


def test_linter_finds_nothing():
    page_scripts.assert_linted(*(ASSETS / name for name in OWN))


def test_the_kernels_are_those_of_their_source():
    assert f'digest: "{kernels.digest()}"' in kernels.SCRIPT.read_text()


def test_the_source_compiles_to_the_kernels():
    try:
        found = kernels.compiler()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no ziglang here; photograph/kernels.py says when one needs it")
    text = kernels.SCRIPT.read_text()
    if f'compiler: "{found}"' not in text:
        pytest.skip("another version of ziglang than the kernels were compiled with")
    assert text == kernels.script(kernels.compiled())


# ------------------------------------------------------------------------------------- the export


@pytest.fixture(scope="module")
def exported():
    return export.export(models.load_classifier(scripts.NETWORK).module)


@pytest.fixture(scope="module")
def classifier(exported):
    """The classifier with the page's weights."""
    found = models.load_classifier(scripts.NETWORK)
    found.module.load_state_dict(exported.state)
    return found


def test_eight_bits_are_right_to_half_a_step():
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    levels, scale = export.quantised(weight)
    assert levels.dtype == torch.int8
    assert levels.flatten(1).abs().amax(1).tolist() == [export.LEVELS] * 5
    difference = (levels * scale[:, None, None, None] - weight).abs().flatten(1).amax(1)
    assert bool((difference <= 0.5001 * scale).all())


def stem(channels=32):
    return [nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU6()]


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([*stem(), nn.Sigmoid()], "cannot run '2' "),
        (stem(24), "cannot run '0' "),
        ([*stem(), nn.Conv2d(32, 20, 1)], "cannot run '2' "),
        ([*stem(), nn.Conv2d(32, 32, 3, groups=32), nn.ReLU()], "cannot run '3' "),
        ([*stem(), nn.Conv2d(32, 32, 3, groups=32)], "wants a ReLU6"),
    ],
)
def test_a_network_that_the_page_cannot_run_is_refused(layers, complaint):
    with pytest.raises(ValueError, match=complaint):
        export.export(nn.Sequential(*layers).eval())


def test_the_weights_are_light_and_the_plan_is_that_of_the_network(exported):
    assert len(exported.weights) <= 10e6
    kinds = [step["kind"] for step in exported.plan]
    modules = list(models.load_classifier(scripts.NETWORK).module.modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == sum(k in ("stem", "pointwise", "depthwise") for k in kinds)
    assert kinds[0] == "stem"
    assert kinds[-2:] == ["mean", "linear"]


def test_the_recorded_agreement_is_that_of_these_weights(exported):
    record = json.loads((scripts.ROOT / "results/benchmark-simd-weights.json").read_text())
    assert record["bytes"] == len(exported.weights)
    assert record["same_top_class"] >= 0.98 * record["pictures"]
    assert record["pictures"] == 1000


def test_scripts_are_written_once_and_only_for_a_page_that_asks(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(scripts, "write", written.append)
    monkeypatch.setattr(scripts, "_digest", lambda: "of these sources")
    scripts.fill(tmp_path)
    assert written == []
    (tmp_path / scripts.PAGE).parent.mkdir()
    (tmp_path / scripts.PAGE).touch()
    scripts.fill(tmp_path)
    scripts.fill(tmp_path)
    assert written == [tmp_path / scripts.FOLDER]
    (tmp_path / scripts.FOLDER / "DIGEST").write_text("of older sources")
    scripts.fill(tmp_path)
    assert len(written) == 2


# ---------------------------------------------------------------------------------- the engine


@pytest.fixture(scope="module")
def ask(run_script, exported):
    """Call `run` of a script with the network in node."""
    network = {
        "weights": base64.b64encode(exported.weights).decode(),
        "plan": exported.plan,
        "side": export.SIDE,
    }
    return lambda source, **asked: run_script(
        scripted("kernels.js", "engine.js") + source, {"network": network, **asked}
    )


@pytest.fixture(scope="module")
def answers(ask, classifier):
    """What the page and Python say of the first photographs."""
    x = classifier.batch(PHOTOGRAPHS.images[: len(QUESTIONS)])
    source = """
    export async function run({ network: parts, pictures, questions, methods }) {
      const network = await start(parts);
      return pictures.map(unpack).map((pixels, k) => ({
        logits: packed(network.logits(pixels)),
        maps: Object.fromEntries(methods.map((method) => [
          method, packed(network.explain(pixels, method, questions[k])),
        ])),
      }));
    }
    """
    pictures = [pack(picture) for picture in x]
    return x, ask(source, pictures=pictures, questions=QUESTIONS, methods=METHODS)


def weights_of(question):
    """A question to the page as a target of the package."""
    target = torch.zeros(1, 1000)
    target[0, list(question)] = torch.tensor(list(question.values()))
    return target


def assert_alike(found, expected):
    """Two maps point the same way and are of the same size."""
    found, expected = unpacked(found).double(), expected.double().flatten()
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.999
    assert float(found.norm()) == pytest.approx(float(expected.norm()), rel=0.02)


def test_logits_are_pythons(answers, classifier):
    x, found = answers
    with torch.no_grad():
        expected = classifier.module(x)
    for answer, logits in zip(found, expected, strict=True):
        torch.testing.assert_close(unpacked(answer["logits"]), logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_pythons(answers, classifier, method):
    x, found = answers
    for k, question in enumerate(QUESTIONS):
        target = weights_of(question)
        expected = attribution.METHODS[method](classifier.module, x[k : k + 1], target)
        assert_alike(found[k]["maps"][method], plot.pixel_relevance(expected[0]))


def test_occlusion_is_pythons_reports_and_can_be_stopped(ask, classifier):
    x = classifier.batch(PHOTOGRAPHS.images[:1])
    source = """
    export async function run({ network: parts, picture, question }) {
      const network = await start(parts);
      const [pixels, reports] = [unpack(picture), []];
      const report = (done, all) => reports.push([done, all]);
      const map = await network.occlusion(pixels, question, report, () => false);
      const stopped = () => reports.at(-1)[0] === 2;
      const error = await network.occlusion(pixels, question, report, stopped).catch((e) => e);
      return { map: packed(map), reports, name: error.name };
    }
    """
    found = ask(source, picture=pack(x[0]), question=QUESTIONS[0])
    target = weights_of(QUESTIONS[0])
    assert_alike(found["map"], attribution.occlusion(classifier.module, x, target, 28))
    assert found["reports"] == [[k, 64] for k in [*range(65), 0, 1, 2]]
    assert found["name"] == "AbortError"


def test_what_makes_no_sense_is_refused(ask):
    source = """
    export async function run({ network: parts }) {
      const network = await start(parts);
      const grey = new Float32Array(3 * 224 * 224);
      const complaint = async (attempt) => {
        try {
          return `accepted: ${await attempt()}`;
        } catch (error) {
          return error.message;
        }
      };
      const short = { ...parts, wasm: bytesOf(LITE_KERNELS.wasm), weights: bytesOf(parts.weights) };
      short.weights = short.weights.subarray(0, -1);
      return Promise.all([
        () => network.logits(new Float32Array(7)),
        () => network.logits(grey.map(() => NaN)),
        () => network.explain(grey, "tea_leaves", { 3: 1 }),
        () => network.explain(grey, "gradient", { 1000: 1 }),
        () => network.explain(grey, "gradient", {}),
        () => network.explain(grey, "gradient", { 3: NaN }),
        () => liteEngine().createNetwork(short),
      ].map(complaint));
    }
    """
    wanted = [
        *("150528 numbers", "NaN", "no method is named tea_leaves"),
        *("from 0 to 999", "from 0 to 999", "from 0 to 999", "weights end"),
    ]
    for complaint, words in zip(ask(source), wanted, strict=True):
        assert words in complaint


# ------------------------------------------------------------------------------ the preparation


def noise(width, height):
    """A picture of noise, on which every weight of the filter shows."""
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def as_a_canvas_gives_it(picture):
    levels = base64.b64encode(picture.convert("RGBA").tobytes()).decode()
    return {"width": picture.width, "height": picture.height, "levels": levels}


def test_pictures_are_prepared_as_python_does(run_script, classifier):
    sizes = ((300, 217), (255, 511), (256, 256), (90, 120), (900, 331))
    pictures = [*PHOTOGRAPHS.images, *(noise(*size) for size in sizes)]
    source = """
    export function run({ pictures, preprocess }) {
      const { prepare } = liteResizing();
      return pictures.map(({ levels, ...size }) => {
        const data = new Uint8ClampedArray(bytesOf(levels).buffer);
        return packed(prepare({ ...size, data }, preprocess));
      });
    }
    """
    preprocess = {k: getattr(classifier.preprocess, k) for k in ("resize", "crop", "mean", "std")}
    asked = [as_a_canvas_gives_it(picture) for picture in pictures]
    found = run_script(
        scripted("resizing.js") + source, {"pictures": asked, "preprocess": preprocess}
    )
    for answer, picture in zip(found, pictures, strict=True):
        expected = classifier.preprocess(picture).flatten()
        torch.testing.assert_close(unpacked(answer), expected, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- the page

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<script src="vendor/photograph/about.js"></script>
<script src="photograph/client.js"></script>"""
USE = """async ({ levels, width, height, question }) => {
  const reports = [];
  const client = await LiteNetwork.load((done, all) => reports.push([done, all]));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const data = Uint8ClampedArray.from(atob(levels), (letter) => letter.charCodeAt(0));
  const image = new ImageData(data, width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const pixels = await client.pixels(canvas);
  const again = await client.pixels(image);
  const occlusion = client.explain(pixels, "occlusion", question, (done) => {
    if (done === 3) client.cancel();
  });
  const logits = client.logits(pixels); // asked while the occlusion runs
  const stopped = await occlusion.catch((error) => error.name);
  const refused = await client.explain(pixels, "tea_leaves", question).catch((e) => e.message);
  const map = await client.explain(pixels, "lrp_epsilon_plus", question);
  return {
    bytes: LiteNetwork.bytes, reports, stopped, refused,
    categories: client.categories, methods: client.methods.map(({ name }) => name),
    same: pixels.every((value, k) => value === again[k]),
    logits: [...(await logits)], sum: map.reduce((total, value) => total + value, 0),
    length: map.length,
  };
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the built book holds of the network, and a page that includes it."""
    found = tmp_path_factory.mktemp("book")
    shutil.copytree(ASSETS, found / "photograph")
    scripts.write(found / "vendor/photograph")
    (found / "page.html").write_text(PAGE)
    return found


def test_a_page_from_a_file_asks_the_network_in_a_worker(browser, folder, classifier):
    picture, question = PHOTOGRAPHS.images[0], QUESTIONS[0]
    page = browser.new_page()
    page.goto((folder / "page.html").as_uri())
    found = page.evaluate(USE, {"question": question, **as_a_canvas_gives_it(picture)})
    page.close()
    assert found["reports"][0] == [0, found["bytes"]]
    assert found["reports"][-1] == [found["bytes"]] * 2
    assert len(found["reports"]) > 5
    assert tuple(found["categories"]) == classifier.categories
    assert found["methods"] == [*METHODS, "occlusion"]
    assert found["stopped"] == "AbortError"
    assert found["refused"] == "no method is named tea_leaves"
    assert found["same"]
    x = classifier.batch([picture])
    with torch.no_grad():
        expected = classifier.module(x)[0]
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=0, atol=1e-3)
    relevance = attribution.lrp(classifier.module, x, weights_of(question))
    assert found["sum"] == pytest.approx(float(relevance.sum()), rel=1e-2)
    assert found["length"] == export.SIDE**2


def test_a_part_that_is_missing_is_named_and_a_second_try_may_succeed(browser, folder):
    page = browser.new_page()
    page.goto((folder / "page.html").as_uri())
    load = "LiteNetwork.load().then(() => 'loaded', (error) => error.message)"
    missing = folder / "vendor/photograph/weights-3.js"
    aside = missing.rename(missing.with_suffix(".aside"))
    assert re.fullmatch(r"could not load \S+/weights-3\.js", page.evaluate(load))
    aside.rename(missing)
    assert page.evaluate(load) == "loaded"
    page.set_content('<script src="photograph/client.js"></script>')
    page.close()
