"""Makes the tiny vision-language model of tests: a Qwen2.5-VL of 0.4 million parameters that names colours.

    .venv-vllm/bin/python tests/engines/make_tiny_vlm.py FOLDER --steps 2000     # 14 minutes on one core

It is built by code alone: a tokenizer whose words are those of the captions, a language model of two layers and a
vision encoder of two, trained on drawn pictures (`tests/coloured.py`) with the two prompts that tests ask. On new
pictures the ground's colour was right in 199 of 200 and the shape's in 197; the shape itself is a guess. What lies in
`tiny_vlm/` was made by an earlier form of this script, with more words; vLLM takes it for any model of its family.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from coloured import BRIEF, COLOURS, DETAILED, SHAPES, draw  # noqa: E402

WORDS = sorted({*COLOURS, *SHAPES, "a", "on", "background", "large", "small", *f"{DETAILED} {BRIEF}".split()})
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
         "<|image_pad|>", "<|video_pad|>")  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, PATCHES = 64, 16
BATCH, RATE = 24, 4e-3


def tokenizer(folder: Path) -> Any:
    """Bytes, and merges that lead to whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        for text in (word, f"Ġ{word}"):
            for size in range(2, len(text) + 1):
                if text[:size] not in vocabulary:
                    merges.append((text[: size - 1], text[size - 1]))
                    vocabulary[text[:size]] = len(vocabulary)
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(MARKS))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=MARKS[2], pad_token=MARKS[0], model_max_length=2048)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    known = json.loads(settings.read_text()) | {"tokenizer_class": "Qwen2TokenizerFast", "chat_template": TEMPLATE}
    settings.write_text(json.dumps(known, indent=1))
    return fast


def model(folder: Path, tokens: Any) -> Any:
    """Random weights, and what the image processor has to know."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {mark: tokens.convert_tokens_to_ids(mark) for mark in MARKS}
    text = {
        "vocab_size": -(-len(tokens) // 64) * 64, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "rope_scaling": {"rope_type": "default", "type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True, "bos_token_id": ids[MARKS[0]], "eos_token_id": ids[MARKS[2]],
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_heads": 2, "out_hidden_size": WIDTH,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "fullatt_block_indexes": [1], "in_channels": 3, "in_chans": 3,
    }  # fmt: skip
    named = ("vision_start", "vision_end", "vision", "image", "video")
    places = dict(zip(named, (ids[mark] for mark in MARKS[3:]), strict=True))
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True,
        **{f"{name}_token_id": place for name, place in places.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    made = Qwen2_5_VLForConditionalGeneration(config)
    made.generation_config.eos_token_id = ids[MARKS[2]]
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
                "min_pixels": 56 * 56, "max_pixels": 224 * 224, "patch_size": 14, "temporal_patch_size": 2,
                "merge_size": 2, "do_rescale": True, "do_resize": True, "do_normalize": True, "do_convert_rgb": True,
                "resample": 3, "rescale_factor": 1 / 255, "image_mean": [0.481, 0.458, 0.408],
                "image_std": [0.269, 0.261, 0.276],
            },
            indent=1,
        )
    )  # fmt: skip
    return made


def batch(dice: random.Random, tokens: Any, processor: Any) -> dict[str, Any]:
    """Pictures with what is to be said of them; only the answer counts."""
    import torch

    def ids(text: str) -> list[int]:
        return list(tokens(text, add_special_tokens=False).input_ids)

    image_mark, end, pad = (tokens.convert_tokens_to_ids(mark) for mark in (MARKS[6], MARKS[2], MARKS[0]))
    drawn = [draw(dice) for _ in range(BATCH)]
    rows, answers = [], []
    for _, seen in drawn:
        prompt, said = dice.choice(((DETAILED, seen.detailed), (BRIEF, seen.brief)))
        before = ids("<|im_start|>user\n<|vision_start|>") + [image_mark] * PATCHES
        before += ids(f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n")
        after = [*ids(said), end]
        rows.append(before + after)
        answers.append([-100] * len(before) + after)
    longest = max(map(len, rows))
    filled = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return {
        "input_ids": filled,
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in answers]),
        "mm_token_type_ids": (filled == image_mark).long(),
        **processor(images=[image for image, _ in drawn], return_tensors="pt"),
    }


def main() -> int:
    """Build, train, save."""
    parser = argparse.ArgumentParser(description="Make the tiny vision-language model of the tests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    flags = parser.parse_args()
    import torch
    from transformers import AutoImageProcessor

    torch.set_num_threads(1)
    flags.folder.mkdir(parents=True, exist_ok=True)
    tokens = tokenizer(flags.folder)
    made = model(flags.folder, tokens)
    processor = AutoImageProcessor.from_pretrained(flags.folder)
    dice = random.Random(1)
    learner = torch.optim.AdamW(made.parameters(), lr=RATE, weight_decay=0.01)
    pace = torch.optim.lr_scheduler.OneCycleLR(learner, RATE, total_steps=flags.steps, pct_start=0.1)
    made.train()
    for step in range(flags.steps):
        loss = made(**batch(dice, tokens, processor)).loss
        learner.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        learner.step()
        pace.step()
        if step % 50 == 0:
            print(step, round(float(loss), 4), flush=True)
    made.eval()
    made.save_pretrained(flags.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
