"""For a real card: this project's way of feeding vLLM against lock-step batches of 8 in eager mode.

    python tests/benchmarks/card.py                      # Qwen2.5-VL-3B's configuration, weights made up
    python tests/benchmarks/card.py --model FOLDER --images 64 --set '{"dtype": "float32"}'

Both ways read and decode the same JPEGs (1024 x 768) and write the same number of tokens for each. Weights are made up
(load_format: dummy) unless `--set` says otherwise, so nothing but configuration and tokenizer is fetched. Each way
runs in a process of its own, because each loads the model for itself; loading and a first batch are not in the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from engine_rig import LEASE, Outcomes  # noqa: E402
from PIL import Image  # noqa: E402

from cfbus.config import Config  # noqa: E402
from cfbus.core.outcome import WorkItem  # noqa: E402
from cfbus.decoding import DecodePool  # noqa: E402
from cfbus.engines.base import Loaded  # noqa: E402
from cfbus.engines.vllm_arguments import checked, installed  # noqa: E402
from cfbus.engines.vllm_asking import seen  # noqa: E402
from cfbus.engines.vllm_opening import open_vllm  # noqa: E402
from cfbus.engines.vllm_template import ModelTemplate  # noqa: E402
from cfbus.images import Limits, decode  # noqa: E402
from cfbus.spec import spec_of  # noqa: E402

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
BATCH = 8
PROMPT = "Describe this image in detail."


def settings(flags: argparse.Namespace, **more: object) -> Config:
    vllm = {"model": flags.model, "load_format": "dummy", "max_model_len": 4096, **more}
    vllm |= json.loads(flags.set) | {"sampling": {"temperature": 1.0, "max_tokens": flags.tokens, "seed": 1}}
    captions = {"engine": "vllm", "slots": {"caption": PROMPT}}
    return Config.model_validate({"vllm": vllm, "captions": captions, "worker": {"concurrency": flags.in_flight}})


def our_way(flags: argparse.Namespace, paths: Sequence[Path]) -> tuple[float, int]:
    """Seconds and tokens, with as many in flight as the worker keeps."""
    paths = paths[BATCH:]
    config = settings(flags)
    outcomes = Outcomes()
    pool = DecodePool(config.worker.decoders, Limits(pixel_budget=config.captions.pixel_budget))
    engine = open_vllm(config, {}, lambda item: Loaded(paths[item.index].read_bytes()), pool, outcomes.post, None)
    engine.use(spec_of(config.captions, config.vllm))
    items = [WorkItem(LEASE, "s", number, str(number), b"", ("caption",)) for number in range(len(paths))]
    began, at = time.monotonic(), 0
    while at < len(items):
        done = len(outcomes.all)
        room = flags.in_flight - (at - done)
        if room > 0:
            engine.submit(items[at : at + room])
            at = min(at + room, len(items))
        else:
            outcomes.wait(lambda found, seen=done: len(found) > seen, 600)  # type: ignore[misc]
    found = outcomes.wait_for(len(items), 600)
    seconds = time.monotonic() - began
    engine.close()
    pool.close()
    assert all(outcome.failure is None for outcome in found.values())
    return seconds, sum(outcome.captions[0].output_tokens for outcome in found.values())


def prompts_of(paths: Sequence[Path], config: Config, tokens: Sequence[int]) -> list[dict[str, object]]:
    """Read and decoded here and now."""
    limits = Limits(pixel_budget=config.captions.pixel_budget)
    return [{"prompt_token_ids": list(tokens), **seen(decode(path.read_bytes(), limits))} for path in paths]


def lock_step(flags: argparse.Namespace, paths: Sequence[Path]) -> tuple[float, int]:
    """Seconds and tokens: read and decode eight, caption eight, again."""
    from vllm import LLM, SamplingParams

    config = settings(flags, enforce_eager=True)
    template = ModelTemplate(config.vllm.model, config.vllm.revision, trust_remote_code=False)
    model = LLM(**checked(config.vllm, installed(), {}, print))
    tokens = list(template.tokens("", PROMPT, True))
    sampling = SamplingParams(temperature=1.0, max_tokens=flags.tokens, seed=1, repetition_penalty=1.05, top_p=0.95)
    warm, paths = paths[:BATCH], paths[BATCH:]  # the golden check warms the other way
    model.generate(prompts_of(warm, config, tokens), sampling, use_tqdm=False)
    written, began = 0, time.monotonic()
    for start in range(0, len(paths), BATCH):
        prompts = prompts_of(paths[start : start + BATCH], config, tokens)
        outputs = model.generate(prompts, sampling, use_tqdm=False)
        written += sum(len(output.outputs[0].token_ids) for output in outputs)
    return time.monotonic() - began, written


WAYS = {"ours": our_way, "lock-step": lock_step}


def main() -> int:
    """Both ways in processes of their own; or one of them."""
    parser = argparse.ArgumentParser(description="Compare two ways of feeding vLLM on this machine's card.")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="the most tokens of a caption")
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--set", default="{}", metavar="JSON", help="further keys of the section vllm")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way:
        seconds, tokens = WAYS[flags.way](flags, sorted(flags.folder.iterdir()))
        per_second = flags.images / seconds
        print(f"{flags.way}: {flags.images} images, {seconds:.1f} s, {per_second:.2f} images/s, {tokens} tokens")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(flags.images + BATCH):
            noise = Image.effect_noise((1024, 768), 30 + number % 60).convert("RGB")
            noise.save(Path(folder) / f"{number:05d}.jpg", quality=85)
        again = [sys.executable, __file__, *sys.argv[1:], "--folder", folder]
        return max(subprocess.run([*again, "--way", way], check=False).returncode for way in WAYS)


if __name__ == "__main__":
    sys.exit(main())
