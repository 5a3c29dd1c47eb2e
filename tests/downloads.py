"""A small local server of patches for the tests of data_download.sh: it cuts, lies and fails as it is told."""

import gzip
import hashlib
import http.server
import os
import re
import shutil
import signal
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

NEEDS = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in ("bash", "curl", "gzip")
] + [pytest.mark.skipif(os.name == "nt", reason="the script is for POSIX systems, WSL among them")]


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
