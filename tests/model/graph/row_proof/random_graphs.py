"""Random graphs over rows of shape (S, 4): some steps mix rows, most do not; each works at any number of rows."""
# ruff: noqa: E501  graphs in ONNX's text form

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.plain_runtime import plain_session

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
CUBE = "float[N,S,4]"
LENGTH = 3
ROWS = 3

STEPS = (
    "O=Relu(A)",
    "O=Tanh(A)",
    "O=Add(A,B)",
    "O=Mul(A,B)",
    "O=Softmax<axis=AX>(A)",
    "O=LayerNormalization<axis=-1>(A,four)",
    "m_=ReduceMean(A,[AX]) O=Sub(A,m_)",
    "m_=ReduceMax<keepdims=0>(A,[AX]) u_=Unsqueeze(m_,[AX]) O=Sub(A,u_)",
    "m_=ReduceMax<keepdims=0>(A) O=Sub(A,m_)",
    "O=CumSum(A,AX)",
    "i_=ArgMax<axis=AX>(A) f_=Cast<to=1>(i_) O=Add(A,f_)",
    "v_,i_=TopK<axis=AX>(A,[1]) O=Sub(A,v_)",
    "t_=Transpose<perm=[1,0,2]>(A) s_=Softmax<axis=AX>(t_) O=Transpose<perm=[1,0,2]>(s_)",
    "t_=Transpose<perm=[1,0,2]>(A) s_=Shape(A) O=Reshape(t_,s_)",
    "O=MatMul(A,square)",
    "t_=Transpose<perm=[0,2,1]>(A) p_=MatMul(A,t_) w_=Softmax(p_) O=MatMul(w_,B)",
    "r_=Transpose<perm=[1,0,2]>(A) t_=Transpose<perm=[1,2,0]>(A) p_=MatMul(r_,t_) w_=Softmax(p_) q_=MatMul(w_,r_) "
    "O=Transpose<perm=[1,0,2]>(q_)",
    "s_=Shape(A) f_=Reshape(A,[-1,4]) g_=MatMul(f_,square) O=Reshape(g_,s_)",
    "s_=Shape(A) f_=Reshape(A,[-1,4]) g_=CumSum(f_,FX) O=Reshape(g_,s_)",
    "s_=Shape(A) f_=Flatten<axis=1>(A) g_=Softmax<axis=FX>(f_) O=Reshape(g_,s_)",
    "s_=Shape(A) f_=Reshape(A,[-1]) m_=ReduceMax(f_) g_=Sub(f_,m_) O=Reshape(g_,s_)",
    "h_=Reshape(A,[0,0,2,2]) t_=Transpose<perm=[0,2,1,3]>(h_) g_=Softmax<axis=2>(t_) u_=Transpose<perm=[0,2,1,3]>(g_) "
    "O=Reshape(u_,[0,0,4])",
    "g_=Gather<axis=AX>(A,[0]) O=Add(A,g_)",
    "g_=Slice(A,[0],[1],[AX]) O=Sub(A,g_)",
    "g_=Slice(A,[-1],[-100],[AX],[-1]) O=Add(A,g_)",
    "g_=Slice(A,[0],[9223372036854775807],[AX]) O=Neg(g_)",
    "p_=Greater(A,zero) O=Where(p_,A,B)",
    "s_=Shape(A) n_=Gather(s_,AX) f_=Cast<to=1>(n_) O=Div(A,f_)",
    "s_=Shape(A) n_=Gather(s_,1) r_=Range(0,n_,1) f_=Cast<to=1>(r_) u_=Unsqueeze(f_,[1]) O=Add(A,u_)",
    "s_=Shape(A) n_=Gather(s_,0) r_=Range(0,n_,1) f_=Cast<to=1>(r_) u_=Unsqueeze(f_,[1,2]) O=Add(A,u_)",
    "s_=Shape(A) e_=Expand(four,s_) O=Add(A,e_)",
    "s_=Shape<end=1>(A) t_=Concat<axis=0>(s_,[1],[4]) e_=Expand(four,t_) c_=Concat<axis=1>(e_,A) "
    "O=Slice(c_,[1],[9223372036854775807],[1])",
    "c_=Concat<axis=AX>(A,B) k_=Shape(A) d_=Gather(k_,[AX]) e_=Add(d_,[1]) O=Slice(c_,[1],e_,[AX])",
    "a_,b_=Split<axis=2,num_outputs=2>(A) O=Concat<axis=2>(b_,a_)",
    "O=If(flag)<then_branch=t_()=>(CUBE p_){p_=Neg(A)},else_branch=e_()=>(CUBE q_){q_=Softmax<axis=AX>(B)}>",
    "m_=ReduceMax<keepdims=0>(A) c_=Greater(m_,five) "
    "O=If(c_)<then_branch=t_()=>(CUBE p_){p_=Neg(A)},else_branch=e_()=>(CUBE q_){q_=Identity(B)}>",
    "s_=Shape(A) n_=Gather(s_,AX) c_=Less(n_,3) "
    "O=If(c_)<then_branch=t_()=>(CUBE p_){p_=Neg(A)},else_branch=e_()=>(CUBE q_){q_=Identity(B)}>",
    "O=Loop(turns,yes,A)<body=l_(int64 i_, bool c_, CUBE s_)=>(bool d_, CUBE r_){d_=Identity(c_) w_=Softmax<axis=AX>(s_) "
    "r_=Add(w_,s_)}>",
    "z_=Greater(A,zero) y_=Cast<to=7>(z_) l_=ReduceSum(y_,[1,2]) n_=ReduceMax<keepdims=0>(l_) "
    "O=Loop(n_,yes,A)<body=l_(int64 i_, bool c_, CUBE s_)=>(bool d_, CUBE r_){d_=Identity(c_) r_=Add(A,s_)}>",
    "s_=Shape(A) n_=Gather(s_,0) r_=Range(0,n_,1) a_=Unsqueeze(r_,[1]) i_=ArgMax<axis=1,keepdims=0>(A) "
    "j_=Gather<axis=1>(i_,[0]) k_=Concat<axis=1>(a_,j_) g_=GatherND(A,k_) u_=Unsqueeze(g_,[1]) O=Add(A,u_)",
    "i_=ArgMax<axis=AX>(A) g_=GatherElements<axis=AX>(A,i_) O=Sub(A,g_)",
    'e_=Einsum<equation="bsi,bti->bst">(A,B) w_=Softmax(e_) O=MatMul(w_,B)',
    "q_,s_,z_=DynamicQuantizeLinear(A) O=DequantizeLinear(q_,s_,z_)",
    "t_=Tile(A,[1,2,1]) k_=Shape<start=1,end=2>(A) O=Slice(t_,[0],k_,[1])",
    "h_=Shape<end=1>(A) l_=Expand([2],h_) O=ReverseSequence<batch_axis=0,time_axis=1>(A,l_)",
    "u_=Unsqueeze(A,[1]) g_=GlobalAveragePool(u_) w_=Squeeze(g_,[1]) O=Sub(A,w_)",
)
"""`A` and `B` are values of the graph, `O` is the result; `AX` is an axis, `FX` one of two; `name_` is a name of the step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a random graph."""

    text: int
    first: int
    second: int
    axis: int


