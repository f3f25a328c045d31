"""What is proved of rows: graphs in which they see each other are never taken for ones in which they do not."""
# ruff: noqa: E501  graphs in ONNX's text form

from pathlib import Path

import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.row_proof.proof import RowProof, prove_rows
from shoal.model.graph.sample.batch_axes import guess_axes
from tests import real_models
from tests.model.graph.graph_cases import make_graph

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "ai.onnx.ml" : 3]>'


def prove(folder: Path, text: str, header: str = HEADER, **named: int | None) -> RowProof:
    graph = make_graph(folder, text, header)
    return prove_rows(graph, guess_axes(graph.inputs, graph.outputs, named))


X = "g (float[N,4] x) => (float[N,4] y)"
MIXING = {
    "a condition that is an input": """g (float[N,4] x, bool c) => (float[N,4] y) <int64[1] z={0}> {
        m=ReduceMean(x,z) y=If(c)<then_branch=t()=>(float[N,4] p){p=Identity(x)},
        else_branch=e()=>(float[N,4] q){q=Sub(x,m)}> }""",
    "a guard over the batch": X
    + """ <float th={50.0}, float lo={-1.0}, float hi={1.0}> {
        m=ReduceMax<keepdims=0>(x) b=Greater(m,th) y=If(b)<then_branch=t()=>(float[N,4] p){p=Clip(x,lo,hi)},
        else_branch=e()=>(float[N,4] q){q=Identity(x)}> }""",
    "cut to the longest": """g (int64[N,S] x, int64[N,S] mask) => (int64[N,K] y) <int64[1] one={1}, int64[1] z={0}> {
        l=ReduceSum<keepdims=0>(mask,one) m=ReduceMax<keepdims=1>(l,z) y=Slice(x,z,m,one) }""",
    "padded to the longest": """g (float[N,4] x, int64[N] len) => (float[N,K] y) <int64[3] z={0,0,0}> {
        m=ReduceMax(len) p=Concat<axis=0>(z,m) y=Pad(x,p) }""",
    "boxes of all pictures suppressed together": """g (float[N,4] x, float[N,1] s) => (int64[K,3] y)
        <int64[1] z={0}, int64[1] n={5}> { b=Unsqueeze(x,z) t=Unsqueeze(s,z) u=Transpose<perm=[0,2,1]>(t)
        y=NonMaxSuppression(b,u,n) }""",
    "boxes suppressed per picture": """g (float[N,9,4] x, float[N,2,9] s) => (int64[K,3] y) <int64[1] n={5}> {
        y=NonMaxSuppression(x,s,n) }""",
    "the best of all rows": X + " <int64[1] z={0}> { m=ReduceMax(x,z) y=Sub(x,m) }",
    "a mean as a product with ones": """g (float[N,4] x) => (float[N,4] y) <float[1] f={1.0}, int64[1] one={1}> {
        s=Shape<start=0,end=1>(x) t=Concat<axis=0>(one,s) o=Expand(f,t) m=MatMul(o,x) y=Sub(x,m) }""",
    "the largest through a flat view": X + " <int64[1] flat={-1}> { f=Reshape(x,flat) m=ReduceMax(f) y=Div(x,m) }",
    "the batch beside itself": X
    + """ <int64[2] cut={2,2}> { d=Concat<axis=0>(x,x) r=Softmax<axis=0>(d) z=Shape<end=1>(x)
        s0=Sub(z,z) e=Slice(r,s0,z) y=Identity(e) }""",
    "written into one place": X + """ <int64[1,1] i={0}, float[1,4] u={1.0,2.0,3.0,4.0}> { y=ScatterND(x,i,u) }""",
    "chosen by one condition for all": X
    + """ <float th={0.0}> { m=ReduceSum<keepdims=0>(x) b=Greater(m,th) n=Neg(x)
        y=Where(b,x,n) }""",
    "sums over a flat view": X
    + """ <int64[1] flat={-1}, int64 z={0}> { f=Reshape(x,flat) c=CumSum(f,z) s=Shape(x)
        y=Reshape(c,s) }""",
    "a number for each row": X
    + """ <int64 z={0}, int64 one={1}, int64[1] ax={1}, int64[1] first={0}> {
        s=Shape<end=1>(x) n=Squeeze(s,first) r=Range(z,n,one) f=Cast<to=1>(r) u=Unsqueeze(f,ax) y=Add(x,u) }""",
    "the number of rows": X + " { s=Shape<end=1>(x) f=Cast<to=1>(s) y=Div(x,f) }",
    "one hot of a place": X
    + """ <int64 z={0}, int64 one={1}, int64[1] first={0}, float[2] v={0.0,1.0}, int64 four={4}> {
        s=Shape<end=1>(x) n=Squeeze(s,first) r=Range(z,n,one) h=OneHot(r,four,v) y=Add(x,h) }""",
    "dropout in training": X + " <float r={0.5}, bool t={1}> { y=Dropout(x,r,t) }",
    "dropout that an input can train": """g (float[N,4] x, bool t) => (float[N,4] y) <float r={0.5}> { y=Dropout(x,r,t) }""",
    "normalized over all": X + """ <float[4] s={1.0,1.0,1.0,1.0}> { y=LayerNormalization<axis=0>(x,s) }""",
    "statistics of the batch": X
    + """ <float[4] s={1.0,1.0,1.0,1.0}> {
        y,a,b=BatchNormalization<training_mode=1>(x,s,s,s,s) }""",
    "one scale for all": X + " { q,s,z=DynamicQuantizeLinear(x) y=DequantizeLinear(q,s,z) }",
    "a sequence of rows": X
    + """ <int64[1] ax={0}> { q=SequenceConstruct(x,x) c=ConcatFromSequence<axis=0>(q)
        m=ReduceMean(c,ax) y=Sub(x,m) }""",
    "rows in pieces": X + """ <int64[1] ax={0}> { q=SplitToSequence<axis=0>(x) y=ConcatFromSequence<axis=0>(q) }""",
    "folded two by two": "g (float[N,4] x) => (float[M,8] y) <int64[2] s={-1,8}> { y=Reshape(x,s) }",
    "folded at some lengths": "g (float[N,S] x) => (float[M,32] y) <int64[2] s={-1,32}> { y=Reshape(x,s) }",
    "moved and folded": """g (float[N,S,4] x) => (float[N,S,4] y) { s=Shape(x) t=Transpose<perm=[1,0,2]>(x) y=Reshape(t,s) }""",
    "turned round": "g (float[N,4] x) => (float[N,4] y) <int64[1] a={-1}, int64[1] b={-1000000000000}, int64[1] z={0}> {"
    " y=Slice(x,a,b,z,a) }",
    "all but the first": "g (float[N,4] x) => (float[M,4] y) <int64[1] a={1}, int64[1] b={1000000000000}, int64[1] z={0}> {"
    " y=Slice(x,a,b,z) }",
    "the first for all": X + " <int64[1] z={0}> { f=Gather(x,z) y=Add(x,f) }",
    "each meets all": "g (float[N,4] x) => (float[N,N] y) { t=Transpose(x) y=MatMul(x,t) }",
    "each looks at all": X + " { t=Transpose(x) a=MatMul(x,t) b=Softmax(a) y=MatMul(b,x) }",
    "the places of a pool": "g (float[N,1,4,4] x) => (float[N,1,2,2] p, int64[N,1,2,2] y) {"
    " p,y=MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }",
    "where it is not zero": "g (float[N,4] x) => (int64[2,K] y) { y=NonZero(x) }",
    "sorted over rows": X + " <int64[1] k={1}> { v,i=TopK<axis=0>(x,k) y=Sub(x,v) }",
    "random numbers": X + " { r=RandomNormalLike(x) y=Add(x,r) }",
    "a table by place": "g (int64[N,S] x) => (float[N,S] y) <float[3,1] t={1.0,2.0,3.0}> { f=Cast<to=1>(x) y=Add(f,t) }",
    "a shared input by place": "g (float[N,4] x, float[3,1] batchless) => (float[N,4] y) { y=Add(x,batchless) }",
    "as many turns as a row says": "g (float[N,4] x, int64[N] k) => (float[N,4] y) <bool c={1}> {"
    " n=ReduceMax<keepdims=0>(k) y=Loop(n,c,x)<body=b(int64 i, bool ci, float[N,4] s)=>(bool co, float[N,4] r){"
    " co=Identity(ci) r=Add(s,s)}> }",
    "turns until all are done": X
    + """ <int64 n={9}, bool c={1}, float th={100.0}> {
        y=Loop(n,c,x)<body=b(int64 i, bool ci, float[N,4] s)=>(bool co, float[N,4] r){
        r=Add(s,s) m=ReduceMax<keepdims=0>(r) co=Less(m,th)}> }""",
    "a beam that holds all rows": """g (float[N,4] x) => (float[N,4] y) <int64 n={3}, bool c={1}, int64[1] z={0}, int64[1] k={1}> {
        y=Loop(n,c,x)<body=b(int64 i, bool ci, float[N,4] s)=>(bool co, float[N,4] r){
        co=Identity(ci) v,j=TopK<axis=0>(s,k) g=Squeeze(j,z) h=Gather(s,z) r=Add(s,h)}> }""",
    "from row to row": """g (float[N,4] x) => (float[N,4] y) <float[4] i={0.0,0.0,0.0,0.0}> {
        l,y=Scan<num_scan_inputs=1,body=b(float[4] s, float[4] e)=>(float[4] t, float[4] o){t=Add(s,e) o=Identity(t)}>(i,x) }""",
    "spectrum over rows": "g (float[N,4,1] x) => (float[N,4,2] y) <int64 a={0}, int64 l={4}> { y=DFT(x,l,a) }",
    "a sum over letters": 'g (float[N,4] x) => (float[4,4] y) { y=Einsum<equation="bi,bj->ij">(x,x) }',
    "nothing is known": "g (float[N,4] x) => (float[M] y) { y=com.microsoft.ConvTransposeWithDynamicPads(x,x) }",
    "no entry of a row": "g (float[N,4] x) => (float[N,4] y) { y=Compress<axis=0>(x,c) }".replace(
        "(float[N,4] x)", "(float[N,4] x, bool[N] c)"
    ),
    "texts in as many parts as the longest": "g (string[N] x) => (string[N,K] y, int64[N] n) { y,n=StringSplit(x) }",
    "casts that cut numbers off": X
    + " { s=Shape<end=1>(x) c=Cast<to=2>(s) d=Cast<to=7>(c) f=Cast<to=1>(d) y=Div(x,f) }",
    "the place of a row in a byte": X
    + """ <int64 z={0}, int64 one={1}, int64[1] first={0}> { s=Shape<end=1>(x) n=Squeeze(s,first) r=Range(z,n,one)
        b=Cast<to=3>(r) i=Cast<to=7>(b) y=Gather(x,i) }""",
    "the place of a row as a truth value": X
    + """ <int64 z={0}, int64 one={1}, int64[1] first={0}> { s=Shape<end=1>(x) n=Squeeze(s,first) r=Range(z,n,one)
        b=Cast<to=9>(r) i=Cast<to=7>(b) y=Gather(x,i) }""",
    "as many columns as the largest says": """g (float[N,60] x, int64[N] k) => (float[N,M] y) <int64[1] m={-1},
        int64[1] one={1}> { n=Shape<end=1>(x) c=ReduceMax<axes=[0]>(k) t=Concat<axis=0>(n,c,m) r=Reshape(x,t)
        y=ReduceSum<keepdims=0>(r,one) }""",
    "as many columns as there are zeros": """g (float[N,60] x) => (float[N,M] y) <int64[1] m={-1}, int64[1] one={1}> {
        n=Shape<end=1>(x) z=NonZero(x) c=Shape<start=1>(z) t=Concat<axis=0>(n,c,m) r=Reshape(x,t)
        y=ReduceSum<keepdims=0>(r,one) }""",
    "what each place in a fixed batch adds": """g (float[2,1,1,1] x) => (float[2,1,1,1] y) <float[1,1,1,1] w={1.0},
        float[1] b={0.0}, float[2,1,1,1] z={1.0,2.0}> { y=com.microsoft.FusedConv<activation="Relu">(x,w,b,z) }""",
    "an axis without a name": "g (float[N,N] x) => (float[N,N] y) { t=Transpose(x) y=Add(x,t) }",
}


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_may_see_each_other_are_not_proved(tmp_path: Path, name: str) -> None:
    assert prove(tmp_path, MIXING[name]).reason


