"""sparlow-server with the Llama runtime in it: what transformers answers, for several clients at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from server_process import Server, greedy, tokens_of
from transformers import LlamaConfig, LlamaForCausalLM

BUILT = Path(__file__).resolve().parents[2] / "build" / "cpp-tests" / "cpp" / "examples" / "server" / "sparlow-server"
PROGRAM = Path(os.environ.get("SPARLOW_SERVER", BUILT))
PROMPTS = [[1], [5, 9, 33], list(range(3, 40)), [60, 1, 7, 7, 7, 20, 41, 8], [11, 12], [2, 2]] * 2

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists() and "CI" not in os.environ, reason="scripts/test-cpp builds the server example"
)


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        eos_token_id=None,
    )
    made = LlamaForCausalLM(config).eval()
    path = tmp_path_factory.mktemp("served") / "tiny"
    made.save_pretrained(path)
    shutil.copy(folder / "tokenizer.json", path)
    return path, made


def expected(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    inputs = torch.tensor([prompt])
    with torch.no_grad():
        sequence = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, do_sample=False)
    return sequence[0, len(prompt) :].tolist()


def test_many_clients_get_what_transformers_answers(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, made = model
    with Server(path, program=PROGRAM, slots=4, context=256, threads=2) as server, ThreadPoolExecutor(12) as pool:
        whole = [pool.submit(server.post, greedy(prompt, 20 + i)) for i, prompt in enumerate(PROMPTS)]
        streams = [pool.submit(server.stream, greedy(prompt, 20 + i)) for i, prompt in enumerate(PROMPTS)]
        for i, prompt in enumerate(PROMPTS):
            tokens = expected(made, prompt, 20 + i)
            assert whole[i].result()[1]["choices"][0]["token_ids"] == tokens
            assert tokens_of(streams[i].result()[:-1]) == tokens


def test_text_and_sampling(model: tuple[Path, LlamaForCausalLM]) -> None:
    with Server(model[0], program=PROGRAM, context=256) as server:
        body = {"prompt": "A sparse layer", "max_tokens": 30, "temperature": 1, "top_p": 0.9, "seed": 5}
        first, second = (server.post(body)[1]["choices"][0] for _ in range(2))
        assert first == second
        assert first["text"]
        assert server.post({**body, "seed": 6})[1]["choices"][0]["text"] != first["text"]


def test_hanging_up_does_not_hurt(model: tuple[Path, LlamaForCausalLM]) -> None:
    path, made = model
    with Server(path, program=PROGRAM, slots=2, context=256) as server:
        for _ in range(5):
            connection = server.connect()
            connection.request("POST", "/v1/completions", '{"prompt": [1], "max_tokens": 200, "stream": true}',
                               {"Content-Type": "application/json"})  # fmt: skip
            connection.close()
        assert server.post(greedy([5, 9, 33], 20))[1]["choices"][0]["token_ids"] == expected(made, [5, 9, 33], 20)
        server.wait_for(running=0, waiting=0)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"sparlow-server: .*{tmp_path.name}"):
        Server(tmp_path, program=PROGRAM)


@pytest.mark.parametrize("shape", ["tiny", "tiny:dense"])
def test_random_weights_need_no_folder(shape: str) -> None:
    name, _, dense = shape.partition(":")
    words = [PROGRAM.parents[1] / "llama" / "llama", "--random", name, *(["--dense"] if dense else [])]
    words += ["--prompt-ids", "5,9,33", "--tokens", "12"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    server = Server(Path(f"random:{shape}"), program=PROGRAM, context=256)
    tokens = server.post(greedy([5, 9, 33], 12))[1]["choices"][0]["token_ids"]
    assert server.stop() == (0, f"prompts must be token ids: random:{shape} has no tokenizer.json\n")
    assert tokens == [int(token) for token in answer.split(",")]


def test_an_unknown_random_shape_is_named() -> None:
    with pytest.raises(AssertionError, match="sparlow-server: unknown shape '9b'; 8b, 135m and tiny are known"):
        Server(Path("random:9b"), program=PROGRAM)
    with pytest.raises(AssertionError, match="sparlow-server: random:8b:sparse: after the shape only :dense is known"):
        Server(Path("random:8b:sparse"), program=PROGRAM)
