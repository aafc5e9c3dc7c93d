#!/usr/bin/env python3
"""Golden data from Hugging Face transformers, for the parity tests.

    python3 tests/goldens/make_goldens.py                  # the tiny random models beside this file
    python3 tests/goldens/make_goldens.py --model models/storyteller --out tests/goldens/storyteller

Needs: torch, transformers, safetensors (a CPU is enough; a minute or two).

Each folder beside this file is one random-weight Qwen3 checkpoint, laid out as Hugging Face
publishes them, with two more files:

  goldens.safetensors   one float32 tensor per prompt, `logits.<i>` of shape [rows, vocab]
  goldens.json          per prompt: its tokens, the first prompt position `logits.<i>` covers, how
                        many rows that is, 64 greedily decoded tokens (the end-of-sequence token
                        ends nothing), and the smallest gap between the two best logits on the way

All arithmetic is float32 with eager attention, whatever dtype the weights are stored in. Weights
are rounded to the stored dtype first, so that both sides compute with exactly the same numbers.

A seed is used only if it makes a good test: greedy tokens vary, none is the end-of-sequence token,
logits have a standard deviation of 1 to 3, and no greedy choice is closer than MIN_GAP. A correct
float32 engine then finds the same 64 tokens, however it orders its sums. And transformers' own
bfloat16 run must come within BF16_ERROR of its float32 run in every row: random weights can amplify
rounding without bound, and a model that does so says nothing about another engine's bfloat16.
"""
import argparse
import json
import os
import shutil

import numpy
import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
GREEDY = 64
MIN_GAP = 2e-3
TIE = 2e-4  # a trained model cannot be reseeded: its greedy tokens end before a gap smaller than this
BF16_ERROR = 3e-2
MIN_DISTINCT = 8
ALL_ROWS_UP_TO = 24  # longer prompts keep only their last rows
LAST_ROWS = 16
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Prompt lengths: a single token (the smallest prefill), one block and a bit, several blocks.
LENGTHS = (1, 19, 70)

# name: shapes as in config.json; `style` says whether config.json has the old fields (rope_theta,
# torch_dtype) or the new (rope_parameters, dtype). Every rope_theta differs from the default 10000
# except one, so that a reader which misses the field is caught.
MODELS = {
    # One query head per KV head, three of each, and a vocabulary no vector width divides.
    "mha-d64-f32": dict(vocab=163, hidden=32, inter=48, layers=2, heads=3, kv=3, dim=64,
                        tied=True, dtype="F32", style="new", theta=1e6),
    # The only one whose heads * head_dim equals hidden: must not be needed by anything.
    "square-d64-tied": dict(vocab=256, hidden=64, inter=96, layers=3, heads=1, kv=1, dim=64,
                            tied=True, dtype="BF16", style="old", theta=10000.0),
    "gqa2-d64-tied": dict(vocab=256, hidden=96, inter=64, layers=2, heads=4, kv=2, dim=64,
                          tied=True, dtype="BF16", style="new", theta=1e6),
    "gqa2-d128-untied": dict(vocab=192, hidden=40, inter=56, layers=2, heads=4, kv=2, dim=128,
                             tied=False, dtype="BF16", style="old", theta=5e5),
    "gqa8-d64-untied": dict(vocab=320, hidden=48, inter=80, layers=2, heads=8, kv=1, dim=64,
                            tied=False, dtype="BF16", style="new", theta=2e4, eps=1e-5),
    "gqa8-d128-f16": dict(vocab=200, hidden=32, inter=48, layers=2, heads=8, kv=1, dim=128,
                          tied=True, dtype="F16", style="new", theta=1e6),
    "bias-gqa2-d64": dict(vocab=224, hidden=48, inter=64, layers=2, heads=4, kv=2, dim=64,
                          tied=False, dtype="BF16", style="old", theta=1e6, bias=True),
    "sharded-gqa4-d64": dict(vocab=256, hidden=48, inter=64, layers=3, heads=4, kv=1, dim=64,
                             tied=False, dtype="BF16", style="new", theta=1e6, shards=2),
}


def chat(*turns):
    roles = ("user", "assistant")
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return text + "<|im_start|>assistant\n"


STORY = "Once upon a time, a small mouse named Nell lived by the river. Nell had a red kite, and loved it very much."

STORY_TEXTS = [
    "Once",
    "Once upon a time",
    "Once upon a time, there was a brave fox named Mira who lived by the sea. One day",
    "In a quiet village, where the river bends, there lived",
    chat("Tell me a story."),
    chat("Tell me a story about Mira the fox and a red kite."),
    chat(f"Read this story.\n\n{STORY}\n\nQuestion: What did Nell love?"),
    chat("Tell me a short story.", STORY, "Where did Nell live?"),
]


