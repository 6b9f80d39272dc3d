"""The tagger's model as an ONNX graph, from its own safetensors: the same weights for another engine.

The graph is written the way that PyTorch exports BERT, because that is the form which ONNX Runtime's own optimiser
recognises. Nothing of the tagger's code is used, so that equal logits say something.
"""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
# What a masked attention weight has added to it before the softmax.
MASKED = -10000.0


def read_weights(model: Path) -> dict[str, np.ndarray]:
    """All tensors of `model.safetensors` (or of the shards that its index names) in f32."""
    index = model / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    weights = {}
    for name in names:
        data = (model / name).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for tensor, entry in json.loads(data[8 : 8 + length]).items():
            if tensor == "__metadata__":
                continue
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            raw = data[start:end]
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]).astype(np.float32)
            weights[tensor.removeprefix("bert.")] = values.reshape(entry["shape"])
    return weights


class Graph:
    """Nodes and initialisers under construction."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights, self.nodes, self.initializers, self.names = weights, [], [], set()

    def constant(self, name: str, value) -> str:
        if name not in self.names:
            self.names.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def weight(self, name: str, transpose: bool = False) -> str:
        value = self.weights[name]
        return self.constant(name + (".t" if transpose else ""), value.T if transpose else value)

    def node(self, operator: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def dense(self, value: str, name: str) -> str:
        product = self.node("MatMul", [value, self.weight(f"{name}.weight", transpose=True)], f"{name}/product")
        return self.node("Add", [self.weight(f"{name}.bias"), product], f"{name}/sum")

    def norm(self, value: str, name: str, epsilon: float) -> str:
        inputs = [value, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.node("LayerNormalization", inputs, f"{name}/norm", axis=-1, epsilon=epsilon)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def embed(graph: Graph, config: dict) -> str:
    def table(name: str) -> str:
        return graph.weight(f"embeddings.{name}.weight")

    shape = graph.node("Shape", ["input_ids"], "shape")
    length = graph.node("Gather", [shape, graph.constant("one", np.array(1, np.int64))], "length", axis=0)
    length = graph.node("Unsqueeze", [length, graph.constant("axis_0", integers(0))], "length/1")
    every = graph.constant("positions", np.arange(config["max_position_embeddings"], dtype=np.int64)[None])
    axis_1, start = graph.constant("axis_1", integers(1)), graph.constant("start", integers(0))
    positions = graph.node("Slice", [every, start, length, axis_1], "position_ids")
    words = graph.node("Gather", [table("word_embeddings"), "input_ids"], "words")
    segments = graph.node("Gather", [table("token_type_embeddings"), "token_type_ids"], "segments")
    places = graph.node("Gather", [table("position_embeddings"), positions], "places")
    total = graph.node("Add", [graph.node("Add", [words, segments], "words+segments"), places], "embedded")
    return graph.norm(total, "embeddings.LayerNorm", config["layer_norm_eps"])


def attention(graph: Graph, state: str, name: str, config: dict, mask: str) -> str:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    split = graph.constant("split", integers(0, 0, heads, width // heads))
    merge = graph.constant("merge", integers(0, 0, width))

    def heads_of(part: str, order: list[int]) -> str:
        dense = graph.dense(state, f"{name}.self.{part}")
        return graph.node("Transpose", [graph.node("Reshape", [dense, split], f"{dense}/split")], f"{dense}/heads", perm=order)

    query, key = heads_of("query", [0, 2, 1, 3]), heads_of("key", [0, 2, 3, 1])
    value = heads_of("value", [0, 2, 1, 3])
    root = graph.constant("root", np.array((width // heads) ** 0.5, np.float32))
    scores = graph.node("MatMul", [query, key], f"{name}/scores")
    scores = graph.node("Div", [scores, root], f"{name}/scaled")
    scores = graph.node("Add", [scores, mask], f"{name}/masked")
    context = graph.node("MatMul", [graph.node("Softmax", [scores], f"{name}/softmax", axis=-1), value], f"{name}/context")
    context = graph.node("Transpose", [context], f"{name}/context/rows", perm=[0, 2, 1, 3])
    return graph.node("Reshape", [context, merge], f"{name}/context/merged")


def gelu(graph: Graph, value: str, name: str) -> str:
    def scalar(label: str, number: float) -> str:
        return graph.constant(label, np.array(number, np.float32))

    error = graph.node("Erf", [graph.node("Div", [value, scalar("sqrt_2", 2.0**0.5)], f"{name}/div")], f"{name}/erf")
    error = graph.node("Add", [error, scalar("1.0", 1.0)], f"{name}/plus")
    product = graph.node("Mul", [value, error], f"{name}/times")
    return graph.node("Mul", [product, scalar("0.5", 0.5)], f"{name}/gelu")


def pool(graph: Graph, state: str) -> str:
    """The first token beside the mean of all, through the head."""
    axis_1, axis_2 = graph.constant("axis_1", integers(1)), graph.constant("axis_2", integers(2))
    start, one = graph.constant("start", integers(0)), graph.constant("end_1", integers(1))
    first = graph.node("Slice", [state, start, one, axis_1], "first")
    # Sums as products with the mask (the optimiser's shape inference does not know sums over given axes).
    real = graph.node("Cast", ["attention_mask"], "real", to=TensorProto.FLOAT)
    row = graph.node("Unsqueeze", [real, axis_1], "real/row")
    total = graph.node("MatMul", [row, state], "total")
    count = graph.node("MatMul", [row, graph.node("Unsqueeze", [real, axis_2], "real/column")], "count")
    both = graph.node("Concat", [first, graph.node("Div", [total, count], "mean")], "pooled", axis=2)
    product = graph.node("MatMul", [both, graph.weight("classifier.weight", transpose=True)], "classifier/product")
    total = graph.node("Add", [product, graph.weight("classifier.bias")], "classifier/sum")
    return graph.node("Squeeze", [total, axis_1], "logits")


def build(model: Path, path: Path) -> dict:
    """Writes the graph of the model in a directory, and gives its `config.json`."""
    config = json.loads((model / "config.json").read_text())
    if config.get("model_type", "bert") != "bert" or config.get("hidden_act", "gelu") != "gelu":
        raise SystemExit(f"{model}: only BERT with the exact GELU is compared")
    graph = Graph(read_weights(model))
    state = embed(graph, config)
    mask = graph.node("Unsqueeze", ["attention_mask", graph.constant("axis_1", integers(1))], "mask/1")
    mask = graph.node("Unsqueeze", [mask, graph.constant("axis_2", integers(2))], "mask/2")
    mask = graph.node("Cast", [mask], "mask/float", to=TensorProto.FLOAT)
    mask = graph.node("Sub", [graph.constant("1.0", np.array(1.0, np.float32)), mask], "mask/padded")
    mask = graph.node("Mul", [mask, graph.constant("masked", np.array(MASKED, np.float32))], "mask/added")
    for layer in range(config["num_hidden_layers"]):
        name, epsilon = f"encoder.layer.{layer}", config["layer_norm_eps"]
        context = attention(graph, state, f"{name}.attention", config, mask)
        dense = graph.dense(context, f"{name}.attention.output.dense")
        attended = graph.node("Add", [dense, state], f"{name}/attended")
        attended = graph.norm(attended, f"{name}.attention.output.LayerNorm", epsilon)
        inner = gelu(graph, graph.dense(attended, f"{name}.intermediate.dense"), name)
        fed = graph.node("Add", [graph.dense(inner, f"{name}.output.dense"), attended], f"{name}/fed")
        state = graph.norm(fed, f"{name}.output.LayerNorm", epsilon)
    pool(graph, state)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "token_type_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", graph.weights["classifier.bias"].shape[0]])]
    made = helper.make_graph(graph.nodes, "tagger", inputs, outputs, graph.initializers)
    onnx_model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(onnx_model)
    onnx.save(onnx_model, path)
    return config


def optimise(raw: Path, path: Path, config: dict) -> dict[str, int]:
    """ONNX Runtime's own transformer optimiser; gives how many nodes it fused, and refuses a model in which attention stayed unfused."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    fused = optimize_model(
        str(raw),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        optimization_options=FusionOptions("bert"),
        opt_level=0,
    )
    fused.save_model_to_file(str(path))
    counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    layers = config["num_hidden_layers"]
    wanted = {"Attention": layers, "BiasGelu": layers, "SkipLayerNormalization": 2 * layers}
    if any(counts.get(name, 0) < count for name, count in wanted.items()):
        raise SystemExit(f"the optimiser fused {counts}, but {wanted} are there to fuse: the peer would not be at its best")
    return counts


def quantise(raw: Path, path: Path, reduce_range: bool) -> None:
    """Dynamic int8, matrix products only, a scale per output channel, from the graph before any fusion."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(raw), str(path), op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=reduce_range, weight_type=QuantType.QInt8
    )
