"""Read the tables of the long runs, as the chapters do.

>>> from xaiutils.reproduce import results
>>> results.table("samek-squeezenet1_1-areas")    # doctest: +SKIP
>>> results.record("samek-squeezenet1_1")         # doctest: +SKIP
"""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

_WHOLE = {
    "input_x_gradient": "gradient × input",
    "smoothgrad_squared": "SmoothGrad, squared",
    "deeplift": "DeepLIFT, rescale",
    "deeplift_reveal_cancel": "DeepLIFT, reveal-cancel",
    "fullgrad_signed": "FullGrad, signed",
    "grad_cam_plus_plus": "Grad-CAM++",
    "attn_lrp": "AttnLRP",
    "lrp_epsilon_plus": "LRP, ε and z+",
    "lrp_epsilon_plus_flat": "LRP, ε, z+ and flat",
    "lrp_epsilon_gamma_box": "LRP, ε, γ and box",
    "lrp_alpha2_beta1": "LRP, α2β1",
    "lrp_alpha2_beta1_flat": "LRP, α2β1 and flat",
    "lrp_z_plus": "LRP, z+",
    "dmbp_greedy": "DMBP, greedy",
    "dmbp_greedy_l2": "DMBP, greedy, norm",
}
_PARTS = {
    "smoothgrad": "SmoothGrad", "vargrad": "VarGrad", "fullgrad": "FullGrad",
    "grad_cam": "Grad-CAM", "xgrad_cam": "XGrad-CAM", "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM", "score_cam": "Score-CAM", "ablation_cam": "Ablation-CAM",
    "guided_grad_cam": "guided Grad-CAM",
    "shapley": "Shapley values", "rise": "RISE", "lrp": "LRP", "clrp": "CLRP", "sglrp": "SGLRP",
    "dmbp": "DMBP", "deconvnet": "deconvolution", "guided_backprop": "guided backpropagation",
}  # fmt: skip
_ENDINGS = {"l2": "norm", "epsilon": "ε", "gamma": "γ"}


def readable(name: str) -> str:
    """The name of a method as the text writes it: ``"hires_cam"`` is HiResCAM.

    Args:
        name: A key of `attribution.METHODS`. Any other loses its underscores.
    """
    first, _, last = name.rpartition("_")
    if name in _WHOLE:
        return _WHOLE[name]
    if name not in _PARTS and first in _PARTS and last in _ENDINGS:
        return f"{_PARTS[first]}, {_ENDINGS[last]}"
    return _PARTS.get(name, name.replace("_", " "))


def folder() -> Path:
    """Return the folder of the tables: ``results/`` of the repository, or what was installed.

    It is looked for in the working directory and above it, then beside the package, so that a
    notebook finds the repository's wherever it was started; then among the files of the installed
    package, which carries a copy for those who have no repository.

    Raises:
        FileNotFoundError: If there is none of them.
    """
    here = Path.cwd()
    for parent in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (parent / "results").is_dir() and (parent / "_toc.yml").exists():
            return parent / "results"
    if installed := _installed():
        return installed
    raise FileNotFoundError(
        "the folder results/ is not here: neither around the working directory, nor in the "
        "installed package. Install the package anew, or work inside a copy of the repository."
    )


def _installed() -> Path | None:
    """The folder that a wheel brought (pyproject.toml: data-files); an editable install has none.

    The list of installed files is asked, for where such files go depends on how pip was called.
    """
    try:
        files = metadata.files("xaiutils") or []
    except metadata.PackageNotFoundError:
        return None
    found = (file for file in files if file.parts[-4:-1] == ("share", "xaiutils", "results"))
    first = next(found, None)
    return None if first is None else Path(str(first.locate())).resolve().parent


def table(name: str) -> pd.DataFrame:
    """Return a table of a long run.

    Args:
        name: Its file without the ending, such as ``"samek-squeezenet1_1-areas"``.

    Raises:
        FileNotFoundError: If there is no such table; the message lists those there are.
    """
    return pd.read_csv(_existing(name, ".csv"))


def record(name: str) -> dict[str, Any]:
    """Return where a table comes from: command, model, data, seed, versions, date.

    Args:
        name: The file without the ending, such as ``"samek-squeezenet1_1"``.

    Raises:
        FileNotFoundError: If there is no such record; the message lists those there are.
    """
    found: dict[str, Any] = json.loads(_existing(name, ".json").read_text(encoding="utf-8"))
    return found


def _existing(name: str, ending: str) -> Path:
    path = folder() / f"{name}{ending}"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder().glob(f"*{ending}"))) or "none"
        raise FileNotFoundError(f"results/ has no {path.name}; it has: {known}")
    return path
