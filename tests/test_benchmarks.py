"""The benchmarks run, and the README shows what they last gave.  No time is tested: that would test the machine."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import data_path  # noqa: E402
import families  # noqa: E402
import fresh  # noqa: E402
import networks  # noqa: E402
import runtime_tables  # noqa: E402
import runtimes  # noqa: E402
import speed  # noqa: E402
import speed_tables  # noqa: E402
import training_step  # noqa: E402
import turned  # noqa: E402
import wasm  # noqa: E402

from equilib import device, marks, results  # noqa: E402
from equilib.budget import BUDGETS  # noqa: E402
from equilib.cli.process import until_closed  # noqa: E402
from equilib.equivariance import run_model  # noqa: E402
from equilib.pcam import Patches, network_inputs  # noqa: E402
from equilib.synthetic import ensure_dataset  # noqa: E402


def test_the_readmes_show_the_saved_tables():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert marks.shown("make bench", ROOT / "benchmarks" / "README.md") == speed.tables(saved)


def test_the_readme_shows_the_families_as_saved():
    saved = json.loads(families.SAVED.read_text())
    assert marks.shown("families", families.README) == families.table(saved)
    assert marks.shown("cost", ROOT / "README.md") == families.cost(saved)
    assert list(saved["networks"]) == [variant.timed_as for variant in families.VARIANTS]


@pytest.mark.parametrize("options", [[], ["--only-memory"]])
def test_saved_families_are_shown(tmp_path, monkeypatch, options):
    """The command's own way to its files; nothing is measured."""
    saved = json.loads(families.SAVED.read_text())["networks"]
    for name in ("SAVED", "README", "MAIN_README"):
        path = getattr(families, name)
        copied = tmp_path / name / path.name
        copied.parent.mkdir()
        shutil.copy(path, copied)
        monkeypatch.setattr(families, name, copied)
    monkeypatch.setattr(families, "measure", lambda quick: saved)
    monkeypatch.setattr(families, "memory", lambda: dict.fromkeys(saved, 987.0))
    monkeypatch.setattr(sys, "argv", ["families.py", "--save", *options])
    families.main()
    anew = json.loads(families.SAVED.read_text())
    assert {one["step_mib"] for one in anew["networks"].values()} == {987.0}
    assert marks.shown("families", families.README) == families.table(anew)
    assert "987 against 987 MiB" in marks.shown("cost", families.MAIN_README)


def test_another_processors_ratios_stand_beside_those_that_are_saved(tmp_path, monkeypatch):
    saved = json.loads(families.SAVED.read_text()) | {"elsewhere": {}}
    monkeypatch.setattr(families, "SAVED", tmp_path / "families.json")
    families.SAVED.write_text(json.dumps(saved))
    faster = json.loads(json.dumps(saved["networks"]))
    paper = families.VARIANTS[2].timed_as
    faster[paper]["ms"]["INT8"]["1"] = 1.5 * saved["networks"][families.VARIANTS[0].timed_as]["ms"]["INT8"]["1"]
    monkeypatch.setattr(families, "measure", lambda quick: faster)
    monkeypatch.setattr(families.marks, "write", lambda *_: None)
    where = {"processor": "A 1", "date": "today"}
    monkeypatch.setattr(families, "where_and_when", lambda: dict(where))
    monkeypatch.setattr(sys, "argv", ["families.py", "--save", "--only-ratios"])
    families.main()
    anew = json.loads(families.SAVED.read_text())
    assert anew | {"elsewhere": {}} == saved and list(anew["elsewhere"]) == ["A 1"]
    rows = {(row["ratio"], row["of"]): row for row in families.against_limits(anew)}
    row = rows["C12, field-wise / conventional", "INT8, batch 1"]
    (here,) = (key for key in row if key.startswith("A 1, "))
    assert row[here] == "×1.50; yes" and len(row) == 5, "the saved one's stand there as before"


def test_a_field_wise_step_takes_longer_as_notebook_04_says():
    """…in the saved figures, and its memory is no reason to leave it: nothing is timed here."""
    saved = json.loads(families.SAVED.read_text())["networks"]
    conventional, *fieldwise = (saved[variant.timed_as] for variant in families.VARIANTS[:3])
    for one in fieldwise:
        assert one["step_seconds"] > conventional["step_seconds"] and one["step_mib"] < 1.1 * conventional["step_mib"]
        assert one["parameters"] < conventional["parameters"]


