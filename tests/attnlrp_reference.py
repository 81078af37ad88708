"""AttnLRP and CP-LRP as a modified gradient: an oracle in plain PyTorch, for tests only.

Relevance at an activation a is a * (modified derivative of the score with respect to a). The
derivative differs from the ordinary one in three places, and nothing else is changed:

- an elementwise function passes all its relevance on: its slope is the secant f(a) / a;
- a normalisation's deviation counts as a constant (centring stays a linear step);
- a product of two computed signals gives half to each factor (matrix products alike), a quotient
  all to its numerator.

Softmax keeps its ordinary derivative: with relevance R_j = s_j g_j at its output,
a_i (s_i g_i - s_i sum_j s_j g_j) = a_i (R_i - s_i sum_j R_j), which is the Taylor rule at a. So
attention, softmax(q k^T) v, halves once on the way to v and twice on the way to q and to k.
CP-LRP is the same with the attention weights taken as constants. Everything linear follows the
epsilon rule with epsilon 0; biases, class token and positions keep what falls on them.

Equal to LXT 2.1: see the figures in rules13.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NAMES = "gelu silu hardswish hardsigmoid elu selu celu mish softplus prelu leaky_relu sigmoid tanh"
ELEMENTWISE = {getattr(F, name) for name in _NAMES.split()} | {
    getattr(home, name) for home in (torch, Tensor) for name in ("sigmoid", "tanh")
}
PRODUCTS = {
    getattr(home, name)
    for home in (torch, Tensor)
    for name in ("matmul", "bmm", "mul", "multiply", "__matmul__", "__mul__", "__rmul__", "mul_")
    if hasattr(home, name)
} | {torch.einsum, torch.baddbmm}
QUOTIENTS = {torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.__truediv__}
ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """Return the same value; its derivative is multiplied by the factor."""
    return factor * value + (1 - factor) * value.detach()


def _secant(function: Callable[..., Tensor], value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """f(a) with slope f(a) / a; where a = 0, the derivative if f(0) = 0, and else 0."""
    with torch.enable_grad():
        point = value.detach().requires_grad_(True)
        result = function(point, *args, **kwargs)
        derivative = torch.autograd.grad(result.sum(), point)[0]
    result, zero = result.detach(), value == 0
    slope = torch.where(zero, derivative * (result == 0), result / torch.where(zero, 1.0, value))
    return result + slope.detach() * (value - value.detach())


def _normalised(value: Tensor, dims: list[int], eps: float, centre: bool = True) -> Tensor:
    """(a - mean) / deviation with the deviation held fixed (population variance over dims)."""
    if centre:
        value = value - value.mean(dims, keepdim=True)
    return value / (value.square().mean(dims, keepdim=True) + eps).sqrt().detach()


def _scaled(value: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _layer_norm(
    value: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _scaled(_normalised(value, list(range(-len(shape), 0)), eps), weight, bias)


def _rms_norm(
    value: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(value.dtype).eps if eps is None else eps
    return _scaled(_normalised(value, list(range(-len(shape), 0)), eps, False), weight, None)


def _group_norm(
    value: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = (1, -1) + (1,) * (value.ndim - 2)
    result = _normalised(value.reshape(len(value), groups, -1), [-1], eps).reshape(value.shape)
    weight, bias = (None if p is None else p.reshape(shape) for p in (weight, bias))
    return _scaled(result, weight, bias)


NORMALISATIONS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
}


class ModifiedGradient(TorchFunctionMode):
    """While it is entered, torch's functions have the derivatives described above.

    Parameters must not require a gradient, or a product with one counts as a product of signals.
    """

    def __init__(self, attention: str = "attn") -> None:
        super().__init__()
        if attention not in ("attn", "cp"):
            raise ValueError(f"attention is 'attn' or 'cp', not {attention!r}")
        self.constant_attention = attention == "cp"

    def _attend(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = [kwargs.pop(name) for name in ("query", "key", "value") if name in kwargs]
        query, key, value, *rest = (*named, *args)
        if self.constant_attention:
            return function(query.detach(), key.detach(), value, *rest, **kwargs)
        query, key = scale_gradient(query, 0.25), scale_gradient(key, 0.25)
        return function(query, key, scale_gradient(value, 0.5), *rest, **kwargs)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, or what stands for it."""
        kwargs = dict(kwargs or {})
        if func in ATTENTION:
            return self._attend(func, args, kwargs)
        if func in NORMALISATIONS:
            return NORMALISATIONS[func](*args, **kwargs)
        if func in ELEMENTWISE:
            kwargs.pop("inplace", None)
            return _secant(func, *args, **kwargs)
        if func in SOFTMAX and self.constant_attention:
            return func(*args, **kwargs).detach()
        tensors = [a for a in args if isinstance(a, Tensor)]
        if func in QUOTIENTS and len(tensors) == 2:
            return func(args[0], args[1].detach(), *args[2:], **kwargs)
        signals = sum(t.requires_grad for t in tensors)  # counted before an in-place product
        result = func(*args, **kwargs)
        return scale_gradient(result, 0.5) if func in PRODUCTS and signals == 2 else result


def attn_lrp(
    model: nn.Module, x: Tensor, target: int, attention: str = "attn", layers: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return relevance of output[:, target] at the input (key "") and at named modules' outputs.

    Args:
        model: In evaluation mode. It is left as it was.
        x: (N, C, H, W), as the network takes it. Each relevance has its activation's shape.
        target: The class.
        attention: "attn" (AttnLRP) or "cp" (attention weights constant).
        layers: Paths of modules.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output})

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        x = x.detach().requires_grad_(True)
        with ModifiedGradient(attention):
            score = model(x)[:, target].sum()
        found[""] = x
        gradients = torch.autograd.grad(score, list(found.values()))
    finally:
        for hook in hooks:
            hook.remove()
        for p, flag in flags:
            p.requires_grad_(flag)
    return {n: (a * g).detach() for (n, a), g in zip(found.items(), gradients, strict=True)}


class Block(nn.Module):
    """A pre-norm transformer block; attention "explicit" spells the softmax out."""

    def __init__(self, width: int, heads: int, attention: str) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act = nn.Linear(width, 4 * width), nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, heads, T, d) each -> (N, heads, T, d)."""
        if self.attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1) @ v

    def forward(self, h: Tensor) -> Tensor:
        """(N, T, width) -> the same shape."""
        n, t, width = h.shape
        qkv = self.qkv(self.norm1(h)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        h = h + self.out(self.attend(q, k, v).transpose(1, 2).reshape(n, t, width))
        return h + self.down(self.act(self.up(self.norm2(h))))


class PlainViT(nn.Module):
    """A small vision transformer with class token and positions, 28 by 28 by default."""

    def __init__(
        self,
        size: int = 28,
        patch: int = 7,
        channels: int = 1,
        width: int = 32,
        heads: int = 4,
        depth: int = 2,
        classes: int = 10,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, attention) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(h))[:, 0])


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter at random, so that no bias, token or head is zero; return the model."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if any(word in name for word in ("position", "pos_", "token")):
            noise = 0.5 * noise
        elif p.ndim > 1:
            noise = noise / math.sqrt(p[0].numel())
        else:
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        p.data.copy_(noise)
    return model.eval()
