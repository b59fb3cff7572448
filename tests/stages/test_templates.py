"""Stages work on a model whose chat template ends answers with another token than the tokenizer's eos, like Gemma's."""

from __future__ import annotations

import contextlib
import io
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from chat_templates import FAMILIES, HOME_MADE, Family
from prefloop.config import CONFIG_NAME
from prefloop.errors import DataError
from prefloop.models.load import load_causal
from prefloop.project.project import ModelRef, Project
from prefloop.results import Refused
from prefloop.rewards.sequence import encode
from prefloop.stages import removing
from prefloop.stages.align import align
from prefloop.stages.doctor import invariants
from prefloop.stages.doctor.doctor import doctor
from prefloop.stages.evaluate import evaluate
from prefloop.stages.evaluate_reward import evaluate_reward
from prefloop.stages.importing import import_file
from prefloop.stages.prioritise import prioritise
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.store import removal
from prefloop.training.demonstrations import encode_demonstrations
from prefloop.types import Completion, Demonstration, Item, Message, Prompt, Ranking
from tiny_models import causal

SETTINGS = """
[project]
threads = 1
device = "cpu"
[model]
path = "model"
[data]
heldout = 0.2
[sft]
epochs = 1
batch = 8
"""


def make_model(folder: Path, family: Family) -> Path:
    made = family.tokenizer()
    model = causal("Llama", len(made), eos=made.eos_token_id, max_position_embeddings=128)
    if family.stops:
        model.generation_config.eos_token_id = [made.convert_tokens_to_ids(token) for token in family.stops]
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("gemma") / "model", FAMILIES["Gemma"])


def make_project(root: Path, model: Path) -> Project:
    (root / CONFIG_NAME).write_text(SETTINGS.replace('path = "model"', f"path = {json.dumps(str(model))}"))
    return Project.open(root, quiet=True)


def test_an_end_that_is_several_tokens_is_said_where_answers_run_on(tmp_path: Path, capsys: Any) -> None:
    """The doctor says it, and so does what samples; of an end that is one token nothing is said."""
    (tmp_path / "text").mkdir()
    (tmp_path / "token").mkdir()
    for name, family in (("text", HOME_MADE["an end that is text"]), ("token", FAMILIES["Gemma"])):
        make_project(tmp_path / name, make_model(tmp_path / name / "m", family)).close()
        with Project.open(tmp_path / name, ["sample.max_tokens=16"]) as project:
            project.store.add([Prompt(f"Say {n}.") for n in range(4)])
            sample(project)
            said = capsys.readouterr().err
            ending = next(c for c in invariants.invariants(project) if c.name == "end of answers")
            for told in (said, ending.advice):
                assert ("'### End', which is several tokens" in told) is (name == "text"), told
            assert ("runs on to max_tokens" in said) is (ending.status == "warn") is (name == "text")


# -- answers that a template cannot write ------------------------------------------------------------------------------


def test_answers_with_calls_that_the_template_drops_are_left_out_counted_and_named(tmp_path: Path, gemma: Path) -> None:
    call = [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    lines = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "Hello!"}]}
             for n in range(12)]  # fmt: skip
    lines[4]["messages"][1] = {"role": "assistant", "content": None, "tool_calls": call}
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with make_project(tmp_path, gemma) as project:
        assert import_file(project, tmp_path / "calls.jsonl").files[0].beside == {"tool_calls": 1}
        result = sft(project)
    assert result.left_out == Refused(1, ("calls.jsonl row 5: it does not write tool calls",))


# -- how an answer ends ------------------------------------------------------------------------------------------------


def test_demonstrations_and_ranked_answers_end_as_the_template_ends_them(gemma: Path) -> None:
    _, tokenization = load_causal(gemma)
    end, prompt = tokenization.tokenizer.convert_tokens_to_ids("<end_of_turn>"), Prompt("Say hello.")
    [joined], _ = encode_demonstrations(tokenization, [Demonstration(prompt, "Hello!")], 100)
    shown = joined.ids
    judged, _ = encode(tokenization, prompt, Completion("c", "Hello!"))
    assert shown == judged and shown[-1] == end != tokenization.tokenizer.eos_token_id
    ids = (*shown[-8:-1], tokenization.tokenizer.eos_token_id)
    sampled = Completion("d", "Hello!", token_ids=ids, finish_reason="stop", tokenizer=tokenization.fingerprint)
    assert encode(tokenization, prompt, sampled)[0][-1] == tokenization.tokenizer.eos_token_id, (
        "what was sampled stays as it was"
    )


