"""A run on disk: its configuration, its checkpoints, its curve.  Nothing here needs Lightning.

A run's folder holds ``last.ckpt`` (after every epoch), ``best.ckpt`` (lowest validation loss), ``config.json`` and
``metrics.csv``.  The two checkpoints are the truth: each carries the configuration of its weights and the rows of the
curve, so the other two files are there to be read by people and are written anew where they are lost.

Checkpoints are read with ``weights_only=True`` throughout: a file that would run code when it is read is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import re
import time
import warnings
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from equilib.checks import check_kinds
from equilib.densenet import DenseNetConfig
from equilib.hdf5 import PATCH_SIZE
from equilib.mobilenet import KINDS, MobileNetConfig, build
from equilib.results import PART, check_is_file, folder_name, shipped_checkpoint, write_json, written_whole
from equilib.variant import DEFAULT_FAMILY, FAMILIES

# The architecture's configuration, by the name of its family.
ARCHITECTURES = dict(zip(FAMILIES, (MobileNetConfig, DenseNetConfig), strict=True))

CONFIG, METRICS, CURVES, LAST, BEST = "config.json", "metrics.csv", "curves.png", "last.ckpt", "best.ckpt"
# What a training needs to go on, beyond weights.
_RESUMABLE = ("state_dict", "equilib", "processes", "callbacks", "optimizer_states", "lr_schedulers", "loops", "epoch")
# Left by parallel training, torch.compile, and modules that wrap a network.
_PREFIX = re.compile(r"^((module|network|model|_orig_mod)\.)+")
_ABANDONED = 3600.0  # seconds after which a file that was being written is taken for left behind


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights of a run.

    Attributes:
        kind: ``"conventional"`` or ``"equivariant"``.
        network: the architecture, of either family.
        data: folder with PCam's files (real or synthetic).
        train_limit: use only the first so many training patches.
        valid_limit: use only the first so many validation patches.
        epochs: how often each training patch is seen.
        batch_size: per process.
        learning_rate: of AdamW, the highest of a one-cycle schedule.
        weight_decay: of AdamW; biases and norms are not decayed.
        augmentation: random quarter turns and reflections.
        any_angle: share of the patches that are also turned by a random angle (:func:`equilib.pcam.turn_any_angle`).
        stain: strength of the random change of stains (:func:`equilib.pcam.vary_stain`), say 0.1; 0 for none.
        recalibrate: before each validation, set the statistics of batch normalization to those of this many training
            patches without augmentation; 0 keeps the moving average over augmented ones.
        seed: of initialisation, order, augmentation and dropout.

    Raises:
        ValueError: names the value that makes no run.
    """

    kind: str
    network: MobileNetConfig | DenseNetConfig = field(default_factory=MobileNetConfig)
    data: str = "data/pcam"
    train_limit: int | None = None
    valid_limit: int | None = None
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    augmentation: bool = True
    any_angle: float = field(default=0.0, metadata={"alone": 1.0})  # the option without a number: all patches
    stain: float = 0.0
    recalibrate: int = 0
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.data, Path):
            object.__setattr__(self, "data", str(self.data))
        check_kinds(self)
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}")
        if self.network.classes < 2:
            raise ValueError(
                f"network.classes must be at least 2, since there are two labels; got {self.network.classes}"
            )
        if self.network.input_size > PATCH_SIZE:
            raise ValueError(
                f"input_size={self.network.input_size} is larger than PCam's patches of {PATCH_SIZE} x {PATCH_SIZE} pixels, "
                "which are cropped to it; take a smaller one"
            )
        for name in ("seed", "weight_decay", "any_angle", "stain", "recalibrate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be smaller than 2**63, got {self.seed}")
        if self.any_angle > 1:
            raise ValueError(f"any_angle must be a share between 0 and 1, got {self.any_angle}")
        for name in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def to_dict(self) -> dict:
        """A JSON-compatible dictionary; the network's entry names its ``family``, unless that is MobileNetV2."""
        network = self.network.to_dict()
        if self.family != DEFAULT_FAMILY:
            network["family"] = self.family
        return asdict(self) | {"network": network}

    @property
    def family(self) -> str:
        """One of :data:`equilib.variant.FAMILIES`."""
        return next(name for name, of in ARCHITECTURES.items() if isinstance(self.network, of))

    @property
    def fingerprint(self) -> str:
        """Eight characters that differ between configurations, for names of folders."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]

    @classmethod
    def from_dict(cls, values: dict) -> TrainConfig:
        """What :meth:`to_dict` gave; ValueError where it is something else."""
        if not isinstance(values, dict) or not isinstance(values.get("network"), dict):
            raise ValueError("no configuration of a run")
        try:
            return cls(**values | {"network": _architecture(**values["network"])})
        # An unknown name, a text where a number should stand, or a number beyond all.
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no configuration of this version ({error})") from error


def _architecture(family: str = DEFAULT_FAMILY, **values) -> MobileNetConfig | DenseNetConfig:
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {FAMILIES}, got {family!r}")
    if family == DEFAULT_FAMILY:
        values = {"depthwise": "strict"} | values  # a file that does not say is from before field-wise layers
    return ARCHITECTURES[family](**values)


# --- checkpoints ---


def read_checkpoint(path: str | Path) -> dict:
    """The contents of a checkpoint, on the CPU: tensors and plain values.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, something else, or holds Python objects, which could run code when they are read.
    """
    path = Path(path)
    check_is_file(path, "train first (equilib train --help)", inside=f"the {BEST}")
    content = io.BytesIO(path.read_bytes())  # what fails after this is not the disk's fault
    try:
        _check_sums(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle's protocols and TorchScript: they end in a refusal anyway
            contents = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # of the zip file, the pickle in it, or its tensors
        objects = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and objects:
            raise ValueError(
                f"{path} holds Python objects ({objects[1]}), which can run code when they are read, so it is refused; "
                "save weights alone (torch.save(network.state_dict(), …)), with their configuration under 'equilib'"
            ) from error
        inner = re.search(r"WeightsUnpickler error: *(.*)", str(error))
        reason = (inner[1] if inner else str(error).split("\n")[0].split(". ")[0])[:120] or "it does not begin like one"
        if isinstance(error, LookupError):  # whose text is a key alone
            reason = "it does not begin like one"
        reason = reason if content.getbuffer().nbytes else "it is empty"
        if path.suffix.lower() == ".onnx":
            reason = "it is named like an ONNX file, which has been exported already"
        raise ValueError(
            f"{path} is no checkpoint that can be read ({reason}); it is damaged or something else"
        ) from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is no checkpoint of equilib: it holds a {type(contents).__name__}")
    return contents


def _check_sums(content: io.BytesIO) -> None:
    """Compare the archive's check sums, which torch itself does not: a flipped bit would be another network."""
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as archive:
            if (wrong := archive.testzip()) is not None:
                raise ValueError(f"the check sum of {wrong} is wrong")
    content.seek(0)


