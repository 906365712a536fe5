"""Small byte-level tokenizers laid out as well-known models' are, trained on this repository's own pages."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"add_prefix_space": False, "use_regex": False}


def _words(numbers: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(WORDS % numbers), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**BYTES)])


SPLITS = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama3": lambda: _words("{1,3}"),
    "qwen2": lambda: _words(""),
}


def write_tokenizer(path: Path, kind: str, size: int) -> Tokenizer:
    """Trains one with a pre-tokenizer of SPLITS and at most `size` tokens, writes it to `path` and returns it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    tokenizer.pre_tokenizer = SPLITS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 3,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pages = [(ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    tokenizer.train_from_iterator(pages, trainer)
    tokenizer.add_tokens([AddedToken("<|end|>s", normalized=False), AddedToken("<é think>", normalized=True)])
    if kind == "llama3":
        frame = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    tokenizer.save(str(path))
    return tokenizer
