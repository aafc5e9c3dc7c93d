"""The corpus as tensors: runs the generator, trains the tokenizer, packs documents into rows."""

import json
import shlex
import subprocess

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTEXT = 1024
VOCAB_SIZE = 2048

# An answer is a dozen tokens among hundreds, yet the point of the exercise: its tokens are marked with this bit,
# so that the trainer can weigh them more. Stories told by the assistant are longer than SHORT and not marked.
ANSWER_BIT = 0x8000
SHORT = 48

# How Qwen2 and Qwen3 cut text into words before byte-pair encoding.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def generate(command: str, seed: int, count: int, split: str, *flags: str) -> list:
    """Runs the story generator (TypeScript, see corpus/main.ts) and parses its lines."""
    arguments = ["--seed", str(seed), "--count", str(count), "--split", split, *flags]
    output = subprocess.run(shlex.split(command) + arguments, check=True, stdout=subprocess.PIPE).stdout
    return [json.loads(line) for line in output.splitlines()]


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Byte-level BPE: no unknown token, no normaliser, so decoding returns the very text that was encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    for text in documents[:200] + ["naïve café 12,345 – \u2603 🦊\n\n  two  spaces\t"]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text, text
    return tokenizer


def mark_answers(ids: np.ndarray, prefix: list[int], im_end: int) -> None:
    """Sets ANSWER_BIT on the tokens of the assistant's short turns, the closing <|im_end|> included."""
    ends = np.flatnonzero(ids == im_end)
    for start in np.flatnonzero(ids == prefix[0]):
        first = start + len(prefix)
        if ids[start:first].tolist() != prefix:
            continue
        last = ends[np.searchsorted(ends, first)]
        if last - first < SHORT:
            ids[first:last + 1] |= ANSWER_BIT


def pack(documents: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """Whole documents side by side in rows of CONTEXT tokens; what does not fit is filled with <|endoftext|>."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    im_end = tokenizer.token_to_id(IM_END)
    prefix = tokenizer.encode(f"{IM_START}assistant\n").ids
    full: list[np.ndarray] = []
    rows: list[list[np.ndarray]] = []  # the rows still open
    free: list[int] = []  # the room left in each

    def close(row: int) -> None:
        padding = np.full(free[row], end, dtype=np.uint16)
        full.append(np.concatenate([*rows.pop(row), padding]))
        free.pop(row)

    for encoding in tokenizer.encode_batch(documents):
        ids = np.array(encoding.ids + [end], dtype=np.uint16)
        if len(ids) > CONTEXT:
            continue
        mark_answers(ids, prefix, im_end)
        fitting = [(room, row) for row, room in enumerate(free) if room >= len(ids)]
        if fitting:
            row = min(fitting)[1]
        else:
            if len(rows) == 48:
                close(min(range(len(free)), key=free.__getitem__))
            rows.append([])
            free.append(CONTEXT)
            row = len(rows) - 1
        rows[row].append(ids)
        free[row] -= len(ids)
    while rows:
        close(0)
    return np.stack(full)


def make_shard(job: tuple[str, str, int, int, str]) -> str:
    """One worker's job: generate, encode, pack and save a shard of the training set. Returns its path."""
    command, folder, shard, count, tokenizer_path = job
    documents = generate(command, 1000 + shard, count, "train")
    rows = pack(documents, Tokenizer.from_file(tokenizer_path))
    rows = rows[np.random.default_rng(shard).permutation(len(rows))]
    path = f"{folder}/shard-{shard:04d}.npy"
    np.save(path, rows)
    return path
