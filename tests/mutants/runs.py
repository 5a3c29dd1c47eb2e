"""Breakages of training, its figures, and what many runs say."""

from mutants.mutant import mutants_of

TRAINING = mutants_of(
    "training",
    "test_training_laws.py",
    (
        "validation on training patches",
        "self._loader(self.valid_patches, shuffle=False)",
        "self._loader(self.train_patches, shuffle=False)",
    ),
    (
        "training patches come in order",
        "self._loader(self.train_patches, shuffle=True)",
        "self._loader(self.train_patches, shuffle=False)",
    ),
    ("validation leaves the last patches out", "drop_last=shuffle", "drop_last=True"),
    ("all processes take the same patches", "order[self.rank * len(self) :]", "order[0:]"),
    ("every epoch has the same order", "seeded(self.seed, self.epoch))", "seeded(self.seed, 0))"),
    ("norms decay", '"norm" in name or name.endswith("bias")', 'name.endswith("bias")'),
    ("nothing is exempt from decay", '"weight_decay": 0.0}', '"weight_decay": self.config.weight_decay}'),
    ("the schedule counts epochs", '"interval": "step"', '"interval": "epoch"'),
    (
        "every batch is turned alike",
        "self.current_epoch, self.global_rank, index)",
        "self.current_epoch, self.global_rank, 0)",
    ),
    ("every epoch is turned alike", "seeded(self.config.seed, self.current_epoch,", "seeded(self.config.seed, 0,"),
    ("dropout is left to chance", "torch.manual_seed(generator.initial_seed())", "pass"),
    (
        "batches count alike, whatever their size",
        "self.valid_loss.update(F.cross_entropy(logits, labels), len(labels))",
        "self.valid_loss.update(F.cross_entropy(logits, labels))",
    ),
    ("the worst epoch is the best", 'mode="min"', 'mode="max"', "test_training.py::test_it_learns_and_writes_its_log"),
    (
        "seeds (0, 1) and (0, 1, 0) are one",
        "(len(numbers), *numbers)",
        "numbers",
        "test_training.py::test_seeded_streams_differ_in_every_number",
    ),
)

EPOCHS = mutants_of(
    "training",
    "test_training.py",
    ("the best epoch counts from 0", 'checkpoint["epoch"] + 1, tuple(curve', 'checkpoint["epoch"], tuple(curve'),
)

INTERRUPTS = mutants_of(
    "interrupts",
    "test_interrupts.py",
    (
        "a second Ctrl-C waits, too",
        "if again or not self._training:",
        "if not self._training:",
        "::test_a_second_signal_does_not_wait_for_the_batch",
    ),
    (
        "Ctrl-C is raised where it arrives, and may be lost",
        "if again or not self._training:",
        "if True:",
        "::test_a_second_signal_does_not_wait_for_the_batch",
    ),
    (
        "Ctrl-C is noted, and no more",
        "self._handlers[told](told, None)",
        "pass",
        "::test_a_signal_that_python_would_forget_ends_it",
    ),
)

RUNS = mutants_of(
    "runs",
    "test_runs.py test_training.py",
    ("networks are loaded in training mode", "return network.eval(), contents", "return network.train(), contents"),
    ("shares beyond 1", "if self.any_angle > 1:", "if self.any_angle > 2:"),
    (
        "old files are taken for field-wise",
        'values = {"depthwise": "strict"} | values',
        "pass",
        "test_runs.py::test_files_that_do_not_say_their_depthwise_layer_are_strict",
    ),
    (
        "an empty optimizer is a fresh start",
        "isinstance(part[0], dict) and part[0])",
        "isinstance(part[0], dict))",
        "test_runs.py::test_a_checkpoint_whose_parts_are_odd_is_named",
    ),
)

PROGRESS = mutants_of(
    "progress",
    "test_progress.py",
    ("bars go into files", "disable=None if shown", "disable=False if shown", "::test_a_bar_is_for_terminals"),
    ("a bar that was not wanted is shown", "if shown else True", "if shown else None", "::test_a_bar_is_for_terminals"),
    ("what is over at once shows a bar", "delay=PATIENCE", "delay=0", "::test_what_is_over_at_once_shows_none"),
)

