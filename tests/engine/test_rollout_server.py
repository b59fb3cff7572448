"""A server that samples gives what this process would, or the call ends with its name and the cause."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.sft import Sft
from prefloop.config import Model
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make
from prefloop.engine.base import Sampling, Term
from prefloop.engine.placement import Placement
from prefloop.engine.rollouts import dialect, server
from prefloop.engine.rollouts.http import Address, Damaged, Refused, Stale
from prefloop.engine.weights import KEEP, publish_version, read_version
from prefloop.errors import ConfigError, ModelError, TrainingError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.tokenization import make_tokenization
from served import Troubles, serving, troubled
from tiny_models import causal, random_rows, tokenizer

PROMPTS = [[5, 6], [5, 6], [7, 8, 9], [10], [11, 12, 13, 14], [11, 12, 13, 14]]
KEYS, HOW = [3, 4, 5, 6, 7, 8], Sampling(6)
WORDS = tokenizer()
MODEL = causal(vocab=len(WORDS), sharp=3.0)
TOKENIZATION = make_tokenization(WORDS, MODEL)
Make = Callable[..., Engine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the model that is trained."""
    found = tmp_path_factory.mktemp("served") / "model"
    make({"policy": Policy(copy.deepcopy(MODEL))}, TOKENIZATION, 1).save("policy", found)
    return found


