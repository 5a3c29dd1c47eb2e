"""The convolutions of an ONNX graph, with weights that can be rewritten; :mod:`equilib.layouts` rewrites them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Each value of a channel comes from values of the same channel alone, by the same rule for all channels.
CHANNELWISE = {"Relu", "Clip", "Identity", "MaxPool", "AveragePool", "QuantizeLinear", "DequantizeLinear"}


@dataclass
class Stored:
    """A constant of a convolution: where it is stored, and the number that stands for 0 there."""

    name: str
    array: np.ndarray
    zero: int = 0
    per_tensor: bool = True


@dataclass
class Conv:
    node: object
    weight: Stored
    bias: Stored | None
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
    def constants(self) -> list[Stored]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def merge(self, group_channels: int) -> bool:
        """Merge neighbouring groups (:func:`merged_groups`), in place; whether there were any to merge."""
        merged = mergeable(self.groups, self.weight.array.shape[1], group_channels)
        if merged == 1:
            return False
        self.weight.array = merged_groups(self.weight.array, self.groups, merged, self.weight.zero)
        self.groups //= merged
        return True


def mergeable(groups: int, width: int, group_channels: int) -> int:
    """How many neighbouring groups of ``width`` input channels become one: as many as divide their number and stay within
    ``group_channels``; 1, for none, where a layer is dense or depthwise."""
    if groups == 1 or width == 1:
        return 1
    return max(k for k in range(1, groups + 1) if groups % k == 0 and (k == 1 or k * width <= group_channels))


def merged_groups(weight: np.ndarray, groups: int, merged: int, zero: int = 0) -> np.ndarray:
    """A convolution's weight with ``merged`` neighbouring groups in one: what a group has of another one is 0.

    Args:
        weight: (outputs, inputs / groups, height, width).
        groups: of the convolution.
        merged: divides them.
        zero: the number that stands for 0.

    Returns:
        (outputs, merged * inputs / groups, height, width), for ``groups / merged`` groups: the same sums, and products
        with zero.
    """
    outputs, width, *kernel = weight.shape
    rows = outputs // groups
    # (new groups, merged, outputs of one, merged, inputs of one, …)
    wide = np.full((groups // merged, merged, rows, merged, width, *kernel), zero, weight.dtype)
    narrow = weight.reshape(groups // merged, merged, rows, width, *kernel)
    for place in range(merged):
        wide[:, place, :, place] = narrow[:, place]
    return wide.reshape(outputs, merged * width, *kernel)


class ConvGraph:
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

    def _conv(self, node) -> Conv | None:
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            return None
        weight = self._stored(node.input[1])
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self._stored(node.input[2]) if has_bias else None
        if weight is None or has_bias and bias is None:
            return None
        return Conv(node, weight, bias, next((a.i for a in node.attribute if a.name == "group"), 1))

    def _stored(self, name: str) -> Stored | None:
        from onnx import numpy_helper

        if self.users[name] != 1:
            return None
        if name in self.fixed:
            return Stored(name, numpy_helper.to_array(self.initializers[name]))
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
        return Stored(source, array, zeros.pop(), per_tensor=scale.size == 1)

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


def has_subgraphs(graph) -> bool:
    """Whether a node holds a graph of its own, as If and Loop do."""
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def copied(node, inputs: Iterable[str], output: str):
    """A node of the same kind with other inputs and another output."""
    from onnx import NodeProto

    result = NodeProto()
    result.CopyFrom(node)
    del result.input[:], result.output[:]
    result.name = f"{node.op_type}/{output}"
    result.input.extend(inputs)
    result.output.append(output)
    return result


def keep_nodes(graph, nodes: list) -> None:
    """Make these the nodes of a graph, and drop constants that none of them reads."""
    from onnx import NodeProto, TensorProto

    def copies(kind, items):
        result = [kind() for _ in items]
        for copy, item in zip(result, items):
            copy.CopyFrom(item)
        return result

    read = {name for node in nodes for name in node.input} | {v.name for v in (*graph.input, *graph.output)}
    nodes, constants = copies(NodeProto, nodes), copies(TensorProto, [t for t in graph.initializer if t.name in read])
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
