"""How the chapters write the names of methods."""

from xaiutils import attribution
from xaiutils.reproduce.results import readable


def test_every_method_has_a_name_of_its_own_for_readers():
    names = [readable(name) for name in attribution.METHODS]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "_" in name]


def test_an_ending_is_said_and_other_names_lose_their_underscores():
    assert readable("guided_backprop_l2") == "guided backpropagation, norm"
    assert readable("grad_cam") == "Grad-CAM"
    assert readable("dmbp_greedy") != readable("dmbp")
    assert readable("random_order") == "random order"
