"""data_download.sh against a small local server: no test needs the network."""

import gzip
import hashlib
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

h5py = pytest.importorskip("h5py")
np = pytest.importorskip("numpy")

SCRIPT = Path(__file__).resolve().parents[1] / "data_download.sh"
PREFIX = "camelyonpatch_level_2_split_"
PATCHES = {"train": 16, "valid": 4, "test": 4}
TRAIN_X = PREFIX + "train_x.h5.gz"
VALID_X = PREFIX + "valid_x.h5.gz"
TIMEOUT = 60  # only so that a hanging script cannot hang the tests

pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in ("bash", "curl", "gzip")
]


@pytest.fixture(scope="module")
def pcam(tmp_path_factory):
    """Tiny archives in PCam's layout: {archive name: (gz bytes, h5 bytes)}."""
    folder = tmp_path_factory.mktemp("pcam")
    rng = np.random.default_rng(0)
    files = {}
    for split, n in PATCHES.items():
        arrays = {
            "x": rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8),
            "y": rng.integers(0, 2, (n, 1, 1, 1), dtype=np.uint8),
        }
        for key, array in arrays.items():
            path = folder / f"{PREFIX}{split}_{key}.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset(key, data=array)
            content = path.read_bytes()
            files[path.name + ".gz"] = (gzip.compress(content, mtime=0), content)
    return files


class Server(http.server.ThreadingHTTPServer):
    """Serves a dict of archives; the attributes below make it misbehave."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.requests = []  # (name, Range header or None)
        self.bytes_sent = 0
        self.status = {}  # name -> HTTP status to answer with
        self.cuts = {}  # name -> how many answers still to break off half-way
        self.ignore_ranges = False
        self.stall = None  # name whose first answer stops half-way until ...
        self.resume = threading.Event()  # ... this is set
        self.stall_over = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/files"

    def ranges(self, name):
        return [rng for requested, rng in self.requests if requested == name]

    def handle_error(self, request, client_address):
        pass  # clients are killed on purpose


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        name = self.path.rsplit("/", 1)[-1].removesuffix("?download=1")
        range_header = self.headers.get("Range")
        server.requests.append((name, range_header))
        status = server.status.get(name, 200 if name in server.files else 404)
        if status != 200:
            return self.send_error(status)
        if not self.path.endswith("?download=1"):
            return self.send_error(400)

        stalls = server.stall == name and len(server.ranges(name)) == 1
        if server.stall == name and not stalls:
            # Let the first answer finish before this one: if anything were still
            # reading that one, its bytes would end up in the same file.
            server.resume.set()
            server.stall_over.wait(TIMEOUT)

        body = server.files[name]
        start = 0
        if range_header and not server.ignore_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts.get(name, 0) > 0:
            server.cuts[name] -= 1
            body = body[: len(body) // 2]
        half = len(body) // 2 if stalls else len(body)
        try:
            self.send(body[:half])
            if stalls:
                server.resume.wait(TIMEOUT)
                self.send(body[half:])
        except OSError:
            pass
        finally:
            if stalls:
                # End the connection before saying so.
                self.connection.close()
                server.stall_over.set()

    def send(self, data):
        self.wfile.write(data)
        self.wfile.flush()
        self.server.bytes_sent += len(data)


@pytest.fixture
def server(pcam):
    server = Server({name: gz for name, (gz, _) in pcam.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.resume.set()
    server.stall_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def manifest(pcam, tmp_path):
    path = tmp_path / "manifest.txt"
    path.write_text(
        "".join(f"{name} {len(gz)} {hashlib.md5(gz).hexdigest()} {len(h5)}\n" for name, (gz, h5) in pcam.items())
    )
    return path


@pytest.fixture
def env(server, manifest):
    """Environment for the script: local server, no proxy, no waiting between tries."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return env | {
        "EQUILIB_PCAM_URL": server.url,
        "EQUILIB_PCAM_MANIFEST": str(manifest),
        "EQUILIB_PCAM_WAIT": "0",
    }


@pytest.fixture
def run(env, tmp_path):
    """run(*arguments): the script on the folder run.dir; extra variables by keyword."""

    def run(*args, **extra):
        # Waits for the end of stderr, hence also for what a killed script left running.
        return subprocess.run(
            ["bash", str(SCRIPT), *args, str(run.dir)],
            env=env | extra,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    run.dir = tmp_path / "a folder" / "pcam"
    return run


def start(env, *args):
    """The script in the background, its output thrown away."""
    null = subprocess.DEVNULL

    # Under nohup the tests inherit an ignored SIGHUP, and bash cannot trap a signal that was ignored when it started.
    def heed():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(["bash", str(SCRIPT), *args], env=env, stdout=null, stderr=null, preexec_fn=heed)


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.01)


def expected(pcam, splits=tuple(PATCHES)):
    return {
        name.removesuffix(".gz"): h5
        for name, (_, h5) in pcam.items()
        if name.removeprefix(PREFIX).split("_")[0] in splits
    }


def check_folder(folder, wanted, extra=()):
    """Exactly the wanted files, each with its record, and nothing left lying about."""
    names = set(wanted) | {name + ".md5" for name in wanted} | set(extra)
    assert {path.name for path in folder.iterdir()} == names
    for name, content in wanted.items():
        assert (folder / name).read_bytes() == content, name


def check_error(result, status, *words):
    assert result.returncode == status, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, result.stderr
    for word in words:
        assert word in errors[0]


def fake_tool(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def fake_df(folder, free_kb):
    return fake_tool(
        folder,
        "df",
        "echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        f"echo 'some disk 999999999 0 {free_kb} 50% /a mount point'\n",
    )


def default_table():
    rows = re.findall(rf"^({PREFIX}\S+) (\d+) ([0-9a-f]{{32}}) (\d+)$", SCRIPT.read_text(), re.M)
    return {name: (int(size), md5, int(full)) for name, size, md5, full in rows}


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


# --- connections --------------------------------------------------------------------


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


def test_h5_without_record_is_redone(run, server, pcam):
    run.dir.mkdir(parents=True)
    (run.dir / f"{PREFIX}valid_x.h5").write_bytes(b"half a fi")
    assert run("--only", "valid").returncode == 0
    check_folder(run.dir, expected(pcam, ["valid"]))


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


# --- disk and tools -----------------------------------------------------------------


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


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP])
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
