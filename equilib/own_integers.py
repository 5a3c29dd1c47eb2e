"""Each layer of an ONNX graph gets signed 8-bit constants of its own: what onnxruntime needs on x86 without VNNI.

There its fast kernels saturate, so :func:`equilib.device.session` asks for ``x64quantprecision``: weights become unsigned,
layer by layer.  onnxruntime 1.32 fails at the second layer that reads the same weights or zero point («Attempt to replace
the existing tensor»).  Exporters share such tensors, and pieces of a layer (:mod:`equilib.pieces`) share their zero point.
"""

from __future__ import annotations

from equilib.conv_graph import copied, has_subgraphs, keep_nodes


def own_integers(model):
    """The same network, in which no two nodes read one signed 8-bit constant: an ``onnx.ModelProto``.

    It is done for all processors, so that all of them run the same graph.

    Returns:
        ``model`` itself where nothing is shared; it is left alone.
    """
    from onnx import ModelProto

    if has_subgraphs(model.graph):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    changed = False
    # A DequantizeLinear that is copied reads the same constants once more.
    while _own_nodes(graph):
        changed = True
    return result if _own_initializers(graph) or changed else model


def _integers(graph) -> set[str]:
    """The names of signed 8-bit constants; an initializer that is an input, too, is whatever the caller gives."""
    from onnx import TensorProto

    found = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].t.data_type == TensorProto.INT8:
            found.add(node.output[0])
    return found - {value.name for value in graph.input}


def _own_nodes(graph) -> bool:
    """Copy nodes that give a signed 8-bit constant, or what it stands for, to several nodes; one for each reader."""
    integers = _integers(graph)
    sources = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Constant"
        and node.output[0] in integers
        or node.op_type == "DequantizeLinear"
        and node.input[0] in integers
    }
    nodes = []
    met: set[str] = set()
    for node in graph.node:
        for place, name in _later_reads(node, sources, met):
            node.input[place] = f"{name}/{node.output[0]}/{place}"
            nodes.append(copied(sources[name], sources[name].input, node.input[place]))
        nodes.append(node)
    if len(nodes) == len(graph.node):
        return False
    keep_nodes(graph, nodes)
    return True


def _own_initializers(graph) -> bool:
    """Copy signed 8-bit initializers that several nodes read."""
    integers = _integers(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name in integers}
    count, met = len(graph.initializer), set()
    for node in graph.node:
        for place, name in _later_reads(node, tensors, met):
            node.input[place] = f"{name}/{node.output[0]}/{place}"
            graph.initializer.add().CopyFrom(tensors[name])
            graph.initializer[-1].name = node.input[place]
    return len(graph.initializer) > count


def _later_reads(node, names, met: set[str]) -> list[tuple[int, str]]:
    """Place and name of a node's inputs that are among these names and were met before; all of them are met then."""
    found = []
    for place, name in enumerate(node.input):
        if name in names and name in met:
            found.append((place, name))
        met.add(name)
    return found
