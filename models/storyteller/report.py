"""Asks the finished model about stories it never saw, and samples a few of its own, with Hugging Face transformers."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Callable

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

PROMPTS = [
    "Tell me a story.", "Tell me a story about Mira the fox and a red kite.",
    "Please tell me a bedtime story about a badger.",
    "Can you tell me a story about Otto, who lives by the sea?", "Write a story about two friends who quarrel.",
    "Tell me a story about a penguin who is afraid of the dark.",
]


def chat(content: str) -> str:
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def plain(text: str) -> str:
    return f" {' '.join(re.sub(r'[^a-z0-9' + chr(39) + r' ]+', ' ', text.lower()).split())} "


def accepts(keys: list[str], text: str) -> bool:
    """As in corpus/index.ts: every key word must occur."""
    return all(plain(key) in plain(text) for key in keys)


def complete(
    model: Qwen3ForCausalLM, tokenizer: Tokenizer, prompts: list[str], batch: int, **options: object
) -> list[str]:
    """Batched generation, padded on the left; the longest prompts first, so that a batch pads little."""
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
    texts = [""] * len(prompts)
    for at in range(0, len(order), batch):
        group = order[at:at + batch]
        width = max(len(encoded[i]) for i in group)
        padding = [[0] * (width - len(encoded[i])) for i in group]
        ids = torch.tensor([zeros + encoded[i] for zeros, i in zip(padding, group)])
        mask = torch.tensor([zeros + [1] * len(encoded[i]) for zeros, i in zip(padding, group)])
        out = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **options)
        for i, row in zip(group, out[:, width:].tolist()):
            texts[i] = tokenizer.decode(row, skip_special_tokens=True)
    return texts


def write(out: Path, tokenizer: Tokenizer, stories: list[dict], device: str, say: Callable[..., None]) -> None:
    model = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.bfloat16).to(device).eval()
    shuffle = random.Random(0)

    # One question for each story: the figure to quote. Then all the others, to see which kind is hard.
    asked = [(story, question) for story in stories for question in [shuffle.choice(story["questions"])]]
    asked += [(story, q) for story in stories[:250] for q in story["questions"]]
    prompts = [chat(f"Read this story.\n\n{story['story']}\n\nQuestion: {q['question']}") for story, q in asked]
    answers = complete(model, tokenizer, prompts, 256, max_new_tokens=40, do_sample=False)
    right = [accepts(q["keys"], answer) for (_, q), answer in zip(asked, answers)]
    exact = [q["answer"] == answer.strip() for (_, q), answer in zip(asked, answers)]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for (story, q), ok in zip(asked, right):
        kinds[f"{story['plot']}/{q['kind']}"].append(ok)
    n = len(stories)
    result = {
        "questions": n, "right": sum(right[:n]), "exactly_as_written": sum(exact[:n]),
        "all_questions": len(right), "all_right": sum(right),
        "by_kind": {k: f"{sum(v)}/{len(v)}" for k, v in sorted(kinds.items()) if not all(v)},
        "wrong": [{"story": s["story"], "question": q["question"], "expected": q["answer"], "got": a}
                  for (s, q), a, ok in zip(asked, answers, right) if not ok][:60],
    }
    say(f"answers: {result['right']} of {n} right; of all kinds {result['all_right']} of {len(right)}")
    say("weak kinds:", result["by_kind"])
    (out / "report.json").write_text(json.dumps(result, indent=1) + "\n")

    torch.manual_seed(1)
    facts = [story["facts"] for story in stories[:150]]
    wanted = [chat(f"Tell me a story about {f['hero']} the {f['species']} and the {f['ct']}.") for f in facts]
    free = ["Once upon a time"] * 150 + [chat("Tell me a story.")] * 150
    prompts = [chat(prompt) for prompt in PROMPTS] + free + wanted
    samples = complete(model, tokenizer, prompts, 256, max_new_tokens=400, do_sample=True, temperature=0.7, top_p=0.9, top_k=0)
    joined = [p + t if p.startswith("Once") else t.strip() for p, t in zip(prompts, samples)]
    lines = [{"prompt": p, "text": t} for p, t in zip(prompts, joined)]
    (out / "samples.json").write_text(json.dumps(lines, indent=1) + "\n")
    for line in lines[:7]:
        say(line["prompt"], "\n", line["text"], "\n")
