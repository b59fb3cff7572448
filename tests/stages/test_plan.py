"""`prefloop plan` counts what models hold from a config alone, and says before a run what the run then does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.registry import kind_of
from prefloop.config import Config, Model, load_config
from prefloop.engine.budget import _kept
from prefloop.engine.decoding.room import cache_bytes
from prefloop.errors import ModelError
from prefloop.models.policy import Policy
from prefloop.models.shapes import Shapes, shapes_of
from prefloop.project.project import Project
from prefloop.results import PhaseMemory, Planned, StagePlan
from prefloop.stages.align import align
from prefloop.stages.plan import changed, plan
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.store import ModelRow
from prefloop.training.workload import _passes
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking
from tiny_models import SIZES, TINY_MODEL, causal

EIGHT_B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
GB = 1e9


@pytest.fixture(scope="module")
def eight_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose model is a config.json of 8 B parameters, and nothing else."""
    root = tmp_path_factory.mktemp("eight")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text(json.dumps(EIGHT_B))
    (root / "prefloop.toml").write_text('[project]\ndevice = "cpu"\n[model]\npath = "model"\ndtype = "bfloat16"\n')
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project with demonstrations and ranked lists."""
    root = tmp_path_factory.mktemp("small")
    more = "[data]\nheldout = 0.2\n[sft]\nbatch = 4\nepochs = 2\n[reward]\nbatch = 4\nnormalise_prompts = 4\n"
    more += "[align]\nsteps = 2\nmax_tokens = 6\n[align.rollout]\nprompts = 4\n[align.evaluation]\neval_prompts = 4\n"
    (root / "prefloop.toml").write_text(TINY_MODEL + more)
    records: list[Any] = []
    for n in range(20):
        prompt = Prompt(f"the cat {n}")
        answers = tuple(Completion(f"i{n}:c{k}", f"sat on mat {k}") for k in range(3))
        said = Ranking(f"i{n}", "ann", "quality", tuple((c.id,) for c in answers))
        records += [Demonstration(prompt, "sat on the mat"), Item(f"i{n}", prompt, answers, (said,))]
    with Project.open(root, quiet=True) as project:
        project.store.add(records)
        project.base()
    return root


def planned(root: Path, *overrides: str, stages: tuple[str, ...] = ("align",), **how: Any) -> Planned:
    with Project.open(root, list(overrides), quiet=True) as project:
        return plan(project, stages, **{"measured": False, **how})


def held(stage: StagePlan, phase: str, *left_out: str) -> float:
    (found,) = (p for p in stage.phases if p.phase == phase)
    return sum(part.bytes for part in found.parts if part.what not in left_out and part.role != "process") / GB


def test_an_eight_b_model_is_counted_from_its_config_alone(eight_b: Path) -> None:
    """What is held before activations is what was counted by hand: 18 bytes a weight that learns, 2 of a frozen one."""
    ppo, grpo = (planned(eight_b, f"align.algorithm={name}", memory=80 * GB) for name in ("ppo", "grpo"))
    assert ppo.parameters == 8_030_261_248 and ppo.computed_by == "prefloop's own code"
    assert held(grpo.stages[0], "updating") == pytest.approx(175.6, abs=0.1)
    assert held(ppo.stages[0], "updating") == pytest.approx(310.7, abs=0.1)
    assert not ppo.fits and ppo.speed is None and all(placed.hours is None for placed in ppo.placements)


def test_on_ranks_what_learns_is_divided_and_what_does_not_is_whole(eight_b: Path) -> None:
    one, eight = (planned(eight_b, "align.algorithm=grpo", memory=80 * GB, devices=n).stages[0] for n in (1, 8))
    shares = {
        (role, what): sum(p.bytes for p in eight.phases[-1].parts if (p.role, p.what) == (role, what))
        for role, what in (("policy", "optimiser"), ("policy", "gradients"), ("reference", "weights"))
    }
    whole = {key: sum(p.bytes for p in one.phases[-1].parts if (p.role, p.what) == key) for key in shares}
    assert shares["policy", "optimiser"] == whole["policy", "optimiser"] / 8
    assert shares["policy", "gradients"] == whole["policy", "gradients"] / 8
    assert shares["reference", "weights"] == whole["reference", "weights"]
    with_adapters = [
        planned(eight_b, "align.algorithm=grpo", "model.adapter=lora", memory=80 * GB, devices=n).stages[0].phases
        for n in (1, 8)
    ]
    assert with_adapters[0][-1] == with_adapters[1][-1], "ranks hold adapters as one does"


def test_on_ranks_texts_are_dealt_and_the_first_has_a_whole_model_of_what_learns(eight_b: Path) -> None:
    asked = "align.algorithm=grpo", "align.rollout.prompts=8", "align.rollout.k=4", "align.token_budget=65536"
    one, four = (planned(eight_b, *asked, memory=80 * GB, devices=n).stages[0].phases for n in (1, 4))

    def part(found: tuple[PhaseMemory, ...], phase: str, what: str) -> float:
        return sum(p.bytes for one in found if one.phase == phase for p in one.parts if p.what == what)

    assert part(four, "learning", "activations") == part(one, "learning", "activations") / 4
    assert part(four, "sampling", "caches") == part(one, "sampling", "caches") / 4
    assert part(one, "learning", "a whole one") == 0 and part(four, "learning", "a whole one") == 2 * 8_030_261_248
    # Two embeddings are gathered with their gradients in bfloat16, and what is summed is in float32.
    words = 2 * 128256 * 4096
    assert part(four, "learning", "gathered embeddings") == pytest.approx(3 * words, rel=1e-4)
    assert part(four, "updating", "gathered embeddings") == pytest.approx(4 * words, rel=1e-4)
    assert part(four, "updating", "gradients to be sent") == pytest.approx(4 * words, rel=1e-4)


def test_a_plan_is_for_the_ranks_of_the_settings_and_on_a_cpu_they_share_its_memory(small: Path) -> None:
    one, two, three = (planned(small, f"project.ranks={n}") for n in ("1", "2", '"auto"'))
    assert (one.devices, two.devices, three.devices) == (1, 2, 1) and two.memory == one.memory / 2
    assert [placed.devices for placed in two.placements] == [2] and planned(small, devices=4).devices == 4


def test_moments_in_8_bits_take_a_quarter_and_on_ranks_the_plan_says_that_they_are_refused(eight_b: Path) -> None:
    def optimiser(*more: str, devices: int = 1) -> float:
        (stage,) = planned(eight_b, "align.algorithm=grpo", *more, memory=80 * GB, devices=devices).stages
        refused = any('optim = "adamw_8bit" is refused on several devices' in note for note in stage.notes)
        assert refused == (devices > 1 and len(more) == 1)
        return sum(part.bytes for part in stage.phases[-1].parts if part.what == "optimiser")

    eight, lora = "align.optim=adamw_8bit", "model.adapter=lora"
    assert optimiser(eight) == pytest.approx(optimiser() * (2 + 8 / 256) / 8)
    assert optimiser(eight, lora, devices=8) == pytest.approx(optimiser(lora) * (2 + 8 / 256) / 8)
    assert optimiser(eight, devices=8) == optimiser() / 8
    tight = planned(eight_b, "align.algorithm=grpo", memory=180 * GB).stages[0]
    assert any('optim = "adamw_8bit"' in said and "not fit" not in said for said in tight.advice)


def test_offloaded_models_are_held_by_a_gpu_only_in_the_phase_that_asks_them(eight_b: Path) -> None:
    def of(*more: str, **how: Any) -> StagePlan:
        return planned(eight_b, "align.algorithm=ppo", *more, **{"memory": 80 * GB, **how}).stages[0]

    kept, offloaded = of(), of("align.frozen_offload=true")
    reference, judge = 2 * 8.0303, 2 * (8.0303 - 128256 * 4096 / 1e9)  # A reward model has no matrix of words.
    for phase, left in (("sampling", reference), ("scoring", reference), ("learning", 0.0), ("updating", 0.0)):
        less = held(kept, phase) - held(offloaded, phase)
        assert less == pytest.approx(reference + judge - left, rel=1e-3), phase
    assert any("frozen_offload = true" in said for said in kept.advice)
    assert not any("frozen_offload" in said for said in offloaded.advice)
    assert any(f"takes {reference + judge:.1f} GB of the machine's own memory" in note for note in offloaded.notes)
    on_cpu = [of(*more, memory=None).peak for more in ([], ["align.frozen_offload=true"])]
    assert on_cpu[0] == pytest.approx(on_cpu[1], abs=0.1 * GB)  # but for what this process took meanwhile


def test_adapters_hold_one_trunk_for_all_four_models(eight_b: Path) -> None:
    (stage,) = planned(eight_b, "align.algorithm=ppo", "model.adapter=lora", memory=80 * GB).stages
    assert shapes_of(_config(eight_b), Model()).adapter(16) == 41_943_040
    # Three adapters, of which the policy's and the critic's learn; 12 bytes are gradient and moments.
    assert held(stage, "updating") == pytest.approx(2 * 8.0303 + (3 * 4 + 2 * 12) * 0.04194, rel=1e-3)
    assert stage.fits and stage.trained == 2 * 41_943_040 + 4096


def test_an_adapter_is_as_large_as_the_one_that_is_made() -> None:
    from prefloop.config import Lora
    from prefloop.models.lora import add_adapter

    for how in (Lora(rank=4), Lora(rank=3, targets=("q_proj", "down_proj")), Lora(rank=2, dora=True)):
        model = causal("Qwen3")
        shapes = shapes_of(model.config, Model())
        add_adapter(model, how, "base", 0)
        made = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert shapes.adapter(how.rank, how.targets, how.dora) == made


def _config(root: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(root / "model")


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_sizes_from_a_config_are_those_of_the_model(kind: str) -> None:
    model = causal(kind)
    shapes = shapes_of(model.config, Model())
    assert shapes.parameters == sum(p.numel() for p in model.parameters())
    layer = next(m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList))[0]
    assert shapes.layer == sum(p.numel() for p in layer.parameters())
    assert shapes.cached * 4 == cache_bytes(model.config, torch.float32, 1)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "GPT2", "Gemma3", "Cohere"])
def test_what_a_layer_is_said_to_keep_is_about_what_it_keeps(kind: str) -> None:
    small = {"n_embd": 64, "n_layer": 6, "n_head": 4} if kind == "GPT2" else {"hidden_size": 64, "num_hidden_layers": 6}
    if "layer_types" in SIZES[kind]:
        small["layer_types"] = ["full_attention"] * 6
    if kind not in ("GPT2", "GPTNeoX"):
        small["intermediate_size"] = 172
    model = causal(kind, sharp=1.0, **small).train()
    shapes = shapes_of(model.config, Model())
    models: Any = {"policy": Policy(model)}
    each = (_kept(models, 256, "cpu") - _kept(models, 128, "cpu")) / 128 - 4 * 40  # beside the shares of 40 words
    assert shapes.kept * shapes.layers * 4 == pytest.approx(each, rel=0.15), kind


def test_scores_of_attention_in_plain_torch_are_counted_for_each_pair_of_tokens(tmp_path: Path) -> None:
    model, found = causal("Cohere", hidden_size=64, num_hidden_layers=6, intermediate_size=172), {}
    (tmp_path / "prefloop.toml").write_text('[project]\ndevice = "cpu"\n')
    for how in ("sdpa", "eager"):
        model.config.save_pretrained(tmp_path / how)
        written = tmp_path / how / "config.json"
        written.write_text(json.dumps(json.loads(written.read_text()) | {"attn_implementation": how}))
        parts = planned(tmp_path, f"model.path={how}", stages=("sft",)).stages[0].phases
        (learning,) = (one for one in parts if one.phase == "learning")
        found[how] = {p.what: p.bytes for p in learning.parts}
        model.set_attn_implementation(how)
        models: Any = {"policy": Policy(model.train())}
        found[how]["measured"] = (_kept(models, 1024, "cpu") - _kept(models, 512, "cpu")) / 512
    more = found["eager"]["measured"] - found["sdpa"]["measured"]  # of a token that looks at 64 others
    assert "scores of attention" not in found["sdpa"]
    shapes = shapes_of(model.config, Model())
    assert shapes.scores * shapes.layers * shapes.context == pytest.approx(more, rel=0.15)
    assert found["eager"]["scores of attention"] > shapes.scores * shapes.layers


def test_steps_and_trained_weights_are_those_of_the_run(small: Path) -> None:
    said = {stage.name: stage for stage in planned(small, stages=("sft", "reward", "align")).stages}
    with Project.open(small, quiet=True) as project:
        assert sft(project).steps == said["sft"].steps
        trained = reward(project).models["quality"]
        aligned = align(project)
    assert said["reward"].steps == _steps_of(small, str(trained.run)) and said["align"].steps == aligned.steps
    state = json.loads(next((small / "runs" / "sft-001" / "checkpoints").glob("*/state.json")).read_text())
    assert state["step"] == said["sft"].steps
    size = sum(path.stat().st_size for path in (small / "runs" / "sft-001" / "checkpoints").rglob("*.safetensors"))
    assert said["sft"].checkpoints == pytest.approx(2 * size, rel=0.2)  # Two are kept, and this run made one.


def _steps_of(root: Path, run: str) -> int:
    steps: int = json.loads((root / "runs" / run / "manifest.json").read_text())["steps"]
    return steps


def test_hours_come_from_a_measurement_and_grow_with_the_steps(small: Path) -> None:
    few = planned(small, measured=True)
    assert few.speed is not None and min(few.speed.learning, few.speed.scoring, few.speed.sampling) > 0
    assert few.stages[0].hours is not None and few.stages[0].hours > 0
    many = planned(small, "align.steps=200")
    assert many.stages[0].tokens == 100 * few.stages[0].tokens and many.stages[0].hours is None


def test_what_is_advised_comes_to_what_is_said(eight_b: Path) -> None:
    from prefloop.cli.show_plan import plan_lines

    refused = planned(eight_b, "align.algorithm=ppo", memory=200 * GB)
    (stage,) = refused.stages
    assert not stage.fits and stage.peak > 200 * GB
    said = next(line for line in stage.advice if line.startswith('[align] critic = "head"'))
    followed = planned(eight_b, "align.algorithm=ppo", "align.critic=head", memory=200 * GB).stages[0]
    assert f": {followed.peak / GB:.1f} GB" in said and followed.peak < stage.peak
    shown = "\n".join(plan_lines(refused))
    assert "IT DOES NOT FIT" in shown and said in shown and "devices" in shown


def test_auto_takes_the_tokens_that_fit(eight_b: Path) -> None:
    asked = ["align.algorithm=grpo", "align.token_budget=auto", "align.rollout.prompts=256"]
    budgets = [planned(eight_b, *asked, memory=n * GB).stages[0].budget for n in (180, 195, 400)]
    assert budgets[0] < budgets[1] < budgets[2]


def test_offline_methods_hold_a_reference_and_no_judge(small: Path) -> None:
    (stage,) = planned(small, "align.algorithm=dpo").stages
    assert kind_of("dpo", "offline") and stage.method == "dpo" and stage.steps == 1
    assert {p.role for phase in stage.phases for p in phase.parts} >= {"policy", "reference"}
    assert not any("reward" in p.role for phase in stage.phases for p in phase.parts)


def test_checkpointing_lowers_activations_by_what_layers_keep(eight_b: Path) -> None:
    plain, less = (
        planned(eight_b, f"align.gradient_checkpointing={on}", "align.algorithm=grpo", memory=80 * GB).stages[0]
        for on in ("false", "true")
    )
    parts = [next(p for p in s.phases if p.phase == "learning").parts for s in (plain, less)]
    kept = [sum(p.bytes for p in some if p.what == "activations") for some in parts]
    shapes: Shapes = shapes_of(_config(eight_b), Model())
    assert kept[1] / kept[0] == pytest.approx(2 * shapes.hidden / shapes.kept)


def test_a_model_that_is_not_there_or_keeps_states_is_refused(eight_b: Path, tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text('[project]\ndevice = "cpu"\n[model]\npath = "model"\n')
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="no usable config.json"):
        planned(tmp_path)
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "mamba", "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match="no attention heads"):
        planned(tmp_path)


def test_changed_settings_are_others_and_the_first_stay(eight_b: Path) -> None:
    config: Config = load_config(eight_b / "prefloop.toml")
    other = changed(config, {"align.critic": "head", "model.dtype": "float32"})
    assert (other.align.critic, other.model.dtype) == ("head", "float32")
    assert (config.align.critic, config.model.dtype) == ("separate", "bfloat16")


def test_gradients_are_beside_activations_from_the_second_pass_on(small: Path) -> None:
    asked = "align.rollout.prompts=64", "align.algorithm=grpo"
    one, several = (planned(small, *asked, f"align.token_budget={n}").stages[0] for n in (8192, 64))

    def has(stage: StagePlan, phase: str) -> bool:
        return any(p.what == "gradients" for found in stage.phases if found.phase == phase for p in found.parts)

    assert not has(one, "learning") and has(one, "updating")
    assert has(several, "learning") and has(several, "updating")


def test_a_pass_holds_lists_whole_and_the_longest_together() -> None:
    """Lists of eight go through the model even where the budget is less than one of them."""
    assert _passes(4, 100.0, 1.5, 150.0, 10_000) == (1, 400.0)
    assert _passes(4, 100.0, 1.5, 150.0, 320) == (2, 300.0)
    assert _passes(4, 100.0, 1.0, 100.0, 64) == (4, 100.0)


def test_a_reward_model_without_an_adapter_is_counted_beside_the_trunk(small: Path, tmp_path: Path) -> None:
    root = shutil.copytree(small, tmp_path / "project")
    asked = ["model.adapter=lora", "align.algorithm=ppo"]
    own = {}
    for inside in ("adapter", "elsewhere"):
        folder = root / "runs" / inside / "model"
        (folder / inside).mkdir(parents=True)
        for name in ("model.safetensors", "config.json", f"{inside}/adapter_config.json"):
            (folder / name).write_text("{}")
        with Project.open(root, quiet=True) as project:
            where, round = f"runs/{inside}/model", {"round": float(project.latest_round())}
            project.store.add_model(ModelRow(inside, "reward", where, criterion="quality", metrics=round))
        parts = planned(root, *asked).stages[0].phases[0].parts
        own[inside] = {p.role for p in parts if p.what == "weights of its own"}
    assert own == {"adapter": set(), "elsewhere": {"reward quality", "critic"}}


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_example_for_one_gpu_fits_into_80_gb(tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text((EXAMPLES / "one_gpu.toml").read_text())
    settings = load_config(tmp_path / "prefloop.toml")
    folder = tmp_path / str(settings.model.path)
    folder.mkdir(parents=True)
    size = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    config = {**EIGHT_B, **size, "model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": 151936}
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    found = planned(tmp_path, "project.device=cpu", stages=("sft", "reward", "align"), memory=80 * GB)
    assert found.parameters == pytest.approx(1.54e9, rel=0.01) and found.fits


@pytest.mark.parametrize(("name", "devices"), [("eight_gpu", 8), ("two_nodes", 16)])
def test_the_examples_for_ranks_fit_into_80_gb_on_each(name: str, devices: int, tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text((EXAMPLES / f"{name}.toml").read_text())
    folder = tmp_path / str(load_config(tmp_path / "prefloop.toml").model.path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(EIGHT_B))
    stages = ("sft", "reward", "align")
    found = planned(tmp_path, "project.device=cpu", stages=stages, memory=80 * GB, devices=devices)
    assert found.parameters == pytest.approx(8.03e9, rel=0.01) and found.fits
