"""Networks to explain: ImageNet classifiers and small networks trained by this project.

``load_classifier`` is the one door. It returns the network together with everything that is needed
to use it rightly: its preprocessing, its class names, and where its weights came from.
"""

from xaiutils.models._classifiers import (
    Classifier,
    Preprocess,
    available_classifiers,
    load_classifier,
)
from xaiutils.models._mnist import MnistCNN
from xaiutils.models._tiny import TinyCNN
from xaiutils.models._training import TrainingPlan, fit
from xaiutils.models._weights import ModelError, load_state_dict

__all__ = [
    "Classifier",
    "MnistCNN",
    "ModelError",
    "Preprocess",
    "TinyCNN",
    "TrainingPlan",
    "available_classifiers",
    "fit",
    "load_classifier",
    "load_state_dict",
]