def steps() -> st.SearchStrategy[list[Step]]:
    """One to five of them."""
    numbers = st.integers(0, 7)
    axis = st.sampled_from([1, 2, 1, 2, 0])
    one = st.builds(Step, st.integers(0, len(STEPS) - 1), numbers, numbers, axis)
    return st.lists(one, min_size=1, max_size=5)


def make_model(steps: Sequence[Step]) -> onnx.ModelProto:
    """The graph as a model."""
    values, lines = ["x"], list[str]()
    lists: dict[str, list[int] | int] = {}
    for place, step in enumerate(steps):
        lines.append(_line(step, values, place, lists))
        values.append(f"v{place}")
    text = f"g ({CUBE} x, bool flag, int64 turns) => (float[M,S,4] y) <float zero={{0.0}}, float five={{5.0}}, bool yes={{1}}> {{"
    body = " ".join(lines)
    model = onnx.parser.parse_model(HEADER + text + body + f" y=Identity({values[-1]}) }}")
    square = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) / 2
    for name, array in {"square": square, "four": np.arange(1, 5, dtype=np.float32)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for name, numbers in lists.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
    return model


def _line(step: Step, values: Sequence[str], place: int, lists: dict[str, list[int] | int]) -> str:
    """A step with its names; numbers among the inputs become constants. Mutates: `lists`."""
    first, second = values[step.first % len(values)], values[step.second % len(values)]
    text = STEPS[step.text].replace("CUBE", CUBE)
    text = re.sub(r"\bAX\b", str(step.axis), text)
    text = re.sub(r"\bFX\b", str(int(step.axis > 0)), text)
    text = re.sub(r"\b([a-z][0-9]?_)(?![a-z])", rf"\g<1>{place}", text)
    text = re.sub(r"\bA\b", first, text)
    text = re.sub(r"\bB\b", second, text)
    text = re.sub(r"\bO\b", f"v{place}", text)
    numbers = r"<[^<>]*>|(?<=[(,])(\[[-0-9,]+\]|-?[0-9]+)(?=[,)])"  # not those of attributes
    return re.sub(numbers, lambda found: found[0] if found[1] is None else _constant(found[1], lists), text)


def _constant(text: str, lists: dict[str, list[int] | int]) -> str:
    name = f"c{len(lists)}"
    lists[name] = ast.literal_eval(text)
    return name


def rows(seed: int) -> np.ndarray[Any, Any]:
    """So many rows whose values differ in size and sign."""
    found = np.random.default_rng(seed).standard_normal((ROWS, LENGTH, 4)).astype(np.float32)
    return found * np.array([1, -3, 10], np.float32)[:, None, None]


def differ(model: onnx.ModelProto) -> bool:
    """Whether a row's result is seen to be another one in company, for some inputs."""
    session = plain_session(model.SerializeToString())
    for seed, flag, turns in ((0, True, 0), (1, False, 2)):
        given = {"flag": np.array(flag), "turns": np.array(turns)}
        taken = {name.name for name in session.get_inputs()}
        given = {name: array for name, array in given.items() if name in taken}
        x = rows(seed)
        together = np.asarray(session.run(["y"], {"x": x, **given})[0])
        for row in range(ROWS):
            alone = np.asarray(session.run(["y"], {"x": x[row : row + 1], **given})[0])
            if alone.shape != (1, *together.shape[1:]) or len(together) != ROWS:
                return True
            scale = float(np.abs(alone[np.isfinite(alone)]).max(initial=1e-6))
            if not np.allclose(alone[0], together[row], rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
                return True
    return False
