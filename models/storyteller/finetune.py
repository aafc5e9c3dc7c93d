"""Teaches a trained storyteller the one kind of question it missed: how somebody felt. See README.md for the command.

After the first training the eighteen words for feelings all but shared one embedding: which of them a story takes is
chance, so nothing told them apart, and what cannot be told apart cannot be looked up. So this script

1. spreads those embeddings: each keeps the mean of its group (good or bad) and gets a direction of its own, in the
   space that the words for animals span, which the last layer already knows how to copy;
2. trains the last layers on ordinary documents, more of them about feelings than usual. At the word before a feeling
   in an answer, two heads of the last layer, those that copy animals and colours, are pushed to look at that feeling
   in the story. The push fades away; in the end there is only the loss of training.

The layers below keep their weights. Runs on a CPU: two thousand tokens a second on one core, with AMX.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

import data
import train
from model import Config, Qwen3, rotate

GOOD = "happy proud thankful cheerful glad joyful peaceful delighted content grateful".split()
BAD = "sad worried upset lonely gloomy unhappy miserable troubled".split()
ANIMALS = """fox rabbit hedgehog mouse badger squirrel otter owl bear frog duck goose mole beaver penguin turtle crow
    raccoon toad panda heron""".split()
COPYING_HEADS, COPYING_GROUP = slice(2, 4), 1  # in the last layer of these weights, and the keys they share


def single_tokens(tokenizer: Tokenizer, words: list[str]) -> Tensor:
    encoded = [tokenizer.encode(f" {word}").ids for word in words]
    return torch.tensor([ids[0] for ids in encoded if len(ids) == 1])


@torch.no_grad()
def spread(embedding: Tensor, tokenizer: Tokenizer, length: float) -> None:
    """Gives each feeling an embedding of its own: the mean of its group and a random mix of animals."""
    animals = embedding[single_tokens(tokenizer, ANIMALS)]
    animals = animals - animals.mean(0)
    for words in (GOOD, BAD):
        ids = single_tokens(tokenizer, words)
        own = torch.randn(len(ids), len(animals)) @ animals
        own = own - own.mean(0)
        embedding[ids] = embedding[ids].mean(0) + length * F.normalize(own, dim=1)


def forward(model: Qwen3, ids: Tensor, frozen: int) -> tuple[Tensor, Tensor]:
    """Logits, and what the last layer reads. Nothing below the trained layers needs a gradient."""
    cos, sin = model.cos[: ids.shape[1]], model.sin[: ids.shape[1]]
    with torch.no_grad():
        x = model.embed_tokens(ids)
        for layer in model.layers[:frozen]:
            x = layer(x, cos, sin)
    for layer in model.layers[frozen:-1]:
        x = layer(x, cos, sin)
    return F.linear(model.norm(model.layers[-1](x, cos, sin)), model.embed_tokens.weight), x


def looks(model: Qwen3, x: Tensor, batch: Tensor, place: Tensor) -> Tensor:
    """Where the copying heads look from some places, as logarithms: [places, heads, length]."""
    attention, c = model.layers[-1].self_attn, model.layers[-1].self_attn.c
    x = model.layers[-1].input_layernorm(x)
    heads = lambda y: y.unflatten(-1, (-1, c.head_dim))
    cos, sin = model.cos[: x.shape[1], None], model.sin[: x.shape[1], None]
    k = rotate(attention.k_norm(heads(attention.k_proj(x))), cos, sin)[:, :, COPYING_GROUP]
    q = rotate(attention.q_norm(heads(attention.q_proj(x[batch, place]))), cos[place], sin[place])[:, COPYING_HEADS]
    scores = torch.einsum("nhd,nld->nhl", q, k[batch]) * c.head_dim**-0.5
    future = torch.arange(x.shape[1]) > place[:, None, None]
    return scores.float().masked_fill(future, -1e4).log_softmax(-1)


def batches(command: str, seed: int, tokenizer: Tokenizer, split: str, ordinary: float, tokens: int):
    """Documents of like length side by side, padded with <|endoftext|>; those not about feelings are thinned out."""
    end, im_end = tokenizer.token_to_id(data.END_OF_TEXT), tokenizer.token_to_id(data.IM_END)
    prefix = tokenizer.encode(f"{data.IM_START}assistant\n").ids
    generator = np.random.default_rng(seed)
    while True:
        documents = data.generate(command, seed, 3000, split)
        documents = [d for d in documents if " feel " in d or generator.random() < ordinary]
        rows = []
        for encoding in tokenizer.encode_batch(documents):
            ids = np.array(encoding.ids + [end], dtype=np.uint16)
            if len(ids) <= data.CONTEXT:
                data.mark_answers(ids, prefix, im_end)
                rows.append(ids)
        rows.sort(key=len)
        groups: list[list[np.ndarray]] = [[]]
        for row in rows:
            if len(row) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(row)
        for i in generator.permutation(len(groups)):
            width = max(map(len, groups[i]))
            padded = [np.pad(row, (0, width - len(row)), constant_values=end) for row in groups[i]]
            yield torch.from_numpy(np.stack(padded).astype(np.int64))
        seed += 1


class Losses:
    """The losses of one batch: all (answers and feelings weighted), where to look, and the parts worth watching."""

    def __init__(self, model: Qwen3, rows: Tensor, feelings: Tensor, end: int, args: argparse.Namespace) -> None:
        ids = rows & ~data.ANSWER_BIT
        with torch.autocast("cpu", torch.bfloat16):
            logits, x = forward(model, ids, args.frozen)
        targets, answer = ids[:, 1:], rows[:, 1:] >= data.ANSWER_BIT
        losses = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none")
        losses, counts = losses.view_as(targets), ids[:, :-1] != end
        felt = answer & feelings[targets]
        weights = torch.where(felt, args.feeling_weight, torch.where(answer, args.answer_weight, 1.0)) * counts
        self.all = (losses * weights).sum() / weights.sum()
        batch, place = felt.nonzero(as_tuple=True)
        # Where the same feeling stands in the story, before the answer.
        told = (ids[batch] == targets[batch, place, None]) & (rows[batch] < data.ANSWER_BIT)
        told &= torch.arange(ids.shape[1]) < place[:, None]
        some = told.any(1)
        self.look = torch.zeros(())
        if some.any():
            with torch.autocast("cpu", torch.bfloat16):
                seen = looks(model, x, batch[some], place[some])
            self.look = -seen.masked_fill(~told[some, None], -1e4).logsumexp(-1).mean()
        parts = {"feelings": felt, "answers": answer & ~felt, "text": counts & ~answer}
        self.parts = {name: losses[mask].mean().item() if mask.any() else math.nan for name, mask in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--generator", default="node corpus.mjs")
    parser.add_argument("--model", type=Path, default=Path("."), help="the trained model")
    parser.add_argument("--out", type=Path, required=True, help="where model.safetensors goes")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--frozen", type=int, default=6, help="layers, from below, that keep their weights")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=2048, help="tokens")
    parser.add_argument("--spread", type=float, default=0.9, help="length of a feeling's own part; 0: go on")
    parser.add_argument("--ordinary", type=float, default=0.3, help="how many documents without feelings to keep")
    parser.add_argument("--answer-weight", type=float, default=4.0)
    parser.add_argument("--feeling-weight", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    end = tokenizer.token_to_id(data.END_OF_TEXT)
    model = Qwen3(Config())
    weights = load_file(args.model / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in weights.items()})
    embedding = model.embed_tokens.weight
    if args.spread:
        spread(embedding, tokenizer, args.spread)
    feelings = torch.zeros(len(embedding), dtype=torch.bool)
    feelings[single_tokens(tokenizer, GOOD + BAD)] = True
    model.layers[: args.frozen].requires_grad_(False)
    embedding.register_hook(lambda gradient: gradient * feelings[:, None])  # the other words keep theirs
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)

    held_out = [rows for rows, _ in zip(batches(args.generator, 2, tokenizer, "heldout", 1.0, args.batch), range(4))]
    began, step, tokens, recent = time.time(), 0, 0, []
    for rows in batches(args.generator, 500_000 + args.seed, tokenizer, "train", args.ordinary, args.batch):
        share = (time.time() - began) / (60 * args.minutes)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * share))
        losses = Losses(model, rows, feelings, end, args)
        (losses.all + 0.5 * max(0.0, 1 - 2 * share) * losses.look).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + rows.numel()
        recent.append([losses.look.item(), *losses.parts.values()])
        if step % 10 == 0:
            mean = dict(zip(["look", *losses.parts], np.nanmean(recent, axis=0)))
            recent.clear()
            print(f"{time.time() - began:5.0f}s  step {step}  {tokens:,} tokens ",
                  *(f"{name} {value:.4f}" for name, value in mean.items()), flush=True)
        if step % 100 == 0:
            train.save_weights(args.out, model)
    train.save_weights(args.out, model)
    with torch.no_grad():
        parts = [Losses(model, rows, feelings, end, args).parts for rows in held_out]
    mean = {name: np.nanmean([part[name] for part in parts]) for name in parts[0]}
    print(f"{step} steps, {tokens:,} tokens, {time.time() - began:.0f} s; held out:", json.dumps(mean))


if __name__ == "__main__":
    main()
