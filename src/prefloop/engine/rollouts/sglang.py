"""Is the dialect of SGLang's server, which takes over whole weights from a folder in its usual mode.

`/generate` takes token ids, and every answer says with which version of the weights it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.engine.base import Sampled
from prefloop.engine.rollouts.canary import Canary
from prefloop.engine.rollouts.dialect import Job, Ours
from prefloop.engine.rollouts.environments import MODULES
from prefloop.engine.rollouts.http import Address, Fault, Refused, Stale
from prefloop.engine.rollouts.others import each, intact, same_tokens
from prefloop.engine.weights import Version

PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class Sglang:
    takes_adapters = False
    renormalises = any_temperature = keyed = False
    environment: dict[str, str] = {}

    def __init__(self, ours: Ours):
        self.stop_ids = list(ours.tokenization.stop_ids)

    def command(self, port: int, folder: Path, dtype: str) -> list[str]:
        """Return the arguments that start a server, after the Python of its environment."""
        return [
            *("-m", MODULES["sglang"], "--model-path", str(folder), "--host", "127.0.0.1", "--port", str(port)),
            *("--dtype", dtype, "--sampling-defaults", "openai", "--random-seed", "0"),
        ]

    def check(self, server: Address, ours: Ours) -> None:
        server.get("/model_info")
        same_tokens(server, ours, lambda text: {"prompt": text, "add_special_tokens": False})

    def take(self, server: Address, version: Version) -> None:
        intact(version)
        body = {"model_path": str(version.model), "weight_version": version.name, "flush_cache": True}
        try:
            said = server.post("/update_weights_from_disk", body)
        except Refused as error:  # It answers 400 where an update fails, and what it holds then is not known.
            raise Fault(f"it could not take over the weights: {error}") from None
        if not said.get("success"):
            raise Fault(f"it could not take over the weights: {said.get('message')}")

    def generate(self, server: Address, job: Job) -> list[Sampled]:
        how = job.sampling

        def ask(prompt: Sequence[int], seed: int) -> Sampled:
            params = {
                **PLAIN,
                "max_new_tokens": how.max_tokens,
                "temperature": how.temperature,
                "top_p": how.top_p,
                "sampling_seed": seed,
                "stop_token_ids": self.stop_ids,
                "skip_special_tokens": False,
            }
            about = self._ask(server, {"input_ids": list(prompt), "sampling_params": params, "return_logprob": True})
            if about.get("weight_version") != job.version.name:
                raise Stale(f"it sampled with version {about.get('weight_version')}, not {job.version.name}")
            drawn = about.get("output_token_logprobs")
            if drawn is None:
                raise Refused(f"{server} gives no log-probabilities with its samples, and training needs them.")
            logprobs, ids = tuple(x[0] for x in drawn), tuple(x[1] for x in drawn)
            return Sampled(ids, logprobs, about["finish_reason"]["type"] == "stop")

        return each(job, ask)

    def logprobs(self, server: Address, texts: Canary, version: Version, temperature: float = 1.0) -> list[list[float]]:
        found = []
        for row, prompt in zip(texts.rows, texts.prompts, strict=True):
            params = {"max_new_tokens": 1, "temperature": 0}
            body = {"input_ids": list(row), "sampling_params": params, "return_logprob": True, "logprob_start_len": 0}
            said = self._ask(server, body)["input_token_logprobs"]
            if [x[1] for x in said] != list(row):
                raise Fault("it says the log-probabilities of other tokens than it was given")
            found.append([x[0] for x in said[prompt:]])
        return found

    def _ask(self, server: Address, body: dict[str, Any]) -> Any:
        return server.post("/generate", body)["meta_info"]

    def release(self, server: Address) -> None:
        """Nothing is held: SGLang knows no trainers."""
