"""Whatever people get wrong ends with a message that says what to do, its own exit code, and no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.store import Store
from prefloop.types import Prompt

HOLD = """
import sys, pathlib
from prefloop.store import ProjectLock
with ProjectLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def refused(said: Any, code: int, kind: str, *parts: str) -> None:
    assert said.code == code, (said.out, said.err)
    error = said.json["error"]
    assert error["type"] == kind
    for part in parts:
        assert part in error["message"]
    assert said.err.strip() and "Traceback" not in said.err


def test_an_unknown_key_is_named_with_the_nearest_right_one(prefloop: Callable, tiny_project: Path) -> None:
    toml = tiny_project / "prefloop.toml"
    toml.write_text(toml.read_text().replace("[align]\nsteps", "[align]\nstpes"))
    refused(prefloop("sft", "-C", tiny_project, "--json"), 2, "ConfigError", "align.stpes", 'Did you mean "steps"?')


def test_an_override_that_is_no_setting_is_refused(prefloop: Callable, tiny_project: Path) -> None:
    said = prefloop("sft", "-C", tiny_project, "--set", "sft.lr=fast", "--json")
    refused(said, 2, "ConfigError", "sft.lr", "fast")


def test_a_folder_without_project_says_how_to_make_one(prefloop: Callable, tmp_path: Path) -> None:
    refused(prefloop("sample", "-C", tmp_path, "--json"), 2, "ConfigError", "prefloop init")


def test_a_missing_file_is_named(prefloop: Callable, tiny_project: Path) -> None:
    refused(prefloop("import", "no.jsonl", "-C", tiny_project, "--json"), 3, "DataError", "no.jsonl does not exist")


def test_an_unknown_format_is_answered_with_all_that_exist(
    prefloop: Callable, tiny_project: Path, tmp_path: Path
) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"colour": "red"}\n')
    refused(prefloop("import", file, "-C", tiny_project, "--json"), 3, "DataError", "colour", "pairs")
    said = prefloop("import", file, "-C", tiny_project, "--as", "pears", "--json")
    refused(said, 3, "DataError", "Did you mean 'pairs'?")


def test_no_rankings_yet_names_the_commands_that_make_some(prefloop: Callable, tiny_project: Path) -> None:
    refused(prefloop("reward", "-C", tiny_project, "--json"), 8, "NothingToDoError", "prefloop crowd", "import")


def test_stages_out_of_order_name_the_one_before(prefloop: Callable, tiny_project: Path) -> None:
    refused(prefloop("crowd", "-C", tiny_project, "--json"), 8, "NothingToDoError", "prefloop sample")
    refused(prefloop("align", "-C", tiny_project, "--json"), 8, "NothingToDoError", "prefloop reward")
    refused(prefloop("evaluate", "-C", tiny_project, "--json"), 8, "NothingToDoError", "prefloop align")
    refused(
        prefloop("sample", "-C", tiny_project, "--round", 3, "--json"),
        8,
        "NothingToDoError",
        "there is no round 3",
        "align",
    )


def test_an_unknown_algorithm_is_answered_with_those_that_exist(prefloop: Callable, tiny_project: Path) -> None:
    said = prefloop("align", "-C", tiny_project, "--algorithm", "pppo", "--json")
    refused(said, 2, "ConfigError", 'Did you mean "ppo"?')


def test_a_second_command_is_told_who_is_working_here(
    prefloop: Callable, tiny_project: Path, environment: dict[str, str]
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tiny_project)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin and other.stdout
    try:
        assert other.stdout.readline() == "held\n"
        refused(prefloop("sft", "-C", tiny_project, "--json"), 6, "BusyError", f"process {other.pid}")
    finally:
        other.communicate("")
    assert prefloop("sft", "-C", tiny_project).code == 0


def test_a_scorer_that_gives_nan_stops_the_crowd_and_names_the_completion(
    prefloop: Callable, tiny_project: Path
) -> None:
    (tiny_project / "bad.py").write_text("def score(prompt, text):\n    return float('nan')\n")
    for verb in ("sft", "sample"):
        assert prefloop(verb, "-C", tiny_project).code == 0
    said = prefloop("crowd", "-C", tiny_project, "--set", "crowd.scorer=bad.py:score", "--json")
    refused(said, 3, "DataError", "nan", "completion")
    with Store.open("sqlite:///prefloop.db", tiny_project) as store:
        assert store.counts()["rankings"] == 0


def test_a_prompt_that_does_not_fit_is_left_out_and_named(prefloop: Callable, tiny_project: Path) -> None:
    long = Prompt("word " * 500)
    with Store.open("sqlite:///prefloop.db", tiny_project) as store:
        store.add([long])
    assert prefloop("sft", "-C", tiny_project).code == 0
    said = prefloop("sample", "-C", tiny_project, "--json")
    assert said.json["prompts"] == 40
    assert "1 prompts left out" in said.err and long.id in said.err


# -- model folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_without_tokenizer_is_refused_before_anything_is_written(
    prefloop: Callable, folder: Path, tmp_path: Path
) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    said = prefloop("init", tmp_path / "p", "--model", folder, "--json")
    refused(said, 4, "ModelError", "tokenizer")
    assert not (tmp_path / "p").exists()


def test_pickled_weights_are_refused_without_being_opened(prefloop: Callable, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(canary).encode())
    refused(
        prefloop("init", tmp_path / "p", "--model", folder, "--json"), 4, "ModelError", "pickle (pytorch_model.bin)"
    )
    assert not canary.exists()


def with_pretrained(tiny_project: Path, folder: Path) -> tuple[str, ...]:
    return ("-C", str(tiny_project), "--set", "model.init=pretrained", "--set", f"model.path={folder}", "--json")


def test_pickled_weights_are_refused_by_stages_too(prefloop: Callable, folder: Path, tiny_project: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(prefloop("sft", *with_pretrained(tiny_project, folder)), 4, "ModelError", "pickle (pytorch_model.bin)")


@pytest.mark.parametrize("kind", ["unknown", "llama"])
def test_code_inside_a_model_folder_is_never_run_unasked(
    prefloop: Callable, folder: Path, tiny_project: Path, tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(
        f"open({str(canary)!r}, 'w')\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'unknown'\nclass M(LlamaForCausalLM):\n    config_class = C\n"
    )
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    edit(folder / "config.json", auto_map=auto, model_type=kind)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    said = prefloop("sft", *with_pretrained(tiny_project, folder))
    if kind == "unknown":
        refused(said, 4, "ModelError", "trust_remote_code = true")
    assert not canary.exists()


def test_a_model_without_pad_token_goes_round_the_loop(prefloop: Callable, folder: Path, tiny_project: Path) -> None:
    """The pad token is None, and no token is to spare, so the reward model gets one of its own."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, pad_token_id=None)
    for verb in ("sft", "sample", "crowd", "reward", "align"):
        said = prefloop(verb, *with_pretrained(tiny_project, folder))
        assert said.code == 0, said.err
    from prefloop.models.reward import load_reward_model

    _, tokenization = load_reward_model(tiny_project / "runs" / "reward-001" / "model")
    assert tokenization.tokenizer.pad_token_id not in (None, *tokenization.stop_ids)
