"""`[align] frozen_offload`: frozen weights are on the device while they are asked, and in the CPU's memory otherwise.

torch's "meta" device, which has shapes and no numbers, stands for a GPU where nothing is computed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import build
from torch import Tensor, nn

from prefloop.engine import make
from prefloop.engine.base import Sampling
from prefloop.engine.local import LocalEngine
from prefloop.engine.placement import Placement
from prefloop.models.offload import keep_on_cpu, lent
from prefloop.models.policy import Policy
from prefloop.models.reward import RewardModel
from prefloop.models.tokenization import make_tokenization
from prefloop.project.project import Project
from prefloop.rewards.model import ModelScorer, WeightedRewardModel
from prefloop.stages.align import align
from prefloop.types import Completion, Prompt
from tiny_models import causal, random_rows, tokenizer


def places(model: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


def policies(*roles: Any) -> dict[Any, Any]:
    torch.manual_seed(0)
    model = causal(vocab=len(tokenizer()), sharp=3.0)
    return {role: Policy(copy.deepcopy(model)) for role in roles}


def test_weights_are_lent_as_a_whole_and_are_the_same_memory_after_an_error_too() -> None:
    model = causal("Llama", tie_word_embeddings=True)
    keep_on_cpu(model)
    held = [*model.parameters(), *model.buffers()]
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in held]
    with pytest.raises(KeyError), lent("meta", model):
        assert places(model) == {"meta"}
        assert model.lm_head.weight is model.model.embed_tokens.weight
        raise KeyError
    assert places(model) == {"cpu"}
    for tensor, (place, value) in zip(held, before, strict=True):
        assert tensor.data_ptr() == place and torch.equal(tensor, value)


class Placed(LocalEngine):
    """Is an engine that says where the weights are, in place of what they compute."""

    def _forward(self, role: Any, batch: Any, how: Any) -> Any:
        return places(self.models[role])

    @property
    def _sampler(self) -> Any:
        raise LookupError(places(self.models["policy"]))


def test_an_engine_has_the_reference_on_the_device_while_it_is_asked_and_nothing_else_moves() -> None:
    models = policies("policy", "reference", "refreshed")
    words = make_tokenization(tokenizer(), models["policy"].model)
    engine = Placed(models, words, 1, device="meta", offload=True)
    rows = random_rows()

    def at_rest() -> list[set[str]]:
        return [places(models[role]) for role in ("policy", "refreshed", "reference")]

    resting = [{"meta"}, {"meta"}, {"cpu"}]
    assert at_rest() == resting
    alone = engine.with_policy("reference")
    for asked in (engine.forward("reference", rows), alone.forward("policy", rows)):
        assert asked == {"meta"} and at_rest() == resting
    engine.forward("policy", rows)
    with pytest.raises(LookupError, match="meta"):
        alone.generate([[5, 6]], [1], Sampling(2))
    assert at_rest() == resting
    engine.cast("reference", "bfloat16")
    assert at_rest() == resting and models["reference"].model.dtype == torch.bfloat16
    kept = Placed(policies("policy", "reference"), words, 1, device="meta")
    assert places(kept.models["reference"]) == {"meta"}, "without the setting it stays there"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_offloaded_computes_the_same_bits(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")

    def said(offload: bool) -> list[Any]:
        models = policies("policy", "reference")
        words = make_tokenization(tokenizer(), models["policy"].model)
        engine = make(models, words, 1, Placement(device, offload=offload))
        rows = random_rows(n=30, seed=0)
        found = [engine.forward("reference", rows), engine.forward("policy", rows)]
        found += [engine.with_policy("reference").generate([[5, 6], [7]], [1, 2], Sampling(6))]
        engine.cast("reference", "bfloat16")
        found += [engine.forward("reference", rows), engine.weights_hash("reference")]
        assert places(models["reference"]) == {"cpu" if offload else device}
        return [*found, *scores(device, offload)]

    for kept, lent_out in zip(said(False), said(True), strict=True):
        assert torch.equal(kept, lent_out) if isinstance(kept, Tensor) else kept == lent_out


ASKED = [Prompt("the cat")] * 2, [Completion("a", "sat on the mat"), Completion("b", "ran")]


def judged(device: str, offload: bool) -> tuple[ModelScorer, RewardModel]:
    words = tokenizer()
    torch.manual_seed(0)
    model = causal("Llama", vocab=len(words))
    judge = RewardModel(_classifier(model))
    of_one = [WeightedRewardModel("quality", judge, make_tokenization(words, model))]
    return ModelScorer(of_one, device=device, offload=offload), judge


def scores(device: str, offload: bool) -> list[Any]:
    scorer, judge = judged(device, offload)
    found = [scorer.score(*ASKED)]
    scorer.cast("bfloat16")
    assert places(judge) == {"cpu" if offload else device}
    return [*found, scorer.score(*ASKED)]


@pytest.mark.parametrize("offload", [True, False])
def test_a_reward_model_is_lent_while_it_scores_and_stays_otherwise_where_it_is(offload: bool) -> None:
    assert places(judged("meta", offload)[1]) == {"cpu" if offload else "meta"}
    scorer, judge = judged("cpu", offload)
    own, computed_with = next(judge.parameters()), list[nn.Parameter]()
    judge.register_forward_pre_hook(lambda model, _: computed_with.append(next(model.parameters())))
    scorer.score(*ASKED)
    assert computed_with and all((there is own) != offload for there in computed_with), "a copy stands for it"
    assert next(judge.parameters()) is own


def _classifier(model: Any) -> Any:
    from transformers import LlamaForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels = 1
    found = LlamaForSequenceClassification(config)
    found.model.load_state_dict(model.model.state_dict())
    return found


def test_align_says_that_a_cpu_has_nothing_to_offload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "project", with_reward=True)
    with Project.open(tmp_path / "project", ["align.steps=1", "align.frozen_offload=true"]) as project:
        align(project)
    assert "frozen_offload has nothing to do on a CPU" in capsys.readouterr().err
