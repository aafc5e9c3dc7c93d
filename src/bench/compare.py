"""The same requests through another engine: Hugging Face transformers, as it is or compiled, or nano-vllm where it is installed.

  python src/bench/compare.py transformers|transformers-compiled|nano-vllm CONFIG_JSON DEVICE DTYPE BATCH×IN×OUT ...

Random weights of the shape that CONFIG_JSON describes; speed does not depend on their values. Prints one JSON object a workload:
seconds for the whole, tokens a second of output, and the peak of the memory that torch allocated. The first run of each workload warms
up and is not counted. `npm run bench -- --suite compare` runs this.
"""

import json
import sys
import tempfile
import time

import torch


def transformers_engine(config_path, device, dtype, cache="dynamic"):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(config_path)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()

    def generate(prompts, outputs):
        ids = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            result = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=outputs,
                max_new_tokens=outputs,
                pad_token_id=0,
                cache_implementation=cache,
            )
        return result.shape[1] - ids.shape[1]

    return generate, config.vocab_size


def compiled_transformers_engine(config_path, device, dtype):
    """With a cache of fixed shape `generate` compiles the decode step by itself (torch.compile, CUDA graphs)."""
    return transformers_engine(config_path, device, dtype, cache="static")


def nano_vllm_engine(config_path, device, dtype):
    from nanovllm import LLM, SamplingParams
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    # It wants a folder with weights and a tokenizer, whatever is in them.
    config = AutoConfig.from_pretrained(config_path)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder)
        engine = LLM(folder, max_model_len=4096)

    def generate(prompts, outputs):
        params = SamplingParams(temperature=0.6, max_tokens=outputs, ignore_eos=True)
        results = engine.generate(prompts, params, use_tqdm=False)
        return min(len(result["token_ids"]) for result in results)

    return generate, config.vocab_size


def main():
    engine, config_path, device, dtype, *workloads = sys.argv[1:]
    make = {
        "transformers": transformers_engine,
        "transformers-compiled": compiled_transformers_engine,
        "nano-vllm": nano_vllm_engine,
    }[engine]
    generate, vocab = make(config_path, device, getattr(torch, dtype))
    torch.manual_seed(0)
    for workload in workloads:
        batch, inputs, outputs = (int(number) for number in workload.split("×"))
        warm, prompts = torch.randint(1, vocab, (2, batch, inputs)).tolist()  # others: nano-vllm caches prefixes
        try:
            generate(warm, outputs)  # as many as will be measured: what is compiled depends on the cache's length
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            made = generate(prompts, outputs)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            assert made == outputs, f"{made} tokens came, not {outputs}"
            peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
            print(json.dumps({"workload": workload, "seconds": seconds, "rate": batch * outputs / seconds, "peak": peak}))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(json.dumps({"workload": workload, "seconds": None, "rate": None, "peak": None}))
        sys.stdout.flush()


main()