@pytest.fixture(scope="module")
def real(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def right() -> list[tuple[int, ...]]:
    """What this process samples itself."""
    return ids(local())


@pytest.fixture
def front(real: str) -> Iterator[tuple[str, Troubles]]:
    with troubled(real) as found:
        yield found


@pytest.fixture
def served(tmp_path: Path, front: Any) -> Iterator[Make]:
    """Make engines that ask servers; they are closed before the servers are, so that the next test may use them."""
    made: list[Engine] = []

    def build(*servers: str, root: Path = tmp_path, learns: bool = True, **settings: Any) -> Engine:
        quick = {"backoff": 0.01, "timeout": 10.0, **settings}
        where = Placement(rollout=Rollouts(backend="prefloop", servers=servers, **quick), root=root)
        training = Training(Optimiser(lr=1e-2, token_budget=1000), 8, {"policy": 1e-2}, average=0.5) if learns else None
        models: Any = {"policy": Policy(copy.deepcopy(MODEL)), "reference": Policy(copy.deepcopy(MODEL))}
        made.append(make(models, TOKENIZATION, 1, where, training))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


def local() -> Engine:
    training = Training(Optimiser(lr=1e-2, token_budget=1000), 8, {"policy": 1e-2}, average=0.5)
    return make({"policy": Policy(copy.deepcopy(MODEL))}, TOKENIZATION, 1, training=training)


def learn(engine: Engine, seed: int) -> dict[str, float]:
    found = dict(engine.step(Term(random_rows(seed=seed), Sft())))
    engine.sync()
    return found


def ids(engine: Engine) -> list[tuple[int, ...]]:
    return [s.ids for s in engine.generate(PROMPTS, KEYS, HOW)]


def test_rollout_server_samples_what_this_process_would_after_every_update(served: Make, real: str) -> None:
    mine, theirs = local(), served(real)
    for step in range(3):
        a, b = (e.generate(PROMPTS, KEYS, HOW) for e in (mine, theirs))
        assert [(s.ids, s.logprobs, s.ended) for s in a] == [(s.ids, s.logprobs, s.ended) for s in b]
        assert {s.weights for s in b} == {theirs.weights_hash("policy")} and {s.weights for s in a} == {""}
        learn(mine, step), learn(theirs, step)
    with mine.averaged_weights(), theirs.averaged_weights():
        mine.sync(), theirs.sync()
        averaged = ids(theirs)
        assert averaged == ids(mine)
    theirs.sync()
    assert ids(theirs) != averaged


def test_rollout_server_keeps_the_weights_that_were_published_until_the_next_sync(served: Make, real: str) -> None:
    engine = served(real)
    engine.sync()
    before = ids(engine)
    engine.step(Term(random_rows(seed=0), Sft()))
    assert ids(engine) == before, "samples may be drawn while the learner learns"
    engine.sync()
    assert ids(engine) != before


def test_rollout_server_answers_for_another_model_in_the_policys_place(served: Make, real: str) -> None:
    engine = served(real)
    learn(engine, 0)
    after, reference = ids(engine), ids(engine.with_policy("reference"))
    assert reference == ids(local()) != after == ids(engine)


def test_rollout_server_is_not_asked_for_a_reference_in_another_number_type(served: Make, real: str) -> None:
    engine = served(real)
    engine.cast("reference", "float32")
    assert ids(engine.with_policy("reference"))
    engine.cast("reference", "bfloat16")
    with pytest.raises(ConfigError, match=r"samples from the reference too.*Take out \[align\] frozen_dtype"):
        ids(engine.with_policy("reference"))
    assert ids(engine), "the policy may still be asked for"


def test_rollout_server_beside_another_gives_the_samples_of_one(served: Make, real: str, folder: Path) -> None:
    with serving(folder) as second, troubled(second) as (behind, troubles):
        both = served(real, behind)
        assert ids(both) == ids(local())
        asked = [len(body["prompts"]) for path, body in troubles.asked if path == "/v1/generate"]
        assert asked == [3], "each gets its part, and answers to one prompt stay together"
        both.close()


TROUBLES = {
    "die": "RemoteDisconnected",
    "500": "HTTP 500: out of memory",
    "no JSON": "half an answer, or no JSON: 'a web page'",
    "half an answer": "IncompleteRead",
    "a terabyte": "its answer is longer than",
    "no end": "its answer is longer than",
    "hang": "no answer within 1 s",
    "drops": "no answer within 1 s",
    "a head in drops": "no answer within 1 s",
    "heads without end": "no answer within 1 s",
    "an old version": "it sampled with version 0123456789abcdef in place of",
    "fewer samples": "it gave 5 samples for 6 prompts",
    "more samples": "it gave 7 samples for 6 prompts",
    "no samples at all": "its answer has another form: KeyError",
    "an empty sample": "it gave a sample of 0 tokens",
    "a sample that is too long": "it gave a sample of 7 tokens",
    "a sample that is cut": "it cut a sample at 1 tokens, before max_tokens = 6",
    "an end without its token": "it says that a sample ended by itself, with token 5",
    "a sample that goes on after its end": "it gave a sample that goes on after a token that ends answers",
    "ids that are no integers": "it gave token ids that are no integers",
    "NaN": "it gave 6 log-probabilities for 6 tokens, or some that are not finite or above 0",
    "a positive logprob": "it gave 6 log-probabilities for 6 tokens, or some that are not finite or above 0",
    "fewer logprobs": "it gave 5 log-probabilities for 6 tokens",
    "shifted logprobs": "the log-probabilities of its samples differ from the trainer's by 0.1 nats",
    "another temperature": "the log-probabilities of its samples differ from the trainer's by",
    "another order": "the log-probabilities of its samples differ from the trainer's by",
    "rounded logprobs": "the log-probabilities of its samples differ from the trainer's by 0.00",
    "one for all": "it gave copies of one sample as all answers to a prompt",
    "the most likely": "it gave copies of one sample as all answers to a prompt",
    "other keys": "6 of 6 samples are not what their keys give",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_rollout_server_that_fails_or_lies_is_asked_again_and_named_where_it_goes_on(
    served: Make,
    front: tuple[str, Troubles],
    trouble: str,
    right: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialect, "LONGEST", 100_000)
    url, troubles = front
    engine = served(url, retries=1, timeout=1.0 if "within 1 s" in TROUBLES[trouble] else 30.0, learns=False)
    troubles.script = [trouble, trouble]
    with pytest.raises(TrainingError, match=re.escape(f"2 attempts. {url}: {TROUBLES[trouble]}")):
        ids(engine)
    assert trouble not in troubles.script, "it was asked twice, and not more"
    troubles.script = [trouble, None]
    assert ids(engine) == right, "nothing is lost"


GREEDY, NUCLEUS = Sampling(12, temperature=0), Sampling(12, top_p=0.7)
BY = "the log-probabilities of its samples differ from the trainer's by"
OTHERWISE = [
    (GREEDY, False, "shifted logprobs", BY),
    (GREEDY, False, "another order", "temperature 0 and top_p 1 do not allow"),
    (GREEDY, False, "rounded logprobs", BY),
    (GREEDY, False, "a higher temperature", "temperature 0 and top_p 1 do not allow"),
    (NUCLEUS, False, "shifted logprobs", BY),
    (NUCLEUS, False, "another order", "temperature 1 and top_p 0.7 do not allow"),
    (NUCLEUS, False, "no nucleus", "temperature 1 and top_p 0.7 do not allow"),
    (NUCLEUS, False, "another temperature", BY),
    (NUCLEUS, False, "other keys", "samples are not what their keys give"),
    (Sampling(12), True, "shifted logprobs", BY),
    (Sampling(12), True, "another order", BY),
    (Sampling(12), True, "another temperature", BY),
    (Sampling(12), True, "rounded logprobs", BY),
    (Sampling(12), True, "copies", "it gave copies of one sample as all answers to a prompt"),
    (Sampling(12, temperature=0.7), True, "another temperature", BY),
    (GREEDY, True, "another order", BY),
    (NUCLEUS, True, "another order", BY),
]


@pytest.mark.parametrize(("how", "ahead", "lie", "message"), OTHERWISE)
def test_rollout_server_that_lies_is_caught_at_other_settings_and_while_the_policy_learns(
    served: Make, front: tuple[str, Troubles], how: Sampling, ahead: bool, lie: str, message: str
) -> None:
    """Samples that are drawn ahead are of weights which the trainer has no longer."""
    url, troubles = front
    engine, prompts, keys = served(url, retries=0), [p for p in PROMPTS for _ in range(2)], list(range(12))
    engine.sync()
    right = local().generate(prompts, keys, how)

    def draw() -> list[tuple[int, ...]]:
        if not ahead:
            return [s.ids for s in engine.generate(prompts, keys, how)]
        with ThreadPoolExecutor(1) as beside:
            return [s.ids for s in beside.submit(engine.generate, prompts, keys, how).result()]

    if ahead:
        assert draw(), "the server has taken over the version"
        engine.step(Term(random_rows(seed=0), Sft()))
    troubles.script = [lie]
    with pytest.raises(TrainingError, match=message):
        draw()
    assert draw() == [s.ids for s in right], "the truth is believed"


def test_rollout_server_that_changes_its_weights_after_the_canary_is_caught_while_the_policy_learns(
    served: Make, front: tuple[str, Troubles]
) -> None:
    url, troubles = front
    engine = served(url, retries=0)
    engine.sync()
    assert ids(engine)
    engine.step(Term(random_rows(seed=0), Sft()))
    troubles.path = "/v1/logprobs"
    for lie, said in {
        "another model's logprobs": "it no longer holds version .* now differ from the trainer's by 0.1 nats",
        "NaN of the last": "log-probabilities of texts that it was given are not finite",
        "infinity of the last": "log-probabilities of texts that it was given are not finite",
        "fewer of the last": "it says the log-probabilities of other tokens than it was given",
    }.items():
        troubles.script = [lie]
        with pytest.raises(TrainingError, match=said):
            ids(engine)
        troubles.script = []
        assert ids(engine), "its weights are published still, and it takes them over again"
    assert ids(engine) == ids(local())


def test_rollout_server_that_does_not_see_an_end_is_put_right(served: Make, front: tuple[str, Troubles]) -> None:
    """A sample of all its tokens ends by itself where its last token says so, whatever the server thinks."""
    url, troubles = front
    engine, keys = served(url), list(range(2000))
    wanted = local().generate([[5, 6]] * len(keys), keys, Sampling(3))
    at_the_last = [n for n, s in enumerate(wanted) if s.ended and len(s.ids) == 3]
    assert at_the_last
    troubles.script = ["no end of its own"]
    made = engine.generate([[5, 6]] * len(at_the_last), at_the_last, Sampling(3))
    assert [s.ended for s in made] == [True] * len(at_the_last)


def test_rollout_server_that_swaps_two_answers_of_a_model_that_hardly_reads_is_caught(
    tmp_path: Path,
) -> None:
    """A new model gives nearly the same answers to all prompts."""
    model = causal(vocab=len(WORDS), sharp=1.0)
    new = make({"policy": Policy(model)}, TOKENIZATION, 1)
    new.save("policy", tmp_path / "new")
    with serving(tmp_path / "new") as real, troubled(real) as (url, troubles):
        where = Placement(rollout=Rollouts(backend="prefloop", servers=(url,), retries=0), root=tmp_path)
        engine = make({"policy": Policy(model)}, TOKENIZATION, 1, where)
        assert ids(engine) == ids(new)
        troubles.script = ["two swapped"]
        with pytest.raises(TrainingError, match="differ from the trainer's by 0.00.* more than 0.001"):
            ids(engine)
        engine.close()


def test_rollout_server_in_bfloat16_is_not_taken_for_a_liar(tmp_path: Path) -> None:
    """Its canary is the trainer's to the bit, and its sampler rounds at other places."""
    model = causal(vocab=len(WORDS), sharp=10.0).to(torch.bfloat16)
    make({"policy": Policy(model)}, TOKENIZATION, 1).save("policy", tmp_path / "model")
    model, _ = load_causal(str(tmp_path / "model"), Model(dtype="bfloat16"))  # as the server does
    with serving(tmp_path / "model", dtype="bfloat16") as url:
        where = Placement(rollout=Rollouts(backend="prefloop", servers=(url,), retries=0), root=tmp_path)
        engine = make({"policy": Policy(model)}, TOKENIZATION, 1, where)
        for how in (Sampling(30), Sampling(30, temperature=0), Sampling(30, top_p=0.8), Sampling(30, temperature=0.5)):
            assert len(engine.generate(PROMPTS, KEYS, how)) == len(PROMPTS)
        assert engine._fleet.canary == 0  # type: ignore[attr-defined]
        engine.close()


def test_rollout_server_that_was_asked_again_is_told_once_in_the_metrics(
    served: Make, front: tuple[str, Troubles], right: list[tuple[int, ...]]
) -> None:
    url, troubles = front
    engine = served(url)
    troubles.script = ["500", "die", None]
    assert ids(engine) == right
    told = learn(engine, 0)
    assert told["rollout_retries"] == 2 and told["rollout_canary"] < 1e-5 and told["rollout_apart"] < 1e-5
    assert "rollout_retries" not in learn(engine, 1)


def test_rollout_server_that_fails_leaves_its_part_to_another(
    served: Make, front: tuple[str, Troubles], folder: Path
) -> None:
    url, troubles = front
    with serving(folder) as second, troubled(second) as (behind, others):
        engine = served(url, behind)
        troubles.script = ["500"] * 9
        assert ids(engine) == ids(local())
        assert len([1 for path, _ in others.asked if path == "/v1/generate"]) == 2
        engine.close()


def test_rollout_server_that_never_answers_ends_the_run_with_its_name_and_the_cause(
    served: Make, front: tuple[str, Troubles]
) -> None:
    url, troubles = front
    engine = served(url, retries=2)
    troubles.script = ["die", "500", "500", None]
    with pytest.raises(TrainingError, match=f"3 attempts. {url}: HTTP 500: out of memory. The last checkpoint is kept"):
        ids(engine)
    assert ids(engine) == ids(local()), "the next call may go on"


def test_rollout_server_that_hangs_with_another_keeps_nobody_from_an_interrupt(served: Make, folder: Path) -> None:
    with serving(folder) as behind, troubled(behind) as (url, troubles), troubled(behind) as (another, others):
        engine = served(url, another, timeout=600.0)
        assert ids(engine)
        troubles.script, others.script = ["hang"], ["hang"]

        def interrupt() -> None:
            while not (troubles.hanging and others.hanging):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            ids(engine)
        engine.close()
        assert not troubles.release.is_set(), "they hang still"


def test_rollout_server_that_was_started_again_gets_the_weights_again(
    served: Make, folder: Path, tmp_path: Path
) -> None:
    """A new process at the same address holds no version."""
    other = tmp_path / "first"
    with serving(folder) as first, serving(folder) as second, troubled(first) as (url, troubles):
        engine = served(url)
        learn(engine, 0)
        wanted = ids(engine)
        with troubled(second) as (elsewhere, _):
            member = engine._fleet.members[0]  # type: ignore[attr-defined]
            member.address.url = elsewhere
            assert ids(engine) == wanted
        assert engine.step(Term(random_rows(seed=1), Sft()))["rollout_reissued"] == 1
        engine.close()
    assert not other.exists()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # by peft itself
def test_rollout_server_samples_with_an_adapter_that_learns(real: str, folder: Path, tmp_path: Path) -> None:
    """The published weights have the adapter added; the adapter stands beside them."""
    pytest.importorskip("peft", reason="peft is not installed: prefloop[lora]")
    from prefloop.config import Lora
    from prefloop.models.lora import add_adapter

    def build(where: Placement) -> Engine:
        model = copy.deepcopy(MODEL)
        add_adapter(model, Lora(rank=4), str(folder), 1)
        training = Training(Optimiser(lr=1e-1, token_budget=1000), 8, {"policy": 1e-1})
        return make({"policy": Policy(model)}, TOKENIZATION, 1, where, training, own_sampler=True)

    mine, theirs = (
        build(Placement()),
        build(Placement(rollout=Rollouts(backend="prefloop", servers=(real,)), root=tmp_path)),
    )
    first = ids(mine)
    for step in range(2):
        assert ids(theirs) == ids(mine)
        learn(mine, step), learn(theirs, step)
    assert ids(theirs) == ids(mine) != first
    newest = tmp_path / "rollout" / "weights" / theirs.weights_hash("policy")
    assert (newest / "model" / "adapter" / "adapter_model.safetensors").is_file()
    theirs.close()


# -- what gates a version ----------------------------------------------------------------------------------------------


def test_rollout_server_with_other_weights_is_caught_by_the_canary_and_never_sampled_from(
    served: Make, front: tuple[str, Troubles]
) -> None:
    url, troubles = front
    engine = served(url, retries=1)
    troubles.path = "/v1/logprobs"
    for lie in ("NaN of the canary", "fewer of the canary"):
        troubles.script = [lie] * 2
        with pytest.raises(TrainingError, match="differ from the trainer's by inf nats"):
            ids(engine)
    troubles.script = ["another model's logprobs"] * 2
    with pytest.raises(TrainingError, match="differ from the trainer's by 0.1 nats a token on average, more than"):
        ids(engine)
    assert "/v1/generate" not in [path for path, _ in troubles.asked]
    troubles.script = ["another model's logprobs"]
    assert ids(engine) == ids(local()), "an update that was half done is done again"


def test_rollout_server_refuses_a_version_with_a_flipped_byte_and_keeps_the_one_before(
    served: Make, real: str, tmp_path: Path
) -> None:
    engine = served(real)
    engine.sync()
    before = ids(engine)
    engine.step(Term(random_rows(seed=0), Sft()))
    engine.sync()
    name = engine.weights_hash("policy")
    file = tmp_path / "rollout" / "weights" / name / "model" / "model.safetensors"
    flip(file)
    address = Address(real, trainer=f"{__import__('socket').gethostname()}:{tmp_path}")
    with pytest.raises(Damaged, match="model.safetensors is damaged"):
        address.post("/v1/weights", {"folder": str(file.parents[1])})
    held = address.get("/v1/about")["version"]
    assert held and held != name, "the version before is whole"
    assert ids(engine) != before, "the trainer publishes it again, since it still has the weights"
    flip(file)
    engine.step(Term(random_rows(seed=1), Sft()))
    engine._fleet.members[0].forget()  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="damaged after it was published, and the policy has learnt since"):
        ids(engine)


def test_rollout_server_damage_is_not_repaired_by_a_thread_that_samples_while_another_learns(
    served: Make, real: str, tmp_path: Path
) -> None:
    """The weights would be read while they change, and ranks would be given two orders at once."""
    engine = served(real)
    engine.sync()
    name = engine.weights_hash("policy")
    flip(tmp_path / "rollout" / "weights" / name / "model" / "model.safetensors")
    with ThreadPoolExecutor(1) as beside, pytest.raises(TrainingError, match="the policy has learnt since"):
        beside.submit(ids, engine).result()
    assert ids(engine) == ids(local()), "the thread that learns may do it"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def test_rollout_server_takes_over_no_weights_of_another_shape(real: str, tmp_path: Path) -> None:
    other = make({"policy": Policy(causal(vocab=len(WORDS) + 8))}, TOKENIZATION, 1)
    version = publish_version(tmp_path, "other", lambda to: other.save("policy", to))
    with pytest.raises(Damaged, match="are of another model than this server's: .* Start the server with the model"):
        Address(real, trainer=f"{tmp_path}:x").post("/v1/weights", {"folder": str(version.folder)})
    Address(real, trainer=f"{tmp_path}:x").post("/v1/release", {})


def test_rollout_server_versions_are_whole_and_old_ones_go(tmp_path: Path) -> None:
    engine = local()
    for n in range(KEEP + 2):
        version = publish_version(tmp_path, f"v{n}", lambda to: engine.save("policy", to))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"v{n}" for n in range(2, KEEP + 2)]
    name, tensors = read_version(version.folder)
    own = MODEL.state_dict()
    assert name == f"v{KEEP + 1}" and all(torch.equal(own[n], t) for n, t in tensors.items())
    manifest = version.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(name, "v0"))
    with pytest.raises(ModelError, match="manifest.json is damaged"):
        read_version(version.folder)
    with pytest.raises(ModelError, match="Trainer and servers need one folder under one path"):
        read_version(tmp_path / "elsewhere")


