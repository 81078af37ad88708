"""Hand results from a process that is not trusted to one that is: as data, never as code.

Pickle runs what it reads. What is written here can only become numbers, text, containers, arrays,
tensors and tables, objects of classes that the reader knows as data (dataclasses and layers of
networks), and functions, which the reader can only ask for a result.

A value becomes a tree of JSON, and the bytes of its arrays stand behind it.
"""

import dataclasses
import json
import math
import struct
import sys
from collections.abc import Callable, Mapping, Set
from fractions import Fraction
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

MOST_BYTES = 1 << 28
CHAPTER = "chapter"  # the module that a chapter's own classes belong to
# Whose dataclasses and layers are rebuilt: not a student's
TRUSTED = ("xaiutils", "torchvision", CHAPTER)
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial)
_CONTAINERS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class NotDataError(TypeError):
    """A value that cannot be handed over as data; the message names its kind."""


def pack(value: Any, keep: Callable[[Any], int]) -> bytes:
    """Write a value.

    Args:
        value: Of numbers, text, containers, arrays, tensors, tables, trusted objects, functions.
        keep: Remembers a function and gives the number by which it can be called.

    Raises:
        NotDataError: A part of it is none of these.
    """
    blobs: list[bytes] = []
    tree = json.dumps(_write(value, blobs, keep)).encode()
    lengths = struct.pack(f"<{len(blobs) + 2}Q", len(blobs), len(tree), *map(len, blobs))
    return b"".join([lengths, tree, *blobs])


def unpack(data: bytes, function: Callable[[int], Any]) -> Any:
    """Read a value.

    Args:
        data: From `pack`, or from whoever wants to do harm.
        function: Makes what stands for the function of a number.

    Raises:
        ValueError: It is nothing that `pack` writes.
        NotDataError: It is an object of a class that is not known here.
    """
    try:
        count, size = struct.unpack_from("<2Q", data)
        lengths = struct.unpack_from(f"<{count}Q", data, 16)
        start = 16 + 8 * count
        tree = json.loads(data[start : start + size])
        start += size
        blobs = []
        for length in lengths:
            blobs.append(data[start : start + length])
            start += length
        return _read(tree, blobs, function)
    except NotDataError:
        raise
    except Exception as error:
        raise ValueError(f"what came is no result: {type(error).__name__}: {error}") from None


def _write(value: Any, blobs: list[bytes], keep: Callable[[Any], int]) -> Any:
    def write(part: Any) -> Any:
        return _write(part, blobs, keep)

    def store(data: bytes) -> int:
        blobs.append(data)
        return len(blobs) - 1

    if value is None or isinstance(value, bool | str):
        return value if not isinstance(value, str) else str(value)
    if value is ...:
        return ["dots"]
    if isinstance(value, int) and not isinstance(value, np.generic):
        return int(value)
    if isinstance(value, float) and not isinstance(value, np.generic):
        return float(value)
    if isinstance(value, complex) and not isinstance(value, np.generic):
        return ["complex", value.real, value.imag]
    if isinstance(value, Fraction):
        return ["fraction", value.numerator, value.denominator]
    if isinstance(value, bytes):
        return ["bytes", store(value)]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, np.generic | np.ndarray):
        return _write_array(value, write, store)
    if isinstance(value, Mapping):
        return ["dict", [[write(key), write(entry)] for key, entry in value.items()]]
    if isinstance(value, list | tuple | Set):
        kind = next(k for k in ("list", "tuple", "frozenset", "set") if _is_a(value, k))
        return [kind, [write(entry) for entry in value]]
    if (tree := _write_torch(value, write)) or (tree := _write_table(value, write)):
        return tree
    if isinstance(value, _FUNCTIONS):
        return ["function", keep(value), getattr(value, "__name__", "function")]
    if is_trusted(type(value)):
        state = vars(value) if _is_layer(type(value)) else _fields(value)
        kind = type(value)
        return ["object", kind.__module__, kind.__qualname__, write(dict(state))]
    raise NotDataError(f"a result of the kind {type(value).__name__}")


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, Set if kind == "set" else _CONTAINERS[kind])


def _write_array(value: Any, write: Callable[[Any], Any], store: Callable[[bytes], int]) -> Any:
    array = np.asarray(value)
    if array.dtype.hasobject:
        return ["objects", list(array.shape), write(array.ravel().tolist())]
    single = isinstance(value, np.generic)
    return ["array", array.dtype.str, list(array.shape), store(array.tobytes()), single]


def _write_torch(value: Any, write: Callable[[Any], Any]) -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.dtype | torch.device):
        return ["torch", str(value)]
    if not isinstance(value, torch.Tensor):
        return None
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    shape, name = list(tensor.shape), str(tensor.dtype)
    data = np.asarray(tensor.reshape(-1).view(torch.uint8)) if tensor.numel() else np.zeros(0)
    kind = "parameter" if isinstance(value, torch.nn.Parameter) else "tensor"
    return [kind, name, shape, write(data.tobytes()), value.requires_grad]


