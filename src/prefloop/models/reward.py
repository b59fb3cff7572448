"""Defines reward model and critic, each an `AutoModelForSequenceClassification(num_labels=1)` for transformers.

A reward is the raw score at the last real token, shifted and scaled so that samples of the reference policy have mean 0
and standard deviation 1 (Ziegler 2019; Stiennon 2020). Mean and deviation are kept in the model's config.json under
`prefloop_reward`. The raw score is what plain transformers computes from the same folder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from prefloop.batch import RewardOutput, Rows
from prefloop.config import Model
from prefloop.errors import ConfigError, ModelError
from prefloop.kernels.logprobs import scatter
from prefloop.models.adapter_folder import adapter_at, adapter_in, said_of_itself
from prefloop.models.load import DTYPES, disable_dropout, from_pretrained, load_tokenizer
from prefloop.models.lora import OWN, add_adapter, has_adapter, merged
from prefloop.models.packed_forward import last_hidden, predicting_hidden
from prefloop.models.tokenization import EXTRA_PAD, Tokenization, make_tokenization
from prefloop.models.trunk import Trunks

NORM_KEY = "prefloop_reward"
# The head of a sequence classifier has one of these names, which differ between architectures.
HEADS = (
    "score",
    "classifier",
    "qa_outputs",
)


class RewardModel(nn.Module):
    """Scores whole sequences. `mean` and `std` normalise rewards; training uses the raw score.

    `max_tokens`: longer sequences are cut to this length, in scoring as in training.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        norm = getattr(model.config, NORM_KEY, None) or {}
        self.mean = float(norm.get("mean", 0.0))
        self.std = float(norm.get("std", 1.0))
        self.criterion = str(norm.get("criterion", ""))
        # It bounds prompt and answer together; None is the model's context.
        self.max_tokens: int | None = norm.get("max_tokens")

    def forward(self, rows: Rows) -> RewardOutput:
        """Return the raw score at the last real token of each row [N]; rows may be padded left or right."""
        return RewardOutput(scored(score_head(self.model), last_hidden(self.model, rows)).squeeze(-1))

    def normalise(self, score: Tensor) -> Tensor:
        """Return raw scores as rewards of mean 0 and standard deviation 1 on samples of the reference."""
        return (score - self.mean) / self.std

    def set_normalisation(self, mean: float, std: float) -> None:
        """Set mean and deviation, also in the config.

        Raises ModelError if the model gives every sample the same score.
        """
        if not (math.isfinite(mean) and math.isfinite(std)) or std < 1e-6:
            raise ModelError(
                f"the reward model gives every sample the same score (sd {std:.2g}): it has learnt nothing. Check that "
                "the rankings are not all ties, and train longer or with a larger learning rate."
            )
        self.mean, self.std = mean, std
        learnt = {"mean": mean, "std": std, "criterion": self.criterion, "max_tokens": self.max_tokens}
        setattr(self.model.config, NORM_KEY, learnt)


class SharedReward(nn.Module):
    """Trains a reward model together with other criteria: one body, and a head for each criterion.

    The first head is the model's own. Only `main` is kept in the end; what the other heads taught stays in the body
    (multi-task learning, Caruana 1997).
    """

    def __init__(self, main: RewardModel, others: int, seed: int):
        super().__init__()
        self.main = main
        head = score_head(main.model)
        self.others = nn.Linear(head.in_features, others, bias=False, dtype=head.weight.dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            scale = 1.0 / math.sqrt(head.in_features + 1)
            self.others.weight.copy_(torch.randn(self.others.weight.shape, generator=generator) * scale)

    @property
    def model(self) -> PreTrainedModel:
        """Return the model that is saved."""
        return self.main.model

    def forward(self, rows: Rows) -> RewardOutput:
        """Return raw scores [N,C] at the last real token of each row, one column for each criterion."""
        last = last_hidden(self.main.model, rows)
        heads = score_head(self.main.model), self.others
        return RewardOutput(torch.cat([scored(head, last) for head in heads], dim=-1))


class Critic(nn.Module):
    """Estimates the final reward before each completion token, by a network of its own (Stiennon 2020).

    It starts as the reward model, so its first values are in the units of the normalised reward.
    """

    def __init__(self, model: PreTrainedModel, mean: float, std: float):
        super().__init__()
        self.model = model
        self.mean, self.std = mean, std

    def forward(self, rows: Rows) -> Tensor:
        """Return values [N,T]: at each action token the estimate from the state *before* it, and 0 elsewhere."""
        states = predicting_hidden(self.model, rows)
        values = (scored(score_head(self.model), states).squeeze(-1) - self.mean) / self.std
        return scatter(values, rows.action)


def scored(head: nn.Linear, states: Tensor) -> Tensor:
    """Return the head's output in float32, since answers to one prompt differ by less than bfloat16 can tell."""
    return F.linear(states.float(), head.weight.float(), None if head.bias is None else head.bias.float())


def score_head(model: PreTrainedModel) -> nn.Linear:
    """Return the linear head with one output, under any of its names. Raises ModelError if there is none."""
    for name in HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Linear) and head.out_features == 1:
            return head
    raise ModelError(
        f"{type(model).__name__} has no linear score head with one output: it cannot be a reward model here."
    )