# -- servers that are none for this trainer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"tokenizer": "f" * 16}, "has another tokenizer .* Start it with the model that is trained"),
        ({"vocabulary": 1_000_000}, "has a vocabulary of 1000000 tokens and the policy one of"),
        ({"prefloop": "0.0.1"}, "runs prefloop 0.0.1, and this is .* install one version on both machines"),
    ],
)
def test_rollout_server_of_another_model_or_version_is_refused_at_the_start(
    served: Make, front: tuple[str, Troubles], lie: dict[str, Any], message: str
) -> None:
    url, troubles = front
    troubles.about = lie
    with pytest.raises(ConfigError, match=f"{url} {message}"):
        ids(served(url))
    assert "/v1/generate" not in [path for path, _ in troubles.asked]


def test_rollout_server_of_another_chat_template_is_refused_where_prompts_go_through_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, tokenization = load_causal(tiny_model)
    assert tokenization.chat
    other = shutil.copytree(tiny_model, tmp_path / "other")
    for file in other.glob("*chat_template*"):
        file.write_text("{{ messages[0]['content'] }}")
    with serving(other) as url:
        where = Placement(rollout=Rollouts(backend="prefloop", servers=(url,)), root=tmp_path)
        engine = make({"policy": Policy(model)}, tokenization, 1, where)
        with pytest.raises(ConfigError, match="has another chat template"):
            engine.generate([[5, 6]], [1], HOW)
        engine.close()


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no logprobs", "gives no log-probabilities"),
        ("unknown tokens", "sampled token 1000000, and the policy's vocab"),
        ("tokens below 0", "sampled token -1, and the policy's vocab"),
        ("a redirect", "has moved .302.. Write the address where it is now into .rollout. servers"),
    ],
)
def test_rollout_server_whose_samples_can_not_be_learnt_from_is_refused(
    served: Make, front: tuple[str, Troubles], trouble: str, message: str
) -> None:
    url, troubles = front
    troubles.script = [trouble]
    with pytest.raises(ConfigError, match=f"{url} {message}"):
        ids(served(url))


