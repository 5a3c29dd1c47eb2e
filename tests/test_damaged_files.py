"""Files that were cut, zeroed, flipped, lengthened or swapped for others: the right answer, or one sentence with the name.

``EQUILIB_DAMAGED`` says how many files of each kind are tried (40); a nightly run may try thousands.
"""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from equilib.cli.predict import open_model
from equilib.hdf5 import PatchFileError
from equilib.images import image_files, read_images
from equilib.mobilenet import MobileNetConfig, build
from equilib.pcam import Patches, split_path
from equilib.results import read_results
from equilib.runs import TrainConfig, claim, load_network, save_checkpoint

COUNT = int(os.environ.get("EQUILIB_DAMAGED", 40))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
# Well packed: a flipped bit of noise is a wrong number, one of this is another picture.
SMOOTH = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None], (96, 96, 3)).copy()
CONFIG = TrainConfig("conventional", MobileNetConfig(width=0.1, group="C4"), epochs=3)
DIGESTS = {"train": "aa", "valid": "bb"}


# --- whole files ---


def write_split(folder):
    with h5py.File(split_path(folder, "test", "y"), "w") as file:
        file["y"] = np.array([0, 1, 1], np.uint8).reshape(-1, 1, 1, 1)


def packed(version):
    def write(folder):
        write_split(folder)
        with h5py.File(split_path(folder, "test", "x"), "w", libver=version) as file:
            file.create_dataset("x", data=PIXELS, chunks=(2, 96, 96, 3), compression="gzip", fletcher32=True)
        return split_path(folder, "test", "x")

    return write


def contiguous(folder):
    write_split(folder)
    with h5py.File(split_path(folder, "test", "x"), "w") as file:
        file["x"] = PIXELS
    return split_path(folder, "test", "x")


def labels(folder):
    contiguous(folder)
    return split_path(folder, "test", "y")


def own_h5(folder):
    with h5py.File(folder / "mine.h5", "w") as file:
        file["x"] = PIXELS
    return folder / "mine.h5"


def picture(name, pixels=PIXELS[0], **options):
    def write(folder):
        Image.fromarray(pixels).save(folder / name, **options)
        return folder / name

    return write


def checkpoint(name):
    def write(folder):
        torch.manual_seed(0)
        network = build(CONFIG.kind, CONFIG.network)
        contents = {"state_dict": network.state_dict(), "equilib": CONFIG.to_dict(), "epoch": 0, "processes": 1}
        contents |= {"callbacks": {"History": {}}, "optimizer_states": [{0: 0}]}
        contents |= {"lr_schedulers": [{0: 0}], "loops": {"fit_loop": {0: 0}}}
        for one in {name, "best.ckpt"}:
            save_checkpoint(contents | {"patches": DIGESTS}, folder / one)
        return folder / name

    return write


def model(folder):
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 2)).astype("f4"), "W")
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["logits"]),
    ]
    takes = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 95, 95])]
    gives = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "graph", takes, gives, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    return folder / "m.onnx"


def json_file(name, values):
    def write(folder):
        (folder / name).write_text(json.dumps(values))
        return folder / name

    return write


# --- readers ---


def split(path):
    return Patches(path.parent, "test").images([2, 0, 1])


def patches_of(path):
    return np.concatenate([image for file in image_files(path) for _, image in read_images(file, 95)])


def weights_of(path):
    return np.concatenate([value.double().flatten() for value in load_network(path)[0].state_dict().values()])


def classified(path):
    return open_model(path).probabilities(torch.ones(1, 3, 95, 95)).numpy()


def results_of(path):
    return np.array(sorted(map(str, read_results(path).items())))


def claimed(path):
    found = claim(path.parent, CONFIG, DIGESTS, writes=False)
    return np.array([found and found.name], dtype=str)


