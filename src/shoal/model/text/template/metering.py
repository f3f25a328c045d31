"""Rewrites a parsed template so that whatever repeats, joins or compares spends from the budget.

This covers only what Jinja's environment cannot intercept: loops, constant text, `~`, slices, comparisons and the
values of literals. The environment itself meters calls, operators, filters and tests.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

STEP, TICK, CONSTANT, WEIGH, HAYSTACK, CONCAT, SLICE = (
    f"{name}:" for name in ("step", "tick", "constant", "weigh", "haystack", "concat", "slice")
)
"""Names of internal filters, which no template can spell."""


class Metering(NodeTransformer):
    """Inserts the internal filters. Use `rewrite`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _statement(STEP, 1, node.lineno))
        if isinstance(node.test, nodes.Expr):
            node.test = _filtered(node.test, TICK)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        num_chars = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        return [_statement(CONSTANT, num_chars, node.lineno), node] if num_chars else [node]

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, WEIGH)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, HAYSTACK if operand.op in ("in", "notin") else WEIGH)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return _filtered(parts, CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice) or node.ctx != "load":
            return node
        none = nodes.Const(None, lineno=node.lineno)
        return _filtered(node.node, SLICE, *(bound or none for bound in (node.arg.start, node.arg.stop, node.arg.step)))

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, WEIGH)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, WEIGH)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, WEIGH) if node.ctx == "load" else node


def rewrite(template: nodes.Template) -> nodes.Template:
    """Meter a template. Mutates: `template`, which is returned."""
    environment = template.environment
    metered = Metering().visit(template)
    assert isinstance(metered, nodes.Template)
    if environment is not None:
        metered.set_environment(environment)
    return metered


def _filtered(value: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)


def _statement(name: str, value: Any, lineno: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filtered(nodes.Const(value, lineno=lineno), name), lineno=lineno)
