"""Ctrl-C and SIGTERM in a training: heeded once, soon, and never lost."""

import os
import signal
import subprocess
import time
import weakref

import pytest
import tiny_training

from equilib.interrupts import EndsBetweenBatches
from equilib.training import PatchClassifier, TrainConfig, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_training.write_noise(tmp_path_factory.mktemp("pcam"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("sign, status, words", [("SIGINT", 130, "the same command continues"), ("SIGTERM", 143, "")])
def test_a_signal_ends_it_in_order(data, tmp_path, sign, status, words):
    run = tmp_path / "run"
    process = subprocess.Popen(
        tiny_training.command(data, run, "--epochs", "50"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A program in the background inherits an ignored SIGINT; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not tiny_training.rows(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(getattr(signal, sign))
    _, error = process.communicate(timeout=60)
    assert process.returncode == status and words in error and "Traceback" not in error


@pytest.mark.parametrize("sign, ending", [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("hook", ["on_after_backward", "on_validation_start", "on_validation_end"])
def test_a_signal_that_python_would_forget_ends_it(data, tmp_path, monkeypatch, sign, ending, hook):
    """Inside a batch, and between; what is raised in the callback of a weak reference is printed and forgotten."""

    class Mortal:
        pass

    number, calls = getattr(signal, sign), []

    def forgotten(module):
        calls.append(module)
        dying = Mortal()
        reference = weakref.ref(dying, lambda _: signal.raise_signal(number))
        del dying
        assert reference() is None

    def end(*_):
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
        assert len(calls) == 1 and signal.getsignal(number) is end
    finally:
        signal.signal(number, before)


def test_a_second_signal_does_not_wait_for_the_batch():
    signals, heard = EndsBetweenBatches(), []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("heard"))
    try:
        with signals.listening():
            signal.raise_signal(signal.SIGINT)  # before the first batch
            assert len(heard) == 1
        signals = EndsBetweenBatches()
        with signals.listening():
            signals.on_train_start(None, None)
            signal.raise_signal(signal.SIGINT)
            assert len(heard) == 1
            signal.raise_signal(signal.SIGINT)
            assert len(heard) == 2
    finally:
        signal.signal(signal.SIGINT, before)
