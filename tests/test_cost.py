"""The plan of a large run: its arithmetic by hand, and the page made of the stored costs."""

from pathlib import Path

import cost
import pandas as pd
import pytest

from xaiutils.reproduce import results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured():
    return results.table("benchmark-hours").set_index("network")


def test_the_plan_by_hand():
    kinds = {
        "gradient": 1.0, "average_of_gradients": 10.0, "class_activation_map": 2.0, "LRP": 3.0
    }  # fmt: skip
    costs = pd.DataFrame([{"forward_pass": 0.5, **kinds, "curve": 2.0}], index=["one"])
    # 4 gradients, 2 averages, 2 class activation maps and 4 times LRP: 12 methods and 40 seconds;
    # 12 x 2 orders and 10 draws of a random one: 34 curves and 68 seconds; 50,000 times.
    hours = cost.plan(costs).loc["one"]
    assert hours["maps"] == pytest.approx(50_000 * 40 / 3600)
    assert hours["curves"] == pytest.approx(50_000 * 68 / 3600)
    assert hours["all"] == pytest.approx(50_000 * 108 / 3600)


def test_the_stored_page_is_that_of_the_stored_costs(measured):
    assert (ROOT / "results/benchmark-hours.md").read_text() == cost.as_page(measured)
    assert list(measured.index) == list(cost.NETWORKS)


def test_a_map_costs_what_its_passes_do(measured):
    """A gradient is one pass forwards and one back, an average of gradients is many."""
    assert (measured["gradient"] > measured["forward_pass"]).all()
    assert (measured["average_of_gradients"] > 5 * measured["gradient"]).all()


def test_the_parts_are_measured():
    name, work = next(cost.parts("squeezenet1_1"))
    assert name == "forward_pass"
    assert 0 < cost.least(work, 1) < 5
