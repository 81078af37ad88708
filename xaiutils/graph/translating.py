"""From an exported program to a list of nodes.

Each ATen operation is translated by its handler in :mod:`xaiutils.graph.handlers`, or as it is.
What does not depend on the network's input is not translated: it becomes a recipe, and is computed
when the weights are known. An operation that mixes images, draws at random, or has an argument that
its handler did not read is an error that says where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind
from torch.utils._pytree import tree_map

from xaiutils.graph import operations as ops
from xaiutils.graph.calls import Call, Layout, Parameter, Repeated, Rows, functional
from xaiutils.graph.collecting import Asked, Bordered, Collection, arguments_of, name_of
from xaiutils.graph.errors import UnsupportedOperation
from xaiutils.graph.handlers import handler_of
from xaiutils.graph.outputs import only_value
from xaiutils.graph.structure import Structure, Template, folded, named, pruned

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
# Operations that read a signal's type, device and shape only, and what they fill in.
_FILLED = {
    **dict.fromkeys(("zeros_like", "new_zeros", "new_empty", "empty_like"), 0.0),
    **dict.fromkeys(("ones_like", "new_ones"), 1.0),
    **dict.fromkeys(("full_like", "new_full"), "fill_value"),
}
# Operations that may give a constant the shape or the type of a signal.
_LIKENED = frozenset({"expand_as", "type_as", "to", "copy"})


def translated(
    model: nn.Module, program: torch.export.ExportedProgram, x: Tensor, fold: bool
) -> Structure:
    """Translate an exported program, for inputs like ``x``, and fold, prune and name its nodes."""
    return Translator(model, program, x).run(fold)


class Translator(Collection):
    """Walks through an exported program."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, x: Tensor) -> None:
        """Prepare for a program that was exported for inputs like ``x``."""
        super().__init__(model, x)
        self.program = program
        self.output = self._output()

    def run(self, fold: bool) -> Structure:
        """Translate every call that the output depends on, then fold, prune and name."""
        self._placeholders()
        needed = _needed(self.output)
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node in needed:
                self.values[node] = self._translate(node)
        position = self._last()
        templates = pruned(self.templates, position)
        templates = list(named(folded(templates) if fold else templates))
        return Structure(
            tuple(templates), self.constants, self.recipes, self.coarsest, self.registered
        )

    def _placeholders(self) -> None:
        signature = self.program.graph_signature
        paths = {
            spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None
        }
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in paths:
                self.values[node] = Parameter(paths[node.name])
                if paths[node.name] in self.program.constants:
                    self.constants[paths[node.name]] = self.program.constants[paths[node.name]]
            else:
                self.batch = node.meta["val"].shape[0]
                shape = tuple(node.meta["val"].shape[1:])
                self.templates.append(Template("input", "", ops.Input(), (), shape))
                self.layouts.append(Layout())
                self.values[node] = 0

    def _output(self) -> fx.Node:
        returned = cast(Sequence[Any], self.program.graph.output_node().args[0])
        specs = self.program.graph_signature.output_specs
        kept = zip(returned, specs, strict=True)
        users = [value for value, spec in kept if spec.kind == OutputKind.USER_OUTPUT]
        output = only_value(self.model, users)
        if not isinstance(output, fx.Node):
            raise UnsupportedOperation("the network's output does not depend on its input")
        return output

    def _last(self) -> int:
        position = self.values[self.output]
        if isinstance(position, Bordered):
            raise self.unsupported(self.output, "it pads the output with minus infinity")
        if not isinstance(position, int):
            raise UnsupportedOperation("the network's output does not depend on its input")
        if not self.layouts[position].plain:
            raise self.unsupported(self.output, "it moves or mixes the images of a batch")
        return position

    def _translate(self, node: fx.Node) -> Any:
        if isinstance(node.meta.get("val"), _SYMBOLS) and name_of(node) != "item":
            return self._rows(node)
        if name_of(node) == "getitem" and isinstance(self.lookup(node.args[0]), tuple):
            return self.lookup(node.args[0])[node.args[1]]
        sources = [self.values[source] for source in node.all_input_nodes]
        if name_of(node) in _FILLED:
            return self._filled(node)
        if name_of(node) in _LIKENED and self._is_constant(self._likened_by(node)):
            return self._likened(node)
        if not any(isinstance(value, (int, tuple, Bordered)) for value in sources):
            return self._constant(node)
        asked = Asked(self, node, arguments_of(node))
        result = handler_of(node)(asked)
        for argument, value in asked.unread().items():
            raise asked.unsupported(f"no rule is known for it with {argument}={value!r}")
        return result

    # -- what does not depend on the input

    def _rows(self, node: fx.Node) -> Rows | Parameter:
        """Return a number computed from the size of the batch."""
        times = self.per_image(node.meta["val"])
        if times is None:
            return Parameter(f"{node.name}, which depends on the size of the batch,")
        return Rows(times)

    def _filled(self, node: fx.Node) -> Any:
        value = _FILLED[name_of(node)]
        value = self.lookup(arguments_of(node)["fill_value"]) if value == "fill_value" else value
        meta = node.meta["val"]
        sizes = [Rows(self.per_image(n) or 0) if self.symbolic(n) else n for n in meta.shape]
        kinds = {"dtype": meta.dtype, "device": self.x.device}
        return self._repeated(node, Call(torch.full, (sizes, value), kinds))

    @staticmethod
    def _likened_by(node: fx.Node) -> Any:
        return node.args[1] if name_of(node) == "copy" else node.args[0]

    def _is_constant(self, value: Any) -> bool:
        return isinstance(self.lookup(value), (Parameter, Repeated))

    def _likened(self, node: fx.Node) -> Any:
        """Give a constant the shape or the type of a signal."""
        value, meta = self.lookup(self._likened_by(node)), node.meta["val"]
        if name_of(node) in ("expand_as", "copy"):
            sizes = [Rows(self.per_image(n) or 0) if self.symbolic(n) else n for n in meta.shape]
            return self._repeated(node, Call(torch.Tensor.expand, (value, sizes)))
        return self._repeated(node, Call(torch.Tensor.to, (value, meta.dtype)))

    def _constant(self, node: fx.Node) -> Any:
        """Let something be computed when the structure is bound to the weights."""
        function: Any = node.target
        if isinstance(function, torch._ops.OpOverload):
            self.check_draws(node)
            function = functional(function)
        args, kwargs = tree_map(self.lookup, (tuple(node.args), dict(node.kwargs)))
        return self._repeated(node, Call(function, args, kwargs))

    def _repeated(self, node: fx.Node, recipe: Call) -> Any:
        """Return a computed constant, with its layout if it has rows for each image."""
        found = self.derived(node.name, recipe)
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not any(map(self.symbolic, value.shape)):
            return found
        asked = Asked(self, node, {})
        return Repeated(found, self.placed(value, asked)[1])


def _needed(output: fx.Node) -> set[fx.Node]:
    """Return the nodes that an output depends on."""
    needed: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def needs_decomposition(program: torch.export.ExportedProgram) -> bool:
    """Whether a program is to be rewritten so that it can be translated call by call.

    That is so if a tensor that is changed in place may be read under another name, too, or if a
    part of the program stands aside (under ``torch.autocast``).
    """
    if any(node.op == "get_attr" for node in program.graph.nodes):
        return True
    changed = [node for node in program.graph.nodes if _in_place(node)]
    return not all(_has_one_name(node.args[0]) for node in changed)


def _has_one_name(node: fx.Node) -> bool:
    """Whether only one node reads a tensor, and those that it may be a view of."""
    readers = [u for u in node.users if u.users or u.op == "output" or _in_place(u)]
    if len(readers) > 1:
        return False
    return not _may_be_view(node) or all(_has_one_name(base) for base in node.all_input_nodes)


def _in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _may_be_view(node: fx.Node) -> bool:
    if node.op == "placeholder" or _in_place(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or name_of(node).endswith("dropout"):
        return True
    return any(value.alias_info is not None for value in node.target._schema.returns)