def load_network(path: str | Path) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in evaluation mode, and the checkpoint's other contents.

    Prefixes that parallel training, compilation and wrapping leave before the names of weights are taken off.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_checkpoint`; or the file has no weights, none of this network, or
            some that are no finite numbers: the message names the first.
    """
    path = Path(path)
    contents = read_checkpoint(path)
    weights = next((contents[key] for key in ("state_dict", "model_state_dict", "model") if key in contents), None)
    if weights is None and any(isinstance(value, Tensor) for value in contents.values()):
        weights = {key: value for key, value in contents.items() if isinstance(value, Tensor)}
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} holds no weights (it has {', '.join(map(repr, contents)) or 'nothing'})")
    if "equilib" not in contents:
        raise ValueError(
            f"{path} holds weights (the first is {next(iter(weights))!r}), but no configuration of equilib, so it "
            "cannot be told of which network; add it under 'equilib' (TrainConfig.to_dict)"
        )
    try:
        config = TrainConfig.from_dict(contents["equilib"])
    except ValueError as error:
        raise ValueError(f"{path}: what stands under 'equilib' makes no network: {error}") from error
    network = build(config.kind, config.network)
    network.load_state_dict(_weights_of(network, weights, path))
    return network.eval(), contents


def _weights_of(network: nn.Module, weights: dict, path: Path) -> dict[str, Tensor]:
    """The weights by the network's own names, all there and of its shapes."""
    wrapped = any(_PREFIX.match(str(name)) for name in weights)
    found = {}
    for name, value in weights.items():
        if not isinstance(name, str) or (wrapped and not _PREFIX.match(name)):
            continue  # beside a wrapped network: metrics, losses
        short = _PREFIX.sub("", name)
        if short in found:
            raise ValueError(f"{path} holds {short!r} twice (the second is {name!r}); keep one set of weights")
        found[short] = value
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name not in found:
            there = f"; the first that it has is {next(iter(weights))!r}"
            raise ValueError(f"{path} lacks weights of its network, first {name!r}{there}")
        if not isinstance(found[name], Tensor) or found[name].shape != value.shape:
            shape = tuple(getattr(found[name], "shape", ()))
            raise ValueError(f"{path}: {name!r} has shape {shape}, where its network has {tuple(value.shape)}")
        if not _of_kind(found[name], value):
            raise ValueError(f"{path}: {name!r} holds {found[name].dtype}, where its network has {value.dtype}")
        if not found[name].isfinite().all():
            raise ValueError(f"{path}: {name!r} holds values that are not finite (NaN or infinite); train it again")
    foreign = [name for name in found if name not in wanted]
    if foreign:
        raise ValueError(f"{path} holds weights that its network does not have, first {foreign[0]!r}")
    return found


def _of_kind(found: Tensor, wanted: Tensor) -> bool:
    """Dense real numbers where the network has such, whole ones where it counts."""
    if found.is_quantized or found.layout != torch.strided:
        return False
    if wanted.is_floating_point():
        return found.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return found.dtype == wanted.dtype


def shipped_network(name: str) -> nn.Module:
    """A trained network that comes with the project, in evaluation mode, by its file name without ``.pt``.

    Raises:
        ValueError: the file is not the one that was shipped.
    """
    return load_network(shipped_checkpoint(name))[0]


def save_weights(checkpoint: str | Path, path: str | Path) -> str:
    """Keep the weights and configuration of a checkpoint, without what only a resumed training needs.

    Returns:
        The sha256 of the file, in hexadecimal.
    """
    network, contents = load_network(checkpoint)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    if "epoch" not in contents:
        raise ValueError(f"{checkpoint} does not say of which epoch it is; take one that equilib train wrote")
    config = contents["equilib"] | {"data": folder_name(contents["equilib"]["data"])}
    save_checkpoint({"equilib": config, "state_dict": weights, "epoch": contents["epoch"]}, path)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save_checkpoint(contents: dict, path: str | Path) -> None:
    """Write a checkpoint whole or not at all."""
    # By way of memory: torch's own writer answers a full disk with an error about positions in a zip file.
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


# --- the curve ---


def write_rows(path: Path, columns, rows) -> None:
    """Write a CSV file whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


# --- the folder ---


def claim(folder: Path, config: TrainConfig, patches: dict[str, str], *, writes: bool) -> Path | None:
    """Take a folder for a run, or refuse it.

    Args:
        folder: of the run.
        config: what is to be trained.
        patches: of each split, what its patches are (:meth:`equilib.pcam.Patches.digest`).
        writes: whether this process may write; the first of several.

    Returns:
        The checkpoint to continue from; None where nothing has been trained yet.

    Raises:
        ValueError: the folder holds something else, another run, or one that is damaged: the message says which file.
    """
    last, best = folder / LAST, folder / BEST
    if writes:
        _tidy(folder)
    # Killed between the two, or last.ckpt was lost: the best epoch is a whole checkpoint too, and the epochs after it
    # come out the same again.
    source = last if last.exists() else best if best.exists() else None
    if source is None:
        _refuse_foreign(folder)
    else:
        contents = _resumable(source)
        _check_best(best)
        if writes and _written_config(folder) != contents["equilib"]:  # lost, damaged, or of other weights
            write_json(folder / CONFIG, contents["equilib"])
        _refuse_another(folder, contents, config, patches)
    if writes:
        write_json(folder / CONFIG, config.to_dict())
        if source == best:
            with written_whole(last) as temporary:
                temporary.write_bytes(best.read_bytes())
    return source


def _tidy(folder: Path) -> None:
    """Remove what a process left behind that was killed while it wrote."""
    for name in (LAST, BEST, CONFIG, METRICS, CURVES):
        for path in folder.glob(f"{name}.*{PART}"):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)


def _resumable(path: Path) -> dict:
    try:
        contents = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{error}; {way_out(path)}") from error
    lacking = [key for key in _RESUMABLE if key not in contents]
    lacking += [key for key in ("equilib", "callbacks") if not isinstance(contents.get(key), dict)]
    if lacking or "History" not in contents["callbacks"]:
        missing = lacking[0] if lacking else "callbacks.History"
        raise ValueError(
            f"{path} is no checkpoint of a training that can go on (it lacks {missing!r}); {way_out(path)}"
        )
    # One optimizer, one schedule; Lightning would take an empty list for a fresh start, and go on with other steps.
    parts = {key: contents[key] for key in ("optimizer_states", "lr_schedulers")}
    parts["loops"] = [contents["loops"].get("fit_loop")] if isinstance(contents["loops"], dict) else None
    for key, part in parts.items():
        if not (isinstance(part, list) and len(part) == 1 and isinstance(part[0], dict) and part[0]):
            raise ValueError(f"{path} is damaged, its {key!r} are not those of a training; {way_out(path)}")
    return contents


def way_out(path: Path) -> str:
    """What to do about a checkpoint that no training can continue from."""
    best = path.with_name(BEST)
    if path.name == LAST and best.is_file():
        try:
            epoch = read_checkpoint(best)["epoch"] + 1
        except (ValueError, KeyError, OSError):
            return "best.ckpt beside it cannot be read either: train in another folder"
        return f"delete it and give the same command, which then continues from best.ckpt, after epoch {epoch}"
    return "train in another folder"


def _check_best(best: Path) -> None:
    """Found missing after hours of training, the best network could not be given back."""
    if not best.is_file():
        raise ValueError(
            f"{best}, the network of the lowest validation loss, is missing: put it back, or train elsewhere"
        )
    try:
        read_checkpoint(best)
    except ValueError as error:
        raise ValueError(f"{error}; put back a copy of it, or train in another folder") from error


def _written_config(folder: Path) -> dict | None:
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _refuse_foreign(folder: Path) -> None:
    """A start that came to no checkpoint leaves its config.json; any other file of these names is not ours to replace."""
    path = folder / CONFIG
    if path.exists():
        try:
            TrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not of a run ({error}), and there is no checkpoint; choose another folder"
            ) from error
    else:
        foreign = next((name for name in (METRICS, CURVES) if (folder / name).exists()), None)
        if foreign is not None:
            raise ValueError(f"{folder / foreign} is not of a run, since there is no checkpoint; choose another folder")


def _refuse_another(folder: Path, contents: dict, config: TrainConfig, patches: dict[str, str]) -> None:
    """Refuse to continue with other settings or other patches than those of the weights; where the data lies is free."""
    earlier, asked = _flat(contents["equilib"]), _flat(config.to_dict())
    if isinstance(contents.get("patches"), dict):
        for split, digest in patches.items():
            if contents["patches"].get(split) != digest:
                raise ValueError(
                    f"{folder} holds a run on other {split} patches than those of {config.data}; choose another folder"
                )
        asked["data"] = earlier.get("data")
    different = [key for key in asked | earlier if asked.get(key) != earlier.get(key)]
    if different:
        changes = ", ".join(f"{key}: {earlier.get(key)!r} then, {asked.get(key)!r} now" for key in different)
        raise ValueError(f"{folder} holds a run of another configuration ({changes}); choose another folder")


def _flat(config: dict) -> dict:
    """One level: the network's values beside the others, by their names after a dot."""
    network = config.get("network") or {}
    return {k: v for k, v in config.items() if k != "network"} | {f"network.{k}": v for k, v in network.items()}
