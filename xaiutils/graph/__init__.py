"""Read a network into a graph of operations: linear ones, gates, and what is neither.

Convolutional networks and vision transformers are read as they are, without a change to them;
:func:`trace` says what is read and what is refused.

>>> from xaiutils import graph
>>> traced = graph.trace(model, x)                    # doctest: +SKIP
>>> record = traced.record(x)                         # a forward pass, remembered
>>> gradient = traced.backward(record, start)         # W^T ... W^T start, gates as they were
>>> change = traced.tangent(record, direction)        # W ... W direction, gates as they were

A :class:`LinearOperation` computes ``W x + b``. A :class:`Gate` multiplies its one input by a
number that depends on it, element by element. A :class:`Switch`, max pooling, hands on one of
several numbers. A :class:`Nonlinear` operation is none of these: a product of two signals, a
normalisation, a softmax. :func:`register` tells of which kind an operation of your own is.
"""

from xaiutils.graph.errors import (
    GraphError,
    TraceError,
    UnsupportedOperation,
    check_input,
    check_model,
)
from xaiutils.graph.handlers import register
from xaiutils.graph.inputs import Inputs, pack, unpack
from xaiutils.graph.nonlinear import (
    MatrixProduct,
    Nonlinear,
    NonlinearCall,
    Normalisation,
    Product,
    SmoothGate,
    Softmax,
)
from xaiutils.graph.operations import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    Add,
    Affine,
    AveragePool,
    BatchNorm,
    Clamp,
    Concatenate,
    Convolution,
    Dense,
    Gate,
    Input,
    LeakyReLU,
    LinearCall,
    LinearOperation,
    MaxPool,
    Mean,
    Operation,
    Pad,
    ReLU,
    Reshape,
    Shape,
    Switch,
    Upsample,
)
from xaiutils.graph.outputs import Output, outputs_of
from xaiutils.graph.reading import trace
from xaiutils.graph.running import GateRule, Graph, Node, Record, add_signal, gated, undisturbed

__all__ = [
    "AdaptiveAveragePool",
    "AdaptiveMaxPool",
    "Add",
    "Affine",
    "AveragePool",
    "BatchNorm",
    "Clamp",
    "Concatenate",
    "Convolution",
    "Dense",
    "Gate",
    "GateRule",
    "Graph",
    "GraphError",
    "Input",
    "Inputs",
    "LeakyReLU",
    "LinearCall",
    "LinearOperation",
    "MatrixProduct",
    "MaxPool",
    "Mean",
    "Node",
    "Nonlinear",
    "NonlinearCall",
    "Normalisation",
    "Operation",
    "Output",
    "Pad",
    "Product",
    "ReLU",
    "Record",
    "Reshape",
    "Shape",
    "SmoothGate",
    "Softmax",
    "Switch",
    "TraceError",
    "UnsupportedOperation",
    "Upsample",
    "add_signal",
    "check_input",
    "check_model",
    "gated",
    "outputs_of",
    "pack",
    "register",
    "trace",
    "undisturbed",
    "unpack",
]
