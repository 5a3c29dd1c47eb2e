"""Layouts that kernels like: the same network, written with other groups and channels, equal to the last bit.

onnxruntime's fast integer convolutions know dense layers, and depthwise ones whose channels are a multiple of 16 (x86-64)
or 8 (Arm); groups in between run one by one (``MlasConvSymPackWSize`` in onnxruntime's ``convsym.cpp``).  So
:func:`rewrite` merges neighbouring groups into one, with weights of zero between them, and pads the channels around
depthwise layers with channels of zeros that nothing reads.  For batches it writes some groups as a dense convolution of
their own (:mod:`equilib.pieces`).  All of this adds products with zero to a sum and nothing else: integers stay the same,
floating-point sums are the same up to the order of addition.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from dataclasses import dataclass, field, fields
from math import lcm
from pathlib import Path

import numpy as np

from equilib.checks import check_count
from equilib.conv_graph import CHANNELWISE, Conv, ConvGraph, Stored, has_subgraphs
from equilib.own_integers import own_integers
from equilib.pieces import cut
from equilib.self_test import check_weights


@dataclass(frozen=True)
class Layout:
    """How a graph is to be written.

    Attributes:
        group_channels: neighbouring groups become one while it has at most this many input channels; 1 merges nothing.
        depthwise_multiple: channels of depthwise convolutions become a multiple of it; 1 pads nothing.
        piece_channels: grouped convolutions become several dense ones, each of the fewest groups that have at least this
            many channels; 1 cuts nothing.  Those that cannot be cut are merged.
    """

    group_channels: int = 1
    depthwise_multiple: int = 1
    piece_channels: int = 1

    def __post_init__(self):
        for attribute in fields(self):
            check_count(attribute.name, getattr(self, attribute.name))


AS_WRITTEN = Layout()

# By what `python benchmarks/layouts.py` measured; benchmarks/layouts.json has its figures and the processors.  A pair of
# architecture and runtime that is missing has not been measured, and runs files as they are written; x86 without VNNI was
# not measured either, and takes the layouts of x86 with it.  The number is the
# smallest batch that a layout is for: many small convolutions cost a single patch more than the zeros that they save.
MEASURED = {
    ("x86_64", "onnxruntime"): {"INT8": {1: Layout(48, 16), 4: Layout(48, 16, 16)}, "FP32": {1: Layout(16, 16)}},
    # Decided when the program is written; in larger groups it would be slower, and more than half as large as FP32.
    ("x86_64", "executorch"): {"INT8": {1: Layout(16)}},
}


def architecture() -> str:
    """This machine's instruction set, by one name on every system: x86_64, aarch64 …"""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def measured_layout(
    precision: str, runtime: str = "onnxruntime", machine: str | None = None, *, batch: int = 1
) -> Layout:
    """The layout that was fastest where it was measured; as written where nothing was.

    Args:
        precision: "INT8" or "FP32".
        runtime: a name of :data:`equilib.runtimes.RUNTIMES`, or "executorch".
        machine: an instruction set as :func:`architecture` names it; by default this machine's.
        batch: how many patches it gets at once.
    """
    by_batch = MEASURED.get((machine or architecture(), runtime), {}).get(precision, {})
    return by_batch.get(max((smallest for smallest in by_batch if smallest <= batch), default=0), AS_WRITTEN)


def prepared(
    path: str | Path, runtime: str = "onnxruntime", layout: Layout | None = None, *, batch: int = 1
) -> str | bytes:
    """What to give to a runtime for an ONNX file: the network in this layout, by default the one that suits this machine
    and so many patches at once.

    It is the path itself where nothing is to be rewritten.

    It is rewritten when a session is made, not when the file is written: that takes 10 ms beside the session's own 20 for
    single patches and some 0.2 s for batches, while the file would be three times as large, and for one kind of processor.

    Raises:
        ChangedWeightsError: the file's weights are not those that were written.
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
    check_weights(model, path)
    result = rewrite(model, layout or measured_layout("INT8" if integers else "FP32", runtime, batch=batch))
    if runtime == "onnxruntime":
        result = own_integers(result)
    return str(path) if result is model else result.SerializeToString()


def rewrite(model, layout: Layout):
    """The same network in another layout: an ``onnx.ModelProto``; the one given is left alone.

    Convolutions, with weights in float or as integers behind DequantizeLinear, are rewritten where that is exact; what
    this does not understand stays as it is (weights used twice, scales per channel, graphs inside nodes).
    """
    from onnx import ModelProto

    if layout == AS_WRITTEN or has_subgraphs(model.graph):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    graph = ConvGraph(result.graph)
    changed = _pad(graph, layout.depthwise_multiple)
    graph.store()
    if cut(graph, layout.piece_channels):
        graph, changed = ConvGraph(result.graph), True
    changed |= _merge(graph, layout.group_channels)
    graph.store()
    if not changed:
        return model
    del result.graph.value_info[:]  # shapes inside the graph are others now
    return result


def _merge(graph: ConvGraph, group_channels: int) -> bool:
    """Merge as many neighbouring groups as divide their number and stay within ``group_channels``."""
    return any([conv.merge(group_channels) for conv in graph.convs.values()])


@dataclass
class _Channels:
    """Tensors that must have the same channels, with the convolutions around and inside."""

    before: list[Conv] = field(default_factory=list)
    inside: list[Conv] = field(default_factory=list)
    behind: list[Conv] = field(default_factory=list)
    open: bool = False  # something else reads or writes them

    def counts(self) -> set[int]:
        return {c.outputs for c in self.before + self.inside} | {c.inputs for c in self.behind}


def _pad(graph: ConvGraph, multiple: int) -> bool:
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


def _padded(constant: Stored, more: int, axis: int) -> np.ndarray:
    widths = [(0, more if dimension == axis else 0) for dimension in range(constant.array.ndim)]
    return np.pad(constant.array, widths, constant_values=constant.zero)


def _tied_channels(graph: ConvGraph) -> list[_Channels]:
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
