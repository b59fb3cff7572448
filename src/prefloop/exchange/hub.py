"""Fetches data sets of the Hugging Face hub as files that can be imported:

`hf://owner/name` or `hf://owner/name:split`.
"""

from __future__ import annotations

import re
from pathlib import Path

from prefloop.errors import ConfigError, DataError

PREFIX = "hf://"


def fetch(address: str, folder: Path) -> Path:
    """Load one split of a data set through `datasets`, and write it into `folder` as Parquet.

    Without a split it is "train". Raises ConfigError where `datasets` is not installed, DataError where it cannot load
    it.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ConfigError(f"{address} needs the package datasets. Run: pip install 'prefloop[hub]'") from None
    name, colon, split = address.removeprefix(PREFIX).rpartition(":")
    if not colon:
        name, split = split, "train"
    if not name or not split:
        raise DataError(f"{address}: write hf://owner/name, or hf://owner/name:split")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, split=split)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{address} could not be loaded: {type(error).__name__}: {lines[0][:300]}") from error
    file = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '--', f'{name}:{split}').strip('-')}.parquet"
    found.to_parquet(str(file))
    return file
