"""The perturbation explorer: erase regions of a picture and watch a network change its mind."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from xaiutils import graph, plot
from xaiutils.attribution import METHODS, Difference, Target
from xaiutils.attribution._common import resolve_target
from xaiutils.attribution._paths import gauss_legendre
from xaiutils.attribution._perturbed import side_of
from xaiutils.data._fetch import choose
from xaiutils.evaluation import ORDERS, OUTPUTS
from xaiutils.models import Classifier, Preprocess
from xaiutils.widgets._answers import EXPLAINED, Answer, Background, Cancelled, Scorer, Watch
from xaiutils.widgets._common import Widget, pack, script, style
from xaiutils.widgets._network import NotExportable, export_network
from xaiutils.widgets._pictures import PAGE_FILLS, blur_weights, input_of, levels_of

Methods = Sequence[str] | Mapping[str, Tensor | Callable[..., Tensor]]

RULES = {
    "gradient": "gradient",
    "input_x_gradient": "input_x_gradient",
    "integrated_gradients": "integrated_gradients",
    "deeplift": "deeplift",
    "occlusion": "occlusion",
    "lrp_epsilon": "epsilon",
    "lrp_z_plus": "z_plus",
    "lrp_alpha2_beta1": "alpha2_beta1",
}
"""Methods whose maps the page can make itself, with what they are called in explaining.js."""

_SIZES = (2, 3, 4, 5, 7, 9, 16, 28, 37)  # of regions, offered where an image has 3 to 32 on a side
_EXACT_SIDE = 64  # pixels: heatmaps up to this size are carried as they are
_COARSE_SIDE = 60  # larger ones as means of blocks, in 255 levels
_IN_PAGE = 300_000  # parameters: more make a page too heavy
_POINTS = 50  # on a path, and the squares along a side: what integrated gradients and occlusion
_PIECES = 14  # of `attribution` take if nothing else is said


class PerturbationExplorer(Widget):
    """Choose a picture, a method, an order and a fill, and see what the network makes of it.

    The widget shows the perturbed picture, the heatmap, the curve of each method with its AOPC so
    far (Samek et al. 2017, eq. 11), and the five most probable classes. A click or a drag on the
    picture replaces regions of the reader's own choice. Its answers come from where they can be
    had: from the network itself, if it is small enough to run in the page; from stored scores; or
    from the kernel, in the background. In a page without a kernel the first two remain.

    All pictures are rounded to 256 levels, and so are the fills, so that the network scored the
    very pixels that the page shows. "uniform" is noise over all levels, "mean" the picture's mean
    colour, "black" level 0, "blur" a Gaussian of 3 pixels.

    Use it with a network of your own::

        PerturbationExplorer(net, [Image.open("cat.jpg")], ["gradient", "lrp_z_plus"],
                             preprocess=models.Preprocess(256, 224, mean, std), categories=names)

    Args:
        model: A `Classifier`, or any module that maps (N, C, H, W) to logits (N, K).
        images: PIL images, or a tensor (N, C, H, W) in the network's units.
        methods: Names of `attribution.METHODS`; or a mapping from names of your own to heatmaps
            (N, C, H, W) or to functions ``f(model, x, target)`` that return them.
        preprocess: Of a module that is no `Classifier`.
        categories: The K class names, of a module that is no `Classifier`; numbers if omitted.
        names: One for each image.
        target: The class that is watched; None for the one that the network names.
        region_size: Side of a region in pixels, to begin with.
        region_sizes: Those that can be chosen; a selection that fits the images if omitted.
        steps: How many regions are replaced at most.
        fills: Of `PAGE_FILLS`; the first one to begin with.
        output: "logit" or "probability".
        explained: What can be chosen to be explained, the first to begin with: "class", the
            output of the class that is watched; "margin", that output less the one of the
            runner-up in the untouched picture. The maps, the curves and the scores are those of
            what is chosen.
        in_page: Carry the network, so that the page itself computes; None does so for a small one
            (300,000 parameters) that `export_network` can describe.
        seed: Of the noise and the random order.

    Raises:
        TypeError: An argument is of the wrong type, or a module comes without `preprocess`.
        ValueError: A name is unknown (the message has the nearest), shapes do not fit, or the
            network is in training mode.
        NotExportable: ``in_page=True``, and the page cannot run this network.
    """

    _esm = script(
        "network.js",
        "explaining.js",
        "pictures.js",
        "sources.js",
        "drawing.js",
        "perturbation.js",
    )
    _css = style()
    setup = traitlets.Dict().tag(sync=True)
    stored = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: Classifier | nn.Module,
        images: Tensor | Sequence[Image.Image],
        methods: Methods = ("gradient", "input_x_gradient", "lrp_epsilon_plus"),
        *,
        preprocess: Preprocess | None = None,
        categories: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        target: Target = None,
        region_size: int = 9,
        region_sizes: Sequence[int] | None = None,
        steps: int = 50,
        fills: Sequence[str] = ("uniform", "mean", "blur"),
        output: str = "logit",
        explained: Sequence[str] = ("class",),
        in_page: bool | None = None,
        seed: int = 0,
    ) -> None:
        module, preprocess = _module_of(model, preprocess)
        choose(output, OUTPUTS, "output")
        fills = [choose(name, PAGE_FILLS, "fill") for name in fills]
        explained = _offered(explained)
        x = _inputs(module, images, preprocess)
        sizes = _sizes(region_size, region_sizes, min(x.shape[2:]))
        if steps < 1 or not fills:
            raise ValueError("there must be at least one step and one fill")
        with torch.no_grad():
            outputs = module(x)
        with suppress(graph.UnsupportedOperation, graph.TraceError):
            graph.trace(module, x[:1])  # now, and not in a thread beside the reader's own work
        targets = resolve_target(target, _checked(outputs))
        rivals = _rivals(outputs, targets)
        questions = _questions(targets, rivals, explained)
        self._scorer = Scorer(
            module,
            preprocess,
            x,
            tuple(targets.tolist()),
            tuple(rivals.tolist()),
            {name: _heatmaps(module, x, one, methods) for name, one in questions.items()},
            steps,
            output,
            seed,
        )
        self._background = {kind: Background() for kind in ("curves", "alone", "together")}
        if isinstance(model, Classifier) and categories is None:
            categories = model.categories
        setup = self._describe(
            _named("categories", categories, outputs.shape[1], "class {}"),
            _named("names", names, len(x), "image {}"),
            {"fills": fills, "sizes": sizes, "size": region_size, "rules": _rules(methods)},
            _network(module, x, in_page),
        )
        super().__init__(setup=setup, stored={})
        self.on_msg(self._on_message)

    def scores(
        self,
        image: int = 0,
        order: str = "morf",
        fill: str | None = None,
        region_size: int | None = None,
        explained: str | None = None,
    ) -> dict[str, Tensor]:
        """The curve of every method, as the widget shows them.

        Args:
            image: Its number.
            order: "morf", "lerf" or "random".
            fill: One of the fills; the first if omitted.
            region_size: In pixels; the one to begin with if omitted.
            explained: "class" or "margin"; the one to begin with if omitted.

        Returns:
            By method, or under "random order", the scores (L + 1,), unperturbed first.
        """
        answer = self._curves(image, order, fill, region_size, explained)
        return dict(zip(answer["methods"], _unpacked(answer["scores"]), strict=True))

    def named(
        self,
        image: int = 0,
        order: str = "morf",
        fill: str | None = None,
        region_size: int | None = None,
        explained: str | None = None,
    ) -> dict[str, list[str]]:
        """The most probable class at each step of every method's curve, as in `scores`."""
        answer = self._curves(image, order, fill, region_size, explained)
        first = _unpacked(answer["classes"])[:, :, 0].int().tolist()
        names = [[self.setup["categories"][k] for k in row] for row in first]
        return dict(zip(answer["methods"], names, strict=True))

    def replace(
        self,
        image: int,
        regions: Sequence[int],
        fill: str | None = None,
        region_size: int | None = None,
        explained: str | None = None,
    ) -> tuple[float, str]:
        """Replace some regions at once, as a drag over the picture does.

        Args:
            image: Its number.
            regions: Their numbers, row by row from the upper left.
            fill: One of the fills; the first if omitted.
            region_size: In pixels; the one to begin with if omitted.
            explained: "class" or "margin"; the one to begin with if omitted.

        Returns:
            The score, and the most probable class.
        """
        fill, size = fill or self.setup["fills"][0], region_size or self.setup["size"]
        explained = explained or self._first()
        self._check(image, "morf", fill, explained)
        answer = self._scorer.together(image, fill, size, regions, _nobody, explained)
        category = self.setup["categories"][int(_unpacked(answer["classes"])[0, 0])]
        return _unpacked(answer["scores"]).item(), category

    def heatmaps(self, image: int = 0, explained: str | None = None) -> dict[str, Tensor]:
        """The heatmap of every method, summed over the colours: (1, H, W) each.

        Args:
            image: Its number.
            explained: "class" or "margin"; the one to begin with if omitted.

        Returns:
            By method.
        """
        explained = choose(explained or self._first(), self.setup["explained"], "explained")
        found = self._scorer.heatmaps[explained]
        return {name: maps[image : image + 1] for name, maps in found.items()}

    def store(
        self,
        fills: Sequence[str] | None = None,
        orders: Sequence[str] = ORDERS,
        clicks: bool = True,
        explained: Sequence[str] | None = None,
    ) -> None:
        """Compute what a page without a kernel needs, if its network is too large for the page.

        Store before the widget is displayed in a notebook that is to be built or exported.

        Args:
            fills: For these; all of them if omitted.
            orders: For these.
            clicks: Also the score of each region replaced alone, which a click shows.
            explained: For these; all that are offered if omitted.
        """
        found: dict[str, Answer] = {}
        size = self.setup["size"]
        for image, fill, what in product(
            range(len(self._scorer.x)),
            self.setup["fills"] if fills is None else fills,
            self.setup["explained"] if explained is None else explained,
        ):
            for order in orders:
                self._check(image, order, fill, what)
                answer = self._scorer.curves(image, order, fill, size, _nobody, what)
                found[_key(image, order, fill, size, what)] = answer
            if clicks:
                answer = self._scorer.alone(image, fill, size, _nobody, what)
                found[_key(image, "alone", fill, size, what)] = answer
        self.stored = {**self.stored, **found}

    def static_twin(self) -> Figure:
        """The first picture, its heatmaps, and their curves in MoRF order."""
        scorer, names = self._scorer, self.setup["methods"]
        figure = plt.figure(figsize=(1.5 * (len(names) + 1), 4.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.5), squeeze=False)[:, 0]
        axes = top.subplots(1, len(names) + 1)
        name = self.setup["images"][0]["name"]
        plot.picture(scorer.preprocess.denormalize(scorer.x[0]), ax=axes[0], title=name)
        shown = scorer.heatmaps[self._first()]
        for ax, (method, maps) in zip(axes[1:], shown.items(), strict=True):
            plot.heatmap(maps[0], ax=ax, title=method)
        curves = self.scores(0)
        plot.curves(
            curves,
            xlabel=f"regions of {self.setup['size']} pixels replaced, most relevant first",
            ylabel=self._score_in_words(),
            ax=bottom.subplots(),
        )
        falls = [f"{method} {(one[0] - one).mean():.2f}" for method, one in curves.items()]
        text = f"{name}, its heatmaps, and the {self._score_in_words()} as regions are replaced"
        return plot.set_alternative_text(figure, f"{text}. AOPC: {', '.join(falls)}.")

    def _curves(
        self, image: int, order: str, fill: str | None, size: int | None, explained: str | None
    ) -> Answer:
        """An answer on curves: stored, or computed now."""
        fill, size = fill or self.setup["fills"][0], size or self.setup["size"]
        explained = explained or self._first()
        self._check(image, order, fill, explained)
        stored: Answer | None = self.stored.get(_key(image, order, fill, size, explained))
        return stored or self._scorer.curves(image, order, fill, size, _nobody, explained)

    def _first(self) -> str:
        """What is explained to begin with."""
        return str(self.setup["explained"][0])

    def _score_in_words(self) -> str:
        names = self.setup["categories"]
        words = f'{self.setup["output"]} of "{names[self._scorer.targets[0]]}"'
        if self._first() == "class":
            return words
        return f'{words} less that of "{names[self._scorer.rivals[0]]}"'

    def _describe(
        self,
        categories: Sequence[str],
        names: Sequence[str],
        choices: dict[str, Any],
        network: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """All that the script needs to know from the start."""
        scorer = self._scorer
        levels = levels_of(scorer.x, scorer.preprocess)
        rivals = scorer.rivals or (None,) * len(names)
        pairs = zip(names, levels, scorer.targets, rivals, strict=True)
        images = [{"name": n, "picture": _png(p), "target": t, "rival": r} for n, p, t, r in pairs]
        methods = list(next(iter(scorer.heatmaps.values())))
        made = network is not None and set(methods) <= set(choices["rules"])  # by the page
        return {
            **choices,
            "images": images,
            "shape": list(scorer.x.shape[1:]),
            "methods": methods,
            "explained": list(scorer.heatmaps),
            "heatmaps": {
                what: {name: [_carried(one) for one in maps] for name, maps in found.items()}
                for what, found in scorer.heatmaps.items()
                if not made
            },
            "categories": list(categories),
            "mean": list(scorer.preprocess.mean),
            "std": list(scorer.preprocess.std),
            "steps": scorer.steps,
            "output": scorer.output,
            "seed": scorer.seed,
            "blur": blur_weights(),
            "palette": list(plot.PALETTE),
            "network": network,
            "path": [each.tolist() for each in gauss_legendre(_POINTS)],
            "square": side_of(None, scorer.x, _PIECES),
        }

    def _check(self, image: int, order: str, fill: str, explained: str) -> None:
        if not 0 <= image < len(self._scorer.x):
            raise ValueError(f"image must be from 0 to {len(self._scorer.x) - 1}, not {image}")
        choose(order, ORDERS, "order")
        choose(fill, PAGE_FILLS, "fill")
        choose(explained, self.setup["explained"], "explained")

    # ----------------------------------------------------------- questions of the page

    def _on_message(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        """Answer the page; what takes time is done by a thread, so that the kernel stays free."""
        kind = content.get("kind")
        if kind == "hello":
            self.send({"kind": "hello"})
        elif kind == "cancel":
            for background in self._background.values():
                background.cancel()
        elif kind in self._background:
            self.send({"kind": "started", "id": content["id"]})
            self._background[kind].start(partial(self._answer, content))

    def _answer(self, question: dict[str, Any], check: Callable[[], None]) -> None:
        """Compute one answer and send it; whatever goes wrong is said in words."""
        number = question["id"]
        done = 0

        def watch(pictures: int) -> None:
            nonlocal done
            check()
            done += pictures
            self.send({"kind": "progress", "id": number, "done": done})

        try:
            answer = self._compute(question, watch)
        except Cancelled:
            self.send({"kind": "cancelled", "id": number})
        except Exception as error:  # a user's network may raise anything
            self.send({"kind": "error", "id": number, "text": f"{type(error).__name__}: {error}"})
        else:
            self.send({"kind": "answer", "id": number, "answer": answer})

    def _compute(self, question: dict[str, Any], watch: Watch) -> Answer:
        image, fill, size = question["image"], question["fill"], question["size"]
        what = question.get("explained", self._first())
        self._check(image, question.get("order", "morf"), fill, what)
        if question["kind"] == "curves":
            return self._scorer.curves(image, question["order"], fill, size, watch, what)
        if question["kind"] == "alone":
            return self._scorer.alone(image, fill, size, watch, what)
        return self._scorer.together(image, fill, size, question["regions"], watch, what)


def _nobody(pictures: int) -> None:
    """Watches nothing."""


def _key(image: int, order: str, fill: str, size: int, explained: str) -> str:
    """Under which name an answer is stored; perturbation.js makes it too."""
    return f"{image}|{order}|{fill}|{size}" + ("" if explained == "class" else f"|{explained}")


def _offered(explained: Sequence[str]) -> list[str]:
    if isinstance(explained, str) or not explained:
        raise TypeError(f"explained must be a sequence of names of {EXPLAINED}, not {explained!r}")
    return [choose(name, EXPLAINED, "explained") for name in explained]


def _rivals(outputs: Tensor, targets: Tensor) -> Tensor:
    """The largest output but the target's, (N,); empty if there is no other."""
    if outputs.shape[1] < 2:
        return targets[:0]
    return outputs.scatter(1, targets[:, None], -torch.inf).argmax(1)


def _questions(targets: Tensor, rivals: Tensor, explained: Sequence[str]) -> dict[str, Any]:
    """What methods are asked to explain, by its name."""
    if "margin" in explained and not len(rivals):
        raise ValueError('"margin" sets a class against another, but the network has one output')
    return {
        name: Difference(targets, rivals) if name == "margin" else targets for name in explained
    }


def _module_of(
    model: Classifier | nn.Module, preprocess: Preprocess | None
) -> tuple[nn.Module, Preprocess]:
    if isinstance(model, Classifier):
        return _module_of(model.module, preprocess or model.preprocess)
    graph.check_model(model)
    if not isinstance(preprocess, Preprocess):
        raise TypeError(
            "a module needs preprocess=models.Preprocess(...), which says how a picture becomes "
            "its input; or pass what models.load_classifier returns"
        )
    return model, preprocess


def _inputs(
    module: nn.Module, images: Tensor | Sequence[Image.Image], preprocess: Preprocess
) -> Tensor:
    """The images, rounded to 256 levels, on the device of the model."""
    if not isinstance(images, Tensor):
        if not images:
            raise ValueError("images is empty: give at least one")
        images = torch.stack([preprocess(image) for image in images])
    device = next((parameter.device for parameter in module.parameters()), images.device)
    images = images.to(device)
    graph.check_input(module, images)
    channels = len(preprocess.mean)
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"images must be of shape (N, {channels}, H, W) to fit preprocess, not "
            f"{tuple(images.shape)}"
        )
    return input_of(levels_of(images, preprocess), preprocess).to(images)


def _checked(outputs: Tensor) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = getattr(outputs, "shape", type(outputs).__name__)
        raise ValueError(f"the network must return class scores (N, K), not {found}")
    return outputs


def _heatmaps(module: nn.Module, x: Tensor, targets: Target, methods: Methods) -> dict[str, Tensor]:
    """By method, one number a pixel: (N, H, W) on the CPU."""
    if isinstance(methods, str) or not methods:
        raise TypeError("methods must be a sequence of names, or a mapping, of at least one")
    if not isinstance(methods, Mapping):
        methods = {name: METHODS[choose(name, METHODS, "method")] for name in methods}
    found = {}
    for name, method in methods.items():
        maps = method if isinstance(method, Tensor) else method(module, x, targets)
        fits = maps.shape[0] == len(x) and maps.shape[-2:] == x.shape[-2:]
        if not fits or maps.ndim not in (3, 4):
            raise ValueError(
                f"the heatmaps of {name!r} are of shape {tuple(maps.shape)} and do not fit images "
                f"of shape {tuple(x.shape)}"
            )
        found[name] = torch.stack([plot.pixel_relevance(one) for one in maps]).float()
    return found


def _rules(methods: Methods) -> dict[str, str]:
    """What the page can make by itself; under names of a user's own it may be anything."""
    return {} if isinstance(methods, Mapping) else {m: RULES[m] for m in methods if m in RULES}


def _sizes(size: int, sizes: Sequence[int] | None, side: int) -> list[int]:
    usual = [other for other in _SIZES if 3 <= side // other <= 32]
    offered = sorted({size, *(usual if sizes is None else sizes)})
    if not 1 <= offered[0] <= offered[-1] <= side:
        raise ValueError(f"region sizes must be from 1 to {side} pixels, not {offered}")
    return offered


def _named(what: str, found: Sequence[str] | None, number: int, usual: str) -> Sequence[str]:
    if found is None:
        return [usual.format(i) for i in range(number)]
    if len(found) != number:
        raise ValueError(f"{what} must be {number}, not {len(found)}")
    return found


def _network(module: nn.Module, x: Tensor, in_page: bool | None) -> dict[str, Any] | None:
    """The network for the page, if it is wanted there."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if in_page is False or (in_page is None and parameters > _IN_PAGE):
        return None
    try:
        return export_network(module, x.shape[1:])
    except NotExportable:
        if in_page:
            raise
        return None


def _carried(heatmap: Tensor) -> dict[str, Any]:
    """A heatmap for the script: exact if it is small, or else coarse, in 255 levels."""
    if max(heatmap.shape) <= _EXACT_SIDE:
        return {"values": pack(heatmap), "limit": plot.colour_limit(heatmap)}
    block = -(-max(heatmap.shape) // _COARSE_SIDE)
    coarse = torch.nn.functional.avg_pool2d(heatmap[None], block, ceil_mode=True)[0]
    limit = plot.colour_limit(coarse)
    levels = (coarse / limit * 127).round().clamp(-127, 127) + 127
    return {"values": pack(levels, "uint8"), "limit": limit}


def _png(levels: Tensor) -> str:
    """A picture (C, H, W) of 256 levels as PNG, which loses nothing."""
    array = levels.cpu().permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    stored = io.BytesIO()
    image.save(stored, format="png", optimize=True)
    return base64.b64encode(stored.getvalue()).decode("ascii")


def _unpacked(packed: Any) -> Tensor:
    content = bytearray(base64.b64decode(packed["data"]))
    return torch.frombuffer(content, dtype=torch.float32).view(packed["shape"])
