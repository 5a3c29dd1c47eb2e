"""For nbval: what it compares beside pictures, and the seconds of each notebook."""

from collections import defaultdict


def pytest_collectstart(collector):
    if type(collector).__name__ == "IPyNbFile":
        # Progress and styling differ from machine to machine; numbers and words are compared, in the tagged cells.
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def pytest_terminal_summary(terminalreporter):
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "nodeid", "").split("::")[0].endswith(".ipynb"):
                seconds[report.nodeid.split("::")[0]] += report.duration
    for name, duration in sorted(seconds.items()):
        terminalreporter.write_line(f"{name}: {duration:.0f} s")