def _write_table(value: Any, write: Callable[[Any], Any]) -> Any:
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return None
    if isinstance(value, pandas.Index):
        return ["index", write(list(value)), write(list(value.names))]
    if isinstance(value, pandas.Series):
        return ["series", write(_column(value)), write(value.index), write(value.name)]
    if isinstance(value, pandas.DataFrame):
        columns = [write(_column(value.iloc[:, place])) for place in range(value.shape[1])]
        return ["frame", columns, write(value.index), write(value.columns)]
    return None


def _column(series: Any) -> Any:
    values = series.to_numpy()
    return values if values.dtype.kind in "biufc" else list(values)


def is_trusted(kind: type) -> bool:
    """Whether objects of a class are rebuilt: layers of networks, and the project's dataclasses."""
    home = kind.__module__
    if home.startswith("torch.nn.modules."):
        return _is_layer(kind)
    known = home.split(".")[0] in TRUSTED
    return known and (dataclasses.is_dataclass(kind) or _is_layer(kind))


def _is_layer(kind: type) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.nn.Module)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _read(tree: Any, blobs: list[bytes], function: Callable[[int], Any]) -> Any:
    def read(part: Any) -> Any:
        return _read(part, blobs, function)

    if tree is None or isinstance(tree, bool | str | int | float):
        return tree
    kind, *rest = tree
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](map(read, rest[0]))
    match kind, rest:
        case "dots", []:
            return ...
        case "dict", [entries]:
            return {read(key): read(entry) for key, entry in entries}
        case "complex", [real, imaginary]:
            return complex(real, imaginary)
        case "fraction", [int(above), int(below)]:
            return Fraction(above, below)
        case "bytes", [int(place)]:
            return blobs[place]
        case "range", ends:
            return range(*ends)
        case "function", [int(number), str(_)]:
            return function(number)
        case "object", [str(home), str(name), state]:
            return _rebuild(home, name, read(state))
        case _:
            return _read_array(kind, rest, blobs, read)


def _read_array(kind: str, rest: list[Any], blobs: list[bytes], read: Callable[[Any], Any]) -> Any:
    torch, pandas = sys.modules.get("torch"), sys.modules.get("pandas")
    match kind, rest:
        case "array", [str(name), shape, int(place), single]:
            dtype = np.dtype(name)
            if dtype.hasobject:
                raise ValueError("an array of objects")
            array = np.frombuffer(blobs[place], dtype).reshape(shape).copy()
            return array[()] if single else array
        case "objects", [shape, entries]:
            values = read(entries)
            array = np.empty(len(values), object)
            array[:] = values
            return array.reshape(shape)
        case "torch", [str(name)] if torch:
            return _torch_name(torch, name)
        case (("tensor" | "parameter"), [str(name), shape, data, bool(grows)]) if torch:
            dtype, content = _torch_name(torch, name), read(data)
            if math.prod(shape) * dtype.itemsize != len(content) or min(shape, default=0) < 0:
                raise ValueError("a tensor of another size than its shape says")
            flat = torch.tensor(bytearray(content), dtype=torch.uint8)
            tensor = flat.view(dtype).reshape(shape) if content else torch.empty(shape, dtype=dtype)
            return torch.nn.Parameter(tensor, grows) if kind == "parameter" else tensor
        case "index", [values, names] if pandas:
            entries, names = read(values), read(names)
            if len(names) > 1:
                return pandas.MultiIndex.from_tuples(entries, names=names)
            return pandas.Index(entries, name=names[0], tupleize_cols=False)
        case "series", [column, index, name] if pandas:
            return pandas.Series(read(column), index=read(index), name=read(name))
        case "frame", [columns, index, header] if pandas:
            table = pandas.DataFrame(dict(enumerate(map(read, columns))), index=read(index))
            table.columns = read(header)
            return table
        case _:
            raise ValueError(f"a value of the unknown kind {kind!r}")


def _torch_name(torch: Any, name: str) -> Any:
    found = getattr(torch, name.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else torch.device(name)


def _rebuild(home: str, name: str, state: dict[str, Any]) -> Any:
    """An object of a class that the reader has already loaded, without running its code."""
    kind: Any = sys.modules.get(home)
    for part in name.split("."):
        if part not in getattr(kind, "__dict__", ()):
            raise NotDataError(f"an object of the kind {name}, which the book does not know")
        kind = vars(kind)[part]
    if not isinstance(kind, type) or kind.__module__ != home or not is_trusted(kind):
        raise ValueError(f"an object of {home}.{name}, which is not handed over")
    made = object.__new__(kind)
    if _is_layer(kind):
        sys.modules["torch"].nn.Module.__init__(made)
        made.__dict__.update({str(key): value for key, value in state.items()})
    else:
        for field in dataclasses.fields(kind):
            object.__setattr__(made, field.name, state[field.name])
    return made
