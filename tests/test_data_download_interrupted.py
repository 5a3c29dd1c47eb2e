"""data_download.sh where the disk is full, tools are missing, it is killed, or runs twice at once."""

# ruff: noqa: F811 (fixtures are imported, and then arguments)

import os
import shutil
import signal
import subprocess

import pytest
from downloads import (  # noqa: F401 (fixtures)
    NEEDS,
    PREFIX,
    TIMEOUT,
    TRAIN_X,
    VALID_X,
    check_error,
    check_folder,
    default_table,
    env,
    expected,
    fake_df,
    fake_tool,
    manifest,
    pcam,
    run,
    server,
    start,
    wait_for,
)

pytestmark = NEEDS


@pytest.mark.parametrize("args, need", [((), 17.09), (("--only", "valid"), 1.71)])
def test_too_little_disk(run, server, tmp_path, args, need):
    path = fake_df(tmp_path / "bin", 1_000_000)
    result = run(*args, PATH=path, EQUILIB_PCAM_MANIFEST="")
    check_error(result, 4, f"{need} GB needed", "1.02 GB available", "make room")
    assert server.requests == []
    table = [row for name, row in default_table().items() if not args or "valid" in name]
    assert round(sum(size + full for size, _, full in table) / 1e9, 2) == need


def test_disk_check_leaves_out_what_is_there(run, server, pcam, tmp_path):
    """Enough for what is missing, but not for everything."""
    run.dir.mkdir(parents=True)
    gz, h5 = pcam[TRAIN_X]
    (run.dir / (TRAIN_X + ".part")).write_bytes(gz[:-100])
    labels = sum(len(part) for part in pcam[PREFIX + "train_y.h5.gz"])
    needed_kb = (100 + len(h5) + labels) // 1024
    for free_kb, status in [(needed_kb - 1, 4), (needed_kb + 1, 0)]:
        result = run("--only", "train", PATH=fake_df(tmp_path / "bin", free_kb))
        assert result.returncode == status, result.stderr
    check_folder(run.dir, expected(pcam, ["train"]))


def test_disk_full_while_unpacking(run, server, pcam, tmp_path):
    path = fake_tool(tmp_path / "bin", "tee", 'head -c 100 >"$1"; exit 1\n')
    check_error(run("--only", "valid", PATH=path), 4, VALID_X, "unpacking failed")
    assert [path.name for path in run.dir.iterdir()] == [VALID_X + ".part"]
    server.requests.clear()
    assert run("--only", "valid").returncode == 0
    assert server.ranges(VALID_X) == []
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_missing_tool(run, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "cat", "gzip", "awk", "df"):
        (folder / tool).symlink_to(shutil.which(tool))
    check_error(run(PATH=str(folder)), 3, "'curl'", "install")


# --- interruptions and two at once --------------------------------------------------


def test_kill_in_mid_download(run, env, server, pcam):
    server.stall = TRAIN_X
    first = start(env, str(run.dir))
    part = run.dir / (TRAIN_X + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size > 10_000)
    os.kill(first.pid, signal.SIGKILL)  # the script alone: its curl lives on
    first.wait()
    assert list(run.dir.glob("*.h5")) == []
    result = run()
    assert result.returncode == 0, result.stderr
    assert server.ranges(TRAIN_X)[0] is None
    assert server.ranges(TRAIN_X)[1].startswith("bytes=")
    assert len(server.ranges(TRAIN_X)) == 2
    check_folder(run.dir, expected(pcam))


@pytest.mark.parametrize("sig", [signal.SIGTERM, getattr(signal, "SIGHUP", None)])
def test_stopped_in_mid_download(run, env, server, pcam, sig):
    """An ordinary stop also ends curl and gives the lock back, at once."""
    server.stall = VALID_X
    first = start(env, "--only", "valid", str(run.dir))
    part = run.dir / (VALID_X + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size > 10_000)
    os.kill(first.pid, sig)
    assert first.wait(TIMEOUT) == 128 + sig
    assert [path.name for path in run.dir.iterdir()] == [part.name]
    assert run("--only", "valid").returncode == 0
    check_folder(run.dir, expected(pcam, ["valid"]))


@pytest.mark.parametrize("args", [(), ("--keep-archives",)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_at_every_step(run, server, pcam, manifest, tmp_path, when, args):
    """kill -9 before or after each single command that changes the folder."""
    row = next(row for row in manifest.read_text().splitlines() if row.startswith(VALID_X))
    manifest.write_text(row + "\n")  # one file, to be quick
    wanted = {VALID_X.removesuffix(".gz"): pcam[VALID_X][1]}
    archives = [VALID_X] if args else []
    for tool in ("mv", "rm", "tee", "gzip"):
        real = shutil.which(tool)
        # Commands number themselves by making folders, as two of them may run at once.
        path = fake_tool(
            tmp_path / "bin",
            tool,
            f"""
            n=1
            until {shutil.which("mkdir")} "$STEPS/$n" 2>/dev/null; do n=$((n + 1)); done
            [ "$n" -eq "$STEP" ] || exec {real} "$@"
            [ {when} = before ] || {real} "$@"
            kill -9 "$(cut -d" " -f1 "$LOCK/owner")"
            exit 1
            """,
        )
    killed = 0
    for step in range(1, 100):
        run.dir = tmp_path / f"step{step}"
        steps = tmp_path / f"commands{step}"
        steps.mkdir()
        lock = run.dir / ".download.lock"
        server.requests.clear()
        result = run(*args, PATH=path, STEP=str(step), STEPS=str(steps), LOCK=str(lock))
        for h5 in run.dir.glob("*.h5"):
            assert h5.read_bytes() == wanted[h5.name], step
        if result.returncode == 0:
            break
        killed += result.returncode == -signal.SIGKILL
        again = run(*args)
        assert again.returncode == 0, (step, again.stderr)
        assert len(server.requests) == 1, step  # both runs together: nothing is fetched twice
        check_folder(run.dir, wanted, extra=archives)
    assert killed >= 6  # else the fake tools did not do their work
    check_folder(run.dir, wanted, extra=archives)


def test_two_at_once(run, env, server, pcam):
    server.stall = VALID_X
    first = start(env, "--only", "valid", str(run.dir))
    wait_for(lambda: server.requests)
    check_error(run("--only", "valid"), 8, "another run", str(first.pid), str(run.dir))
    assert len(server.requests) == 1
    server.resume.set()
    assert first.wait(TIMEOUT) == 0
    check_folder(run.dir, expected(pcam, ["valid"]))


@pytest.mark.parametrize("owner", ["dead", "other program", "none"])
def test_stale_lock_is_removed(run, pcam, owner):
    lock = run.dir / ".download.lock"
    lock.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    pid = {"dead": dead.pid, "other program": os.getppid(), "none": None}[owner]
    if pid is not None:
        (lock / "owner").write_text(f"{pid} {os.uname().nodename}\n")
    result = run("--only", "valid")
    assert result.returncode == 0, result.stderr
    check_folder(run.dir, expected(pcam, ["valid"]))


def test_lock_of_another_machine_is_respected(run, server):
    lock = run.dir / ".download.lock"
    lock.mkdir(parents=True)
    (lock / "owner").write_text("1 some-other-machine\n")
    check_error(run(), 8, "some-other-machine", str(lock))
    assert server.requests == [] and lock.exists()
