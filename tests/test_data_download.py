"""data_download.sh against a small local server: no test needs the network."""

# ruff: noqa: F811 (fixtures are imported, and then arguments)

import os
import shutil

import pytest
from downloads import (  # noqa: F401 (fixtures)
    NEEDS,
    PATCHES,
    PREFIX,
    SCRIPT,
    VALID_X,
    check_error,
    check_folder,
    default_table,
    env,
    expected,
    fake_df,
    fake_tool,
    h5py,
    manifest,
    pcam,
    run,
    server,
)

pytestmark = NEEDS


# --- the ordinary way ---------------------------------------------------------------


def test_fresh_download(run, server, pcam):
    result = run()
    assert result.returncode == 0, result.stderr
    check_folder(run.dir, expected(pcam))
    assert sorted(name for name, _ in server.requests) == sorted(pcam)
    with h5py.File(run.dir / f"{PREFIX}train_x.h5") as file:
        assert file["x"].shape == (PATCHES["train"], 96, 96, 3)


def test_already_right_makes_no_request(run, server, pcam):
    assert run().returncode == 0
    server.requests.clear()
    for args in [(), ("--verify",), ("--only", "test")]:
        result = run(*args)
        assert result.returncode == 0, result.stderr
    # Not even when the archives could not be had, nor any room.
    assert run(PATH=fake_df(run.dir.parent / "bin", 0)).returncode == 0
    assert server.requests == []
    check_folder(run.dir, expected(pcam))


@pytest.mark.parametrize("args", [("--only", "valid"), ("--only=test,valid",)])
def test_only(run, server, pcam, args):
    assert run(*args).returncode == 0
    splits = args[-1].removeprefix("--only=").split(",")
    check_folder(run.dir, expected(pcam, splits))
    assert len(server.requests) == 2 * len(splits)


@pytest.mark.parametrize(
    "args, word",
    [
        (("--only", "train,validation"), "'validation'"),
        (("--only", ""), "selects no file"),
        (("--olny", "train"), "'--olny'"),
        (("elsewhere",), "more than one folder"),
    ],
)
def test_wrong_arguments(run, server, args, word):
    check_error(run(*args), 2, word)
    assert server.requests == []


def test_help(run):
    result = run("--help")
    assert result.returncode == 0
    for word in ("--only", "--keep-archives", "--verify", "data/pcam"):
        assert word in result.stdout
    assert not run.dir.exists()


def test_keep_archives(run, server, pcam):
    assert run("--only", "valid", "--keep-archives").returncode == 0
    archives = [name for name in pcam if "valid" in name]
    check_folder(run.dir, expected(pcam, ["valid"]), extra=archives)
    for name in archives:
        assert (run.dir / name).read_bytes() == pcam[name][0]
    # A lost h5 is unpacked again from the archive that was kept.
    server.requests.clear()
    (run.dir / f"{PREFIX}valid_x.h5").unlink()
    assert run("--only", "valid", "--keep-archives").returncode == 0
    assert server.requests == []
    check_folder(run.dir, expected(pcam, ["valid"]), extra=archives)


def test_md5_of_macos(run, pcam, tmp_path):
    """Without md5sum the script takes md5 -q."""
    if shutil.which("md5sum") is None:
        pytest.skip("no md5sum here, so every other test already does this")
    tools = "awk bash cat cut curl df env gzip mkdir mv ps rm sh sleep tee tr uname wc"
    folder = tmp_path / "bin"
    fake_tool(folder, "md5", f'[ "$*" = -q ] || exit 1\n{shutil.which("md5sum")} | cut -d " " -f1\n')
    for tool in tools.split():
        if shutil.which(tool):
            (folder / tool).symlink_to(shutil.which(tool))
    result = run(PATH=str(folder))
    assert result.returncode == 0, result.stderr
    check_folder(run.dir, expected(pcam))


# --- wrong content ------------------------------------------------------------------


def test_corruption_then_recovery(run, server, pcam):
    good = server.files[VALID_X]
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    server.files[VALID_X] = bytes(bad)
    check_error(run("--only", "valid"), 7, "bad checksum", VALID_X, "run again")
    assert list(run.dir.iterdir()) == []
    server.files[VALID_X] = good
    assert run("--only", "valid").returncode == 0
    assert server.ranges(VALID_X) == [None, None]
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_truncated_h5_is_redone(run, server, pcam):
    assert run().returncode == 0
    server.requests.clear()
    h5 = run.dir / f"{PREFIX}valid_x.h5"
    h5.write_bytes(h5.read_bytes()[:-1])
    assert run().returncode == 0
    assert [name for name, _ in server.requests] == [VALID_X]
    check_folder(run.dir, expected(pcam))


