"""Read any convolutional network into a graph of linear and gating operations.

>>> from xaiutils import graph
>>> traced = graph.trace(model, x)                    # doctest: +SKIP
>>> record = traced.record(x)                         # a forward pass, remembered
>>> gradient = traced.backward(record, start)         # W^T ... W^T start, gates as they were
>>> change = traced.tangent(record, direction)        # W ... W direction, gates as they were
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
from xaiutils.graph.windows import Incremental, Windows

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
    "Incremental",
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
    "Windows",
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
