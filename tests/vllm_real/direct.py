"""What vLLM says by itself: `LLM.generate` on files, prompts written out by hand, greedy; a process of its own.

    python tests/vllm_real/direct.py FOLDER PROMPT...

Prints JSON: for each file below FOLDER and each prompt, the tokens of the prompt and those that were written, text,
reason of its end, mean log-probability, and the text that the tokenizer makes of the tokens. Imports nothing of cfbus.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "engines" / "tiny_vlm"
FORM = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"


def main(folder: Path, prompts: list[str]) -> None:
    """Caption all, in one call."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from PIL import Image
    from vllm import LLM, SamplingParams

    model = LLM(
        model=str(MODEL), dtype="float32", enforce_eager=True, max_num_seqs=8, max_model_len=512,
        kv_cache_memory_bytes=64 << 20, seed=0, limit_mm_per_prompt={"image": 1},
    )  # fmt: skip
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    wanted = [(name, prompt) for name in names for prompt in prompts]
    requests = [
        {"prompt": FORM.format(prompt), "multi_modal_data": {"image": Image.open(folder / name).convert("RGB")}}
        for name, prompt in wanted
    ]
    # logprobs=0: of the tokens that were written alone.
    outputs = model.generate(requests, SamplingParams(temperature=0.0, max_tokens=24, logprobs=0), use_tqdm=False)
    tokenizer = model.get_tokenizer()
    found = []
    for (name, prompt), each in zip(wanted, outputs, strict=True):
        written = each.outputs[0]
        ids = list(written.token_ids)
        found.append({
            "item": name, "prompt": prompt, "prompt_ids": list(each.prompt_token_ids), "ids": ids,
            "text": written.text, "finish_reason": written.finish_reason,
            "mean_logprob": written.cumulative_logprob / len(ids),
            "decoded": tokenizer.decode(ids, skip_special_tokens=True),
        })  # fmt: skip
    print(json.dumps(found), flush=True)
    os._exit(0)  # vLLM's own end takes seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
