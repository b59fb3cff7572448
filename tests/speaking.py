"""Servers for tests that speak the HTTP of vLLM and of SGLang, as their sources have it, over the package's sampler."""

from __future__ import annotations

import copy
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from prefloop.batch import collate
from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.decoding import sampler
from prefloop.models.adapter_folder import read_adapter
from prefloop.models.lora import load_adapter, merged
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization


class Speaker(ABC):
    """Holds a model. script: what goes wrong next, by path; said: what was asked for, by path."""

    def __init__(self, model: Any, tokenization: Tokenization):
        self.first, self.tokenization = model, tokenization
        self.script: dict[str, list[str]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.lock = threading.Lock()
        self.lie: Callable[[Sampled], Sampled] = lambda drawn: drawn  # what it says of what it drew
        self.whole = False  # whether log-probabilities are of the whole distribution, with top-p too
        self.restart()

    def restart(self) -> None:
        """Come up anew, with the weights of the start."""
        self.model, self.version = copy.deepcopy(self.first), "default"
        self.adapters: dict[str, Any] = {}

    def load(self, folder: str) -> None:
        self.model.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=False)

    def sample(self, ids: list[int], how: dict[str, Any], most: int, seed: int) -> Sampled:
        with self.lock:
            wanted = Sampling(most, how["temperature"], how.get("top_p", 1.0))
            made = sampler.generate(self.model, how.get("stop_token_ids", [-1]), [ids], [seed], wanted, 0)[0]
            if self.whole and wanted.temperature:
                rows = collate([[*ids, *made.ids]], [len(ids)])
                with torch.no_grad():
                    said = Policy(self.model)(rows, temperature=wanted.temperature).logp[rows.action]
                made = replace(made, logprobs=tuple(said.tolist()))
            return self.lie(made)

    @torch.no_grad()
    def of_given(self, ids: list[int]) -> list[float]:
        with self.lock:
            return Policy(self.model)(collate([ids], [1])).logp[0, 1:].tolist()

    def tokens(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            ids = self.tokenization.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
            ids = ids["input_ids"] if not isinstance(ids, list) else ids
        else:
            ids = self.tokenization.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])[
                "input_ids"
            ]
        return {"tokens": list(ids), "count": len(ids), "max_model_len": self.tokenization.context}

    def trouble(self, path: str) -> str:
        left = self.script.get(path, [])
        return left.pop(0) if left else ""

    @abstractmethod
    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and body of an answer."""


class SpeaksVllm(Speaker):
    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        trouble = self.trouble(path)
        if trouble == "not in development mode" or path not in self.ROUTES:
            return 404, {"detail": "Not Found"}
        if trouble == "500":
            return 500, {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}
        if trouble == "rank":
            return 400, {"error": {"message": "LoRA rank 4 is greater than max_lora_rank 1.", "code": 400}}
        return 200, self.ROUTES[path](self, body, trouble)

    def weight_info(self, body: Any, trouble: str) -> Any:
        if trouble == "restart":
            self.restart()
        return {"weight_version": self.version}

    def collective_rpc(self, body: Any, trouble: str) -> Any:
        assert body["method"] == "reload_weights"
        if trouble != "weights of before":  # vllm#32718
            self.load(body["kwargs"]["weights_path"])
        return {"results": [None]}

    def reset_prefix_cache(self, body: Any, trouble: str) -> Any:
        return {"success": trouble != "busy"}

    def update_weight_version(self, body: Any, trouble: str) -> Any:
        self.version = body["new_version"]
        return {"success": True, "new_version": self.version}

    def models(self, body: Any, trouble: str) -> Any:
        return {"object": "list", "data": [{"id": name} for name in ("model", *self.adapters)]}

    def load_lora_adapter(self, body: Any, trouble: str) -> Any:
        model = copy.deepcopy(self.first)
        load_adapter(model, read_adapter(Path(body["lora_path"])))
        self.adapters[body["lora_name"]] = merged(model) if trouble != "not applied" else self.first
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."

    def unload_lora_adapter(self, body: Any, trouble: str) -> Any:
        del self.adapters[body["lora_name"]]
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def completions(self, body: Any, trouble: str) -> Any:
        self.model = self.adapters.get(body.get("model"), self.model)
        ids = body["prompt"]
        drawn = self.sample(ids, body, body["max_tokens"], body.get("seed", 0))
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "stop" if drawn.ended else "length"}
        choice |= {"token_ids": None, "logprobs": None, "prompt_logprobs": None}
        if body.get("return_token_ids") and trouble != "no ids":
            choice["token_ids"] = list(drawn.ids)
        if body.get("logprobs") is not None and trouble != "no logprobs":
            choice["logprobs"] = {"token_logprobs": list(drawn.logprobs), "tokens": [], "top_logprobs": []}
        if body.get("prompt_logprobs") is not None:
            said = zip(ids[1:], self.of_given(ids), strict=True)
            choice["prompt_logprobs"] = [None, *({str(i): {"logprob": x, "rank": 1}} for i, x in said)]
        return {"object": "text_completion", "choices": [choice]}

    def tokenize(self, body: Any, trouble: str) -> Any:
        found = self.tokens(body)
        return found if trouble != "other ids" else {**found, "tokens": found["tokens"][::-1]}

    ROUTES = {
        "/weight_info": weight_info,
        "/collective_rpc": collective_rpc,
        "/reset_prefix_cache": reset_prefix_cache,
        "/update_weight_version": update_weight_version,
        "/v1/completions": completions,
        "/tokenize": tokenize,
        "/v1/models": models,
        "/v1/load_lora_adapter": load_lora_adapter,
        "/v1/unload_lora_adapter": unload_lora_adapter,
    }


class SpeaksSglang(Speaker):
    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        trouble = self.trouble(path)
        if path == "/model_info":
            return 200, {"model_path": "model", "is_generation": True, "weight_version": self.version}
        if path == "/tokenize":
            found = self.tokens(body)
            return 200, found if trouble != "other ids" else {**found, "tokens": found["tokens"][::-1]}
        if path == "/update_weights_from_disk":
            if trouble == "fails":
                return 400, {"success": False, "message": "Failed to update weights: no such file"}
            if trouble != "weights of before":
                self.load(body["model_path"])
            self.version = body["weight_version"]
            return 200, {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}
        return (200, self.generate(body, trouble)) if path == "/generate" else (404, {"detail": "Not Found"})

    def generate(self, body: Any, trouble: str) -> Any:
        if trouble == "restart":
            self.restart()
        ids, params = body["input_ids"], body["sampling_params"]
        drawn = self.sample(ids, params, params["max_new_tokens"], params.get("sampling_seed", 0))
        reason = (
            {"type": "stop", "matched": drawn.ids[-1]} if drawn.ended else {"type": "length", "length": len(drawn.ids)}
        )
        about: dict[str, Any] = {"finish_reason": reason, "weight_version": self.version}
        if body.get("return_logprob") and trouble != "no logprobs":
            pairs = zip(drawn.logprobs, drawn.ids, strict=True)
            about["output_token_logprobs"] = [[x, i, None] for x, i in pairs]
        if body.get("logprob_start_len") == 0:
            said = zip([None, *self.of_given(ids)], ids, strict=True)
            about["input_token_logprobs"] = [[x, i, None] for x, i in said]
        return {"text": "", "output_ids": list(drawn.ids), "meta_info": about}


@contextmanager
def speaking(speaker: Speaker) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.say(None)

        def do_POST(self) -> None:
            self.say(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def say(self, body: Any) -> None:
            speaker.asked.append((self.path, body))
            status, said = speaker.answer(self.path, body)
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
