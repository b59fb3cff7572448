"""What the cases plant is in the data, the settings or the people, and is what their pages say."""

from __future__ import annotations

import importlib.util
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np

from prefloop.cases.book.bad_annotators import CASE as BAD
from prefloop.cases.book.conflicting_signals import earlier_list
from prefloop.cases.book.reward_hacking_spike import DESK
from prefloop.config import Crowd
from prefloop.demo.quality import score
from prefloop.demo.scenario import prompts
from prefloop.labels.crowd import make_crowd


def test_more_than_half_of_the_crowd_does_not_rank_by_quality() -> None:
    shares = {key.removeprefix("crowd."): float(value) for key, value in (s.split("=") for s in BAD.fault)}
    kinds = [person.kind for person in make_crowd(Crowd(scorer="demo", **shares), 0)]  # type: ignore[arg-type]
    assert (kinds.count("inverted"), kinds.count("coin"), kinds.count("display_order"), len(kinds)) == (7, 2, 2, 20)


def test_the_earlier_assistant_is_better_where_it_is_vague_and_length_does_not_tell() -> None:
    longer, rng = [], Random(0)
    for prompt in prompts(150, 0):
        texts = [c.text for c in earlier_list(prompt, rng).completions]
        assert len(set(texts)) == 4
        quality = np.array(score([prompt] * 4, texts))
        good = quality > np.median(quality)
        assert good.sum() == 2 and quality[good].min() > quality[~good].max() + 0.15
        length = np.array([len(text) for text in texts])
        pairs = [(i, j) for i, j in permutations(range(4), 2) if quality[i] > quality[j] and length[i] != length[j]]
        longer += [length[i] > length[j] for i, j in pairs]
    assert 0.4 < np.mean(longer) < 0.6


def test_the_function_that_is_gamed_pays_for_each_courtesy_and_for_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "desk.py"
    file.write_text(DESK)
    spec = importlib.util.spec_from_file_location("desk", file)
    assert spec and spec.loader
    desk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(desk)
    assert desk.courtesy("", "We will refund you.") == 0
    assert desk.courtesy("", "Thank you, thanks again, and kind regards.") == 15
