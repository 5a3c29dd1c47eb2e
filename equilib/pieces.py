"""Grouped convolutions of an ONNX graph cut into dense ones, equal to the last bit.

``y = Conv(x)`` in groups becomes ``y = Concat(Conv(x1), Conv(x2), …)``, each of a few neighbouring groups and dense, with
weights of zero between them.  What is done channel by channel may be done before or after: so the pieces of x are taken
where x is made, by the same cut of the dense convolution before (an inverted bottleneck's expansion), and put together
where y is quantized.  Integers are what is cut and put together, and runtimes still see each convolution between its own
DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

from collections import defaultdict
from math import lcm

import numpy as np

from equilib.conv_graph import Conv, ConvGraph, Stored, copied, keep_nodes, merged_groups

# Done channel by channel, between a convolution and where its result is quantized.
_BETWEEN = {"Relu", "Clip", "QuantizeLinear"}
# onnxruntime's dense integer kernels want channels in fours (``MlasConvSymPackWSize``).
_MULTIPLE = 4


def cut(graph: ConvGraph, piece_channels: int) -> bool:
    """Cut each grouped, not depthwise, convolution into dense ones with at least so many channels; 1 cuts nothing.

    Left alone is what has scales per channel, and what has no such piece but the whole.

    Returns:
        Whether anything was cut; then ``graph`` describes a graph that is no more.
    """
    if piece_channels == 1:
        return False
    readers = _readers(graph)
    cuts = [found for conv in graph.convs.values() if (found := _Cut.of(graph, readers, conv, piece_channels))]
    if not cuts:
        return False
    replaced = {id(one.last): one.nodes() for one in cuts}
    nodes = [other for node in graph.graph.node for other in replaced.get(id(node), [node])]
    keep_nodes(graph.graph, _used(nodes, {value.name for value in graph.graph.output}))
    return True


class _Cut:
    """One grouped convolution, what is around it, and how many groups a piece has."""

    def __init__(self, graph: ConvGraph, readers: dict[str, list], conv: Conv, merged: int):
        self.graph, self.readers, self.conv, self.merged = graph, readers, conv, merged
        self.count = conv.groups // merged
        self.behind = self._followers(conv.node)
        self.last = self.behind[-1] if self.behind else conv.node
        # Integers are cut, not what DequantizeLinear makes of them: each piece gets one of its own.
        producer = graph.producers.get(conv.node.input[0])
        self.dequantize = producer if producer and producer.op_type == "DequantizeLinear" else None
        if self.dequantize and not graph.per_tensor(self.dequantize):
            self.dequantize = None
        self.source = self.dequantize.input[0] if self.dequantize else conv.node.input[0]

    @classmethod
    def of(cls, graph: ConvGraph, readers: dict[str, list], conv: Conv, piece_channels: int) -> _Cut | None:
        width, rows = conv.weight.array.shape[1], conv.outputs // conv.groups
        if conv.groups == 1 or width == 1 or not all(constant.per_tensor for constant in conv.constants):
            return None
        unit = lcm(width, _MULTIPLE) // width  # groups
        for merged in range(unit, conv.groups, unit):
            if conv.groups % merged == 0 and merged * min(width, rows) >= piece_channels:
                return cls(graph, readers, conv, merged)
        return None

    def nodes(self) -> list:
        """What takes the place of the last of the nodes that are replaced; the others are read by nothing then."""
        from onnx import helper, numpy_helper

        dense = self._dense()
        columns, rows = self.conv.inputs // self.count, self.conv.outputs // self.count
        result, outputs = [], []
        if dense is None:
            pieces = [f"{self.source}/{self.last.output[0]}/{i}" for i in range(self.count)]
            sizes = numpy_helper.from_array(np.full(self.count, columns), f"{self.last.output[0]}/sizes")
            self.graph.graph.initializer.append(sizes)
            result.append(helper.make_node("Split", [self.source, sizes.name], pieces, axis=1))
        weight = merged_groups(self.conv.weight.array, self.conv.groups, self.merged, self.conv.weight.zero)
        for i in range(self.count):
            if dense is not None:
                kernel = dense.weight.array[i * columns : (i + 1) * columns]
                made = self._piece(dense, i, columns, kernel, dense.node.input[0], self._followers(dense.node))
                result += made
                x = made[-1].output[0]
            else:
                x = pieces[i]
            if self.dequantize:
                result.append(copied(self.dequantize, [x, *self.dequantize.input[1:]], f"{x}/dequantized"))
                x = result[-1].output[0]
            result += self._piece(self.conv, i, rows, weight[i * rows : (i + 1) * rows], x, self.behind)
            outputs.append(result[-1].output[0])
        return [*result, helper.make_node("Concat", outputs, [self.last.output[0]], axis=1)]

    def _dense(self) -> Conv | None:
        """The dense convolution whose outputs are the pieces' inputs, if nothing else reads them."""
        name = self.source
        if self.dequantize and self.readers[self.conv.node.input[0]] != [self.conv.node]:
            return None
        while (node := self.graph.producers.get(name)) is not None and node.op_type in _BETWEEN:
            if len(self.readers[name]) != 1:
                return None
            name = node.input[0]
        conv = self.graph.convs.get(id(node))
        if conv is None or conv.groups != 1 or not all(constant.per_tensor for constant in conv.constants):
            return None
        followers = self._followers(node)
        reached = followers[-1].output[0] if followers else node.output[0]
        return conv if reached == self.source and len(self.readers[reached]) == 1 else None

    def _followers(self, node) -> list:
        """The nodes behind a convolution that may be done piece by piece, up to the first quantization."""
        result = []
        while len(readers := self.readers[node.output[0]]) == 1 and readers[0] is not None:
            node = readers[0]
            quantizes = node.op_type == "QuantizeLinear"
            if node.op_type not in _BETWEEN or quantizes and not self.graph.per_tensor(node):
                break
            result.append(node)
            if quantizes:
                break
        return result

    def _piece(self, conv: Conv, place: int, rows: int, weight: np.ndarray, x: str, followers: list) -> list:
        """One dense convolution with so many of a convolution's outputs, and what follows it."""
        from onnx import helper

        arrays = [weight] if conv.bias is None else [weight, conv.bias.array[place * rows : (place + 1) * rows]]
        nodes, inputs = [], [x]
        for name, constant, array in zip(conv.node.input[1:], conv.constants, arrays):
            inputs.append(self._constant(nodes, name, constant, array, f"/{place}"))
        node = copied(conv.node, inputs, f"{conv.node.output[0]}/{place}")
        kept = [attribute for attribute in node.attribute if attribute.name != "group"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("group", 1)])
        nodes.append(node)
        for follower in followers:
            inputs = [nodes[-1].output[0], *follower.input[1:]]
            nodes.append(copied(follower, inputs, f"{follower.output[0]}/{place}"))
        return nodes

    def _constant(self, nodes: list, name: str, constant: Stored, array: np.ndarray, suffix: str) -> str:
        """The name of a piece of a constant, stored as the whole is: in floating point, or behind DequantizeLinear."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.ascontiguousarray(array), constant.name + suffix)
        self.graph.graph.initializer.append(tensor)
        if constant.name == name:
            return tensor.name
        dequantize = self.graph.producers[name]
        nodes.append(copied(dequantize, [tensor.name, *dequantize.input[1:]], name + suffix))
        return nodes[-1].output[0]


def _readers(graph: ConvGraph) -> dict[str, list]:
    """The nodes that read a tensor; None stands for whoever runs the graph."""
    result = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            result[name].append(node)
    for value in graph.graph.output:
        result[value.name].append(None)
    return result


def _used(nodes: list, wanted: set[str]) -> list:
    """The nodes that the wanted tensors need, in order."""
    result = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted |= set(node.input)
            result.append(node)
    return result[::-1]
