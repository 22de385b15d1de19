"""How the world's web server starts, stands by for another, and stops."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sd_assets.demo.server import IDENTITY_PATH, WorldServer
from sd_assets.demo.world import World
from sd_assets.errors import SdAssetsError
from sd_assets_tests.demo.conftest import ask


def test_answers_are_bounded_in_time(
    world: World, planted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_assets.demo.server.LONGEST_ANSWER_S", 0.3)
    with WorldServer(world.folder):
        assert ask(world.port, planted["never_answers"], wait_s=3).ended == "closed"
        assert ask(world.port, planted["drip_feed"], wait_s=3).ended == "closed"


def test_it_stops_with_its_block_even_while_it_answers(world: World, planted: dict[str, str]) -> None:
    before = set(threading.enumerate())  # another test's world may be served all the while
    with WorldServer(world.folder):
        hanging = socket.create_connection(("127.0.0.1", world.port), timeout=5)
        hanging.sendall(f"GET {planted['never_answers']} HTTP/1.1\r\n\r\n".encode())
        time.sleep(0.1)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    hanging.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.port), timeout=1)
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "world-server"]


def test_a_second_one_stands_by_and_takes_over(world: World) -> None:
    first, second = WorldServer(world.folder), WorldServer(world.folder)
    first.__enter__()
    with second:
        assert ask(world.port, IDENTITY_PATH).status == 200
        first.__exit__(None, None, None)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                assert ask(world.port, IDENTITY_PATH).body.decode() == world.id
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        else:
            pytest.fail("the second server did not take over")


def test_a_stranger_on_the_port_is_a_clear_error(world: World) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", world.port))
        stranger.listen()
        threading.Thread(target=_greet, args=[stranger], daemon=True).start()
        with pytest.raises(SdAssetsError, match=rf"127\.0\.0\.1:{world.port}.*taken by another program"):
            WorldServer(world.folder).__enter__()


def _greet(stranger: socket.socket) -> None:
    connection, _ = stranger.accept()
    connection.sendall(b"220 mail.example.org ESMTP\r\n")
    connection.close()


def test_from_the_command_line(world: World, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sd_assets.demo.server"]
    process = subprocess.Popen([*command, str(world.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert world.base_url in process.stdout.readline()
        assert ask(world.port, IDENTITY_PATH).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    idle = subprocess.run([*command, str(world.folder), "--idle", "0.2"], capture_output=True, timeout=60)
    assert idle.returncode == 0
    nothing = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=20)
    assert nothing.returncode == 1
    assert "no complete demo world" in nothing.stderr
