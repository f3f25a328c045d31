"""The rule of each operator. An operator without a rule is assumed to mix rows."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.model.graph.row_proof.indexing import (
    gather,
    gather_elements,
    gather_nd,
    one_hot,
    pad,
    reverse_sequence,
    scatter_nd,
    slice_out,
)
from shoal.model.graph.row_proof.layers import (
    attention,
    feature_vector,
    first_axis,
    recurrent,
    resize,
    rotary,
    row_by_row,
    spectra,
    standard_attention,
)
from shoal.model.graph.row_proof.moving import (
    concat,
    constant_of_shape,
    counting,
    expand,
    flatten,
    reshape,
    shape_of,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from shoal.model.graph.row_proof.pointwise import cast, copy, dropout, elementwise, first_only, quantize
from shoal.model.graph.row_proof.products import (
    block_product,
    einsum,
    fused_matmul,
    gemm,
    matmul,
    quantized_matmul,
)
from shoal.model.graph.row_proof.reducing import (
    along_axis,
    arg_reduction,
    batch_norm,
    cumulated,
    fourier,
    last_axes,
    layer_norm,
    mean_variance_norm,
    reduction,
    skip_layer_norm,
    softmax,
)
from shoal.model.graph.row_proof.walk import Rule
from shoal.model.graph.tensor_parallel.shapes.operator_kinds import BROADCASTING, UNARY

MICROSOFT = "com.microsoft"
TABLES = "ai.onnx.ml"
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_POINTWISE = "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Mod StringConcat RegexFullMatch"
_BY_PICTURE = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool DepthToSpace SpaceToDepth"

_STANDARD: Mapping[str, Rule] = {
    **dict.fromkeys([*UNARY, *BROADCASTING, *_POINTWISE.split()], elementwise),
    **dict.fromkeys([f"Reduce{name}" for name in _REDUCTIONS], reduction),
    **dict.fromkeys(_BY_PICTURE.split(), first_axis()),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"), first_axis()),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), first_axis()),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), layer_norm),
    **dict.fromkeys(("MatMul", "MatMulInteger"), matmul),
    **dict.fromkeys(("GatherElements", "ScatterElements", "Scatter"), gather_elements),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantize),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("GRU", "RNN"), recurrent(2)),
    **dict.fromkeys(("Shape", "Size"), shape_of),
    "Attention": standard_attention,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "CastLike": first_only,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "CumSum": cumulated,
    "DFT": fourier,
    "DeformConv": first_axis(2, 4),
    "Dropout": dropout,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherND": gather_nd,
    "Gemm": gemm,
    "GridSample": first_axis(1),
    "Identity": copy,
    "LRN": along_axis("", 1),
    "LSTM": recurrent(3),
    "LpNormalization": along_axis("axis", -1),
    "MeanVarianceNormalization": mean_variance_norm,
    "OneHot": one_hot,
    "Pad": pad,
    "QLinearMatMul": quantized_matmul,
    "Range": counting,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "RotaryEmbedding": rotary(3, (1, 2)),
    "STFT": spectra,
    "ScatterND": scatter_nd,
    "Slice": slice_out,
    "Split": split,
    "Squeeze": squeeze,
    "TfIdfVectorizer": row_by_row(2),
    "Tile": tile,
    "TopK": along_axis("axis", -1, 2),
    "Transpose": transpose,
    "Trilu": last_axes(2),
    "Unsqueeze": unsqueeze,
}
_MICROSOFT: Mapping[str, Rule] = {
    **dict.fromkeys(("BiasGelu", "FastGelu", "Gelu", "QuickGelu"), elementwise),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantize),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), block_product),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), skip_layer_norm),
    "Attention": attention(frozenset({0, 3, 4, 5}), lambda rank: (rank,)),
    "FusedConv": first_axis(3),
    "FusedMatMul": fused_matmul,
    "MultiHeadAttention": attention(frozenset({0, 1, 2, 4, 5, 6, 7}), lambda rank: (3, 4, 4)),
    "NhwcFusedConv": first_axis(3),
    "RotaryEmbedding": rotary(1, (2, 3)),
    "SimplifiedLayerNormalization": layer_norm,
}
_TABLES: Mapping[str, Rule] = {
    **dict.fromkeys(("Binarizer", "LabelEncoder", "CategoryMapper"), elementwise),
    **dict.fromkeys(("Imputer", "Normalizer", "Scaler"), row_by_row(0)),
    **dict.fromkeys(("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"), row_by_row(1, 2)),
    **dict.fromkeys(("LinearRegressor", "SVMRegressor", "TreeEnsemble", "TreeEnsembleRegressor"), row_by_row(2)),
    "ArrayFeatureExtractor": last_axes(1),
    "FeatureVectorizer": feature_vector,
    "OneHotEncoder": first_axis(shift=1),
}
RULES: Mapping[tuple[str, str], Rule] = {
    **{("", name): rule for name, rule in _STANDARD.items()},
    **{(MICROSOFT, name): rule for name, rule in _MICROSOFT.items()},
    **{(TABLES, name): rule for name, rule in _TABLES.items()},
}
"""Rules by domain and operator."""
