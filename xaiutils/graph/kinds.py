"""What the graph knows of ATen operations that it repeats as they are: their kind, by name."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Each output is a copy of one input, or a constant.
COPIES = _names(
    """permute transpose select slice pixel_shuffle pixel_unshuffle flip roll movedim moveaxis
    swapaxes swapdims t narrow repeat tile expand repeat_interleave unbind split chunk tensor_split
    split_with_sizes unsafe_split unsafe_chunk stack cat concat channel_shuffle
    native_channel_shuffle index index_select gather take_along_dim unfold im2col diagonal tril triu
    masked_fill where slice_scatter select_scatter index_put constant_pad_nd pad rot90
    hstack vstack dstack column_stack"""
)
# Sums, differences and averages of the input.
SUMS = _names(
    """sum mean cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa col2im add sub rsub
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"""
)
# Linear in a single signal, with a weight; the sum is that of several matrices.
WEIGHTED = _names(
    """matmul mm bmm mv einsum linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution addmm baddbmm addbmm addmv addcmul mul div"""
)
# Those of them that add a product to something, which is called self.
PLUS_PRODUCT = _names("addmm baddbmm addbmm addmv addcmul")
PRODUCTS = _names("mul matmul mm bmm einsum")
# The arguments by which a signal may be multiplied, and those that may stand beside it.
WEIGHTS = _names("weight mat mat1 mat2 tensor1 tensor2 tensors vec batch1 batch2 other self input")
OFFSETS = _names("tensors value values self other src source")
# Activations: each output depends on the input at the same place.
ELEMENTWISE = _names(
    """silu gelu hardswish hardsigmoid sigmoid tanh elu selu celu prelu mish softplus log_sigmoid
    exp exp2 expm1 log log2 log1p sqrt rsqrt reciprocal pow square abs erf sin cos tan atan sinh
    cosh softshrink hardshrink threshold leaky_relu maximum minimum clamp clamp_min clamp_max mul"""
)
# What weighs another signal when it meets one in a product.
GATES = _names("sigmoid hardsigmoid softmax _softmax reciprocal rsqrt tanh log_sigmoid")
# These may have the images in one of the dimensions that they name.
MOVES_IMAGES = _names(
    "permute transpose movedim moveaxis swapaxes swapdims stack t repeat_interleave"
)
# The same numbers in another shape, or with nothing changed at all.
RESHAPES = _names(
    "flatten view reshape _unsafe_view squeeze unsqueeze unflatten view_as reshape_as"
)
IDENTITIES = _names("clone contiguous alias to _to_copy lift_fresh type_as")
DROPOUTS = _names("dropout feature_dropout alpha_dropout feature_alpha_dropout")