def test_a_scan_with_a_batch_of_its_own_is_not_taken_for_one_without(tmp_path: Path) -> None:
    text = """g (float[4,batch,8] x, float[4,8] s) => (float[4,batch,8] y) { f,y=Scan<num_scan_inputs=1,
        body=b(float[8] c, float[8] e)=>(float[8] n, float[8] o){n=Add(c,e) o=Identity(n)}>("",s,x) }"""
    found = prove(tmp_path, text, '<ir_version: 8, opset_import: ["" : 8]>', s=None)
    assert "a batch of its own" in str(found.reason)


INDEPENDENT = {
    "heads merged with the batch": """g (float[N,S,8] x) => (float[N,S,8] y) <int64[4] h={0,0,2,4}, int64[3] m={0,0,8},
        int64 z={0}, int64 one={1}, int64[1] four={4}> {
        r=Reshape(x,h) t=Transpose<perm=[0,2,1,3]>(r) s=Shape(x) n=Slice(s,a,b) k=Slice(s,b,c) two=Add(b,b)
        nh=Mul(n,d) f=Concat<axis=0>(nh,k,four) q=Reshape(t,f) w=Transpose<perm=[0,2,1]>(q) p=MatMul(q,w) o=Softmax(p)
        v=MatMul(o,q) back=Concat<axis=0>(n,d,k,four) u=Reshape(v,back) i=Transpose<perm=[0,2,1,3]>(u) y=Reshape(i,m) }""".replace(
        "int64 z={0}, int64 one={1}, int64[1] four={4}",
        "int64[1] four={4}, int64[1] a={0}, int64[1] b={1}, int64[1] c={2}, int64[1] d={2}",
    ).replace("two=Add(b,b)", ""),
    "the last word by its place": """g (float[N,S,4] x, int64[N] len) => (float[N,4] y) <int64 z={0}, int64 one={1},
        int64[1] ax={1}, int64[1] first={0}> { s=Shape<end=1>(x) n=Squeeze(s,first) r=Range(z,n,one) a=Unsqueeze(r,ax)
        b=Unsqueeze(len,ax) i=Concat<axis=1>(a,b) y=GatherND(x,i) }""",
    "a start that is repeated for each row": """g (float[N,S,4] x) => (float[N,M,4] y) <float[1,1,4] c={0.0,1.0,2.0,3.0},
        int64[2] rest={1,4}> { s=Shape<end=1>(x) t=Concat<axis=0>(s,rest) e=Expand(c,t) y=Concat<axis=1>(e,x) }""",
    "a mask of each row": """g (float[N,S] x, int64[N,S] m) => (float[N,S] y) <float low={-1000.0}, int64 z={0}> {
        b=Equal(m,z) w=Where(b,low,x) y=Softmax(w) }""",
    "a condition on the length": """g (float[N,S] x) => (float[N,S] y) <int64 limit={8}, int64[1] z={0}> {
        s=Shape<start=1>(x) n=Squeeze(s,z) c=Less(n,limit) y=If(c)<then_branch=t()=>(float[N,S] p){p=Neg(x)},
        else_branch=e()=>(float[N,S] q){q=Relu(x)}> }""",
    "a loop of a shared number of turns": """g (float[N,4] x, int64 k) => (float[N,4] y) <bool c={1}> {
        y=Loop(k,c,x)<body=b(int64 i, bool ci, float[N,4] s)=>(bool co, float[N,4] r){co=Identity(ci) r=Add(s,s)}> }""",
    "a scan over time": """g (float[N,S,4] x) => (float[N,4] l, float[N,S,4] y) <int64[1] a={1}> { i=ReduceMax<keepdims=0>(x,a)
        l,y=Scan<num_scan_inputs=1,scan_input_axes=[1],scan_output_axes=[1],body=b(float[N,4] s, float[N,4] e)=>(
        float[N,4] t, float[N,4] o){t=Add(s,e) o=Identity(t)}>(i,x) }""",
    "time first and flat": """g (float[time,batch,4] x) => (float[time,batch,2] y) <float[4,2] w={1.,2.,3.,4.,5.,6.,7.,8.},
        int64[2] flat={-1,4}, int64[1] two={2}> { s=Shape<end=2>(x) f=Reshape(x,flat) p=MatMul(f,w)
        t=Concat<axis=0>(s,two) y=Reshape(p,t) }""",
    "a picture of twice the size": """g (float[N,3,H,W] x) => (float[N,3,K,M] y) <int64[2] two={2,2}> { a=Shape<end=2>(x)
        b=Shape<start=2>(x) c=Mul(b,two) s=Concat<axis=0>(a,c) y=Resize(x,,,s) }""",
    "trees": """g (float[N,4] x) => (float[N,1] y) { y=ai.onnx.ml.LinearRegressor<coefficients=[1.,2.,3.,4.],targets=1>(x) }""",
    "letters": 'g (float[N,S,4] x, float[N,T,4] z) => (float[N,S,T] y) { y=Einsum<equation="bsi,bti->bst">(x,z) }',
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_that_are_apart_are_proved(tmp_path: Path, name: str) -> None:
    found = prove(tmp_path, INDEPENDENT[name])
    assert found.reason is None
    assert found.outputs["y"] == (1 if "time" in name and "first" in name else 0)


def test_functions_of_the_model_are_looked_into(tmp_path: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'
    function = '<opset_import: ["" : 21], domain: "own"> f (a) => (b) { %s }'
    graph = "g (float[N,4] x) => (float[N,4] y) { y=own.f(x) }\n"
    assert prove(tmp_path, graph + function % "b=Relu(a)", header).outputs == {"y": 0}
    mixing = "z=Constant<value_ints=[0]>() m=ReduceMean(a,z) b=Sub(a,m)"
    assert prove(tmp_path, graph + function % mixing, header).reason


def test_a_fixed_number_of_rows_is_followed_by_its_place(tmp_path: Path) -> None:
    flat = "g (float[4,4] x) => (float[4,4] y) <int64[2] s={4,4}> { t=Transpose(x) y=Reshape(%s,s) }"
    assert prove(tmp_path, flat % "x").outputs == {"y": 0}
    assert prove(tmp_path, flat % "t").outputs == {"y": 1}
    wrong = "g (float[4,6] x) => (float[6,4] y) <int64[2] s={6,4}> { y=Reshape(x,s) }"
    assert prove(tmp_path, wrong).reason
    table = "g (float[2,2] x) => (float[2,2] y) <float[2,1] t={%s}> { y=Add(x,t) }"
    assert prove(tmp_path, table % "1.0,1.0").outputs == {"y": 0}
    assert prove(tmp_path, table % "1.0,2.0").reason


def test_a_reason_names_the_operator_and_the_node(tmp_path: Path) -> None:
    found = prove(tmp_path, MIXING["the best of all rows"])
    assert found.reason == "output 'y': ReduceMax takes all rows together (node 'm')"


@pytest.mark.parametrize("model", ["ocr_detector", "ocr_recognizer", "ocr_classifier", "magika"])
def test_real_models_are_proved(model: str) -> None:
    graph = open_graph(getattr(real_models, model)())
    found = prove_rows(graph, guess_axes(graph.inputs, graph.outputs, {}))
    assert (found.reason, set(found.outputs.values())) == (None, {0})


def test_inputs_of_which_the_file_says_too_little_are_not_proved(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, "g (float[] x) => (float[] y) { y=Relu(x) }", HEADER)
    axes = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
    assert "how many dimensions" in str(prove_rows(graph, axes).reason)
