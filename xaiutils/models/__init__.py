"""Networks to explain: ImageNet classifiers and small networks trained by this project.

``load_classifier`` is the door for classifiers. It returns the network together with everything
that is needed to use it rightly: its preprocessing, its class names, and where its weights came
from. ``load_autoencoder`` is the door for networks without labels, whose images are their own
targets.
"""

from xaiutils.models._autoencoders import (
    Autoencoder,
    VariationalAutoencoder,
    autoencoder,
    available_autoencoders,
    latent_divergence,
    load_autoencoder,
    reconstruction_error,
    reconstruction_loss,
    training_record,
    variational_loss,
)
from xaiutils.models._classifiers import (
    TINY_NETWORKS,
    Classifier,
    Preprocess,
    available_classifiers,
    load_classifier,
)
from xaiutils.models._mnist import MnistCNN, MnistViT
from xaiutils.models._tiny import TinyCNN, tiny_network
from xaiutils.models._training import EarlyStop, TrainingPlan, fit
from xaiutils.models._weights import ModelError, load_state_dict

__all__ = [
    "TINY_NETWORKS",
    "Autoencoder",
    "Classifier",
    "EarlyStop",
    "MnistCNN",
    "MnistViT",
    "ModelError",
    "Preprocess",
    "TinyCNN",
    "TrainingPlan",
    "VariationalAutoencoder",
    "autoencoder",
    "available_autoencoders",
    "available_classifiers",
    "fit",
    "latent_divergence",
    "load_autoencoder",
    "load_classifier",
    "load_state_dict",
    "reconstruction_error",
    "reconstruction_loss",
    "tiny_network",
    "training_record",
    "variational_loss",
]
