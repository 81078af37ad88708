"""Real data for the chapters: photographs, MNIST, ImageNet, Tiny ImageNet.

Each loader looks, in this order, in

1. "env": the folder that the environment variable `XAIUTILS_DATA` names, which holds `MNIST/raw/`,
   `imagenet-sample-images/`, `tiny-imagenet-200/`, or some of them;
2. "cache": what was downloaded before, in `XAIUTILS_CACHE` or else the platform's cache folder;
3. "download": the public home. Checksums are compared, and a file appears in the cache only when
   it is whole. The progress bar tells the size; `XAIUTILS_OFFLINE=1` forbids downloads;
4. "embedded": what installed packages ship, where there is such a part.

`source="auto"` takes the first that has the data, any of the four names forces that one, and the
result's `source` says which it was. Outputs that must be the same on every machine come from
`photos()` and `mnist(split, source="embedded")`.
"""

from xaiutils.data._fetch import SOURCES, DataError, Source, cache_dir
from xaiutils.data._imagenet import (
    imagenet_categories,
    imagenet_folder,
    imagenet_sample,
    imagenet_wnids,
)
from xaiutils.data._mnist import mnist
from xaiutils.data._photos import Credit, Photos, photos
from xaiutils.data._planted import RULES, Planted, Rule, planted
from xaiutils.data._sets import BoxedItem, ImageSet, Item, LazyImages
from xaiutils.data._tiny import tiny_imagenet

__all__ = [
    "RULES",
    "SOURCES",
    "BoxedItem",
    "Credit",
    "DataError",
    "ImageSet",
    "Item",
    "LazyImages",
    "Photos",
    "Planted",
    "Rule",
    "Source",
    "cache_dir",
    "imagenet_categories",
    "imagenet_folder",
    "imagenet_sample",
    "imagenet_wnids",
    "mnist",
    "photos",
    "planted",
    "tiny_imagenet",
]