def test_each_part_keeps_the_machine_that_it_was_measured_on():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    assert set(saved["measured"]) == set(speed.PARTS)
    machines = {"training": "a", "deployment": "b", "redraw": "a"}
    saved["measured"] = {name: {"date": "today", "environment": {"processor": cpu}} for name, cpu in machines.items()}
    assert "Measured on: training, redraw: processor a; today; deployment: processor b; today." in speed.tables(saved)


def test_tables_say_what_the_networks_channels_are_and_where_repeats_were_few():
    saved = json.loads((ROOT / "benchmarks" / "latest.json").read_text())
    saved["measured"] = {
        "training": {"date": "today", "environment": {"processor": "a"}, "divisor": 24, "notes": ["few repeats"]},
        "memory": {"date": "today", "environment": {"processor": "a"}},
    }
    text = speed.tables(saved)
    assert "Measured on: training: processor a; today; few repeats; memory: processor a; today." in text
    assert "Channels: training: multiples of 24; inference, memory, construction, deployment: multiples of |G|" in text


def test_a_short_run_has_the_rows_of_a_long_one(monkeypatch, tmp_path):
    """…of all parts but those that take a process for each figure, whose saved figures stay."""
    rows = {pace: [row[:2] for row in speed.settings(pace)] for pace in ("full", "short")}
    assert rows["full"] == rows["short"] and len(rows["full"]) == 4
    asked = []
    monkeypatch.setattr(speed, "measure", lambda names, pace: asked.append((list(names), pace)) or {})
    monkeypatch.setattr(speed, "tables", lambda results: "")
    monkeypatch.setattr(speed, "SAVED", tmp_path / "latest.json")
    monkeypatch.setattr(speed.marks, "write", lambda *_: None)
    for arguments in ([], ["--short"], ["--short", "--only", "memory"], ["--quick"]):
        monkeypatch.setattr(sys, "argv", ["speed.py", "measure", *arguments])
        speed.main()
    everything = list(speed.PARTS)
    quickly = [name for name in everything if name not in ("memory", "construction")]
    assert asked == [(everything, "full"), (quickly, "short"), (["memory"], "short"), (everything, "quick")]


def test_settings_in_bfloat16_are_rows_of_their_own():
    rows = [
        {"group": "C4", "width": 1.0, "precision": "float32", "mib": {"a": 2, "b": 4}, "ratio": {"a": 1, "b": 2}},
        {"group": "C4", "width": 1.0, "precision": "bfloat16", "mib": {"a": 1}, "ratio": {"a": 1}},
    ]
    lines = speed_tables._by_setting(rows, "memory", "mib", speed_tables._mebibytes).splitlines()
    assert lines[2:] == [
        "| C4, width 1.0 | 2 MiB (×1.00) | 4 MiB (×2.00) |",
        "| C4, width 1.0, bfloat16 | 1 MiB (×1.00) | – |",
    ]


def test_every_part_gives_figures(monkeypatch):
    monkeypatch.setattr(training_step, "BATCH", 4)  # that each part measures does not hang on the number of patches
    threads = torch.get_num_threads()
    rows = speed.training("quick") + speed.inference("quick")
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    assert all(row["ratio"]["conventional"] == 1 for row in rows)
    assert all(row["equilib"] > 0 for row in data_path.data_path(True, 0.3))
    assert torch.get_num_threads() == threads
    redrawn = speed.redraw(True)
    assert len(redrawn) == 6 and all(min(row["ms"].values()) > 0 for row in redrawn)


@pytest.mark.slow
def test_parts_in_a_process_of_their_own():
    assert fresh.in_fresh_process("memory", "strict", 0.35, "C4")["mib"] > 10
    assert fresh.in_fresh_process("construction", "equivariant", 0.35, "C4")["build"] > 0
    label = families.VARIANTS[0].timed_as
    assert fresh.in_fresh_process("family", label, 0.35, "C4")["mib"] > 10
    with pytest.raises(RuntimeError, match="process failed"):
        fresh.in_fresh_process("nothing", "strict", 0.35, "C4")


