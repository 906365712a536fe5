"""The C++ runtime of cpp/examples/llama against transformers: the same greedy tokens in float32, errors by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_helpers import compress_randomly, metrics_of, tiny_model
from transformers import PreTrainedModel

import sparlow

BUILT = Path(__file__).resolve().parents[2] / "build" / "cpp-tests" / "cpp" / "examples" / "llama" / "llama"
PROGRAM = Path(os.environ.get("SPARLOW_LLAMA", BUILT))
TOKENS = 64
PROMPTS = [[1], [5, 9, 33], list(range(3, 40)), [60, 1, 7, 7, 7, 20, 41, 8], [11, 12]]

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists() and "CI" not in os.environ, reason="scripts/test-cpp builds the llama example"
)

# A sequence that ends early would compare less.
FIELDS: dict[str, Any] = {"max_position_embeddings": 256, "eos_token_id": None, "initializer_range": 0.2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "one head of keys": ("llama", {"num_key_value_heads": 1}),
    "as many keys as queries": ("llama", {"num_key_value_heads": 4}),
    "wide heads": ("llama", {"head_dim": 24, "intermediate_size": 100}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}}),
    "biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def answers(folder: Path, prompts: list[list[int]], *arguments: object) -> list[list[int]]:
    ids = [argument for prompt in prompts for argument in ("--prompt-ids", ",".join(map(str, prompt)))]
    done = run(folder, "--tokens", TOKENS, *ids, *arguments)
    assert done.returncode == 0, done.stderr
    return [[int(token) for token in line.split(",")] for line in done.stdout.splitlines()]


def error(*arguments: object) -> str:
    done = run(*arguments)
    assert done.returncode != 0
    assert not done.stdout
    return done.stderr


@torch.no_grad()
def transformers_answers(model: PreTrainedModel, prompts: list[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    out = []
    for prompt in prompts:
        inputs = torch.tensor([prompt])
        mask = torch.ones_like(inputs)
        sequence = model.generate(inputs, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        out.append(sequence[0, len(prompt) :].tolist())
    return out


def saved(folder: Path, kind: str, pattern: str = "2:4", **fields: Any) -> Path:
    model = compress_randomly(tiny_model(kind, torch.float32, **(FIELDS | fields)), pattern, dtype=torch.float32)
    sparlow.save(model, folder, metrics=metrics_of(model))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("llama") / "compressed", "llama")


@pytest.mark.parametrize("what", MODELS)
def test_compressed_models_answer_as_in_python(tmp_path: Path, what: str) -> None:
    kind, fields = MODELS[what]
    folder = saved(tmp_path / "out", kind, **fields)
    theirs = transformers_answers(sparlow.load(folder, verify=False), PROMPTS)
    assert len({token for answer in theirs for token in answer}) > 10
    assert answers(folder, PROMPTS, "--slots", 3) == theirs


@pytest.mark.parametrize("pattern", ["0.5@row", "dense"])
def test_other_formats_answer_as_in_python(tmp_path: Path, pattern: str) -> None:
    folder = saved(tmp_path / "out", "llama", pattern)
    theirs = transformers_answers(sparlow.load(folder, verify=False), PROMPTS[:3])
    assert answers(folder, PROMPTS[:3]) == theirs


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_dense_models_answer_as_in_python(tmp_path: Path, shards: str) -> None:
    model = tiny_model("llama", torch.float32, **FIELDS)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "20KB")
    assert answers(tmp_path, PROMPTS, "--slots", 2) == transformers_answers(model, PROMPTS)


def test_float32_of_a_bfloat16_folder(tmp_path: Path) -> None:
    model = compress_randomly(tiny_model("llama", **FIELDS))
    sparlow.save(model, tmp_path / "out", metrics=metrics_of(model))
    theirs = transformers_answers(sparlow.load(tmp_path / "out", dtype=torch.float32, verify=False), PROMPTS)
    assert answers(tmp_path / "out", PROMPTS, "--dtype", "float32") == theirs
    for dtype in ("bfloat16", "float16"):
        assert [len(answer) for answer in answers(tmp_path / "out", PROMPTS, "--dtype", dtype)] == [TOKENS] * 5


def test_pieces_of_prompts_slots_and_threads_change_nothing(folder: Path) -> None:
    plain = answers(folder, PROMPTS)
    for arguments in (["--prefill", 3, "--slots", 2], ["--slots", 5, "--prefill", 1], ["--threads", 3]):
        assert answers(folder, PROMPTS, *arguments) == plain


def test_answers_end_with_an_end_token_and_a_full_context(tmp_path: Path, folder: Path) -> None:
    whole = answers(folder, PROMPTS)
    end = whole[2][7]
    shutil.copytree(folder, tmp_path / "ends")
    (tmp_path / "ends" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end]}))
    stops = [min((i for i, token in enumerate(answer) if token in (0, end)), default=TOKENS) for answer in whole]
    assert min(stops) < TOKENS - 1
    assert answers(tmp_path / "ends", PROMPTS) == [answer[: i + 1] for answer, i in zip(whole, stops, strict=True)]
    assert answers(folder, PROMPTS[2:3], "--context", 50) == [whole[2][: 50 - len(PROMPTS[2])]]


def test_sampling_depends_on_the_seed(folder: Path) -> None:
    warm = ["--temperature", "1.5", "--seed", "3"]
    first = answers(folder, PROMPTS, *warm)
    assert answers(folder, PROMPTS, *warm, "--slots", 4) == first
    assert answers(folder, PROMPTS, "--temperature", "1.5", "--seed", "4") != first
    assert first != answers(folder, PROMPTS)
    assert answers(folder, PROMPTS, *warm, "--top-p", "1e-6") == answers(folder, PROMPTS)
    assert answers(folder, PROMPTS, "--temperature", "1e-6") == answers(folder, PROMPTS)


def test_bench_prints_a_line_of_json(folder: Path) -> None:
    done = run(folder, "--bench", "--bench-prompt", 16, "--slots", 2, "--tokens", 8)
    row = json.loads(done.stdout)
    assert row["slots"] == 2
    assert row["decode_steps"] == 7
    assert row["decode_tokens_per_s"] > 0
    assert run("--random", "tiny", "--bench", "--rank", 8, "--tokens", 4).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt-ids", "1,x"], "--prompt-ids cannot be 'x'"),
        (["--prompt-ids", "64"], "token 64 is outside the vocabulary of 64"),
        (["--prompt-ids", "-1"], "token -1 is outside"),
        (["--prompt-ids", ",".join("1" * 256)], "the prompt has 256 tokens, the context 256"),
        (["--prompt-ids", "1", "--tokens", "0"], "--tokens must be 1 or more"),
        (["--prompt-ids", "1", "--temperature", "-1"], "temperature is -1"),
        (["--prompt-ids", "1", "--top-p", "0"], "top_p is 0"),
        (["--prompt-ids", "1", "--slots", "0"], "slots is 0, not 1 or more"),
        (["--prompt-ids", "1", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["--prompt-ids", "1", "--device", "tpu"], "device 'tpu'"),
        (["--prompt-ids"], "--prompt-ids needs a value"),
        (["--bench", "--dense"], "--dense belongs to --random"),
        (["--frobnicate"], "unknown argument '--frobnicate'"),
        ([], "give --prompt-ids or --bench"),
    ],
)
def test_bad_arguments_are_named(folder: Path, arguments: list[str], words: str) -> None:
    assert words in error(folder, *arguments)


def test_bad_folders_are_named(tmp_path: Path, folder: Path) -> None:
    assert "no model folder at" in error(tmp_path / "nowhere", "--bench")
    assert "give either a FOLDER or --random" in error("--bench")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2.self_attn.q_proj.weight'"),
        ({"num_attention_heads": "4"}, "num_attention_heads must be a positive number"),
        ({"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads"),
        ({"hidden_size": 36, "head_dim": 8}, "config.json wants [64, 36]"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters/rope_type is 'yarn'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0"),
        ({"vocab_size": None}, "vocab_size must be a positive number"),
    ]
    config = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, tmp_path / "bad")
    for change, words in changes:
        (tmp_path / "bad" / "config.json").write_text(json.dumps(config | change))
        assert words in error(tmp_path / "bad", "--bench"), change


def test_its_usage_is_told_when_asked_for_and_an_error_is_one_line() -> None:
    asked = run("--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "--prompt-ids IDS" in asked.stdout
    mistaken = run("--random", "tiny", "--prompt-ids", "1,x")
    assert mistaken.returncode == 2
    assert mistaken.stderr == "llama: --prompt-ids cannot be 'x'; llama --help lists the options\n"
