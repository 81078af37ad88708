"""A method of a reader's, or of Captum's, from its file to a measured card."""

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from safetensors.torch import load_file

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _card, _cards, _dask, _judge, _judge_tests, _long_run, results
from xaiutils.reproduce._card import verdicts
from xaiutils.reproduce._explained import inputs
from xaiutils.reproduce._judge_method import load_subject
from xaiutils.reproduce._judge_tests import LINES, TESTS

QUICK = "completeness,determinism,label,digits-looks"
BLOCKS = 5 + 1 + 2 + 5
MINE = '''
"""Gradient times input, in ten lines."""

import torch


def heat(model, x, target, power=1):
    x = x.clone().requires_grad_()
    picked = model(x)[torch.arange(len(x)), target].sum()
    (slope,) = torch.autograd.grad(picked, x)
    return (slope * x).detach() ** power
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader")
    (path / "mine.py").write_text(MINE)
    return path


def judge(method, work, tests=QUICK, *more):
    return command.main(["judge", str(method), f"--work={work}", f"--tests={tests}", *more])


@pytest.fixture(scope="module")
def work(folder):
    assert judge(f"{folder / 'mine.py'}:heat", folder / "work") == 0
    return folder / "work" / "mine.py-heat"


def blocks(work):
    return {path.name: load_file(path) for path in sorted(work.glob("*.safetensors"))}


def assert_same(first, second, **tolerance):
    assert list(first) == list(second)
    for name, found in first.items():
        assert found.keys() == second[name].keys()
        for key, values in found.items():
            torch.testing.assert_close(values, second[name][key], **tolerance)


def test_a_readers_file_becomes_a_card_whose_numbers_are_those_of_a_naive_loop(work):
    frame = pd.read_csv(work / "card.csv").set_index("line")
    classifier = models.load_classifier("mnist_cnn").module
    digits = data.mnist("test", source="embedded", per_class=5).images
    gaps, lent_gaps = [], []
    for start in range(0, 50, 10):
        x = digits[start : start + 10]
        scores = classifier(x)
        target = scores.argmax(1)
        empty = classifier(torch.zeros_like(x))
        total = attribution.input_x_gradient(classifier, x, target).sum((1, 2, 3))
        lent = evaluation.borrowed(total, target, seed=0)
        for i in range(10):
            fall = scores[i, target[i]] - empty[i, target[i]]
            gaps.append(abs(total[i] - fall) / abs(fall))
            lent_gaps.append(abs(lent[i] - fall) / abs(fall))
    own, held = (torch.stack(found).detach().double() for found in (gaps, lent_gaps))
    row = frame.loc["completeness"]
    value = evaluation.bootstrap(own, method="bca")
    lead = evaluation.bootstrap(held - own, method="bca")
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (value.mean, value.low, value.high), rel=1e-3
    )
    assert (row["lead"], row["lead_low"], row["lead_high"]) == pytest.approx(
        (lead.mean, lead.low, lead.high), rel=1e-3
    )
    assert row["p"] == pytest.approx(evaluation.sign_flip(held - own, tail="normal"), rel=0.1)
    assert row["images"] == 50


def test_the_card_has_every_attribute_and_every_line_with_interval_and_control(work):
    card = (work / "card.md").read_text()
    frame = pd.read_csv(work / "card.csv")
    record = json.loads((work / "card.json").read_text())
    expected = [key for name in QUICK.split(",") for key in TESTS[name].lines]
    assert frame["line"].tolist() == [key for key in LINES if key in expected]
    for column in ("low", "high", "control_value", "lead_low", "lead_high"):
        assert frame[column].notna().all()
    for attribute in ("Determinism", "Model agnosticism", "Label sensitivity", "Minimality"):
        assert f"**{attribute}.**" in card
    assert "`power=1`" in card
    assert card.count(" against borrowed map ") == 4
    tested = frame.dropna(subset="p")
    assert set(tested["line"]) == {"completeness", "determinism"}
    assert tested["p_holm"].tolist() == pytest.approx(evaluation.holm(tested["p"].tolist()))
    assert record["origin"].startswith("sha256 ")
    assert record["method"] == "mine.py:heat"
    assert record["command"].startswith("python -m xaiutils.reproduce judge ")
    assert record["command"].endswith(f"mine.py:heat --tests={QUICK}")
    assert record["weights"]["mnist_cnn"]["sha256"]


SIDES = {"digits": 7, "photographs": 32}
ALIKE = ("digits-", "photographs-", "decoy", "interaction", "saturation", "suppressor", "backdoor")


@pytest.fixture
def small(monkeypatch):
    """Every test of judge made quick: small photographs, few steps and draws, no training."""

    def forget():
        for cached in vars(_judge_tests).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()

    def small_photographs(*given):
        return torch.nn.functional.interpolate(inputs(*given), 64)

    digits = data.mnist("test", source="embedded", per_class=1).images
    known = evaluation.truth.additive_instrument(digits, seed=3)
    settings = {kind: {"region_size": size, "steps": 2} for kind, size in SIDES.items()}
    forget()
    monkeypatch.setattr(_judge_tests, "inputs", small_photographs)
    monkeypatch.setattr(_judge_tests, "SETTINGS", settings)
    monkeypatch.setattr(_judge_tests, "_DRAWS", 2)
    monkeypatch.setattr(_judge_tests, "_planted", lambda rule: known)
    yield
    forget()


def test_every_kind_of_test_ends_in_the_card(folder, tmp_path, monkeypatch, small):
    """One block of each; of those that run the same code, one."""
    names = [name for name in TESTS if name not in QUICK and not name.startswith(ALIKE)]
    names += ["digits-uniform", "photographs-uniform"]
    for name in names:
        blocks = 2 if TESTS[name].grouped else 1
        monkeypatch.setitem(TESTS, name, replace(TESTS[name], blocks=blocks))
    assert judge(f"{folder / 'mine.py'}:heat", tmp_path, ",".join(names)) == 0
    frame = pd.read_csv(tmp_path / "mine.py-heat" / "card.csv").set_index("line")
    wanted = {line for name in names for line in TESTS[name].lines}
    assert set(frame.index) == wanted - {f"network/{name}" for name in _judge_tests.NETWORKS[1:]}
    numbers = frame.drop(index="network/mnist_cnn")[["value", "control_value", "lead"]]
    assert numbers.notna().all(axis=None)
    assert frame.loc["truth/grid", "value"] == pytest.approx(1)  # nothing can leave its cell
    assert frame.loc["truth/patch", "lead_low"] > 0
    assert frame.loc["metric/deletion", "lead"] == pytest.approx(
        frame.loc["metric/deletion", "control_value"] - frame.loc["metric/deletion", "value"],
        abs=1e-4,
    )


def test_captums_methods_are_judged_as_ours(work, folder):
    assert judge("captum.attr:InputXGradient", folder / "captum") == 0
    captum = blocks(folder / "captum" / "captum.attr-InputXGradient")
    # It is asked image by image, which rounds otherwise than ten at once.
    assert_same(blocks(work), captum, atol=1e-4, rtol=1e-4)


def test_captums_paths_are_taken_a_few_steps_at_a_time():
    asked = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = models.load_classifier("mnist_cnn").module

        def forward(self, x):
            asked.append(len(x))
            return self.inner(x)

    x, target = data.mnist("test", source="embedded").images[:2], torch.tensor([0, 1])
    network = Watched().eval()
    found = load_subject("captum.attr:IntegratedGradients")(network, x, target)
    assert max(asked) <= 10
    whole = IntegratedGradients(network).attribute(x, target=target).sum(dim=1)
    torch.testing.assert_close(found, whole.double(), atol=1e-4, rtol=1e-4)


def test_a_killed_run_goes_on_with_nothing_lost_or_counted_twice(work, folder, tmp_path):
    slow = (
        "import argparse, sys, time; from xaiutils.reproduce import _judge, _long_run;"
        "work = _long_run.save;"
        "_long_run.save = lambda *a: (work(*a), time.sleep(0.2));"
        "parser = argparse.ArgumentParser(); _judge.add_command(parser.add_subparsers());"
        "options = parser.parse_args(sys.argv[1:]); options.run(options)"
    )
    typed = ["judge", f"{folder / 'mine.py'}:heat", f"--work={tmp_path}", f"--tests={QUICK}"]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *typed],
        stderr=(tmp_path / "errors").open("w"),
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # rounding
    )
    mine = tmp_path / "mine.py-heat"
    while process.poll() is None and len(list(mine.glob("*.safetensors"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "errors").read_text()
    kept = {path: path.stat().st_mtime_ns for path in mine.glob("*.safetensors")}
    assert 3 <= len(kept) < BLOCKS
    assert not (mine / "card.md").exists()
    (mine / "label-01.safetensors.1.part").write_bytes(b"half a file")
    judge(f"{folder / 'mine.py'}:heat", tmp_path)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert_same(blocks(mine), blocks(work))
    assert (mine / "card.csv").read_text() == (work / "card.csv").read_text()


def test_the_workers_of_a_cluster_give_the_same_blocks(work, folder, tmp_path, monkeypatch):
    def cluster(address, function, tasks):
        there = pickle.loads(pickle.dumps(function))
        return (there(task) for task in reversed(tasks))

    monkeypatch.setattr(_dask, "results", cluster)
    judge(f"{folder / 'mine.py'}:heat", tmp_path, QUICK, "--dask=tcp://somewhere")
    assert_same(blocks(tmp_path / "mine.py-heat"), blocks(work))


def test_a_worker_with_another_file_is_told_from_this_one(folder):
    given = {"method": f"{folder / 'mine.py'}:heat", "tests": ["determinism"]}
    plan = dict(_judge.prepare(argparse.Namespace(**given)).plan) | {"origin": "sha256 other"}
    with pytest.raises(RuntimeError, match=r"this worker has read .*not what was .*sha256 other"):
        _long_run._on_worker(_judge.prepare, pickle.dumps(given), plan, "determinism-00")


def test_a_changed_file_is_another_method(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    judge(f"{mine}:heat", tmp_path / "work", "determinism")
    mine.write_text(MINE.replace("slope * x", "slope"))
    with pytest.raises(SystemExit, match="belongs to another run: its origin is sha256"):
        judge(f"{mine}:heat", tmp_path / "work", "determinism")


def test_a_network_that_a_method_does_not_take_is_a_line_and_no_failure(tmp_path):
    mine = tmp_path / "mine.py"
    refuse = "    if x.shape[1] == 3:\n        raise TypeError('no colours')\n    x = x.clone()"
    mine.write_text(MINE.replace("    x = x.clone()", refuse))
    judge(f"{mine}:heat", tmp_path, "networks,photographs-looks,determinism")
    card = (tmp_path / "mine.py-heat" / "card.md").read_text()
    assert "`mnist_vit` yes, `efficientnet_lite0` no" in card
    assert "Refused in the test *photographs-looks*: TypeError: no colours." in card
    record = json.loads((tmp_path / "mine.py-heat" / "card.json").read_text())
    assert record["refused"] == {"photographs-looks": "TypeError: no colours"}


def test_shares_of_the_ceiling_are_ratios_of_means_and_networks_are_groups():
    most = torch.linspace(1, 3, 10).double()
    values = {"own": most / 2, "control": torch.zeros(10).double(), "most": most}
    row = _judge._row("ceiling", values, grouped=False)
    assert (row["value"], row["low"], row["high"]) == pytest.approx((50, 50, 50))
    assert (row["control_value"], row["lead"]) == pytest.approx((0, 50))
    number = torch.arange(5).repeat_interleave(10)
    values = {"own": number.double(), "control": torch.zeros(50).double(), "block": number}
    row = _judge._row("truth/additive", values, grouped=True)
    expected = evaluation.bootstrap(torch.arange(5.0), method="t")
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    # The p-value is that of the interval: at 1 - p its end is at zero.
    end = evaluation.bootstrap(torch.arange(5.0), method="t", level=1 - row["p"])
    assert end.low == pytest.approx(0, abs=1e-9)
    row = _judge._row("truth/additive", values | {"own": values["control"]}, grouped=True)
    assert row["p"] == 1


def test_verdicts_follow_the_corrected_p_value():
    rows = [("more", 1.0, 0.01), ("more", -1.0, 0.01), ("less", 1.0, 0.2), ("", 1.0, None)]
    frame = pd.DataFrame(rows, columns=["better", "lead", "p_holm"])
    assert verdicts(frame).tolist() == ["ahead", "behind", "open", ""]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return x[:, :, ::2]", r"must return maps of shape \(2, 1, 28, 28\) or \(2, 28, 28\)"),
        ("return x * float('nan')", "NaN or infinity for 2 of 2 images, the first of them image 0"),
        ("return x.numpy()", "must return a tensor, not ndarray"),
        ("next(model.parameters()).data += 1; return x", "changed the network: .*its weights"),
        ("model.train(); return x", "changed the network: .*its mode"),
        ("model[0].register_forward_hook(print); return x", "raised an error on two digits"),
        ("list(model.modules())[1].register_forward_hook(len); return x", "changed the network:"),
        ("raise KeyError('no')", "raised an error on two digits: KeyError: 'no'"),
    ],
)
def test_what_a_method_must_not_do(tmp_path, body, words):
    (tmp_path / "bad.py").write_text(f"def heat(model, x, target):\n    {body}\n")
    with pytest.raises(SystemExit, match=words):
        judge(f"{tmp_path / 'bad.py'}:heat", tmp_path / "work", "determinism")
    assert not list((tmp_path / "work").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "bad.py:heat", "there is no file .*bad.py; give the path from"),
        ("def warm(): pass", "bad.py:heat", "has no 'heat'; it has warm"),
        ("heat = 3", "bad.py:heat", "heat in .* is int, not a function"),
        ("def heat(model, x): pass", "bad.py:heat", "cannot be called as f.model, x, target.: too"),
        ("import nothing_like_it", "bad.py:heat", "cannot be run: ModuleNotFoundError"),
        ("class Heat: pass", "bad.py:Heat", "class without a method 'attribute'"),
        (None, "no_such_package:heat", "no_such_package cannot be imported"),
        (None, "captum.attr:LayerGradCam", "cannot be made of the model alone .*missing"),
        (None, "lpr", "'lpr' is no method of this package .gradient, "),
    ],
)
def test_methods_that_are_not_there(tmp_path, monkeypatch, content, name, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    with pytest.raises(SystemExit, match=words):
        load_subject(name)


def test_the_command_line_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(SystemExit, match=r"give a method .* or --all"):
        command.main(["judge"])
    with pytest.raises(SystemExit, match="'taste' unknown; choose from digits-uniform"):
        judge("lrp", tmp_path, "taste")


def test_the_recorded_command_is_what_is_typed_again():
    start = "python -m xaiutils.reproduce judge"
    assert _judge._command(["--all"], list(TESTS)) == f"{start} --all"
    assert _judge._command(["lrp", "random"], ["cost"]) == f"{start} lrp random --tests=cost"
    record = results.record("cards")
    methods = list(record["methods"])
    typed = ["--all"] if methods == list(attribution.METHODS) else methods
    assert record["command"] == _judge._command(typed, list(TESTS))


def test_global_random_numbers_are_the_methods_own_affair():
    subject = load_subject("random")
    model = models.load_classifier("mnist_cnn").module
    x = data.mnist("test", source="embedded").images[:2]
    before = torch.get_rng_state()
    first, again, other = (subject(model, x, torch.tensor([0, 1]), seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_page_has_a_card_for_each_method_and_a_score_board(tmp_path, monkeypatch):
    rows, heads = [], list(_cards.SHOWN)
    for name, lead in (("one_way", 1.0), ("another", 2.0)):
        for line in heads:
            facts = LINES[line]
            numbers = {"value": lead, "low": lead - 0.5, "high": lead + 0.5, "control_value": 0.0}
            numbers |= {"lead": lead, "lead_low": lead - 0.5, "lead_high": lead + 0.5}
            said = {"attribute": facts.attribute, "line": line, "what": facts.what, "on": facts.on}
            said |= {"control": facts.control, "better": facts.better}
            p_holm = 0.01 if name == "another" else 0.5
            rows.append({"method": name} | said | numbers | {"p_holm": p_holm, "images": 50})
    about = {"methods": {name: {"refused": {}, "options": ""} for name in ("one_way", "another")}}
    about |= {"date": "", "versions": {}}
    monkeypatch.setattr(_cards, "table", lambda name: pd.DataFrame(rows))
    monkeypatch.setattr(_cards, "record", lambda name: about)
    assert command.main(["cards", f"--out={tmp_path}"]) == 0
    page = (tmp_path / "cards.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    board = page.split("## The cards")[0].splitlines()
    assert board[1] == "| method | digits | photographs | trigger | suppressor |"
    bold = " **+2.0** [1.5, 2.5] |" * 2 + " **+2.00** [1.50, 2.50] |" * 2
    assert board[3] == "| another |" + bold
    plain = " +1.0 [0.5, 1.5] |" * 2 + " +1.00 [0.50, 1.50] |" * 2
    assert board[4] == "| one way |" + plain
    assert "digits: 1 of 2 ahead, 0 behind" in page
    assert (
        f"{len(attribution.METHODS)} of the {len(attribution.METHODS)} methods have no card" in page
    )
    assert page.count("{dropdown}") == 2
    assert page.count("+2 [1.5, 2.5] ahead |") == 4
    assert page.count("+1 [0.5, 1.5] open |") == 4
    assert (tmp_path / "cards.png").read_bytes().startswith(b"\x89PNG")


def test_the_stored_page_is_that_of_the_stored_table():
    stored = (results.folder() / "cards.md").read_text(encoding="utf-8")
    assert stored == _cards.page(results.table("cards"), results.record("cards"))


def test_what_the_page_says_is_what_the_table_shows():
    words = " ".join(
        (results.folder().parent / "book/cards.md").read_text(encoding="utf-8").split()
    )
    frame = results.table("cards")
    frame["said"] = verdicts(frame)
    by_line = {line: rows.set_index("method") for line, rows in frame.groupby("line")}

    assert "each column of the score board puts them in another order" in words
    orders = {tuple(by_line[line]["lead"].sort_values().index) for line in _cards.SHOWN}
    assert len(orders) == len(_cards.SHOWN)

    assert "`random`" in words
    assert "ahead of its control on one line only, and that is stability" in words
    lot = frame[frame["method"] == "random"]
    assert lot[lot["said"] == "ahead"]["line"].tolist() == ["stability"]
    assert "Any method that gives like maps for like pictures is more stable" in words
    assert (by_line["stability"]["lead"] > 0).all()

    assert "(the map of another class, minimality, ink, cost)" in words
    without = set(frame[frame["said"] == ""]["line"].str.split("/").str[0])
    assert without == {"label", "minimality", "ink", "cost", "network"}

    assert "on fifty digits and on six photographs" in words
    for line, number in zip(_cards.SHOWN, (50, 6), strict=False):
        assert (by_line[line]["images"] == number).all()
    assert "With six photographs no sign-flip test can say more than one in thirty-two" in words
    few = frame[frame["images"] <= 6]
    assert evaluation.sign_flip(torch.ones(6), tail="normal") == pytest.approx(1 / 32)
    assert set(few["said"]) == {"open", ""}

    assert "an *order by lot*, ten draws" in words
    assert "Student's $t$ below twenty pictures" in words
    assert "says so at 0.05" in words
    assert (_judge_tests._DRAWS, _judge._ENOUGH_FOR_BCA, _card._SURE) == (10, 20, 0.05)


def test_a_method_is_added_to_a_table_in_place_of_its_rows(tmp_path):
    given = ["gradient", "random", f"--work={tmp_path}", "--tests=determinism"]
    out = tmp_path / "cards"
    assert command.main(["judge", *given, f"--out={out}"]) == 0
    before, facts = pd.read_csv(f"{out}.csv"), json.loads(Path(f"{out}.json").read_text())
    for name in ("random", "sensitivity"):  # one that is there, and one that is not
        assert command.main(["judge", name, *given[2:], f"--out={out}", "--add"]) == 0
    after, about = pd.read_csv(f"{out}.csv"), json.loads(Path(f"{out}.json").read_text())
    assert list(dict.fromkeys(after["method"])) == ["gradient", "random", "sensitivity"]
    pd.testing.assert_frame_equal(after[after["method"] != "sensitivity"], before)
    assert about["methods"] == facts["methods"]
    assert list(_cards.run_of("sensitivity", about)["methods"]) == ["sensitivity"]
    assert _cards.run_of("gradient", about) is about


def test_a_method_is_not_added_to_a_table_of_another_run(tmp_path):
    given = ["gradient", "random", f"--work={tmp_path}", "--tests=determinism"]
    out = tmp_path / "cards"
    command.main(["judge", *given, f"--out={out}"])
    before = Path(f"{out}.csv").read_text()
    more = ["judge", "random", f"--work={tmp_path}", f"--out={out}", "--add", "--tests=label"]
    with pytest.raises(SystemExit, match=r"cards\.csv is of another run: tests differ"):
        command.main(more)
    assert Path(f"{out}.csv").read_text() == before
    with pytest.raises(SystemExit, match="--add needs --out: the table that is there"):
        command.main(["judge", "random", "--add"])