def test_a_trained_policy_stops_where_its_template_ends_an_answer(tmp_path: Path) -> None:
    family = FAMILIES["ChatML on a base model's tokenizer"]
    with make_project(tmp_path, make_model(tmp_path / "model", family)) as project:
        project.store.add(Demonstration(Prompt(f"Say hello {n}."), f"Hello, cat {n}!") for n in range(12))
        outcome = sft(project)
        stops = GenerationConfig.from_pretrained(tmp_path / outcome.model).eos_token_id
    _, tokenization = load_causal(tmp_path / outcome.model)
    assert set(stops) == set(tokenization.stop_ids) and tokenization.end_id in stops
    assert tokenization.tokenizer.convert_ids_to_tokens(tokenization.end_id) == "<|im_end|>"


@pytest.mark.parametrize(
    ("family", "status", "said"),
    [
        (FAMILIES["Gemma"], "ok", ["<end_of_turn> (token", "the chat template writes", "the tokenizer names <eos>"]),
        (FAMILIES["Zephyr"], "ok", ["generation config and tokenizer name </s>"]),
        (FAMILIES["ChatML on a base model's tokenizer"], "warn", ["<|im_end|>", "name <|endoftext|>"]),
        (FAMILIES["Falcon"], "ok", ["the tokenizer's eos_token, since the chat template writes nothing"]),
        (HOME_MADE["an end that is text"], "warn", ["'### End'", "no single token"]),
    ],
)
def test_the_doctor_says_what_ends_an_answer_and_who_says_otherwise(
    tmp_path: Path, family: Family, status: str, said: list[str]
) -> None:
    folder = make_model(tmp_path / "model", family)
    with make_project(tmp_path, folder) as project, ExitStack() as engines:
        subject = invariants._Subject(project, ModelRef("base", str(folder), ""), engines)
        check = invariants._ending(subject, "end of answers")
    assert check.status == status and bool(check.advice) == (status == "warn")
    for words in said:
        assert words in check.detail


# -- rows that the template refuses ------------------------------------------------------------------------------------


def chats(n: int, refused: int) -> list[list[dict[str, str]]]:
    """Return questions; the first few hold a system prompt, two user turns or a tool's turn, which Gemma refuses."""
    odd = [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hello 0."}],
        [{"role": "user", "content": "Say hello 1."}, {"role": "user", "content": "Go on."}],
        [
            {"role": "user", "content": "Say hello 2."},
            {"role": "assistant", "content": "Hello."},
            {"role": "tool", "content": "the cat"},
        ],
    ]
    plain = [[{"role": "user", "content": f"Say hello {k}."}] for k in range(refused, n)]
    return odd[:refused] + plain


def rows_of(kind: str, refused: int = 3) -> list[dict[str, Any]]:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    if kind == "demonstrations":
        return [{"messages": asked + said(f"Hello, cat {k}!")} for k, asked in enumerate(chats(24, refused))]
    return [
        {"prompt": asked, "chosen": said(f"Hello, cat {k}!"), "rejected": said("Go on.")}
        for k, asked in enumerate(chats(24, refused))
    ]


def write(folder: Path, kind: str, refused: int = 3) -> Path:
    file = folder / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, refused)))
    return file


SMALL = """
[sample]
k = 2
max_tokens = 6
[reward]
epochs = 1
normalise_prompts = 4
[align]
steps = 1
max_tokens = 6
ptx = 0.1
[align.rollout]
prompts = 4
[align.evaluation]
eval_prompts = 4
[annotate]
criterion = "preference"
[evaluate]
prompts = 8
max_tokens = 6
bootstrap = 100
"""


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory, gemma: Path) -> dict[str, Any]:
    """Run every verb that reads prompts, on files of which three rows are refused: {verb: result, "said": ...}."""
    root = tmp_path_factory.mktemp("refused")
    (root / CONFIG_NAME).write_text((SETTINGS + SMALL).replace('path = "model"', f"path = {json.dumps(str(gemma))}"))
    found: dict[str, Any] = {"root": root}
    with Project.open(root) as project, contextlib.redirect_stderr(io.StringIO()) as heard:
        import_file(project, write(root, "demonstrations"))
        import_file(project, write(root, "pairs"))
        for name, stage in (("sft", sft), ("reward", reward), ("sample", sample), ("align", align)):
            found[name] = stage(project)
        found["evaluate"] = evaluate(project)
        prompt = Prompt("Say hello.", system="Be kind.")
        project.store.add([Item("odd", prompt, (Completion("odd:a", "Hello!"), Completion("odd:b", "Go on.")))])
        found["prioritise"] = prioritise(project)
        found["prioritised again"] = prioritise(project)
        found["reward model"] = root / found["reward"].models["preference"].model
    with Project.open(
        root, ["align.algorithm=dpo", "align.lists=4", "align.passes=1", "align.ptx=0"], quiet=True
    ) as project:
        found["dpo"] = align(project, 0)
    return found | {"said": heard.getvalue()}