def random_weight(name, shape, spec, rng):
    """Weights that make every part matter: no sub-layer drowned by another, no norm the identity."""
    normal = rng.standard_normal(shape)
    if "q_norm" in name or "k_norm" in name:
        # Above 1: attention then prefers some tokens. Averaging over all of them, the next token would
        # depend on little but the last one, and greedy decoding soon go round in circles.
        return 1.25 + 0.3 * normal
    if name.endswith("norm.weight"):
        return 1 + 0.3 * normal
    if name.endswith("bias"):
        return 0.5 * normal
    if "embed_tokens" in name or "lm_head" in name:
        # The final norm gives rows of length sqrt(hidden), so logits get a std of about 2. A tied embedding
        # is smaller: its own token's logit grows with its square, and would win every step.
        normal[-2:] *= 0.3  # the two special tokens: hardly ever the best
        return normal * (1.2 if spec["tied"] else 2) / spec["hidden"] ** 0.5
    if "down_proj" in name or "o_proj" in name:
        return normal * 0.8 / shape[1] ** 0.5
    return normal / shape[1] ** 0.5  # [out, in]: unit variance in, unit variance out


def fill_with_random_weights(model, spec, rng):
    for name, parameter in model.named_parameters():
        value = torch.from_numpy(random_weight(name, tuple(parameter.shape), spec, rng))
        with torch.no_grad():
            parameter.copy_(value.to(DTYPES[spec["dtype"]]))


def config_json(spec):
    """config.json as Hugging Face publishes it (Qwen3-0.6B for the old style)."""
    vocab = spec["vocab"]
    torch_name = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[spec["dtype"]]
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": spec.get("bias", False),
        "attention_dropout": 0.0,
        "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1,
        "head_dim": spec["dim"],
        "hidden_act": "silu",
        "hidden_size": spec["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": spec["inter"],
        "max_position_embeddings": 512,
        "max_window_layers": spec["layers"],
        "model_type": "qwen3",
        "num_attention_heads": spec["heads"],
        "num_hidden_layers": spec["layers"],
        "num_key_value_heads": spec["kv"],
        "rms_norm_eps": spec.get("eps", 1e-6),
        "sliding_window": None,
        "tie_word_embeddings": spec["tied"],
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }
    if spec["style"] == "old":
        config.update(rope_scaling=None, rope_theta=spec["theta"], torch_dtype=torch_name,
                      transformers_version="4.51.0")
    else:
        config.update(rope_parameters={"rope_theta": spec["theta"], "rope_type": "default"}, dtype=torch_name,
                      layer_types=["full_attention"] * spec["layers"],
                      transformers_version=transformers.__version__)
    return dict(sorted(config.items()))


def write_checkpoint(model, spec, folder):
    dtype = DTYPES[spec["dtype"]]
    state = {name: p.detach().to(dtype).contiguous() for name, p in model.named_parameters()}
    if spec["tied"]:
        state.pop("lm_head.weight", None)  # the embedding's own storage; HF leaves it out too
    shards = spec.get("shards", 1)
    if shards == 1:
        save_file(state, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    names = list(state)
    # Split in the middle of a layer, so that no shard is self-sufficient.
    parts = [names[i * len(names) // shards:(i + 1) * len(names) // shards] for i in range(shards)]
    weight_map = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: state[n] for n in part}, os.path.join(folder, file), metadata={"format": "pt"})
        weight_map.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")


def load(folder, dtype=torch.float32):
    """The checkpoint as a user would load it, with nothing missing or left over."""
    model, info = Qwen3ForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    # Some versions report a tied lm_head as missing.
    left = {kind: set(names) - {"lm_head.weight"} for kind, names in info.items()}
    assert not any(left.values()), left
    assert next(model.parameters()).dtype == dtype
    return model.eval()


@torch.no_grad()
def goldens_of(model, tokens, all_rows_up_to, last_rows, until_tie=False):
    """Logits of the prompt, and GREEDY further tokens. No KV cache: each step is a full forward."""
    ids = torch.tensor([tokens])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    first = 0 if len(tokens) <= all_rows_up_to else len(tokens) - last_rows
    row, greedy, gap = logits[-1], [], float("inf")
    for _ in range(GREEDY):
        top = torch.topk(row, 2)
        step_gap = (top.values[0] - top.values[1]).item()
        if until_tie and step_gap < TIE:
            break
        gap = min(gap, step_gap)
        greedy.append(top.indices[0].item())
        ids = torch.cat([ids, torch.tensor([[greedy[-1]]])], dim=1)
        row = model(input_ids=ids, use_cache=False).logits[0, -1]
    return logits[first:].contiguous(), first, greedy, gap


def problem_with(spec, results):
    for logits, _, greedy, gap in results:
        if gap < MIN_GAP:
            return f"gap {gap:.1e}"
        if len(set(greedy)) < MIN_DISTINCT:
            return f"only {len(set(greedy))} distinct greedy tokens"
        if spec["vocab"] - 1 in greedy or spec["vocab"] - 2 in greedy:
            return "a special token in the greedy tokens"
        if not 1 < logits.std().item() < 3:
            return f"logits std {logits.std().item():.2f}"
    return None


@torch.no_grad()
def own_error(folder, prompts, results, dtype):
    """Largest relative norm of a row between transformers' own logits in `dtype` (a 16-bit one) and in float32."""
    model = load(folder, dtype)
    worst = 0.0
    for prompt, (logits, first, _, _) in zip(prompts, results):
        ours = model(input_ids=torch.tensor([prompt["tokens"]]), use_cache=False).logits[0, first:].float()
        worst = max(worst, ((ours - logits).norm(dim=1) / logits.norm(dim=1)).max().item())
    return worst


def own_errors(folder, prompts, results):
    """What a backend that computes in 16 bits, as transformers then does, is measured by."""
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return {name: round(own_error(folder, prompts, results, dtype), 5) for name, dtype in dtypes.items()}


def write_goldens(folder, results, prompts, extra):
    tensors = {f"logits.{i}": r[0] for i, r in enumerate(results)}
    save_file(tensors, os.path.join(folder, "goldens.safetensors"))
    data = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "arithmetic": "float32, eager attention",
        **extra,
        "prompts": [
            {**prompt, "firstRow": first, "rows": logits.shape[0], "greedy": greedy, "minTop2Gap": round(gap, 6)}
            for prompt, (logits, first, greedy, gap) in zip(prompts, results)
        ],
    }
    # One line a list: 64 tokens over 64 lines help nobody.
    prompts_text = ",\n".join("    " + json.dumps(p) for p in data.pop("prompts"))
    head = json.dumps(data, indent=2)[:-2]
    with open(os.path.join(folder, "goldens.json"), "w") as f:
        f.write(head + ',\n  "prompts": [\n' + prompts_text + "\n  ]\n}\n")


