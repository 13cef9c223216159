"""Builds the byte-level CLIP tokenizer: any text has tokens, and each word of the language is one.

`python -m tools.train_shapes.tokenizer`
"""

import collections
import itertools
import json

from transformers import CLIPTokenizer

from .scenes import COLOURS, PATTERNS, RELATIONS, SHAPES, SIZES
from .training import RUNS

MAX_TOKENS = 32  # the longest caption of the language has 17, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses, in GPT-2's order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(shifted))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first (ties: alphabetical), until every word is one token."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while True:
        pairs = collections.Counter(pair for parts in pieces.values() for pair in itertools.pairwise(parts))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = ["".join(best)]
                i += 1


def build() -> CLIPTokenizer:
    phrases = [*SIZES, *SHAPES, *RELATIONS, *PATTERNS, *COLOURS, "a on background"]
    merges = learn_merges(sorted({word for phrase in phrases for word in phrase.split()}))
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    folder = RUNS / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]):
    """Token ids (N, MAX_TOKENS), padded with the end token as Stable Diffusion does."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


if __name__ == "__main__":
    tokenizer = build()
    print(len(tokenizer), tokenizer.tokenize("a big red circle left of a small cyan star, naïve 猫"))
