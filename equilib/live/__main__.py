"""Write the live page into a folder, and serve it on this machine or measure it."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from equilib.cli.process import until_closed
from equilib.live import LivePageError, build


def main(arguments: list[str] | None = None) -> int:
    """Build, then serve or measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equilib.live", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="new, empty, or with an earlier page, which is replaced")
    parser.add_argument("--port", type=int, default=8000, help="of this machine (default 8000)")
    parser.add_argument(
        "--measure", action="store_true", help="print speed and size in headless Chromium instead of serving"
    )
    options = parser.parse_args(arguments)
    try:
        if options.measure:
            from equilib.live.measure import chromium, report

            folder = build(options.folder)
            with chromium() as browser:
                print(report(browser, folder))
        else:
            # The port first: that another program has it is to be known before npm and the build take their minutes.
            with listening(options.folder, options.port) as server:
                build(options.folder)
                serve(server)
    except (LivePageError, OSError, ValueError) as error:
        print(f"equilib.live: {error}", file=sys.stderr)
        return 1
    return 0


def listening(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder, for this machine alone, which has its port and answers once it is told to.

    Raises:
        LivePageError: the port cannot be had.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=folder))
    except (OSError, OverflowError) as error:  # the second of a number that no port has
        reason = getattr(error, "strerror", None) or error
        raise LivePageError(f"port {port} cannot be used ({reason}): name another with --port") from error


def serve(server: ThreadingHTTPServer) -> None:
    """Say where the page is and answer, until it is interrupted."""
    print(f"open http://localhost:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(until_closed(main))