@pytest.mark.parametrize("variant", ["e2cnn, strict", "e2cnn, field-wise"])
def test_the_yardstick_is_equivariant_and_has_our_parameters(variant):
    """…so that it is the same network, by other layers."""
    from equilib.equivariance import assert_equivariant
    from equilib.mobilenet import MobileNetConfig, build, count_parameters, estimate_statistics

    net = networks.network(variant, 0.35, "C4")
    depthwise = "fieldwise" if variant == "e2cnn, field-wise" else "strict"
    ours = build("equivariant", MobileNetConfig(width=0.35, group="C4", divisor=24, depthwise=depthwise))
    assert count_parameters(net) == count_parameters(ours)
    assert not any(type(module).__name__ == "FieldBatchNorm" for module in net.modules())
    images = torch.randn(8, 3, 95, 95)
    estimate_statistics(net, images)
    assert_equivariant(net, images, tolerance=1e-4)  # single precision, and e2cnn does not tie its copies


# --- the table of runtimes ---


def test_the_readme_shows_the_table_of_runtimes():
    saved = results.shipped_results("runtimes")
    assert marks.shown("make bench: runtimes", ROOT / "benchmarks" / "README.md") == runtime_tables.tables(saved)
    assert marks.shown("latency", ROOT / "README.md") == runtime_tables.short_table(saved)
    for entry in saved["measured"]["answers"]["onnxruntime"] + saved["measured"]["latency"]["onnxruntime"]:
        assert "dirty" not in entry["revision"]
    (latency,) = {
        f"{entry['processor']} ({entry['instructions']})" for entry in saved["measured"]["latency"]["onnxruntime"]
    }
    assert latency in (ROOT / "README.md").read_text()


def test_every_shipped_network_and_every_runtime_has_its_row():
    saved = results.shipped_results("runtimes")
    assert set(saved["networks"]) == set(runtimes.network_names())
    for name, network in saved["networks"].items():
        possible = {runtime for runtime in runtimes.NAMES if runtimes.made_of([name], runtime)}
        assert possible <= set(network["runtimes"]) | set(saved["missing"]) <= set(runtimes.NAMES)
    for part, figure in (("answers", "identical"), ("latency", "milliseconds")):
        for runtime, entries in saved["measured"][part].items():
            assert all({"processor", "revision", "date", "runtime"} <= set(entry) for entry in entries)
            listed = [name for entry in entries for name in entry["networks"]]
            figures = {name: network["runtimes"].get(runtime, {}) for name, network in saved["networks"].items()}
            assert sorted(listed) == sorted(name for name, rows in figures.items() if figure in rows.get("INT8", {}))


def test_a_row_measured_anew_leaves_the_others_with_their_machine(monkeypatch, tmp_path):
    """Figures are those of the machine that the table names for them, whatever was measured in between."""
    names = runtimes.network_names()
    setting = runtimes.Setting(tmp_path, tmp_path, None, tmp_path, synthetic=True)
    monkeypatch.setattr(runtimes, "runtime_version", lambda name: f"{name} 1")

    def renewed(saved, chosen, figure, machine):
        rows = {name: {"INT8": {"difference": figure}} for name in chosen}
        return runtimes.with_rows(saved, "answers", "node", rows, {"processor": machine}, setting)

    def where(saved):
        entries = saved["measured"]["answers"]["node"]
        return {name: entry["processor"] for entry in entries for name in entry["networks"]}, len(entries)

    def figures(saved):
        return {name: network["runtimes"]["node"]["INT8"]["difference"] for name, network in saved["networks"].items()}

    everything = renewed({}, names, 1.0, "first")
    assert where(everything) == (dict.fromkeys(names, "first"), 1)
    other = runtimes.with_rows(everything, "answers", "chromium", {}, {"processor": "third"}, setting)
    one = renewed(other, names[1:2], 2.0, "second")
    assert figures(one) == dict.fromkeys(names, 1.0) | {names[1]: 2.0}
    assert where(one) == (dict.fromkeys(names, "first") | {names[1]: "second"}, 2)
    back = renewed(one, names[1:2], 3.0, "first")
    assert where(back) == (dict.fromkeys(names, "first"), 1), "one machine, one entry"
    assert figures(back)[names[1]] == 3.0
    gone = {"networks": ["a network that ships no longer"], "processor": "old", "runtime": "node 1"}
    back["measured"]["answers"]["node"].append(gone)
    assert where(renewed(back, names[:1], 4.0, "second"))[0] == dict.fromkeys(names, "first") | {names[0]: "second"}
    entry = dict.fromkeys(("processor", "instructions", "revision", "date", "runtime"), "x")
    measured = {"answers": {"node": [entry | {"notes": ["beside others"], "networks": ["b"]}]}}
    titles = {name: {"title": name.upper(), "runtimes": {}} for name in "ab"}
    noted = runtime_tables.tables({"measured": measured, "networks": titles, "missing": {"chromium": "get it"}})
    assert "WebAssembly, Node (x, B): x, x, revision x, x, beside others." in noted


