"""What cannot be loaded says why and what to do; nothing that comes with a model is run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from prefloop.config import Model
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.load import load_causal, weights_hash
from prefloop.models.reward import load_reward_model, new_reward_model
from prefloop.models.scratch import make_scratch, new_model
from tiny_models import causal, folder


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_a_model_folder_loads(tmp_path: Path) -> None:
    model, tokenization = load_causal(folder(tmp_path / "m"))
    assert tokenization.context == 64 and not any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules())


def test_single_precision_is_the_default_and_half_is_an_option(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert load_causal(path)[0].dtype == torch.float32
    assert load_causal(path, Model(dtype="bfloat16"))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("load", [load_causal, load_reward_model, lambda p: new_reward_model(p, Model(), 0)])
def test_a_folder_without_a_part_names_the_part(tmp_path: Path, load: object) -> None:
    assert callable(load)
    for name, complaint in [
        ("config.json", "no config.json"),
        ("model.safetensors", r"no weights \(\*.safetensors\)"),
    ]:
        path = folder(tmp_path / name)
        (path / name).unlink()
        with pytest.raises(ModelError, match=complaint):
            load(path)


def test_a_folder_without_a_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (path / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no (usable )?tokenizer.*save_pretrained"):
        load_causal(path)


def test_a_path_that_is_no_folder_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    for source in (tmp_path / "absent", "./absent", "~/absent"):
        with pytest.raises(ModelError, match="is not a folder"):
            load_causal(source)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ModelError, match="is not a folder"):
        load_causal(file)


def test_pickled_weights_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    path, canary = folder(tmp_path / "m"), tmp_path / "canary"
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    load_causal(path)  # It is ignored beside safetensors.
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="only as pickle .pytorch_model.bin.*safetensors first"):
        load_causal(path)
    assert not canary.exists()


def test_a_pickle_is_not_loaded_in_the_place_of_safetensors_by_another_name(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    torch.save(load_causal(path)[0].state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").rename(path / "other.safetensors")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_causal(path)


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, where: str) -> None:
    path, canary = folder(tmp_path / "m"), tmp_path / "canary"
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Mine: pass\n"
    (path / "mine.py").write_text(code)
    settings = json.loads((path / where).read_text())
    if where == "config.json":
        settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}}
    else:
        settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (path / where).write_text(json.dumps(settings))
    with pytest.raises(ModelError) as caught:
        load_causal(path)
    assert not canary.exists()
    if where == "config.json":
        assert "trust_remote_code = true" in str(caught.value) and "revision" in str(caught.value)


def test_damaged_weights_are_an_error_of_the_model_not_a_traceback(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    body = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(body[: len(body) // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_causal(path)


def test_an_unknown_architecture_is_an_error_of_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError, match="could not be loaded"):
        load_causal(path)


def test_weights_that_are_not_this_models_are_refused(tmp_path: Path) -> None:
    """transformers fills what is missing with random numbers and only logs it."""
    path = folder(tmp_path / "m")
    shutil.copy(folder(tmp_path / "gpt2", "GPT2") / "model.safetensors", path / "model.safetensors")
    with pytest.raises(ModelError, match="has no weights for .* parts of a LlamaForCausalLM, such as lm_head"):
        load_causal(path)
    with pytest.raises(ModelError, match="has no weights for"):
        new_reward_model(path, Model(), 0)


def test_a_causal_model_is_not_taken_for_a_trained_reward_model(tmp_path: Path) -> None:
    """Its head would be random, and so its scores."""
    path = folder(tmp_path / "m")
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"num_labels": 1}))
    with pytest.raises(ModelError, match="has no weights for 1 parts .* score.weight"):
        load_reward_model(path)


def test_a_model_from_scratch_is_a_function_of_its_seed(tmp_path: Path) -> None:
    settings = Model(init="scratch", vocab_size=300, hidden_size=16, layers=1, heads=2, context=32)
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        make_scratch(tmp_path / name, settings, ["the cat sat", "a dog ran"], seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    _, tokenization = load_causal(tmp_path / "a")
    assert tokenization.chat and tokenization.context == 32 and tokenization.stop_ids == (tokenization.end_id,)
    assert tokenization.tokenizer.pad_token_id != tokenization.end_id


def test_a_model_from_scratch_needs_text_and_sizes_that_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        make_scratch(tmp_path / "m", Model(init="scratch"), [], 0)
    with pytest.raises(ConfigError, match=r"hidden_size = 30 must be heads = 4"):
        new_model(Model(hidden_size=30, heads=4), 300, 0, 1, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_models_hash_survives_saving_and_changes_with_one_weight(dtype: torch.dtype, tmp_path: Path) -> None:
    model = causal().to(dtype)
    before = weights_hash(model)
    model.save_pretrained(tmp_path)
    assert weights_hash(type(model).from_pretrained(tmp_path, dtype=dtype)) == before
    with torch.no_grad():
        model.model.norm.weight[3] += 0.25
    assert weights_hash(model) != before