EXPERIMENT = mutants_of(
    "experiment",
    "test_experiment_laws.py",
    (
        "identical under one turn is enough",
        "for other in logits[1:]]).all(0)",
        "for other in logits[1:]]).any(0)",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "one identical logit is enough",
        "(logits[0] == other).all(1)",
        "(logits[0] == other).any(1)",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the probability of the other class",
        "logits.softmax(1)[:, 1]",
        "logits.softmax(1)[:, 0]",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "differences are first minus second",
        "(values[:, 1] - values[:, 0]).tolist()",
        "(values[:, 0] - values[:, 1]).tolist()",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "a record forgets which side of 0 an answer was on",
        'round(value, 4) or float(f"{value:.1g}")',
        "round(value, 4)",
    ),
    (
        "the spread of ranges is inverted",
        "ranges.max() / ranges.min()",
        "ranges.min() / ranges.max()",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the smallest error is in the table",
        'max(e["rms"] for e in errors',
        'min(e["rms"] for e in errors',
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "interpolated rotations are in the table",
        'if e["degrees"] % 90 == 0)',
        'if e["degrees"] % 30 == 0)',
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the last batch repeats patches",
        "indices = range(start, min(start + batch_size, len(patches)))",
        "indices = range(min(start, len(patches) - batch_size), min(start + batch_size, len(patches)))",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
)

STUDY = mutants_of(
    "study",
    "test_study.py test_study_tables.py",
    ("ties count as class 1", "np.asarray(patches[stage]) > 0)", "np.asarray(patches[stage]) >= 0)"),
    ("the worst epoch's loss", 'min(epoch["valid_loss"]', 'max(epoch["valid_loss"]'),
    ("a standard error without its root", "self.std / self.runs**0.5", "self.std / self.runs"),
    ("both sides draw the same seeds", "_bootstrap(second, draw=1)", "_bootstrap(second, draw=0)"),
    ("the variance of a difference is biased", "side.mean(1).var(ddof=1)", "side.mean(1).var(ddof=0)"),
    ("the spread over runs is biased", "means.std(ddof=1)", "means.std(ddof=0)"),
    ("two kinds of labels pass", "if len(labels) > 1:", "if len(labels) > 2:"),
    ("INT8 is subtracted", 'run.correct("int8") - run.correct("fp32")', 'run.correct("fp32") - run.correct("int8")'),
    ("one attribute is enough", "if all(getattr(run, name) == value", "if any(getattr(run, name) == value"),
    ("rounded differences stay at 0", "if missing and missing in", "if False and missing in"),
    ("any accuracy moves rounded differences", "missing in (gained.sum(), -lost.sum())", "True"),
    ("rounded differences go to the other side", "gained if missing > 0 else lost", "lost if missing > 0 else gained"),
)

TABLES = mutants_of(
    "study_tables",
    "test_study_tables.py test_study.py",
    ("much smaller networks are comparable", "1 / 1.3 < ratio < 1.3", "ratio < 1.3"),
    ("quarter turns are the others", "if (angle % 90 == 0) == quarter", "if (angle % 90 == 0) != quarter"),
    ("Table 1 takes the fewest patches", "most = max(run.patches", "most = min(run.patches"),
    ("the mildest loss is called the worst", "{min(changes):+.2f}", "{max(changes):+.2f}"),
    ("naive rounding is the equalized one", '("naive", "int8 naive, simulated")', '("naive", "int8 simulated")'),
    ("steadiness is inverted", "ours / theirs:.2f", "theirs / ours:.2f"),
    (
        "the luckiest run is reported",
        'np.mean([run.figures["int8_identical_under_quarter_turns"]',
        'np.max([run.figures["int8_identical_under_quarter_turns"]',
    ),
)

BOOTSTRAP = mutants_of(
    "bootstrap",
    "test_bootstrap.py",
    (
        "the area misses the ties with itself",
        "ones * (ones + 1) / 2",
        "ones * (ones - 1) / 2",
        "test_contrasts.py::test_the_area_is_the_share_of_pairs_in_order",
    ),
    ("an interval of 90 %", "(0.025, 0.975)", "(0.05, 0.95)"),
    ("sums of counts overflow", "len(counts)), np.int32)", "len(counts)), np.int16)"),
    (
        "patches are not drawn",
        "multinomial(patches, np.full(patches, 1 / patches), REPEATS)",
        "multinomial(patches, np.full(patches, 1 / patches), 1).repeat(REPEATS, 0)",
    ),
    ("slides weigh alike, however many patches they have", "np.bincount(slide, minlength=size))", "np.ones(size))"),
    ("pairs within a slide count once, however often it is drawn", '"bs,st,bt->b"', '"bs,st,ct->b"'),
    (
        "equal scores count whole",
        'scores[ones], side) for side in ("left", "right"))\n    lower',
        'scores[ones], side) for side in ("right", "right"))\n    lower',
    ),
    ("a patch drawn twice counts once", "positive = drawn[ones]", "positive = drawn[ones] > 0"),
    ("runs are not drawn", 'np.einsum("br,rb->b", counts, values) / runs', "values.mean(0)"),
)

CONTRASTS = mutants_of(
    "contrasts",
    "test_contrasts.py",
    ("patches that chose the epoch count as unseen", '"unseen": slice(CHOSE, None)', '"unseen": slice(None)'),
    ("confirmation patches cannot say no", "confirmation.interval[1] < 0", "confirmation.interval[0] > 0"),
    ("a yes needs no confirmation", "if not known:", "if False:"),
    ("trainings of any length are compared", "== (patches, epochs)", "!= (None, None)"),
    ("recipes mix", "config.get(name, value) == value for name", "True for name"),
    ("dropout by channel counts as dropout of fields", 'get("field_dropout", True)', 'get("width", True)'),
    (
        "other patches are compared",
        "for side in sides for run in side}) > 1:",
        "for side in sides for run in side}) > 2:",
    ),
    ("both sides draw the same seeds for the bootstrap", "draw=draw) for draw, side", "draw=0) for draw, side"),
    ("equal scores are parted", "scores[1:] > scores[:-1], [True]", "scores[1:] >= scores[:-1], [True]"),
)

MORE_CONTRASTS = mutants_of(
    "contrasts",
    "test_contrasts.py",
    (
        "the threshold is the worst",
        "np.where(labels, -1, 1)",
        "np.where(labels, 1, -1)",
        "::test_no_threshold_is_better_than_the_best",
    ),
    (
        "the baseline is the first network",
        "float(np.mean(first) - np.mean(second))",
        "float(np.mean(second) - np.mean(first))",
        "::test_a_difference_has_welchs_interval_in_closed_form",
    ),
)

CONFIRMATION = mutants_of(
    "confirmation",
    "test_confirmation.py",
    (
        "one planned run may be missing",
        "if not lacking(runs, contrast)]",
        "if len(lacking(runs, contrast)) < 2]",
    ),
    (
        "the baseline's runs are not waited for",
        "(contrast.network, contrast.baseline) for seed",
        "(contrast.network,) for seed",
    ),
    ("all networks are read at once", "if run.variant in complete", "if complete"),
    ("runs of any recipe make up the floor", "name_of(run) for run in of_plan(runs)}", "name_of(run) for run in runs}"),
    ("test patches confirm", 'if lists[1] == run.figures["per_patch"]["fp32"]:', "if False:"),
)

PLAN_TABLES = mutants_of(
    "plan_tables",
    "test_plan_tables.py",
    ("a rate that is hardly better is taken", "losses[best] > CLEARLY", "losses[best] > 0"),
    ("any seed is a trial", "if run.seed == TRIAL_SEED:", "if run.seed >= TRIAL_SEED:"),
    ("the last two epochs are one", '["best_epoch"] >= END - 1', '["best_epoch"] >= END'),
    ("lengths share a row", "group = of_plan(runs, epochs)", "group = of_plan(runs, EPOCHS)"),
)

SLIDES = mutants_of(
    "slides",
    "test_slides.py",
    ("rows in another order pass", "!= [label == 1 for label in labels]:", "== []:"),
    (
        "the tumour may lie anywhere",
        'SLIDE, LABEL = "wsi", "center_tumor_patch"',
        'SLIDE, LABEL = "wsi", "tumor_patch"',
    ),
    ("the difference is turned round", "tuple(b - a for a, b", "tuple(a - b for a, b"),
)

ORDER = mutants_of(
    "study",
    "test_study.py test_study_tables.py",
    (
        "conventional runs come last",
        "(not run.variant.conventional, run.network",
        "(run.variant.conventional, run.network",
    ),
)

MUTANTS = [
    *TRAINING,
    *EPOCHS,
    *INTERRUPTS,
    *RUNS,
    *PROGRESS,
    *EXPERIMENT,
    *STUDY,
    *TABLES,
    *BOOTSTRAP,
    *CONTRASTS,
    *MORE_CONTRASTS,
    *CONFIRMATION,
    *PLAN_TABLES,
    *SLIDES,
    *ORDER,
]
