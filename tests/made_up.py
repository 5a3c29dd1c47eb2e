"""Runs of the plan that nobody trained: answers in closed form, for tests of tables and verdicts."""

import numpy as np

from equilib import contrasts, study


def answers(area_right):
    """100 patches of each class; `area_right` of the positive ones lie above all others, the rest below."""
    scores = np.concatenate([np.where(np.arange(100) < 100 * area_right, 2.0, -2.0), np.zeros(100)]) - 0.5
    return {"fp32": scores.tolist(), "int8": scores.tolist(), "label": [1] * 100 + [0] * 100}


def run(network, area_right, seed=0, *, epochs=6, rate=3e-3, patches=20_000, loss=0.4, best=None, **config):
    """A run whose area under the curve is `area_right`, on test patches and on those that chose nothing."""
    found = answers(area_right)
    chose = {"fp32": [-1.0, 1.0] * (contrasts.CHOSE // 2), "label": [0, 1] * (contrasts.CHOSE // 2)}
    figures = {
        "config": {"epochs": epochs, "learning_rate": rate} | config,
        "per_patch": found,
        "further": {"valid": {key: chose[key] + found[key] for key in chose}},
        "history": [{"valid_loss": loss + 0.1}, {"valid_loss": loss}],
        "best_epoch": best or epochs,
        "steps": patches // 32 * epochs,
    }
    variant = (contrasts.NETWORKS | contrasts.THIRD_ROW)[network]
    return study.Run(variant, patches, seed, "made up", "command", figures)
