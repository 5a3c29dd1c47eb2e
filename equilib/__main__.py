"""Start the command ``equilib``, and say in one sentence what went wrong: the one place where errors become words."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback

from equilib.cli.allocator import start_tuned
from equilib.cli.process import INTERRUPTED, abandon_output, until_closed

FAILED, BUG = 1, 70
ADVICE = {
    errno.ENOSPC: "make room and give the same command again",
    errno.EDQUOT: "make room and give the same command again",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "it is no folder; name another place",
    errno.ENOTDIR: "a part of this path is a file; name another place",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return until_closed(_explained, arguments)


def _explained(arguments: list[str] | None) -> int:
    is_process = arguments is None  # and no call from a program, which must not be replaced
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if is_process:
            start_tuned(arguments)
        return _run(arguments)
    except KeyboardInterrupt:
        trains = {"train", "compare"} & set(arguments)
        words = "; the same command continues after the last finished epoch" if trains else ""
        print(f"equilib: interrupted{words}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        abandon_output()
        if "--debug" in arguments:
            traceback.print_exc()
        words, status = explain(error)
        print(f"equilib: {words}", file=sys.stderr)
        return status


def _run(arguments: list[str]) -> int:
    if sys.stdout is None:
        raise OSError("there is no standard output to write to")
    # Names of files need not be UTF-8, nor what reads the output.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    from equilib.cli.parser import make_parser

    options = make_parser().parse_args(arguments)
    from equilib.cli import commands, predict

    run = {
        "train": commands.train,
        "compare": commands.compare,
        "quantize": commands.quantize,
        "doctor": commands.doctor,
        "predict": predict.predict,
    }[options.command]
    status = run(options, arguments)
    sys.stdout.flush()  # a full disk or a closed pipe shows here, not after the end
    return status


def explain(error: Exception) -> tuple[str, int]:
    """One sentence on an exception, and the exit status.

    Whatever a user can cause is raised as ValueError, OSError, FloatingPointError or
    :class:`equilib.hdf5.PatchFileError`, with a message that names the file or the option.
    """
    from equilib.hdf5 import PatchFileError

    # Lines become sentences where the next one begins as such.
    text = re.sub(r"\s*\n\s*", " ", re.sub(r"(?<![.:;])\n(?=[A-Z])", ". ", str(error).strip()))
    if "Traceback (most recent call last)" in text:  # of a process that this one started
        text = re.sub(r"^\w*(Error|Exception): ", "", str(error).strip().splitlines()[-1])
        return f"a process that was started for this ended: {text}", FAILED
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "there is too little memory; take a smaller --batch-size or --width, or fewer --workers", FAILED
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE and "; " not in error.strerror else ""
        return place + error.strerror + advice, FAILED
    if isinstance(error, ImportError):
        if "pip install" in text:  # of an extra, which says so itself
            return text, FAILED
        return f"{text}; install the project again with all that it needs (pip install .)", FAILED
    if isinstance(error, (ValueError, OSError, FloatingPointError, PatchFileError)):
        return _with_options(text), FAILED
    return f"a bug of equilib: {type(error).__name__}: {text}; please report it, with what --debug shows", BUG


def _with_options(text: str) -> str:
    """What the library says of its arguments, ``input_size=95``, as the command line has it: ``--input-size 95``."""
    from equilib.cli.parser import DENSENET, NETWORK, RECIPE, SCHEME, TRAINER, TRAINING

    others = ("workers", "measured")  # of functions that other options are handed to as they are
    names = "|".join((*NETWORK, *DENSENET, *TRAINING, *TRAINER, *RECIPE, *SCHEME, *others))

    def option(match: re.Match) -> str:
        return f"--{match[1].replace('_', '-')}"

    value = rf"(?<![\w.'/\\-])({names})=(?![^\s;,]*[/\\])"  # but for names of files, such as seed=1/best.ckpt
    text = re.sub(rf"{value}True\b", option, text)
    text = re.sub(rf"{value}False\b", lambda match: option(match).replace("--", "--no-", 1), text)
    text = re.sub(rf"{value}(?=[\w'])", lambda match: f"{option(match)} ", text)
    return re.sub(rf"^({names})(?= must)", option, text)


if __name__ == "__main__":
    sys.exit(main())