def make_tiny(name, spec, first_seed):
    folder = os.path.join(HERE, name)
    for seed in range(first_seed, first_seed + 200):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config_json(spec), f, indent=2)
            f.write("\n")
        rng = numpy.random.default_rng(seed)
        model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(folder)).to(torch.float32)
        fill_with_random_weights(model, spec, rng)
        write_checkpoint(model, spec, folder)
        model = load(folder)
        assert model.config.rope_parameters["rope_theta"] == spec["theta"], model.config.rope_parameters
        prompts = [{"tokens": rng.integers(0, spec["vocab"] - 2, n).tolist()} for n in LENGTHS]
        results = []
        for prompt in prompts:
            results.append(goldens_of(model, prompt["tokens"], ALL_ROWS_UP_TO, LAST_ROWS))
            problem = problem_with(spec, results[-1:])
            if problem:
                break
        if not problem:
            error = own_error(folder, prompts, results, torch.bfloat16)
            if error < BF16_ERROR:
                break
            problem = f"transformers' own bfloat16 error {error:.4f}"
        print(f"{name}: seed {seed}: {problem}")
    else:
        raise SystemExit(f"{name}: no seed is good enough: change the weights' scales")
    write_goldens(folder, results, prompts, {"seed": seed, "transformersError": own_errors(folder, prompts, results)})
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    stats = [(round(r[0].std().item(), 2), len(set(r[2])), round(r[3], 4)) for r in results]
    print(f"{name}: seed {seed}, {size} bytes, (logits std, distinct tokens, min gap) {stats}")


def make_from_model(folder, out, texts):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    model = load(folder)
    prompts, results = [], []
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        prompts.append({"text": text, "tokens": tokens})
        results.append(goldens_of(model, tokens, 0, min(4, len(tokens)), until_tie=True))
        greedy = results[-1][2]
        prompts[-1]["greedyText"] = tokenizer.decode(greedy, skip_special_tokens=False)
        print(f"{len(tokens)} tokens, {len(greedy)} more, min gap {results[-1][3]:.4f}: {text!r} -> "
              f"{prompts[-1]['greedyText']!r}")
    os.makedirs(out, exist_ok=True)
    write_goldens(out, results, prompts, {"transformersError": own_errors(folder, prompts, results)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder with a checkpoint and tokenizer.json, instead of the tiny models")
    parser.add_argument("--out", help="where --model's goldens go")
    parser.add_argument("--only", help="one of the tiny models")
    parser.add_argument("--first-seed", type=int, default=1, help="where to begin looking for a good seed")
    args = parser.parse_args()
    if bool(args.model) != bool(args.out):
        parser.error("--model and --out go together")
    if args.only and args.only not in MODELS:
        parser.error(f"--only takes one of {', '.join(MODELS)}")
    torch.set_num_threads(1 if not args.model else min(8, os.cpu_count() or 1))
    torch.use_deterministic_algorithms(True)
    if args.model:
        make_from_model(args.model, args.out, STORY_TEXTS)
        return
    for name, spec in MODELS.items():
        if args.only in (None, name):
            make_tiny(name, spec, args.first_seed)


if __name__ == "__main__":
    main()