def test_rollout_server_answers_one_trainer_and_the_next_once_it_is_let_go(
    served: Make, real: str, tmp_path: Path
) -> None:
    first, second = served(real), served(real, root=tmp_path / "another")
    assert ids(first)
    with pytest.raises(ConfigError, match=f"423.*:{tmp_path} uses this server .* a server for each"):
        ids(second)
    first.close()
    assert ids(second) == ids(local())


def test_rollout_server_wants_its_key_which_no_message_and_no_file_shows(
    served: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(folder, key="right-7f3a") as url:
        with pytest.raises(ConfigError, match="PREFLOOP_ROLLOUT_KEY is empty, and the server wants an API key"):
            ids(served(url))
        monkeypatch.setenv("PREFLOOP_ROLLOUT_KEY", "wrong-81bc")
        with pytest.raises(ConfigError, match="refuses the API key .401.: .*does not hold the server's") as refused:
            ids(served(url))
        monkeypatch.setenv("PREFLOOP_ROLLOUT_KEY", "right-7f3a\nnext-line")
        with pytest.raises(
            ConfigError, match="PREFLOOP_ROLLOUT_KEY holds no API key: a key has no line breaks"
        ) as wrong:
            ids(served(url))
        assert "7f3a" not in str(wrong.value)
        monkeypatch.setenv("PREFLOOP_ROLLOUT_KEY", "right-7f3a")
        assert ids(served(url)) == ids(local())
        for made in (served(url), served(url)):
            made.close()
    shown = str(refused.value) + "".join(capfd.readouterr())
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "right-7f3a" not in shown and "wrong-81bc" not in shown and b"right-7f3a" not in kept


def test_rollout_server_beyond_this_machine_wants_a_key_and_a_port_in_use_is_named(real: str) -> None:
    with pytest.raises(ConfigError, match="Put a secret into the environment variable MINE"):
        server.listen("0.0.0.0", 0, "", "MINE")
    port = int(real.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*in use.* --port"):
        server.listen("127.0.0.1", port, "", "MINE")


def test_rollout_server_behind_a_certificate_that_nobody_vouches_for_is_refused(served: Make, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificate")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    behind = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    behind.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    with pytest.raises(ConfigError, match="shows a certificate that is not trusted here .* SSL_CERT_FILE"):
        ids(served(f"https://127.0.0.1:{behind.server_address[1]}"))
    behind.shutdown()
    behind.server_close()


def test_rollout_server_of_another_protocol_is_refused(served: Make, tmp_path: Path) -> None:
    other = HTTPServer(("127.0.0.1", 0), type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}))
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with pytest.raises(ConfigError, match="knows no /v1/about .404.: a web page. Is .rollout. backend what runs there"):
        ids(served(f"http://127.0.0.1:{other.server_address[1]}"))
    other.shutdown()
    other.server_close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompts": [[5, 1_000_000]]}, "ids outside of the vocabulary"),
        ({"prompts": [[]]}, "row 0 is empty"),
        ({"prompts": [[5] * 60]}, "its answer have 66 tokens; the context is 64"),
        ({"keys": [1, 2]}, "1 prompts and 2 keys"),
        ({"temperature": -1.0}, "temperature: "),
        ({"more": 1}, "more: "),
    ],
)
def test_rollout_server_says_what_is_wrong_with_a_request(real: str, body: dict[str, Any], message: str) -> None:
    right = {"version": "v", "prompts": [[5]], "keys": [1], "seed": 1, "max_tokens": 6, "temperature": 1.0,
             "top_p": 1.0, "batch": 8, "stop_ids": [1]}  # fmt: skip
    address = Address(real, trainer="a test")
    with pytest.raises(Stale, match="not v"):
        address.post("/v1/generate", right)
    with pytest.raises(Refused, match=message):
        address.post("/v1/generate", right | body)
    address.post("/v1/release", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "prefloop"}, "needs either servers"),
        ({"backend": "prefloop", "servers": ["http://a:1"], "launch": 1}, "needs either servers"),
        ({"backend": "prefloop", "servers": ["a:1"]}, "is no address such as"),
        ({"backend": "prefloop", "servers": ["http://me:secret@a:1"]}, "an address holds no password"),
        ({"backend": "prefloop", "servers": ["http://a:1", "http://a:1"]}, "names an address twice"),
        ({"backend": "prefloop", "launch": 2, "devices": ["0"]}, "devices names 1 and launch = 2"),
        ({"servers": ["http://a:1"]}, 'rollout.servers = .* would have no effect: backend = "local" asks no server'),
        ({"backend": "prefloop", "servers": ["http://a:1"], "options": ["-x"]}, "rollout.options = .*starts no server"),
    ],
)
def test_rollout_server_settings_that_can_not_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    from prefloop.config import make_config

    with pytest.raises(ConfigError, match=message):
        make_config({"rollout": settings})
