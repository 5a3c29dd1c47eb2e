"""Ctrl-C and SIGTERM in a training: heeded once, soon, and never lost."""

import os
import signal
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import pytest
import tiny_training

from equilib.interrupts import EndsBetweenBatches
from equilib.training import PatchClassifier, PatchData, TrainConfig, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_training.write_noise(tmp_path_factory.mktemp("pcam"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(
    "sign, status, words, workers",
    [("SIGINT", 130, "the same command continues", 0), ("SIGINT", 130, "continues", 1), ("SIGTERM", 143, "", 0)],
)
def test_a_signal_ends_it_in_order(data, tmp_path, sign, status, words, workers):
    """A terminal sends Ctrl-C to all processes, those that load data among them."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        tiny_training.command(data, run, "--epochs", "50", "--workers", str(workers)),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # A program in the background inherits an ignored SIGINT; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not tiny_training.rows(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, sign))
    _, error = process.communicate(timeout=60)
    assert process.returncode == status and words in error and "Traceback" not in error


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there a process ends without a word")
def test_a_script_that_is_told_to_end_does_not_end_well(data, tmp_path):
    """SIGTERM where nobody set a handler: a scheduler must not take half a training for a whole one."""
    script = f"""
import os, signal
from equilib.mobilenet import MobileNetConfig
from equilib.training import PatchClassifier, PatchData, TrainConfig, train

PatchClassifier.on_after_backward = lambda module: os.kill(os.getpid(), signal.SIGTERM)
tiny = MobileNetConfig(width=0.1, group="C4", input_size=31)
train(TrainConfig("equivariant", tiny, {str(data)!r}, epochs=2, batch_size=16), {str(tmp_path)!r}, accelerator="cpu")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 143


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_a_process_that_loads_data_outlives_ctrl_c(data):
    """A terminal's Ctrl-C reaches it, too; without its patches the training could not end its batch."""
    patches = PatchData(small(data), workers=1)
    patches.trainer = SimpleNamespace(world_size=1, global_rank=0)
    loader = patches.train_dataloader()
    batches = iter(loader)
    next(batches)
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGINT)
    assert 1 + sum(1 for _ in batches) == len(loader)


@pytest.fixture
def handled():
    """How often a signal's own handler ran: it is set for SIGINT, and only notes."""
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append("handled"))
    yield calls
    signal.signal(signal.SIGINT, before)


def small(data):
    return TrainConfig("equivariant", tiny_training.TINY, str(data), epochs=1, batch_size=16)


def test_a_handler_runs_once_and_may_let_the_training_go_on(data, tmp_path, handled, monkeypatch):
    sent = []

    def send(module):
        if not sent:
            sent.append(signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(PatchClassifier, "on_after_backward", send)
    assert len(train(small(data), tmp_path, accelerator="cpu").history) == 1 and handled == ["handled"]


def test_an_error_in_a_batch_does_not_hide_the_signal(data, tmp_path, handled, monkeypatch):
    """As where another process has ended on the same signal, and a collective of this one fails."""

    def fail(module):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(PatchClassifier, "on_after_backward", fail)
    with pytest.raises(RuntimeError, match="closed by peer"):
        train(small(data), tmp_path / "one", accelerator="cpu")
    assert handled == ["handled"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which raises
    with pytest.raises(KeyboardInterrupt) as ended:
        train(small(data), tmp_path / "two", accelerator="cpu")
    assert ended.value.__context__ is None or ended.value.__suppress_context__


def test_an_exit_for_another_reason_is_no_interrupt(data, tmp_path, monkeypatch):
    monkeypatch.setattr(PatchClassifier, "on_after_backward", lambda module: sys.exit(1))
    with pytest.raises(SystemExit):
        train(small(data), tmp_path, accelerator="cpu")


@pytest.mark.parametrize("sign, ending", [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("hook", ["on_after_backward", "on_validation_start", "on_validation_end", "on_fit_end"])
def test_a_signal_that_python_would_forget_ends_it(data, tmp_path, monkeypatch, sign, ending, hook):
    """Inside a batch, between, and behind the last: what a weak reference's callback raises is printed and forgotten."""

    class Mortal:
        pass

    number, calls = getattr(signal, sign), []

    def forgotten(module):
        calls.append(module)
        dying = Mortal()
        reference = weakref.ref(dying, lambda _: signal.raise_signal(number))
        del dying
        assert reference() is None

    ends = []

    def end(*_):
        ends.append(number)
        raise ending(128 + number)

    monkeypatch.setattr(PatchClassifier, hook, forgotten, raising=False)
    before = signal.signal(number, end)
    try:
        with pytest.raises(ending):
            train(
                TrainConfig("equivariant", tiny_training.TINY, str(data), epochs=2, batch_size=16),
                tmp_path,
                accelerator="cpu",
            )
        assert len(calls) == 1 and ends == [number] and signal.getsignal(number) is end
    finally:
        signal.signal(number, before)


def test_a_second_signal_does_not_wait_for_the_batch(handled):
    signals = EndsBetweenBatches()
    with signals.listening():
        signal.raise_signal(signal.SIGINT)  # before the first batch
        assert len(handled) == 1
        signals.on_train_start(None, None)
        signal.raise_signal(signal.SIGINT)
        assert len(handled) == 1
        signal.raise_signal(signal.SIGINT)
        assert len(handled) == 2