def test_a_row_of_other_patches_relabels_no_other(monkeypatch, tmp_path):
    names = runtimes.network_names()
    figures = {"INT8": {"identical": 1.0, "difference": 0.0, "patches": 8, "bytes": 1, "peak_mib": None}}
    machine = dict.fromkeys(("processor", "instructions", "revision", "date"), "x")
    monkeypatch.setattr(runtimes, "runtime_version", lambda name: f"{name} 1")
    monkeypatch.setattr(runtimes, "describe_data", lambda setting: setting.data.name)
    saved = {}
    for runtime, data in (("node", "PCam"), ("chromium", "PCam"), ("chromium", "tissue")):
        setting = runtimes.Setting(tmp_path, tmp_path / data, None, tmp_path)
        rows = dict.fromkeys(names[:1] if data == "tissue" else names, figures)
        saved = runtimes.with_rows(saved, "answers", runtime, rows, machine, setting)
        told = runtime_tables.tables(saved).splitlines()[0]
        if data == "PCam":
            assert told.count("PCam") == 1 and "first test patches of PCam" in told
    entries = saved["measured"]["answers"]
    assert [[entry["data"] for entry in entries[runtime]] for runtime in entries] == [["PCam"], ["PCam", "tissue"]]
    assert "first test patches" not in told and told.count("patches of PCam") == told.count("patches of tissue") == 1


def test_a_runtime_that_is_named_and_missing_is_told_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runtimes, "measure_answers", lambda *_: pytest.fail("measured"))
    options = ["--runtimes", runtimes.EMULATED, "--arm", str(tmp_path), "--files", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["runtimes.py", "measure", *options])
    assert until_closed(runtimes.main) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "arm.sh FOLDER" in said


def test_latency_is_compared_at_the_same_channels_and_of_one_measurement():
    titles = ["Conventional", "Conventional, channels in multiples of 24", "C4, channels in multiples of 24"]
    networks_ = {
        title: {
            "title": title,
            "runtimes": dict.fromkeys(
                ("onnxruntime", "node"), {"INT8": {"milliseconds": {"1": time, "32": 10 * time}}}
            ),
        }
        for title, time in zip(titles, (1.0, 2.0, 3.0))
    }

    def last_cells(*together, runtime="node", **more):
        entry = more | dict.fromkeys(("processor", "instructions", "revision", "date", "runtime"), "x")
        measured = {"latency": {runtime: [entry | {"networks": list(names)} for names in together]}}
        table = runtime_tables.tables({"measured": measured, "networks": networks_, "missing": {}})
        rows = [line for line in table.splitlines() if f"| {runtime_tables.LABELS[runtime]} |" in line]
        return [line.split("|")[-2].strip() for line in rows]

    assert last_cells(titles) == ["–", "–", "×1.50; ×1.50"]
    assert last_cells(titles[:2], titles[2:]) == ["–", "–", "–"]
    beside = {"notes": ["beside other programs"]}
    assert last_cells(titles, **beside) == ["–", "–", "–"], "other programs take time that passes"
    assert last_cells(titles, runtime="onnxruntime", **beside) == ["–", "–", "×1.50; ×1.50"], (
        "a processor's time is its own"
    )


def test_the_short_table_holds_networks_of_the_same_channels_whose_time_is_known():
    titles = ["Conventional", "C4", "C4, channels in multiples of 24", "Conventional, channels in multiples of 24"]

    def lines(*timed):
        rows = {title: {"INT8": {"milliseconds": {"1": 1.0, "32": 2.0}}} if title in timed else {} for title in titles}
        networks_ = {title: {"title": title, "runtimes": {"onnxruntime": row}} for title, row in rows.items()}
        table = runtime_tables.short_table({"measured": {}, "networks": networks_, "missing": {}})
        return [line.split("|")[1].strip() for line in table.splitlines()[2:]]

    assert lines(*titles[:3]) == titles[:3]
    assert lines(*titles) == ["C4", "Conventional"], "of the channels that the text above the table names"
    titles.append("C4, channels in multiples of 24, 24 epochs")
    assert lines(*titles) == ["C4", "Conventional", "C4, 24 epochs"], "a longer training has the same channels"