@pytest.mark.parametrize("archive", [VALID_X, VALID_X + ".part"])
def test_h5_without_record_is_unpacked_again(run, server, pcam, archive):
    """…when the archive is beside it: a run was killed after unpacking."""
    run.dir.mkdir(parents=True)
    (run.dir / f"{PREFIX}valid_x.h5").write_bytes(b"half a fi")
    (run.dir / archive).write_bytes(server.files[VALID_X])
    assert run("--only", "valid").returncode == 0
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_a_password_in_the_address_is_not_shown(run, server):
    server.status[VALID_X] = 403
    secret = server.url.replace("://", "://name:secret@")
    result = run("--only", "valid", EQUILIB_PCAM_URL=secret)
    assert result.returncode == 6 and "secret" not in result.stderr and server.url in result.stderr
    result = run("--only", "valid", EQUILIB_PCAM_URL="ftp://name:secret@host")
    assert result.returncode == 2 and "secret" not in result.stderr and "//host'" in result.stderr


def test_an_h5_of_somebody_else_stays(run, server):
    run.dir.mkdir(parents=True)
    own = run.dir / f"{PREFIX}valid_x.h5"
    own.write_bytes(b"my own")
    result = run("--only", "valid")
    assert result.returncode == 1 and "it stays: move it away" in result.stderr and own.name in result.stderr
    assert own.read_bytes() == b"my own" and list(run.dir.iterdir()) == [own] and server.requests == []


def test_leftovers_beside_right_files_are_removed(run, server, pcam):
    assert run("--only", "valid").returncode == 0
    server.requests.clear()
    (run.dir / (VALID_X + ".part")).write_bytes(b"of no use any more")
    (run.dir / f"{PREFIX}valid_y.h5.tmp.123").write_bytes(b"half unpacked")
    assert run("--only", "valid").returncode == 0
    assert server.requests == []
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_verify_finds_a_changed_byte(run, server, pcam):
    assert run("--only", "valid").returncode == 0
    server.requests.clear()
    h5 = run.dir / f"{PREFIX}valid_x.h5"
    content = bytearray(h5.read_bytes())
    content[-1] ^= 1
    h5.write_bytes(content)
    result = run("--only", "valid", "--verify")
    assert result.returncode == 0 and "differs" in result.stderr
    assert [name for name, _ in server.requests] == [VALID_X]
    check_folder(run.dir, expected(pcam, ["valid"]))


# --- the table in the script --------------------------------------------------------


def test_default_table():
    md5 = {
        "train_x": "1571f514728f59376b705fc836ff4b63",
        "train_y": "35c2d7259d906cfc8143347bb8e05be7",
        "valid_x": "d5b63470df7cfa627aeec8b9dc0c066e",
        "valid_y": "2b85f58b927af9964a4c15b8f7e8f179",
        "test_x": "d8c2d60d490dbd479f8199bdfa0cf6ec",
        "test_y": "60a7035772fbdb7f34eb86d4420cf66a",
    }
    size = {
        "train_x": 6421353462,
        "train_y": 21378,
        "valid_x": 805965320,
        "valid_y": 3038,
        "test_x": 800875929,
        "test_y": 3040,
    }
    n = {"train": 262144, "valid": 32768, "test": 32768}
    wanted = {
        f"{PREFIX}{key}.h5.gz": (
            size[key],
            md5[key],
            n[key.split("_")[0]] * (96 * 96 * 3 if key.endswith("x") else 1),
        )
        for key in md5
    }
    assert default_table() == wanted


def test_script_is_executable():
    assert os.access(SCRIPT, os.X_OK)


# --- a table or a number that is not what it should be ------------------------------


@pytest.mark.parametrize("wait", ["0.5", "abc", "-1", "1e3", " "])
def test_a_wait_that_is_no_whole_number_is_refused(run, server, wait):
    """An error in bash's arithmetic ends a loop and goes on behind it, where all files would be «right»."""
    check_error(run(EQUILIB_PCAM_WAIT=wait), 2, "EQUILIB_PCAM_WAIT", "whole seconds")
    assert server.requests == []


def test_a_table_counts_to_its_last_row(run, server, pcam, manifest):
    """…with zeros before its numbers, and without an end of its last line."""
    rows = [line.split() for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(f"{name} 0{size} {md5} 0{full}" for name, size, md5, full in rows))
    assert run().returncode == 0
    check_folder(run.dir, expected(pcam))


def test_folders_in_the_place_of_files(run, server, manifest, tmp_path):
    check_error(run(EQUILIB_PCAM_MANIFEST=str(tmp_path)), 2, "cannot read the file table")
    (run.dir / VALID_X.removesuffix(".gz")).mkdir(parents=True)
    check_error(run(), 1, "is a folder")
