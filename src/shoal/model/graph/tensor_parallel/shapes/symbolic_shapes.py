"""Shapes of a stage's values with symbols for what is open, followed further than by ONNX's inference.

Exporters compute the shape of a reshape with `Shape`, `Gather`, `Concat` and similar operators. These are followed by
value, so that an axis of heads after a dynamic batch and a dynamic sequence still has a known size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx

from shoal.model.graph.file.value_types import UNNAMED_DIMS
from shoal.model.graph.tensor_parallel.shapes.constants import ConstantValues
from shoal.model.graph.tensor_parallel.shapes.nodes import input_name
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Shape, Size
from shoal.protocol.stage_interface import TensorSpec

Content = tuple[Size | None, ...]
"""The numbers in a small tensor of integers, flattened; None for unknown ones."""
_INFERRED = "unk__"
"""Beginning of names that ONNX's inference gives. Source: onnx's `SymbolTableImpl`."""
MAX_LENGTH = 64
"""Most entries of a tensor that may be a shape: more than any rank."""


class SymbolicShapes:
    """Shapes and the contents of shape tensors, filled in node by node (see `shape_rules`)."""

    def __init__(self, specs: Mapping[str, TensorSpec], constants: ConstantValues, scope: str = "") -> None:
        """`scope`: beginning of the names of unknown sizes, since the bodies of two nodes may use the same names for
        values."""
        self._specs = specs
        self.constants = constants
        self._scope = scope
        self._shapes: dict[str, Shape] = {}
        self._contents: dict[str, Content] = {}
        self._aliases: dict[str, Size] = {}
        """What names of ONNX's inference turned out to be."""
        self._limits: dict[Size, Size] = {}
        """Sizes that are the minimum of a number and another size: broadcast with that one, they give that one."""

    def shape(self, name: str) -> Shape | None:
        """The whole shape; None if the rank is unknown."""
        if name not in self._shapes:
            found = self._first_shape(name)
            if found is None:
                return None
            self._shapes[name] = found
        return self._shapes[name]

    def dtype(self, name: str) -> str | None:
        """NumPy's name of the element type."""
        if name in self.constants:
            kind = self.constants.kind(name)
            if kind is not None:
                return kind.dtype.name
        spec = self._specs.get(name)
        return None if spec is None else spec.dtype

    def content(self, name: str) -> Content | None:
        """The numbers in a small tensor of integers."""
        if name not in self._contents and name in self.constants:
            kind = self.constants.kind(name)
            is_list = kind is not None and kind.dtype.kind in "iub" and _is_short(kind.shape)
            array = self.constants.array(name) if is_list else None
            if array is not None:
                self._contents[name] = tuple(Size(int(value)) for value in array.reshape(-1))
        return self._contents.get(name)

    def learn_shape(self, name: str, shape: Shape) -> None:
        """Store that a computed value has this shape."""
        self._shapes[name] = self._sharpened(name, shape)

    def learn_content(self, name: str, content: Content) -> None:
        """Store that a computed tensor of at most one axis holds these integers."""
        self._contents[name] = content

    def inside(self, constants: ConstantValues, scope: str, own: Collection[str]) -> SymbolicShapes:
        """Shapes for the body of a node, which sees the values around it except its `own` names. What is learned there
        is not seen outside."""
        inner = SymbolicShapes({}, constants, scope)
        inner._shapes = {**{name: shape for name in self._specs if (shape := self.shape(name))}, **self._shapes}
        inner._contents = dict(self._contents)
        inner._limits = dict(self._limits)
        for name in own:
            inner._shapes.pop(name, None)
            inner._contents.pop(name, None)
        return inner

    def limit(self, size: Size, other: Size) -> None:
        """Store that `size` is the minimum of a number and `other`."""
        self._limits[size] = other

    def _first_shape(self, name: str) -> Shape | None:
        if name in self.constants:
            kind = self.constants.kind(name)
            if kind is not None:
                return tuple(map(Size, kind.shape))
        spec = self._specs.get(name)
        if spec is None or spec.shape is None:
            return None
        return tuple(self._size(name, axis, dim) for axis, dim in enumerate(spec.shape))

    def _size(self, name: str, axis: int, dim: int | str | None) -> Size:
        if isinstance(dim, int):
            return Size(dim)
        if dim is None or dim in UNNAMED_DIMS:
            return self.unknown(name, axis)
        return self._aliases.get(dim, Size(1, (dim,)))

    def unknown(self, name: str, axis: int) -> Size:
        """A unique name for a size about which nothing is known."""
        return Size(1, (f"{self._scope}{name}[{axis}]",))

    def _sharpened(self, name: str, shape: Shape) -> Shape:
        """The shape with fixed sizes from inference where following gave only a name, and the other way round."""
        spec = self._specs.get(name)
        if spec is None or spec.shape is None or len(spec.shape) != len(shape):
            return shape
        return tuple(map(self._same_size, shape, spec.shape))

    def _same_size(self, size: Size, dim: int | str | None) -> Size:
        if isinstance(dim, int):
            return Size(dim) if size.fixed is None else size
        if dim is not None and dim.startswith(_INFERRED) and size != Size(1, (dim,)):
            self._aliases.setdefault(dim, size)
        return size

    def broadcast(self, shapes: Sequence[Shape], name: str) -> Shape:
        """The shape of `name`, computed from values of these shapes."""
        rank = max(map(len, shapes))
        aligned = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
        return tuple(
            self._common(sizes) or self.unknown(name, axis) for axis, sizes in enumerate(zip(*aligned, strict=True))
        )

    def _common(self, sizes: Sequence[Size]) -> Size | None:
        """The size that all agree on where they are not 1; a fixed one decides, since only 1 could differ from it."""
        wide = {size for size in sizes if size != ONE}
        fixed = [size for size in wide if size.fixed is not None]
        if not wide:
            return ONE
        if fixed:
            return fixed[0]
        wide = {self._limits.get(size, size) for size in wide}
        return wide.pop() if len(wide) == 1 else None

    def numbers(self, node: onnx.NodeProto, index: int) -> list[int] | None:
        """The fixed integers in an input; None if it is left out, or not all of them are known before a run."""
        content = self.content(input_name(node, index))
        fixed = [size.fixed for size in content or () if size is not None]
        known = [value for value in fixed if value is not None]
        return None if content is None or len(known) < len(content) else known


def _is_short(shape: tuple[int, ...]) -> bool:
    """Whether the shape is that of a number, or of a list that may be a shape."""
    return len(shape) < 2 and max(shape, default=1) <= MAX_LENGTH