def test_every_verb_goes_on_without_rows_that_the_template_refuses_and_counts_them(looped: dict[str, Any]) -> None:
    results = {**looped, "reward": looped["reward"].models["preference"]}
    for verb in ("sft", "sample", "reward", "align", "dpo", "prioritise"):
        assert results[verb].left_out.refused >= 1, verb
    assert looped["sft"].left_out.refused == looped["sample"].left_out.refused == 3
    assert looped["prioritise"].left_out.refused == 1 and looped["prioritised again"].skipped
    reasons = " ".join(looped["sft"].left_out.refused_rows)
    assert "System role not supported" in reasons and "must alternate" in reasons
    left_out = looped["evaluate"].left_out or Refused(0, ())
    heldout = [n for n in range(3) if f"row {n + 1}:" in " ".join(left_out.refused_rows)]
    assert left_out.refused == len(heldout)


def test_no_model_is_said_to_have_learnt_from_what_was_left_out(looped: dict[str, Any]) -> None:
    with Project.open(looped["root"], quiet=True) as project:
        refused = removing._refused(project)
        assert len(refused) >= 6
        assert removal.plan(project.store, refused).models == []


def test_they_are_named_by_file_and_row(looped: dict[str, Any]) -> None:
    rows = looped["sft"].left_out.refused_rows
    assert sorted(row.partition(":")[0] for row in rows) == [f"demonstrations.jsonl row {n}" for n in (1, 2, 3)]
    lists = looped["dpo"].left_out.refused_rows
    assert {row.partition(":")[0] for row in lists} <= {f"pairs.jsonl row {n}" for n in (1, 2, 3)}
    assert (
        "demonstrations left out, since the model's chat template refuses them: demonstrations.jsonl row"
        in looped["said"]
    )


def test_a_reward_model_is_measured_on_the_rows_that_its_template_takes(looped: dict[str, Any], tmp_path: Path) -> None:
    result = evaluate_reward(str(looped["reward model"]), write(tmp_path, "pairs"))
    assert result.items == 21 and result.left_out.refused == 3


@pytest.mark.parametrize("stage", [sft, reward, sample], ids=["sft", "reward", "sample"])
def test_where_the_template_refuses_everything_a_stage_stops_and_says_so(
    tmp_path: Path, gemma: Path, stage: Any
) -> None:
    make_project(tmp_path, gemma).close()
    with Project.open(tmp_path, ["data.heldout=0"], quiet=True) as project:
        for kind in ("demonstrations", "pairs"):
            file = tmp_path / f"{kind}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)[:3]))
            import_file(project, file)
        with pytest.raises(DataError, match=r"refuses every one of 3 .*, first \w+\.jsonl row 1: System role not"):
            stage(project)


def test_the_doctor_looks_past_prompts_that_the_template_refuses(looped: dict[str, Any]) -> None:
    failed = [check for check in doctor(looped["root"]) if check.status == "fail"]
    assert not failed


def test_policies_leave_out_and_name_answers_of_which_a_template_hides_who_wrote_what(tmp_path: Path) -> None:
    """Such a template writes an earlier turn differently once more turns follow."""
    family = FAMILIES["Qwen2.5"]
    marked = "('' if loop.last or message['role'] == 'user' else '[earlier]') + message['content']"
    template = family.template.replace("message['content']", marked)
    talk = (Message("assistant", "Hello!"), Message("user", "Go on."), Message("assistant", "Hello, cat!"))
    offline = ["align.algorithm=dpo", "align.lists=4", "data.heldout=0"]
    with make_project(tmp_path, make_model(tmp_path / "model", replace(family, template=template))) as project:
        for n in range(8):
            asked, messages = Prompt(f"Hello {n}"), talk if n == 3 else ()
            answers = (Completion(f"{n}a", "Hello!"), Completion(f"{n}b", "-", messages=messages))
            said = Ranking(f"i{n}", "w", "quality", ((f"{n}a",), (f"{n}b",)))
            project.store.add([Item(f"i{n}", asked, answers, (said,)), Demonstration(asked, "-", messages=messages)])
        taught = sft(project)
    with Project.open(tmp_path, offline, quiet=True) as project:
        aligned: Any = align(project, 0)
    for result in (taught, aligned):
        assert result.left_out is not None and result.left_out.refused == 1
        assert "writes turn 1 of an answer as another text when more turns follow" in result.left_out.refused_rows[0]
