"""The configuration of data and split comes in; the table of pictures and their parts goes out.

Nothing here needs torch, so that a command can refuse or skip a run before torch is imported.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from signlang.data.folds import Parts, parts_of
from signlang.data.index import Index, read
from signlang.errors import DataError


class Fold:
    """One fold of a data set, before any pixel is decoded.

    Args:
        data: The group `data` of the configuration; `source` is a function, see `data.sources`.
        split: The group `split`.
        folds: Number of folds.
        fold: Which of them is the test set.
        batch_size: Pictures of a training step, which the training part must reach.
        cache_dir: Folder for what can be made again.
    """

    def __init__(
        self,
        *,
        data: Mapping[str, Any],
        split: Mapping[str, Any],
        folds: int,
        fold: int,
        batch_size: int,
        cache_dir: str,
    ) -> None:
        self.data, self.split, self.cache_dir = data, split, cache_dir
        self.folds, self.fold, self.batch_size = folds, fold, batch_size

    @cached_property
    def index(self) -> Index:
        """All pictures; reads and checks them."""
        root = self.data["source"](self.data["root"], self.cache_dir)
        return read(
            Path(root),
            cache_dir=self.cache_dir,
            signers=self.data["signers"],
            on_bad_image=self.data["on_bad_image"],
        )

    @cached_property
    def parts(self) -> Parts:
        """Which pictures are for what."""
        parts = parts_of(
            self.index,
            split=self.split["name"],
            folds=self.folds,
            fold=self.fold,
            seed=self.split["seed"],
            validation=self.split["validation"],
            blocks=self.split.get("blocks", 1),
        )
        if self.batch_size > len(parts.train):
            raise DataError(
                f"batch_size={self.batch_size} is more than the {len(parts.train)} training "
                f"pictures of a fold: use at most batch_size={len(parts.train)}."
            )
        return parts