@pytest.mark.parametrize("channels", ["", ", channels in multiples of 24"])
def test_the_conventional_network_of_the_same_channels_is_found_however_long_it_was_trained(channels):
    titles = ["Conventional, channels in multiples of 8", f"Conventional{channels}, 24 epochs", f"C4{channels}"]
    networks_ = {title: {"title": title} for title in titles}
    found = [runtime_tables._of_its_channels({"networks": networks_}, one) for one in networks_.values()]
    assert [one["title"] for one in found] == [titles[0], titles[1], titles[1]]


def test_integers_give_equivariant_networks_the_same_bits_in_every_runtime():
    """…as the saved figures say, on all patches; the conventional ones on few."""
    saved = results.shipped_results("runtimes")
    answered = saved["measured"]["answers"]
    assert "onnxruntime" in answered
    for name, network in saved["networks"].items():
        asked = [runtime for runtime, entries in answered.items() if any(name in e["networks"] for e in entries)]
        shares = {runtime: network["runtimes"][runtime]["INT8"]["identical"] for runtime in asked}
        assert all((share == 1) != ("conventional" in name) for share in shares.values()), (name, shares)


def test_a_missing_runtime_has_a_row_that_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    ways = {name: runtimes.missing(name, tmp_path) for name in runtimes.NAMES}
    assert ways.pop("onnxruntime") is None
    monkeypatch.setattr(runtimes.RUNTIMES["openvino"].__class__, "available", lambda self: False)
    ways["openvino"] = runtimes.missing("openvino", tmp_path)
    assert "pip install openvino" in ways["openvino"] and "pip install executorch torchao" in ways["executorch"]
    assert "Node.js" in ways["node"] and "arm.sh" in ways["onnxruntime on Arm"]
    table = runtime_tables.tables({"measured": {}, "networks": {}, "missing": ways})
    assert all(f"missing: {way}" in table for way in ways.values())


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Twenty test patches of synthetic tissue as runtimes read them, and as the library does."""
    folder = tmp_path_factory.mktemp("patches")
    data = ensure_dataset(BUDGETS["smoke"].sizes)
    runtimes.write_patches(folder, data, 20)
    return folder, network_inputs(Patches(data, "test"), range(20), 95)


def test_patches_are_normalised_and_turned_as_the_library_does(patches):
    folder, images = patches
    for turns in range(4):
        (batch,) = turned.batches(folder, turns)
        assert batch.dtype == np.float32 and torch.equal(torch.from_numpy(batch), torch.rot90(images, turns, (-2, -1)))


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
@pytest.mark.parametrize("place", list(wasm.PLACES))
def test_webassembly_answers_all_four_turns_as_onnxruntime_does(patches, place):
    """On this very code: with a turn, a channel or a patch mixed up, logits would differ by far more."""
    if runtimes.missing(place, Path()):
        pytest.skip(runtimes.missing(place, Path()))
    folder, images = patches
    path = results.shipped_int8("pcam_conventional_w0.35_20000_seed0")
    logits = wasm.run(place, path, patches=folder, calls={1: 1})
    assert set(logits["milliseconds"]) == {"1"}
    session = device.session(path)
    expected = [run_model(session, torch.rot90(images, turns, (-2, -1))) for turns in range(4)]
    for ours, theirs in zip(torch.from_numpy(logits["logits"]), expected):
        assert (ours - theirs).abs().max() < 0.05 * theirs.std()


@pytest.mark.slow
def test_a_runtime_in_a_process_of_its_own(patches, tmp_path):
    folder, images = patches
    path = results.shipped_int8("pcam_C4_w0.35_20000_seed0")
    logits, peak = runtimes.answers("onnxruntime", path, folder, tmp_path)
    assert 1 < peak < 500 and np.array_equal(
        logits[1], run_model(device.session(path), torch.rot90(images, 1, (-2, -1)))
    )
    with pytest.raises(RuntimeError, match="openvino failed on damaged.onnx"):
        (tmp_path / "damaged.onnx").write_bytes(b"nothing")
        runtimes.answers("openvino", tmp_path / "damaged.onnx", folder, tmp_path)


def test_cells_give_both_precisions_or_what_is_known():
    figures = {
        "FP32": {"milliseconds": {"1": 2.345}, "peak_mib": None, "bytes": 10**6},
        "INT8": {"milliseconds": {"1": 12.3}},
    }
    network = {"title": "net", "runtimes": {"node": figures}}
    table = runtime_tables.tables({"measured": {}, "missing": {}, "networks": {"net": network}})
    assert table.splitlines()[-1] == "| net | WebAssembly, Node | 2.35 → 12.3 | – | 1.00 → – | – | – | – | – | – |"
