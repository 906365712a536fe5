"""How the server ends: on a signal, with requests in flight, and when the engine breaks."""

from __future__ import annotations

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from server_process import BUILD, Server, events_of, expected_tokens, greedy, tokens_of
from test_server_load import send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_flight_are_answered_and_waiting_ones_refused(folder: Path, number: signal.Signals) -> None:
    with Server(folder, FAKE_STEP_MS=5, slots=8, queue=100) as server, ThreadPoolExecutor(48) as pool:
        whole = [pool.submit(server.post, greedy([i, 4], 100)) for i in range(4)]
        streams = [pool.submit(server.stream, greedy([i, 4], 100)) for i in range(4, 8)]
        server.wait_for(running=8)
        waiting = [pool.submit(server.post, greedy([i], 100)) for i in range(40)]
        server.wait_for(running=8, waiting=40)
        server.process.send_signal(number)
        for client, done in enumerate(whole):
            assert done.result()[1]["choices"][0]["token_ids"] == expected_tokens([client, 4], 100)
        for client, done in enumerate(streams, 4):
            assert tokens_of(done.result()[:-1]) == expected_tokens([client, 4], 100)
        for done in waiting:
            status, answer = done.result()
            assert (status, answer["error"]["message"]) == (503, "the server is shutting down")
        server.process.wait(timeout=20)


def test_grace_ends(folder: Path) -> None:
    server = Server(folder, FAKE_STEP_MS=5, context=100_000, grace_seconds=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(server.stream, greedy([1], 90_000))
        whole = pool.submit(server.post, greedy([1], 90_000))
        server.wait_for(running=2)
        begun = time.monotonic()
        assert server.stop() == (0, "")
        assert 1 <= time.monotonic() - begun < 10
        events = stream.result()
        tokens = tokens_of(events)
        assert events[-1]["error"]["message"] == "the server is shutting down"
        assert tokens == expected_tokens([1], len(tokens))
        assert whole.result()[0] == 503


def test_a_second_signal_ends_grace(folder: Path) -> None:
    server = Server(folder, FAKE_STEP_MS=5, context=100_000, grace_seconds=3600)
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(server.post, greedy([1], 90_000))
        server.wait_for(running=1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.process.poll() is None
        assert server.stop() == (0, "")
        assert whole.result()[0] == 503


def test_idle_connections_do_not_hold_it_up(folder: Path) -> None:
    server = Server(folder, header_seconds=3600)
    connection = server.connect()
    connection.request("GET", "/health")
    connection.getresponse().read()
    assert server.stop() == (0, "")
    connection.close()


def test_abandoned_requests_do_not_hold_it_up(folder: Path) -> None:
    server = Server(folder, FAKE_STEP_MS=5, context=100_000, grace_seconds=3600)
    clients = [send(server, greedy([1], 90_000, stream=True)) for _ in range(12)]
    server.wait_for(running=8, waiting=4)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.close()
    assert server.stop() == (0, "")


def test_a_broken_engine_is_told_to_all_and_ends_the_server(folder: Path) -> None:
    server = Server(folder, FAKE_STEP_MS=5, context=100_000)
    with ThreadPoolExecutor() as pool:
        stream = send(server, greedy([1], 90_000, stream=True))
        whole = pool.submit(server.post, greedy([2], 90_000))
        server.wait_for(running=2)
        status, answer = server.post(greedy([13, 13], 5))
        assert (status, answer["error"]["message"]) == (500, "the model failed: out of luck")
        assert whole.result()[0] == 500
        text = b""
        while piece := stream.recv(65536):
            text += piece
        last = text.decode().split("data: ")[-1].split("\r\n")[0]
        assert events_of("data: " + last)[0]["error"]["type"] == "server_error"
        stream.close()
    server.process.wait(timeout=20)
    assert server.stop() == (1, "fake_server: the model failed: out of luck\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which model?"),
        (["a", "b"], "two model folders: a and b"),
        (["a", "--port"], "--port: its value is missing"),
        (["a", "--port", "65536"], "--port: '65536' is not a whole number from 0 to 65535"),
        (["a", "--slots", "1x"], "--slots: '1x' is not a whole number from 1 to 4096"),
        (["a", "--colour", "red"], "unknown option --colour"),
        (["a", "--host", "nowhere"], "cannot listen on nowhere:8080"),
    ],
)
def test_what_it_does_not_start_with(words: list[str], message: str) -> None:
    done = subprocess.run([BUILD / "fake_server", *words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_taken_port(folder: Path) -> None:
    with Server(folder) as server:
        words = [BUILD / "fake_server", folder, "--port", str(server.port)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode, f"cannot listen on 127.0.0.1:{server.port}" in done.stderr) == (1, True)


def test_without_a_tokenizer_it_takes_token_ids(tmp_path: Path) -> None:
    server = Server(tmp_path, name="ids")
    status, answer = server.post({"prompt": "text"})
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert "has no tokenizer.json" in answer["error"]["message"]
    assert server.post({"prompt": [1], "stop": "a"})[1]["error"]["param"] == "stop"
    (choice,) = server.post(greedy([1], 3))[1]["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", expected_tokens([1], 3))
    assert server.stop() == (0, f"prompts must be token ids: {tmp_path} has no tokenizer.json\n")
