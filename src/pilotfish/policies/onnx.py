"""Policies as ONNX models, which run without Python: inputs as they are measured, actions within the plant's bounds.

    network            u = act(o)                  o (batch, do), what is observed; u (batch, du)
    with the time      u = act(o, t)               t (batch,), whole numbers from 0
    linear-gaussian    u = act(x, t, condition)    x (batch, dx), the state; t, condition (batch,), whole numbers from 0
    contextual         u = act(x, t, start)        start (batch, do), what was observed at the episode's start

Whitening and clipping are part of the model. Actions are without exploration. It computes in the policy's own
precision, float64 but for runs in float32, so that states far from 0 lose no digits. The file's metadata are those of a
safetensors file.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

INSTALL = "pip install 'pilotfish[onnx]'"
OPSET, IR = 17, 8
"""Of 2022: what runs on robots is seldom the newest."""


def written(tensors: Mapping[str, np.ndarray], words: Mapping[str, str]) -> bytes:
    """The model of what `files.packed` made of a policy. ValueError for a kind that is not known here.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.policies import files
    >>> from pilotfish.policies.onnx import written
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> content = written(*files.packed(pf.LinearGaussianPolicy(problem.first_controller), problem))
    >>> from onnx import load_model_from_string
    >>> [one.name for one in load_model_from_string(content).graph.input]
    ['x', 't', 'condition']
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ValueError(f"--format onnx needs the package onnx: {INSTALL}.") from error
    if (kind := words["policy"]) not in GRAPHS:
        raise ValueError(
            f"a policy of the kind {kind!r} cannot be written as ONNX, only {' and '.join(sorted(GRAPHS))}. "
            "Leave out --format: a safetensors file holds every kind."
        )
    model = GRAPHS[kind](_Graph(tensors), json.loads(words["settings"]))
    for name, word in words.items():
        model.metadata_props.add(key=name, value=word)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """A model as it is built: every operation names its one result."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.dtype = np.asarray(tensors["action_low"]).dtype
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[NodeProto] = []

    def constant(self, name: str, value: Any = None) -> str:
        """A constant: a tensor of the policy, or a value of its own."""
        array = np.asarray(self.tensors[name], self.dtype) if value is None else np.asarray(value)
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def __call__(self, operation: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        result = f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [result], **attributes))
        return result

    def entering(self, name: str, *shape: int, dtype: Any = None) -> "ValueInfoProto":
        """A quantity that enters, or leaves, for each of a batch."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    def finished(self, action: str, *inputs: "ValueInfoProto") -> "ModelProto":
        """The model that clips this action to the plant's bounds and gives it out as u."""
        from onnx import helper, numpy_helper

        above = self("Max", action, self.constant("action_low"))
        self.nodes.append(helper.make_node("Min", [above, self.constant("action_high")], ["u"]))
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        leaving = self.entering("u", len(self.tensors["action_low"]))
        graph = helper.make_graph(self.nodes, "policy", list(inputs), [leaving], constants)
        return helper.make_model(
            graph, producer_name="pilotfish", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)]
        )


def _network(graph: _Graph, settings: Mapping[str, Any]) -> "ModelProto":
    from onnx import helper

    tensors = graph.tensors
    seen, entering = "o", [graph.entering("o", len(tensors["shift"]) - bool(settings.get("time")))]
    if settings.get("time"):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(graph.dtype))
        over = graph(
            "Div", graph("Cast", "t", to=kind), graph.constant("steps", np.array([settings["steps"]], graph.dtype))
        )
        seen = graph("Concat", "o", graph("Unsqueeze", over, graph.constant("last", np.array([-1], np.int64))), axis=1)
        entering.append(graph.entering("t", dtype=np.int64))
    s = graph("Div", graph("Sub", seen, graph.constant("shift")), graph.constant("scale"))
    depth = sum(name.startswith("weight_") for name in tensors)
    for i in range(depth):
        weight, bias = np.asarray(tensors[f"weight_{i}"]), np.asarray(tensors[f"bias_{i}"])
        if i == depth - 1:  # what follows the action is of its noise
            weight, bias = weight[: len(tensors["chol"])], bias[: len(tensors["chol"])]
        product = graph("MatMul", s, graph.constant(f"weight_{i}", weight.T.astype(graph.dtype)))
        s = graph("Add", product, graph.constant(f"bias_{i}", bias.astype(graph.dtype)))
        if i < depth - 1:
            s = ACTIVATIONS[settings["activation"]](graph, s)
    return graph.finished(s, *entering)


def _softplus(graph: _Graph, s: str) -> str:
    """`max(s, 0) + log(1 + exp(-|s|))`, of which all parts are there in float64, and none overflows."""
    small = graph("Exp", graph("Neg", graph("Abs", s)))
    return graph(
        "Add", graph("Relu", s), graph("Log", graph("Add", small, graph.constant("one", np.ones(1, graph.dtype))))
    )


def _linear_gaussian(graph: _Graph, settings: Mapping[str, Any]) -> "ModelProto":
    axis = graph.constant("last", np.array([-1], np.int64))
    index = graph("Concat", graph("Unsqueeze", "condition", axis), graph("Unsqueeze", "t", axis), axis=1)
    gain = graph("GatherND", graph.constant("K"), index)
    product = graph("Squeeze", graph("MatMul", gain, graph("Unsqueeze", "x", axis)), axis)
    action = graph("Add", product, graph("GatherND", graph.constant("k"), index))
    whole = (graph.entering(name, dtype=np.int64) for name in ("t", "condition"))
    return graph.finished(action, graph.entering("x", graph.tensors["K"].shape[-1]), *whole)


def _contextual(graph: _Graph, settings: Mapping[str, Any]) -> "ModelProto":
    axis = graph.constant("last", np.array([-1], np.int64))
    index = graph("Unsqueeze", "t", axis)
    context = graph("Sub", "start", graph.constant("centre"))
    gain = graph.constant("gain", np.asarray(graph.tensors["gain"], graph.dtype).T)
    w = graph("Add", graph("MatMul", context, gain), graph.constant("mean"))
    action = graph("GatherND", graph.constant("k"), index)
    for matrix, vector in (("K", "x"), ("J", w)):
        chosen = graph("GatherND", graph.constant(matrix), index)
        product = graph("Squeeze", graph("MatMul", chosen, graph("Unsqueeze", vector, axis)), axis)
        action = graph("Add", action, product)
    x, start = (graph.entering(name, graph.tensors[of].shape[-1]) for name, of in (("x", "K"), ("start", "gain")))
    return graph.finished(action, x, graph.entering("t", dtype=np.int64), start)


GRAPHS: dict[str, Callable[[_Graph, Mapping[str, Any]], "ModelProto"]] = {
    "linear-gaussian": _linear_gaussian,
    "network": _network,
    "contextual": _contextual,
}
ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "relu": lambda graph, s: graph("Relu", s),
    "tanh": lambda graph, s: graph("Tanh", s),
    "softplus": _softplus,
}
