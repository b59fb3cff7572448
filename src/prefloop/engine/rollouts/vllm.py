"""Is the dialect of vLLM's server (0.32 and later): adapters by name, whole weights in its development mode.

`/v1/completions` takes token ids and gives token ids (`return_token_ids`). An adapter has a name of its own for each
version. `/collective_rpc` reads whole weights from a folder, and vLLM labels them with the version that it is told. By
name or label a server that was started again is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.engine.base import Sampled
from prefloop.engine.rollouts.canary import Canary
from prefloop.engine.rollouts.dialect import Job, Ours
from prefloop.engine.rollouts.environments import MODULES, QUIET
from prefloop.engine.rollouts.http import Address, Fault, Refused, Stale
from prefloop.engine.rollouts.others import PROBE, each, intact, same_template, same_tokens
from prefloop.engine.weights import Version
from prefloop.models.adapter_folder import INSIDE, read_adapter

# A model's folder may bring sampling settings of its own, which vLLM takes where a request is silent.
PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
ADAPTER = "prefloop-"  # before the version in an adapter's name


class Vllm:
    takes_adapters = True
    renormalises, any_temperature, keyed = True, False, False
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", **QUIET}

    def __init__(self, ours: Ours):
        self.stop_ids, self.rank = list(ours.tokenization.stop_ids), ours.adapter

    def command(self, port: int, folder: Path, dtype: str) -> list[str]:
        """Return the arguments that start a server, after the Python of its environment."""
        adapters, model = self._lora_options(), str(folder)
        if adapters:
            model = read_adapter(folder / INSIDE).base
        return [
            *("-m", MODULES["vllm"], "--model", model, "--host", "127.0.0.1"),
            *("--port", str(port), "--dtype", dtype, "--logprobs-mode", "processed_logprobs"),
            *("--generation-config", "vllm", "--seed", "0", *adapters),
        ]

    def _lora_options(self) -> list[str]:
        if not self.rank:
            return []
        rank = next((r for r in RANKS if r >= self.rank), self.rank)
        return ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "2"]

    def check(self, server: Address, ours: Ours) -> None:
        if not self.rank:
            try:
                server.get("/weight_info")
            except Refused as error:
                raise Refused(
                    f"{error} vLLM takes over whole weights in its development mode only: start it with "
                    "VLLM_SERVER_DEV_MODE=1, in a network of your own, since the mode has no passwords."
                ) from None
        same_tokens(server, ours, lambda text: {"prompt": text, "add_special_tokens": False})
        messages = [{"role": "user", "content": PROBE}]
        same_template(server, ours, {"messages": messages, "add_generation_prompt": True})

    def take(self, server: Address, version: Version) -> None:
        intact(version)
        if version.adapter is not None:
            return self._take_adapter(server, version, version.adapter)
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(version.model)}}
        server.post("/collective_rpc", call)
        if not server.post("/reset_prefix_cache", {}).get("success", True):
            raise Fault(
                "it could not forget what it had computed with the weights before: requests of others run on it"
            )
        server.post("/update_weight_version", {"new_version": version.name})

    def _take_adapter(self, server: Address, version: Version, folder: Path) -> None:
        """Give it the adapter under a name of its own, once it has forgotten those before, this one too."""
        for held in self._adapters(server):
            server.post("/v1/unload_lora_adapter", {"lora_name": held}, text=True)
        body = {"lora_name": ADAPTER + version.name, "lora_path": str(folder)}
        try:
            server.post("/v1/load_lora_adapter", body, text=True)
        except Refused as error:
            raise Refused(
                f"{error} Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and {' '.join(self._lora_options())}, on "
                "the model that the adapter is for."
            ) from None

    def _adapters(self, server: Address) -> set[str]:
        return {m["id"] for m in server.get("/v1/models")["data"] if m["id"].startswith(ADAPTER)}

    def _model(self, version: Version) -> dict[str, str]:
        """Return the model that a request names: an adapter, or nothing, which is the base."""
        return {} if version.adapter is None else {"model": ADAPTER + version.name}

    def generate(self, server: Address, job: Job) -> list[Sampled]:
        self._holds(server, job.version)
        how = job.sampling

        def ask(prompt: Sequence[int], seed: int) -> Sampled:
            body = {
                **PLAIN,
                **self._model(job.version),
                "prompt": list(prompt),
                "max_tokens": how.max_tokens,
                "temperature": how.temperature,
                "top_p": how.top_p,
                "seed": seed,
                "stop_token_ids": self.stop_ids,
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
            }
            choice = server.post("/v1/completions", body)["choices"][0]
            if choice.get("token_ids") is None:
                raise Refused(f"{server} gives no token ids: it is older than vLLM 0.32. Update it.")
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
            return Sampled(tuple(choice["token_ids"]), tuple(logprobs), choice["finish_reason"] == "stop")

        made = each(job, ask)
        self._holds(server, job.version)
        return made

    def _holds(self, server: Address, version: Version) -> None:
        """Raise Stale where the server holds another version: it was started again, or another trainer uses it."""
        if version.adapter is not None:
            held = version.name if ADAPTER + version.name in self._adapters(server) else "none"
        else:
            held = server.get("/weight_info").get("weight_version")
        if held != version.name:
            raise Stale(
                f"it holds version {held}, not {version.name}: it was started again, or another trainer uses it"
            )

    def logprobs(self, server: Address, texts: Canary, version: Version, temperature: float = 1.0) -> list[list[float]]:
        found = []
        for row, prompt in zip(texts.rows, texts.prompts, strict=True):
            body: dict[str, Any] = {
                **PLAIN,
                **self._model(version),
                "prompt": list(row),
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
            }
            said = server.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
            if said is None:
                raise Refused(f"{server} gives no log-probabilities of given tokens, by which its weights are checked.")
            found.append([said[place][str(row[place])]["logprob"] for place in range(prompt, len(row))])
        return found

    def release(self, server: Address) -> None:
        """Nothing is held: vLLM knows no trainers."""
