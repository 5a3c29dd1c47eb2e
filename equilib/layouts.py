"""Layouts that kernels like: the same network, written with other groups and channels, equal to the last bit.

onnxruntime's fast integer convolutions know dense layers, and depthwise ones whose channels are a multiple of 16 (x86-64)
or 8 (Arm); groups in between run one by one (``MlasConvSymPackWSize`` in onnxruntime's ``convsym.cpp``).  So
:func:`rewrite` merges neighbouring groups into one, with weights of zero between them, and pads the channels around
depthwise layers with channels of zeros that nothing reads.  Both add products with zero to a sum and nothing else:
integers stay the same, floating-point sums are the same up to the order of addition.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a graph is to be written.

    Attributes:
        group_channels: neighbouring groups become one while it has at most this many input channels; 1 merges nothing.
        depthwise_multiple: channels of depthwise convolutions become a multiple of it; 1 pads nothing.
    """

    group_channels: int = 1
    depthwise_multiple: int = 1

    def __post_init__(self):
        for name in ("group_channels", "depthwise_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


AS_WRITTEN = Layout()

# By what `python benchmarks/layouts.py` measured; benchmarks/layouts.json has its figures and the processors.  A pair of
# architecture and runtime that is missing has not been measured, and runs files as they are written.
MEASURED = {
    ("x86_64", "onnxruntime"): {"INT8": Layout(48, 16), "FP32": Layout(16, 16)},
}


def architecture() -> str:
    """This machine's instruction set, by one name on every system: x86_64, aarch64 …"""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def measured_layout(precision: str, runtime: str = "onnxruntime", machine: str | None = None) -> Layout:
    """The layout that was fastest where it was measured; as written where nothing was.

    Args:
        precision: "INT8" or "FP32".
        runtime: a name of :data:`equilib.runtimes.RUNTIMES`.
        machine: an instruction set as :func:`architecture` names it; by default this machine's.
    """
    return MEASURED.get((machine or architecture(), runtime), {}).get(precision, AS_WRITTEN)


def prepared(path: str | Path, runtime: str = "onnxruntime", layout: Layout | None = None) -> str | bytes:
    """What to give to a runtime for an ONNX file: the network in this layout, by default the one that suits this machine.

    It is the path itself where nothing is to be rewritten.

    It is rewritten when a session is made, not when the file is written: that takes 10 ms beside the session's own 20,
    while the file would be three times as large, and for one kind of processor.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        return str(path)  # the runtime says what is wrong with it
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return str(path)  # found from the path alone
    integers = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    result = rewrite(model, layout or measured_layout("INT8" if integers else "FP32", runtime))
    return str(path) if result is model else result.SerializeToString()


# Each value of a channel comes from values of the same channel alone, by the same rule for all channels.
CHANNELWISE = {"Relu", "Clip", "Identity", "MaxPool", "AveragePool", "QuantizeLinear", "DequantizeLinear"}


def rewrite(model, layout: Layout):
    """The same network in another layout: an ``onnx.ModelProto``; the one given is left alone.

    Convolutions, with weights in float or as integers behind DequantizeLinear, are rewritten where that is exact; what
    this does not understand stays as it is (weights used twice, scales per channel, graphs inside nodes).
    """
    from onnx import ModelProto

    if layout == AS_WRITTEN or any(attribute.HasField("g") for n in model.graph.node for attribute in n.attribute):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    graph = _Graph(result.graph)
    changed = _pad(graph, layout.depthwise_multiple)
    changed |= _merge(graph, layout.group_channels)
    if not changed:
        return model
    graph.store()
    del result.graph.value_info[:]  # shapes inside the graph are others now
    return result


@dataclass
class _Stored:
    """A constant of a convolution: where it is stored, and the number that stands for 0 there."""

    name: str
    array: np.ndarray
    zero: int = 0
    per_tensor: bool = True


@dataclass
class _Conv:
    node: object
    weight: _Stored
    bias: _Stored | None
    groups: int

    @property
    def inputs(self) -> int:
        return self.weight.array.shape[1] * self.groups

    @property
    def outputs(self) -> int:
        return self.weight.array.shape[0]

    @property
    def depthwise(self) -> bool:
        return self.groups == self.inputs == self.outputs > 1

    @property
    def constants(self) -> list[_Stored]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class _Graph:
    """The convolutions of a graph whose constants can be rewritten; ``store`` writes them back."""

    def __init__(self, graph):
        self.graph = graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.users = defaultdict(int)
        for node in graph.node:
            for name in node.input:
                self.users[name] += 1
        # An initializer that is an input of the graph too can be replaced by whoever runs it.
        self.fixed = set(self.initializers) - {value.name for value in graph.input}
        self.fixed -= {value.name for value in graph.output}
        self.convs = {id(node): conv for node in graph.node if (conv := self._conv(node))}

    def _conv(self, node) -> _Conv | None:
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            return None
        weight = self._stored(node.input[1])
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self._stored(node.input[2]) if has_bias else None
        if weight is None or has_bias and bias is None:
            return None
        return _Conv(node, weight, bias, next((a.i for a in node.attribute if a.name == "group"), 1))

    def _stored(self, name: str) -> _Stored | None:
        from onnx import numpy_helper

        if self.users[name] != 1:
            return None
        if name in self.fixed:
            return _Stored(name, numpy_helper.to_array(self.initializers[name]))
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in self.fixed:
            return None
        source, *parameters = node.input
        if self.users[source] != 1 or not all(parameter in self.fixed for parameter in parameters):
            return None
        scale, *zero_points = (numpy_helper.to_array(self.initializers[parameter]) for parameter in parameters)
        zeros = set(np.unique(zero_points[0]).tolist()) if zero_points else {0}
        if len(zeros) > 1:
            return None
        array = numpy_helper.to_array(self.initializers[source])
        return _Stored(source, array, zeros.pop(), per_tensor=scale.size == 1)

    def per_tensor(self, node) -> bool:
        """Whether a (de)quantization has one scale for all channels."""
        scale = self.initializers.get(node.input[1])
        return scale is not None and int(np.prod(scale.dims)) == 1

    def store(self) -> None:
        from onnx import helper, numpy_helper

        for conv in self.convs.values():
            for constant in conv.constants:
                tensor = self.initializers[constant.name]
                if tuple(tensor.dims) != constant.array.shape:
                    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(constant.array), constant.name))
            kept = [attribute for attribute in conv.node.attribute if attribute.name != "group"]
            del conv.node.attribute[:]
            conv.node.attribute.extend([*kept, helper.make_attribute("group", conv.groups)])


def _merge(graph: _Graph, group_channels: int) -> bool:
    """Merge as many neighbouring groups as divide their number and stay within ``group_channels``."""
    changed = False
    for conv in graph.convs.values():
        outputs, width, *kernel = conv.weight.array.shape
        if conv.groups == 1 or width == 1:  # dense, depthwise
            continue
        merged = max(
            k for k in range(1, conv.groups + 1) if conv.groups % k == 0 and (k == 1 or k * width <= group_channels)
        )
        if merged == 1:
            continue
        changed = True
        groups = conv.groups // merged
        # (new groups, merged, outputs of one, merged, inputs of one, …): what a group has of another one is 0.
        wide = np.full((groups, merged, outputs // conv.groups, merged, width, *kernel), conv.weight.zero)
        wide = wide.astype(conv.weight.array.dtype)
        narrow = conv.weight.array.reshape(groups, merged, outputs // conv.groups, width, *kernel)
        for place in range(merged):
            wide[:, place, :, place] = narrow[:, place]
        conv.weight.array = wide.reshape(outputs, merged * width, *kernel)
        conv.groups = groups
    return changed


@dataclass
class _Channels:
    """Tensors that must have the same channels, with the convolutions around and inside."""

    before: list[_Conv] = field(default_factory=list)
    inside: list[_Conv] = field(default_factory=list)
    behind: list[_Conv] = field(default_factory=list)
    open: bool = False  # something else reads or writes them

    def counts(self) -> set[int]:
        return {c.outputs for c in self.before + self.inside} | {c.inputs for c in self.behind}


def _pad(graph: _Graph, multiple: int) -> bool:
    """Pad the channels around depthwise convolutions to a multiple, where all who read and write them can be padded."""
    changed = False
    for channels in _tied_channels(graph):
        wanted = [conv for conv in channels.inside if conv.depthwise and conv.outputs % multiple]
        written = channels.before + channels.inside
        if not wanted or channels.open or len(channels.counts()) != 1:
            continue
        if not all(constant.per_tensor for conv in written for constant in conv.constants):
            continue
        unit = lcm(multiple, *(conv.weight.array.shape[1] for conv in channels.inside))
        more = -wanted[0].outputs % unit
        for conv in written:
            for constant in conv.constants:
                constant.array = _padded(constant, more, axis=0)
        for conv in channels.inside:
            conv.groups += more // conv.weight.array.shape[1]
        for conv in channels.behind:
            conv.weight.array = _padded(conv.weight, more, axis=1)
        changed = True
    return changed


def _padded(constant: _Stored, more: int, axis: int) -> np.ndarray:
    widths = [(0, more if dimension == axis else 0) for dimension in range(constant.array.ndim)]
    return np.pad(constant.array, widths, constant_values=constant.zero)


def _tied_channels(graph: _Graph) -> list[_Channels]:
    """The activations, partitioned by which must have the same channels."""
    parent: dict[str, str] = {}

    def root(name):
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    def tie(*names):
        for name in names[1:]:
            parent[root(name)] = root(names[0])

    constants = set(graph.initializers)
    constants |= {n.output[0] for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    ends = []  # (tensor, its list in _Channels, convolution); None for what cannot be padded
    for node in graph.graph.node:
        conv = graph.convs.get(id(node))
        data = [name for name in node.input if name and name not in constants]
        plain = node.op_type in CHANNELWISE and len(node.output) == 1
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            plain = graph.per_tensor(node)
        if not data and node.output[0] in constants:
            continue
        if conv and conv.groups == 1:
            ends += [(node.input[0], "behind", conv), (node.output[0], "before", conv)]
        elif conv and conv.outputs == conv.inputs:
            tie(node.input[0], node.output[0])
            ends.append((node.output[0], "inside", conv))
        elif plain and len(data) == 1 or node.op_type == "Add" and len(data) == 2:
            tie(*data, node.output[0])
        else:
            ends += [(name, None, None) for name in (*data, *node.output)]
    ends += [(value.name, None, None) for value in (*graph.graph.input, *graph.graph.output)]
    result: dict[str, _Channels] = defaultdict(_Channels)
    for name, side, conv in ends:
        channels = result[root(name)]
        if side is None:
            channels.open = True
        else:
            getattr(channels, side).append(conv)
    return list(result.values())
