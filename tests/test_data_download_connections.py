"""data_download.sh where connections are cut and servers answer as they like."""

# ruff: noqa: F811 (fixtures are imported, and then arguments)

import socket

import pytest
from downloads import (  # noqa: F401 (fixtures)
    NEEDS,
    TRAIN_X,
    VALID_X,
    check_error,
    check_folder,
    env,
    expected,
    manifest,
    pcam,
    run,
    server,
)

pytestmark = NEEDS


def test_resumes_after_cuts(run, server, pcam):
    server.cuts[TRAIN_X] = 2
    result = run("--only", "train")
    assert result.returncode == 0, result.stderr
    check_folder(run.dir, expected(pcam, ["train"]))
    size = len(pcam[TRAIN_X][0])
    assert server.ranges(TRAIN_X) == [None, f"bytes={size // 2}-", f"bytes={size * 3 // 4}-"]
    assert server.bytes_sent < 2 * size


def test_gives_up_then_resumes_in_next_run(run, server, pcam):
    server.cuts[TRAIN_X] = 5
    check_error(run("--only", "train"), 9, TRAIN_X, "broke off", "run again")
    assert list(run.dir.glob("*.h5")) == []
    assert len(server.ranges(TRAIN_X)) == 5
    result = run("--only", "train")
    assert result.returncode == 0, result.stderr
    assert None not in server.ranges(TRAIN_X)[1:]
    check_folder(run.dir, expected(pcam, ["train"]))


def test_server_that_ignores_ranges(run, server, pcam):
    server.ignore_ranges = True
    server.cuts[VALID_X] = 1
    result = run("--only", "valid")
    assert result.returncode == 0, result.stderr
    assert server.ranges(VALID_X)[0] is None and server.ranges(VALID_X)[1] is not None
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_server_that_ignores_ranges_and_always_cuts(run, server):
    server.ignore_ranges = True
    server.cuts[VALID_X] = 1000
    assert run("--only", "valid").returncode == 9
    assert len(server.requests) == 5


@pytest.mark.parametrize("suffix", [".part", ""])
@pytest.mark.parametrize("have", ["part of it", "all of it", "too much"])
def test_archive_found_in_folder(run, server, pcam, have, suffix):
    """Left by an earlier run (.part) or put there by hand, say with a browser (.gz)."""
    gz = pcam[VALID_X][0]
    content = {"part of it": gz[:5000], "all of it": gz, "too much": gz + b"tail"}[have]
    run.dir.mkdir(parents=True)
    (run.dir / (VALID_X + suffix)).write_bytes(content)
    result = run("--only", "valid")
    assert result.returncode == 0, result.stderr
    ranges = {"part of it": ["bytes=5000-"], "all of it": [], "too much": [None]}[have]
    assert server.ranges(VALID_X) == ranges
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_part_longer_than_file_on_server(run, server, pcam):
    """A range out of bounds (416) makes the file start afresh; what comes is too short."""
    server.files[VALID_X] = pcam[VALID_X][0][:1000]
    run.dir.mkdir(parents=True)
    (run.dir / (VALID_X + ".part")).write_bytes(b"x" * 2000)
    check_error(run("--only", "valid"), 7, VALID_X, "1000 bytes instead of")
    assert server.ranges(VALID_X) == ["bytes=2000-", None]
    assert not (run.dir / (VALID_X + ".part")).exists()


def test_page_instead_of_file(run, server, pcam):
    server.files[VALID_X] = b"<html>please log in</html>"
    check_error(run("--only", "valid"), 7, VALID_X, "26 bytes instead of", "run again")
    # Nothing of the page may be resumed on top of.
    server.files[VALID_X] = pcam[VALID_X][0]
    server.requests.clear()
    assert run("--only", "valid").returncode == 0
    assert server.ranges(VALID_X) == [None]
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_not_found(run, server):
    server.status[VALID_X] = 404
    check_error(run("--only", "valid"), 6, "404", VALID_X, "check")
    assert len(server.requests) == 1
    assert list(run.dir.iterdir()) == []


def test_settings_for_other_downloads_do_not_count(run, pcam, tmp_path):
    """~/.curlrc may name an output file, ask for headers alone, or stop at the first byte; CDPATH may move cd."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".curlrc").write_text("head\noutput = elsewhere\nmax-filesize = 1\n")
    home = str(tmp_path / "home")
    result = run("--only", "valid", HOME=home, CURL_HOME=home, XDG_CONFIG_HOME=home, CDPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    check_folder(run.dir, expected(pcam, ["valid"]))


@pytest.mark.parametrize("address", ["file:///etc", "-K/etc/passwd", "ftp://127.0.0.1/files", "https://", "files"])
def test_addresses_of_other_kinds_are_refused(run, server, address):
    check_error(run(EQUILIB_PCAM_URL=address), 2, "EQUILIB_PCAM_URL", "https://")
    assert server.requests == [] and not run.dir.exists()


@pytest.mark.parametrize(
    "line",
    [
        "../camelyonpatch_level_2_split_valid_x.h5.gz 1 0123456789abcdef0123456789abcdef 1",
        "camelyonpatch_level_2_split_valid_/../../x.h5.gz 1 0123456789abcdef0123456789abcdef 1",
        "-o.h5.gz 1 0123456789abcdef0123456789abcdef 1",
        "camelyonpatch_level_2_split_valid_x.h5.gz many 0123456789abcdef0123456789abcdef 1",
        "camelyonpatch_level_2_split_valid_x.h5.gz 1 00",
    ],
)
def test_a_file_table_cannot_lead_out_of_the_folder(run, server, tmp_path, line):
    (tmp_path / "table").write_text(line + "\n")
    check_error(run(EQUILIB_PCAM_MANIFEST=str(tmp_path / "table")), 2, "file table")
    assert server.requests == [] and not run.dir.exists()


def test_server_trouble_is_tried_again(run, server):
    server.status[VALID_X] = 503
    check_error(run("--only", "valid"), 6, "503", VALID_X)
    assert len(server.requests) == 5


def test_no_network(run):
    with socket.socket() as closed:  # bound but not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        result = run(EQUILIB_PCAM_URL=f"http://{host}/files")
    check_error(result, 5, "no network", host, "run again")
    assert list(run.dir.iterdir()) == []