# How to write the file, how to read it, and whether its format has check sums, so that it must be read right or not at all.
KINDS = {
    # The oldest layout has check sums for the pixels, but none for the headers that say where they lie.
    "PCam, packed": (packed("earliest"), split, False),
    "PCam, packed, newer layout": (packed("latest"), split, True),
    "PCam, contiguous": (contiguous, split, False),
    "PCam, labels": (labels, split, False),
    "own .h5": (own_h5, patches_of, False),
    "PNG": (picture("a.png"), patches_of, True),
    "PNG, smooth": (picture("s.png", SMOOTH), patches_of, True),
    "JPEG": (picture("a.jpg", quality=90), patches_of, False),
    "TIFF": (picture("a.tif"), patches_of, False),
    "TIFF, LZW": (picture("b.tif", compression="tiff_lzw"), patches_of, False),
    "weights": (checkpoint("x.pt"), weights_of, True),
    "last.ckpt": (checkpoint("last.ckpt"), claimed, True),
    "config.json": (json_file("config.json", CONFIG.to_dict()), claimed, False),
    "results": (json_file("r.json", {"a": [1, 2.5], "b": {"c": "d"}}), results_of, False),
    "ONNX": (model, classified, False),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Of each kind: the folder's files, the one to be damaged, and what its reader says of it."""
    found = {}
    for name, (write, read, _) in KINDS.items():
        folder = tmp_path_factory.mktemp("whole")
        path = write(folder)
        found[name] = {file.name: file.read_bytes() for file in folder.iterdir()}, path.name, read(path)
    return found


def damaged(content, others, how, where, length, bit):
    """The content with one thing wrong."""
    start = int(where * len(content))
    end = min(len(content), start + 1 + int(length**4 * len(content)))  # mostly little
    if how == "cut":
        return content[:start]
    if how == "beheaded":
        return content[end:]
    if how == "zeroed":
        return content[:start] + bytes(end - start) + content[end:]
    if how == "flipped":
        return content[:start] + bytes([content[start] ^ (1 << bit)]) + content[start + 1 :]
    if how == "doubled":
        return content[:end] + content[start:]
    if how == "noise":
        return content[:start] + np.random.default_rng(bit).bytes(end - start) + content[end:]
    return others[int(where * len(others))]


SHAPES = ("cut", "beheaded", "zeroed", "flipped", "doubled", "noise", "foreign")
share = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_or_one_sentence(originals, tmp_path_factory, kind):
    _, read, checked = KINDS[kind]
    files, name, expected = originals[kind]
    others = [b"", b"\n", b"<html>", b"\x1f\x8b" + bytes(50), *(one[0][one[1]] for one in originals.values())]
    folder = tmp_path_factory.mktemp("damaged")
    for other, content in files.items():
        (folder / other).write_bytes(content)

    @settings(
        max_examples=COUNT,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(SHAPES), share, share, st.integers(0, 7))
    def check(how, where, length, bit):
        content = damaged(files[name], others, how, where, length, bit)
        (folder / name).write_bytes(content)
        try:
            answer = read(folder / name)
        except (ValueError, OSError, PatchFileError, ArithmeticError) as error:
            # Of the file itself, or of what belongs to it (the pixels of these labels).
            assert any(other in str(error) for other in files), f"{how}: {error!r} names no file"
            assert "Traceback" not in str(error)
        else:
            if checked and content != files[name] and how != "foreign":
                assert np.array_equal(answer, expected), f"{how} at {where}: another answer, without a word"
            assert answer.size or not expected.size
            assert answer.dtype.kind not in "f" or answer.dtype == expected.dtype
        now = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert now == files | {name: content}, "a file was changed, deleted or left behind"

    check()


def test_a_reader_that_says_nothing_would_be_noticed(originals, tmp_path_factory, monkeypatch):
    """The check above bites: a reader that lets an exception through, or answers all the same, turns it red."""
    monkeypatch.setitem(KINDS, "PNG", (None, lambda path: {}[path], True))
    with pytest.raises(KeyError):
        test_the_right_answer_or_one_sentence(originals, tmp_path_factory, "PNG")
    monkeypatch.setitem(KINDS, "PNG", (None, lambda path: np.zeros(3), True))
    with pytest.raises(AssertionError, match="another answer"):
        test_the_right_answer_or_one_sentence(originals, tmp_path_factory, "PNG")
    monkeypatch.setitem(KINDS, "PNG", (None, lambda path: Path(path).unlink() or originals["PNG"][2], True))
    with pytest.raises(AssertionError, match="deleted"):
        test_the_right_answer_or_one_sentence(originals, tmp_path_factory, "PNG")
