"""What rules know about a graph during the walk: what each value has to do with rows, its shape, and numbers in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx

from shoal.model.graph.row_proof.kinds import SHARED, AlreadyMixed, Kind, Mixed, Mixing, Rows, Shared
from shoal.model.graph.tensor_parallel.shapes.constants import ConstantValues
from shoal.model.graph.tensor_parallel.shapes.nodes import DEFAULT_DOMAINS, input_name, listed
from shoal.model.graph.tensor_parallel.shapes.sizes import NUMBER_MARK, ONE, Shape, Size, product
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import MAX_LENGTH, Content, SymbolicShapes

BATCH = "|batch"
"""Symbol for the number of rows. Names of other sizes end differently."""
NUM_ROWS = Mixed(reason="the number of rows")


class Walk:
    """State of the walk over one graph or one body."""

    def __init__(
        self,
        known: SymbolicShapes,
        constants: ConstantValues,
        batch: Size,
        model: onnx.ModelProto,
        folder: Path,
        outer: Walk | None = None,
    ) -> None:
        """
        Args:
            known: shapes, and small lists of numbers.
            constants: of the graph and what lies around it.
            batch: the number of rows: a name, or a number where the graph fixes it.
            model: what the graph is part of, for its versions.
            folder: where external data lie.
            outer: the walk of the graph that this one is a body of.
        """
        self.known = known
        self.constants = constants
        self.batch = batch
        self.model = model
        self.folder = folder
        self.opset = max((found.version for found in model.opset_import if found.domain in DEFAULT_DOMAINS), default=0)
        self.kinds: dict[str, Kind] = {} if outer is None else dict(outer.kinds)
        self._steady: set[str] = set() if outer is None else outer._steady
        """Names of sizes that are equal in every run."""

    def kind(self, name: str) -> Kind:
        """The kind of a value, or of an input that is left out."""
        if not name or name in self.constants:
            return SHARED
        return self.kinds.get(name) or Mixed(reason=f"{name!r} comes from nowhere")

    def rows(self, name: str) -> Rows | None:
        """Where a value has its rows; None: rows share it. Raises Mixing if rows are mixed."""
        kind = self.kind(name)
        if isinstance(kind, Mixed):
            raise AlreadyMixed(kind.reason)
        return kind if isinstance(kind, Rows) else None

    def plain_rows(self, name: str) -> Rows | None:
        """As `rows`; also raises Mixing if entries contain the number of their row in the batch."""
        rows = self.rows(name)
        if rows is not None and rows.index is not None:
            raise Mixing("the place of a row in its batch")
        return rows

    def check_shared(self, names: Iterable[str], what: str) -> None:
        """Raises Mixing unless all of the values are shared."""
        for name in names:
            if self.rows(name) is not None:
                raise Mixing(f"{what} depends on a row")

    def shape(self, name: str) -> Shape:
        """The shape of a value. Raises Mixing if the rank is unknown."""
        found = self.known.shape(name)
        if found is None:
            raise Mixing(f"the shape of {name!r} is unknown")
        return found

    def rank(self, name: str) -> int:
        """The rank of a value. Raises Mixing if it is unknown."""
        kind = self.kind(name)
        return kind.rank if isinstance(kind, Rows) else len(self.shape(name))

    def content(self, node: onnx.NodeProto, index: int) -> Content | None:
        """The known numbers in an input."""
        return self.known.content(input_name(node, index))

    def axes(self, node: onnx.NodeProto, index: int, name: str = "axes") -> list[int] | None:
        """A list of axes, from an input or an attribute; None if it is left out. Raises Mixing if it is unknown."""
        source = input_name(node, index)
        if not source:
            return listed(node, name, index, self.known.constants)
        numbers = self.known.numbers(node, index)
        if numbers is None:
            raise Mixing(f"the axes of {node.op_type} are computed")
        return numbers

    def is_steady(self, size: Size | None) -> bool:
        """Whether a size is equal in every run."""
        return size is not None and all(name in self._steady for name in size.names)

    def is_followed(self, size: Size | None) -> bool:
        """Whether a size is equal in every run, apart from the number of rows in it."""
        return size is not None and all(name == BATCH or name in self._steady for name in size.names)

    def learn(self, name: str, kind: Kind) -> None:
        """Store what a rule found about a value, refined by the known numbers in it."""
        content = self.known.content(name)
        if content is not None and all(map(self.is_steady, content)):
            kind = SHARED
        self.kinds[name] = kind
        match kind:
            case Rows():
                self._learn_rows(name, kind)
            case Shared():
                self._learn_shared(name)
            case Mixed():
                pass

    def _learn_rows(self, name: str, rows: Rows) -> None:
        shape = self.known.shape(name)
        if shape is None or len(shape) != rows.rank:
            shape = tuple(self.known.unknown(name, axis) for axis in range(rows.rank))
        sizes = [self._steady_size(name, axis, size) for axis, size in enumerate(shape)]
        sizes[rows.axis] = rows.length(self.batch)
        self.known.learn_shape(name, tuple(sizes))

    def _learn_shared(self, name: str) -> None:
        shape = self.known.shape(name)
        if shape is None:
            return
        shape = tuple(self._steady_size(name, axis, size) for axis, size in enumerate(shape))
        self.known.learn_shape(name, shape)
        self._name_numbers(name, shape)

    def _name_numbers(self, name: str, shape: Shape) -> None:
        """Give names to unknown integers in a short shared list."""
        dtype, content = self.known.dtype(name), self.known.content(name)
        length = product(shape).fixed
        if content is None:
            is_list = dtype is not None and dtype.startswith(("int", "uint")) and len(shape) < 2
            content = (None,) * length if is_list and length is not None and length <= MAX_LENGTH else None
        if content is not None:
            numbers = [
                self._named(f"{name}[{place}]{NUMBER_MARK}") if number is None else number
                for place, number in enumerate(content)
            ]
            self.known.learn_content(name, tuple(numbers))

    def _steady_size(self, name: str, axis: int, size: Size) -> Size:
        """The size, or a name for it, in a value that is equal in every run or whose rows lie along another axis."""
        if self.is_steady(size):
            return size
        unknown = self.known.unknown(name, axis)
        self._steady.update(unknown.names)
        return unknown

    def _named(self, name: str) -> Size:
        self._steady.add(name)
        return Size(1, (name,))


def broadcast(walk: Walk, names: Iterable[str]) -> Rows | None:
    """Where the rows of an elementwise result lie, if its inputs are broadcast to each other's shape.

    Raises:
        Mixing: inputs have rows along different axes, or entries for each row that do not belong to the row.
    """
    names = [name for name in names if name]
    found = [(name, rows) for name in names if (rows := walk.plain_rows(name)) is not None]
    if not found:
        return None
    first = found[0][1]
    if any(rows.place != first.place for _, rows in found):
        raise Mixing("rows meet along different axes")
    check_single(walk, (name for name in names if walk.rows(name) is None), first)
    rank = max(map(walk.rank, names))
    return first.at(rank - first.from_end, rank)


def check_single(walk: Walk, names: Iterable[str], rows: Rows) -> None:
    """Check that shared values have one entry or none along the axis where others have rows, counted from the end.

    Raises:
        Mixing: one has several entries, or an unknown number: one for each place in the batch.
    """
    for name in names:
        shape = walk.shape(name)
        length = shape[-rows.from_end] if len(shape) >= rows.from_end else ONE
        is_repeated = length == rows.length(walk.batch) and _is_uniform(walk, name, rows.from_end)
        if length != ONE and not is_repeated:
            raise Mixing(f"{name!r} may hold one entry for each place in the batch")


def _is_uniform(walk: Walk, name: str, from_end: int) -> bool:
    """Whether the value is a constant that is equal along the whole axis."""
    array = walk.constants.array(name) if name in walk.constants else None
    if array is None or array.dtype == object:
        return False
    first = np.take(array, [0], axis=array.ndim - from_end) if array.size else array
    return bool(array.size) and np.array_equal(array, np.broadcast_to(first, array.shape))


def same_rows(walk: Walk, names: Iterable[str]) -> Rows:
    """The rows of values that must all have them in the same place. Raises Mixing."""
    found = [walk.plain_rows(name) for name in names]
    first = found[0]
    if first is None or any(rows is None or (rows.rank, rows.place) != (first.rank, first.place) for rows in found):
        raise Mixing("rows meet along different axes, or what they meet has none")
    return first


def attribute_text(node: onnx.NodeProto, name: str) -> str:
    """A string attribute; empty if it is left out."""
    return next((found.s.decode(errors="replace") for found in node.attribute if found.name == name), "")


Rule = Callable[[Walk, onnx.NodeProto], Kind | tuple[Kind, ...]]
"""Returns what a node's outputs have to do with rows, for a node with rows in some input. Outputs that it leaves out
are mixed."""
