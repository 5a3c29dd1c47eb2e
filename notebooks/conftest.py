"""For nbval: the budget of its kernels, what it compares beside pictures, and the seconds of notebooks and long files."""

from collections import defaultdict

import pytest

LONG = 20  # seconds of a test file that is listed


def pytest_collectstart(collector):
    if type(collector).__name__ == "IPyNbFile":
        # Progress and styling differ from machine to machine; numbers and words are compared, in the tagged cells.
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """A kernel starts in the set-up of a notebook's first cell: at the smallest budget, whatever the tests run at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUILIB_BUDGET", "smoke")
        return (yield)


def pytest_terminal_summary(terminalreporter):
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid.split("::")[0]] += report.duration
    for name, duration in sorted(seconds.items(), key=lambda row: -row[1]):
        if name.endswith(".ipynb") or duration >= LONG:
            terminalreporter.write_line(f"{name}: {duration:.0f} s")
