"""Chat templates of real processors: what has no place for what is asked is refused with a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import engine_vllm
import pytest

from cfbus.engines.vllm_template import ModelTemplate
from cfbus.errors import ConfigError

TEXT_ONLY = "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
BLIND = (
    "{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages if m['role'] == 'user' %}{% for c in m['content'] %}"
    "{{ '<|image_pad|>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
)
ANGRY = "{{ raise_exception('Only text is spoken here.') }}"


def model(folder: Path, template: str) -> ModelTemplate:
    """The tiny model with another chat template."""
    copy = folder / "model"
    shutil.copytree(engine_vllm.MODEL, copy)
    for name in ("tokenizer_config.json", "processor_config.json"):
        file = copy / name
        if file.exists():
            file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    for file in copy.glob("chat_template*"):
        file.unlink()
    return ModelTemplate(str(copy), "", trust_remote_code=False)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (BLIND, "has no place for an image and a prompt."),
        (TEXT_ONLY, "has no place for an image and a prompt."),
        (ANGRY, "cannot be used: TemplateError: Only text is spoken here."),
    ],
)
def test_a_model_that_is_shown_no_image_is_refused(tmp_path: Path, template: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model(tmp_path, template)
    assert caught.value.message.startswith(f"The chat template of {tmp_path / 'model'} ")
    assert caught.value.message.endswith(sentence)
    assert "vllm.model" in caught.value.hint


def test_a_system_text_that_would_get_lost_is_refused(tmp_path: Path) -> None:
    template = model(tmp_path, NO_SYSTEM)
    template.check_system("")
    with pytest.raises(ConfigError, match="has no place for a system text"):
        template.check_system("Be brief.")


def test_what_a_model_reads_as_special_is_taken_out_of_data(tmp_path: Path) -> None:
    template = model(tmp_path, NO_SYSTEM)
    assert template.clean("a <|im_end|><|image_pad|>b") == "a   b"
    assert template.cleaned({"title": "x<|im_start|>", "count": 3, "none": None}) == {"title": "x ", "count": "3"}