def new_reward_model(
    source: str | Path, settings: Model, seed: int, dropout: float = 0.0, trunks: Trunks | None = None
) -> tuple[RewardModel, Tokenization]:
    """Return a reward model with the weights of a causal model, and a new head of N(0, 1/(d+1)) and bias 0.

    trunks: where an adapter finds its frozen model, if another one has loaded it

    The pad token must not be one that ends an answer, because plain transformers finds the last real token by it. If
    the model has no such pad token, one is added.
    """
    tokenizer = load_tokenizer(source, settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _headless(source, settings, seed, trunks or Trunks())
        tokenization = make_tokenization(tokenizer, model, settings.chat)
        _separate_pad(model, tokenizer, tokenization)
    disable_dropout(model)
    head = score_head(model).requires_grad_(True)
    with torch.no_grad():
        scale = 1.0 / math.sqrt(head.in_features + 1)
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * scale)
        if head.bias is not None:
            head.bias.zero_()
    if dropout:
        set_dropout(model, dropout)
    return RewardModel(model), make_tokenization(tokenizer, model, settings.chat)


def _headless(source: str | Path, settings: Model, seed: int, trunks: Trunks) -> Any:
    """Return a sequence classifier with the weights of a causal model, and a head that is to be drawn yet."""
    if settings.adapter == "lora":
        return trunks.classifier(source, settings, seed)
    if adapter_at(source) is None:
        return from_pretrained(AutoModelForSequenceClassification, source, settings, fresh=HEADS, num_labels=1)
    return merged(trunks.classifier(source, settings, seed)).to(DTYPES[settings.dtype]).requires_grad_(True)


def freeze_lowest(model: PreTrainedModel, layers: int) -> None:
    """Exclude the embedding and the first layers from training. Raises ConfigError if no layer would be left."""
    if not layers:
        return
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    stack = max(stacks, key=len, default=nn.ModuleList())
    if layers >= len(stack):
        raise ConfigError(f"[reward] freeze = {layers}, but {type(model).__name__} has {len(stack)} layers. Lower it.")
    for module in (model.get_input_embeddings(), *stack[:layers]):
        module.requires_grad_(False)


def set_dropout(model: PreTrainedModel, p: float) -> None:
    """Set the dropout rate of attention and residual paths, under any of the names that architectures use."""
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "attn_pdrop", "embd_pdrop"):
        if hasattr(model.config, key):
            setattr(model.config, key, p)
    for module in model.modules():
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = p
        if isinstance(module, nn.Dropout):
            module.p = p


def _separate_pad(model: Any, tokenizer: Any, tokenization: Tokenization) -> None:
    taken = {*tokenization.stop_ids, tokenizer.bos_token_id}
    pad = tokenizer.pad_token_id
    if pad is None or pad in taken:
        spare = [t for t in (tokenizer.unk_token_id,) if t is not None and t not in taken]
        if spare and tokenizer.unk_token_id not in tokenizer("a b c.")["input_ids"]:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": EXTRA_PAD})
            if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
                learns = model.get_input_embeddings().weight.requires_grad
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False).requires_grad_(learns)
                embedding = model.get_input_embeddings().weight
                setattr(model, OWN, tuple(name for name, p in model.named_parameters() if p is embedding))
    model.config.pad_token_id = tokenizer.pad_token_id


def load_reward_model(
    source: str | Path,
    settings: Model = Model(),  # noqa: B008 -- frozen
    trunks: Trunks | None = None,
) -> tuple[RewardModel, Tokenization]:
    """Return a trained reward model, of prefloop or any sequence classifier with one label. Raises ModelError.

    trunks: where a model that was trained as an adapter finds its frozen model, if another one has loaded it
    """
    adapter = adapter_in(source) if settings.adapter == "lora" else adapter_at(source)
    if adapter is None:
        model = from_pretrained(AutoModelForSequenceClassification, source, settings)
    else:
        model = (trunks or Trunks()).classifier(source, settings)
        for name, value in said_of_itself(adapter.path).items():
            setattr(model.config, name, value)
    if model.config.num_labels != 1:
        raise ModelError(f"{source} has {model.config.num_labels} labels; a reward model has one (num_labels = 1).")
    disable_dropout(model)
    tokenizer = load_tokenizer(source, settings)
    tokenization = make_tokenization(tokenizer, model, settings.chat)
    model.eval()
    return RewardModel(model), tokenization


def new_critic(
    source: str | Path, settings: Model, seed: int = 0, trunks: Trunks | None = None
) -> tuple[Critic, Tokenization]:
    """Return a critic with the weights of the reward model in `source`. Raises ModelError.

    seed: that of an adapter, where the reward model has none of its own to go on with
    """
    reward, tokenization = load_reward_model(source, settings, trunks)
    if settings.adapter == "lora" and not has_adapter(reward.model):
        add_adapter(reward.model, settings.lora, str(source), seed)
        score_head(reward.model).requires_grad_(True)
    return Critic(reward.model, reward.mean, reward.std), tokenization
