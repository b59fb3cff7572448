"""`prefloop sample` takes texts from any endpoint of OpenAI's protocol, and nothing takes them for the policy's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefloop.config import make_config
from prefloop.engine import make
from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.stages.best_of import best_of
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.importing import import_file
from prefloop.stages.plan import plan
from prefloop.stages.run import run
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.types import Demonstration, Item, Message, Prompt

KEY = "sk-a-long-secret"
TOML = """
[project]
device = "cpu"
threads = 1
[sample]
k = 2
temperature = 0.5
top_p = 0.9
max_tokens = 7
batch = 1
[rollout]
backend = "openai"
servers = ["URL"]
model = "some-model"
key = "A_KEY"
retries = 2
backoff = 0.01
timeout = 5
"""


class Served:
    """What an endpoint was asked, and how it answers: `say` returns (status, body) for a path and a request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.say: Callable[[str, dict[str, Any]], tuple[int, Any]] = answer
        self.headers: dict[str, str] = {}
        self.url = ""


def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Answer as an endpoint does, with log-probabilities that nobody asked for; the last answer is cut off."""
    n, seed = body["n"], body["seed"]
    texts = [f"answer {seed + 1000003 * i:x} of {i}" for i in range(n)]
    said = ({"message": {"role": "assistant", "content": t, "tool_calls": [], "refusal": None}} if "chat" in path
            else {"text": f" {t}"} for t in texts)  # fmt: skip
    ends = ["stop"] * (n - 1) + ["length"]
    choices = [{"index": i, "logprobs": {"token_logprobs": [-0.5]}, "token_ids": [3], "finish_reason": end, **s}
               for i, (s, end) in enumerate(zip(said, ends, strict=True))]  # fmt: skip
    return 200, {"model": "some-model-0613", "choices": choices, "usage": {"completion_tokens": 5 * n}}


def asks(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "another-model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.served.asked.append((self.path, body))
        self.served.keys.append(self.headers["Authorization"])
        self.reply(*self.served.say(self.path, body))

    def reply(self, status: int, said: Any) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **self.served.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("A_KEY", KEY)
    found = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Made", (Handler,), {"served": found}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()


def project_in(folder: Path, url: str, *prompts: Any) -> Path:
    """Return a project without a model, with prompts from a file."""
    (folder / "prefloop.toml").write_text(TOML.replace("URL", url))
    rows = [json.dumps(p if isinstance(p, dict) else {"prompt": p}) for p in prompts or ("a?", "b?", "c?", "d?", "e?")]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    with Project.open(folder, quiet=True) as project:
        import_file(project, folder / "prompts.jsonl")
    return folder


def drawn(root: Path, *settings: str) -> Any:
    with Project.open(root, settings, quiet=True) as project:
        return sample(project)


def stored(root: Path) -> dict[str, Item]:
    with Project.open(root, quiet=True) as project:
        return {item.prompt.text: item for item in project.store.items(source="sample")}


def test_texts_of_an_endpoint_are_stored_with_who_gave_them_and_how_and_as_no_samples_of_the_policy(
    served: Served, tmp_path: Path
) -> None:
    result = drawn(project_in(tmp_path, f"{served.url}/openai/v1"))
    assert (result.prompts, result.completions, result.drawn_now, result.policy) == (5, 10, 10, "some-model")
    assert result.ended == 0.5 and result.mean_tokens == 5 and result.endpoints == (f"{served.url}/openai/v1",)
    path, body = served.asked[0]
    assert path == "/openai/v1/chat/completions" and set(served.keys) == {f"Bearer {KEY}"}
    assert body["messages"] == [{"role": "user", "content": asks(body)}]
    how = {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens", "n")}
    assert how == {"model": "some-model", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "n": 2}
    assert len({b["seed"] for _, b in served.asked}) == 5, "each prompt has a seed of its own"
    lists = stored(tmp_path)
    assert sorted(lists) == ["a?", "b?", "c?", "d?", "e?"]
    for item in lists.values():
        assert [c.finish_reason for c in item.completions] == ["stop", "length"]
        for c in item.completions:
            assert (c.policy_version, c.token_ids, c.logprobs, c.tokenizer, c.model) == (*[None] * 4, "some-model")
            assert c.sampling is not None and c.sampling["endpoint"] == f"{served.url}/openai/v1"
            assert (c.sampling["answered_by"], c.sampling["temperature"]) == ("some-model-0613", 0.5)
            assert (c.sampling["model"], c.sampling["seed"] in {b["seed"] for _, b in served.asked}) == (
                "some-model",
                True,
            )
    assert drawn(tmp_path).skipped and len(served.asked) == 5
    everything = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert everything and not any(KEY.encode() in data for data in everything), "the key is written nowhere"


def test_a_chat_goes_out_as_messages_and_a_call_of_a_tool_comes_back_as_one(served: Served, tmp_path: Path) -> None:
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Oslo?"},
             {"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "content": "rain"}]  # fmt: skip
    root = project_in(tmp_path, served.url, {"prompt": turns, "tools": [tool]})
    again = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bergen"}'}}
    called = {"message": {"role": "assistant", "content": None, "tool_calls": [again]}, "finish_reason": "tool_calls"}
    served.say = lambda path, body: (200, {"choices": [called] * body["n"]})
    drawn(root, "sample.avoid_duplicates=false")
    ((path, body),) = served.asked
    assert path == "/v1/chat/completions", "an address without a path means /v1"
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][2]["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    ]
    assert body["tools"] == [{"type": "function", "function": tool}]
    ((item),) = stored(root).values()
    assert item.completions[0].messages == (Message("assistant", None, {"tool_calls": [again]}),)
    assert "Bergen" in item.completions[0].text and item.completions[0].finish_reason == "stop"


def test_completions_get_the_plain_prompt(served: Served, tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    root = project_in(tmp_path, served.url, "Once upon", {"prompt": chat})
    drawn(root, "rollout.api=completions")
    asked = {body["prompt"]: path for path, body in served.asked}
    assert set(asked.values()) == {"/v1/completions"} and "Once upon" in asked
    (transcript,) = asked.keys() - {"Once upon"}
    assert transcript.endswith("Human: Hi\n\nAssistant:")
    texts = {name: item.completions[0].text[0] for name, item in stored(root).items()}
    assert texts.pop("Once upon") == " ", "the space belongs to a text that goes on"
    assert set(texts.values()) == {"a"}, "it does not belong to an answer"


def test_an_endpoint_that_wants_to_be_asked_in_another_way_is(served: Served, tmp_path: Path) -> None:
    def say(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
        return (400, {"error": {"message": "n must be 1"}}) if body["n"] > 1 else answer(path, body)

    served.say = say
    root = project_in(tmp_path, served.url)
    assert drawn(root).completions == 10
    assert len(served.asked) == 2 + 10 and all(body["max_completion_tokens"] == 7 for _, body in served.asked[1:])
    assert all(len({c.text for c in item.completions}) == 2 for item in stored(root).values())
    served.say = lambda path, body: answer(path, {**body, "n": 1})  # It gives one, whatever n says.
    assert drawn(root, "sample.max_tokens=8").completions == 10


def test_near_duplicates_are_drawn_again_with_other_seeds(served: Served, tmp_path: Path) -> None:
    def say(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        text = "the same" if len(served.asked) < 3 else f"another {body['seed']}"
        return 200, {"choices": [{"text": text, "finish_reason": "stop"}] * body["n"]}

    served.say = say
    result = drawn(project_in(tmp_path, served.url, "a?"), "rollout.api=completions")
    assert result.near_duplicates == 0 and result.mean_tokens is None, "it counted no tokens"
    assert [body["n"] for _, body in served.asked] == [2, 1, 1]
    assert len({body["seed"] for _, body in served.asked}) == 3


def test_an_endpoint_that_fails_for_a_moment_is_asked_again(served: Served, tmp_path: Path) -> None:
    troubles: list[tuple[int, Any]] = [(500, {"error": "x"}), (200, b'{"choices": [{"mess'), (200, {"choices": []}),
                                       (429, {"error": {"message": "slow"}}), (503, b"<html>")]  # fmt: skip
    served.say = lambda path, body: troubles.pop() if troubles and len(served.asked) % 2 else answer(path, body)
    assert drawn(project_in(tmp_path, served.url)).prompts == 5
    assert len(served.asked) == 10 and not troubles
    served.headers["Retry-After"] = "1"
    served.asked.clear()
    served.say = lambda path, body: (429, {}) if len(served.asked) == 1 else answer(path, body)
    began = time.monotonic()
    drawn(tmp_path, "sample.prompts=1", "sample.max_tokens=8")
    assert time.monotonic() - began >= 1, "it waits as long as the endpoint asks for"


def test_a_prompt_without_an_answer_stops_no_other_and_is_asked_for_again(served: Served, tmp_path: Path) -> None:
    served.say = lambda path, body: (500, {"error": "poison"}) if asks(body) == "b?" else answer(path, body)
    root = project_in(tmp_path, served.url)
    with pytest.raises(
        TrainingError, match=f"1 prompts got no answer in 3 attempts, and 4 lists.*{served.url}/v1: HTTP"
    ):
        drawn(root)
    assert len(stored(root)) == 4 and len(served.asked) == 4 + 3
    served.asked.clear()
    served.say = answer
    result = drawn(root)
    assert (result.prompts, result.drawn_now, [asks(b) for _, b in served.asked]) == (5, 2, ["b?"])


def test_an_endpoint_that_is_down_ends_the_run_after_a_few_prompts(served: Served, tmp_path: Path) -> None:
    served.say = lambda path, body: (502, b"")
    with pytest.raises(TrainingError, match="3 prompts got no answer"):
        drawn(project_in(tmp_path, served.url, *(f"{n}?" for n in range(50))))
    assert len(served.asked) <= 4 * 3


def test_a_row_that_the_endpoint_refuses_is_named_and_the_rest_goes_on(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if asks(body) == "b?":
            return 400, {"error": {"message": f"too long, {KEY}"}}
        status, said = answer(path, body)
        if asks(body) in ("c?", "d?"):
            found = {"c?": {"finish_reason": "content_filter"}, "d?": {"message": {"content": "\0"}}}[asks(body)]
            said["choices"] = [choice | found for choice in said["choices"]]
        return status, said

    served.say = say
    root = project_in(tmp_path, served.url)
    with Project.open(root) as project:
        result = sample(project)
    assert result.prompts == 2 and set(stored(root)) == {"a?", "e?"}
    assert result.left_out is not None and result.left_out.refused == 3
    reasons = sorted(result.left_out.refused_rows)
    assert reasons[0].startswith(f"prompts.jsonl row 2: {served.url}/v1 refuses it (400): too long")
    assert "content filter" in reasons[1] and reasons[1].startswith("prompts.jsonl row 3")
    assert "NUL" in reasons[2] and reasons[2] in capsys.readouterr().err
    assert KEY not in str(reasons), "an endpoint that repeats the key brings it into no message"


def test_an_endpoint_that_refuses_everything_ends_the_run_soon(served: Served, tmp_path: Path) -> None:
    served.say = lambda path, body: (400, {"error": {"message": "temperature must be 1"}})
    root = project_in(tmp_path, served.url)
    with pytest.raises(ConfigError, match=r"refusals.*row \d: .*temperature must be 1"):
        drawn(root)
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="refuses every prompt"):
        drawn(project_in(tmp_path / "one", served.url, "a?"), "sample.k=1")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the API key .401.: the environment variable A_KEY does not hold"),
        (404, r"no model 'some-model' .404.: gone. Set \[rollout\] model to one that it serves .another-model."),
        (402, "wants to be paid"),
        (308, r"has moved .308.. Write the address where it is now into \[rollout\] servers"),
    ],
)
def test_a_wrong_key_model_or_address_ends_the_run_at_once_and_keeps_what_was_drawn(
    served: Served, tmp_path: Path, status: int, said: str
) -> None:
    served.say = lambda path, body: answer(path, body) if len(served.asked) < 3 else (status, {"error": "gone"})
    root = project_in(tmp_path, served.url)
    with pytest.raises(ConfigError, match=said) as error:
        drawn(root)
    assert KEY not in str(error.value) and len(stored(root)) == 2 and len(served.asked) == 3
    served.say = answer
    assert drawn(root).drawn_now == 6


def test_a_run_that_is_killed_half_way_goes_on_where_it_was(served: Served, tmp_path: Path) -> None:
    root = project_in(tmp_path, served.url)
    third, release = threading.Event(), threading.Event()

    def say(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if len(served.asked) == 3:
            third.set()
            release.wait(60)
        return answer(path, body)

    served.say = say
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "prefloop", "sample", "-C", str(root)], env=env)
    assert third.wait(120)
    deadline = time.monotonic() + 30
    while len(stored(root)) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    before, first = stored(root), [asks(body) for _, body in served.asked]
    assert len(before) == 2
    served.asked.clear()
    served.say = answer
    with pytest.raises(ConfigError, match="rollout.model: 'some-model' then, 'other' now"):
        drawn(root, "rollout.model=other")
    result = drawn(root)
    assert (result.prompts, result.drawn_now) == (5, 6)
    assert {asks(body) for _, body in served.asked} == {"a?", "b?", "c?", "d?", "e?"} - set(first[:2])
    after = stored(root)
    assert all(after[name] == item for name, item in before.items()) and len(after) == 5


MODEL = """
[model]
init = "scratch"
vocab_size = 280
hidden_size = 8
layers = 1
heads = 1
context = 64
[data]
heldout = 0.4
[sft]
epochs = 1
max_tokens = 32
[reward]
epochs = 1
normalise_prompts = 2
[align]
algorithm = "dpo"
passes = 1
max_tokens = 4
[crowd]
scorer = "length"
"""
WITH_POLICY: dict[str, tuple[Callable[[Project], Any], tuple[str, ...]]] = {
    "sft": (sft, ()),
    "reward": (reward, ()),
    "align": (align, ()),
    "evaluate": (evaluate, ()),
    "best-of": (best_of, ("best_of.n=2",)),
    "plan": (plan, ()),
    "run with the stage reward": (run, ('run.stages=["sample", "crowd", "reward"]',)),
}


def test_lists_of_an_endpoint_are_ranked_and_learnt_from_and_every_other_command_refuses_it(
    served: Served, tmp_path: Path
) -> None:
    root = project_in(tmp_path, served.url, *(f"{n} is?" for n in range(12)))
    (root / "prefloop.toml").write_text((root / "prefloop.toml").read_text() + MODEL)
    with Project.open(root, quiet=True) as project:
        project.store.add([Demonstration(Prompt(f"{n} is?"), f"a {n}") for n in range(12)])
    assert drawn(root, "rollout.api=completions").prompts == 12
    with Project.open(root, quiet=True) as project:
        assert crowd(project).items == 12, "people rank them like any others"
    here = "rollout.backend=local"  # The file keeps its endpoint.
    with Project.open(root, [here], quiet=True) as project:
        reward(project)
        assert align(project).run == "align-001"
    asked = len(served.asked)
    for name, (stage, settings) in WITH_POLICY.items():
        with Project.open(root, [*settings, "project.seed=5"], quiet=True) as project:
            before = sorted((root / "runs").iterdir())
            with pytest.raises(ConfigError, match=f"^prefloop {name} works with .* --set rollout.backend=local"):
                stage(project)
            assert sorted((root / "runs").iterdir()) == before, "nothing was begun"
    with Project.open(root, quiet=True) as project:
        model = load_causal(root / "model")
        with pytest.raises(ConfigError, match="this command works with the policy"):
            make({"policy": Policy(model[0])}, model[1], 0, project.placement)
    assert len(served.asked) == asked


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": None}, "needs servers = .* and model"),
        ({"servers": []}, "needs servers"),
        ({"launch": 1}, "take launch out"),
        ({"servers": ["http://h/v1?api-key=secret"]}, "holds no query"),
        ({"servers": ["http://user:secret@h/v1"]}, "holds no password"),
        ({"canary": 0.5}, "rollout.canary = 0.5 would have no effect: an endpoint gets no weights"),
        ({"backend": "prefloop"}, "rollout.model = 'm' would have no effect"),
        ({"backend": "local"}, "rollout.model = 'm' would have no effect"),
    ],
)
def test_settings_that_an_endpoint_cannot_have_are_refused(settings: dict[str, Any], said: str) -> None:
    table = {"backend": "openai", "servers": ["http://h/v1"], "model": "m", **settings}
    with pytest.raises(ConfigError, match=said) as error:
        make_config({"rollout": {name: value for name, value in table.items() if value is not None}})
    assert "secret" not in str(error.value)
