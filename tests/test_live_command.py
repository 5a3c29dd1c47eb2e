"""The command of the live page: a port first, then the page; a server for this machine alone."""

import re
import threading
from urllib.request import urlopen

import pytest

from equilib import live
from equilib.live import __main__ as command


def test_a_folder_is_served_on_this_machine(monkeypatch):
    said, ready = [], threading.Event()
    monkeypatch.setattr("builtins.print", lambda *words, **_: (said.append(words[0]), ready.set()))
    threading.Thread(target=command.serve, args=(command.listening(live.PAGE, 0),), daemon=True).start()
    assert ready.wait(10)
    address = re.search(r"http://localhost:(\d+)/", said[0])
    with urlopen(f"http://127.0.0.1:{address[1]}/rotation.js") as answer:
        assert answer.read() == (live.PAGE / "rotation.js").read_bytes()
        assert answer.headers.get_content_type() == "text/javascript"
    for port in (int(address[1]), 99999, -1):
        with pytest.raises(live.LivePageError, match=f"port {port} cannot be used.*--port"):
            command.listening(live.PAGE, port)


def test_a_port_that_is_taken_is_told_before_the_page_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "build", lambda folder: pytest.fail("built first"))
    with command.listening(tmp_path, 0) as server:
        assert command.main([str(tmp_path / "page"), "--port", str(server.server_port)]) == 1
    assert "name another with --port" in capsys.readouterr().err and not (tmp_path / "page").exists()
