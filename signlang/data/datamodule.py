"""The LightningDataModule: batches of uint8 images from the image cache.

A batch is a pair: uint8 images (B, size, size, 3) and int64 labels (B,). Images stay bytes
until they are on the device, where the classifier normalizes them.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from signlang import arrays
from signlang.data import augmentation, image_cache
from signlang.data.image_io import map_in_order
from signlang.data.splits import Fold
from signlang.errors import DataError
from signlang.system import cpu_count

Batch = tuple[torch.Tensor, torch.Tensor]
BatchRows = tuple[int, np.ndarray[Any, np.dtype[np.int64]]]
EVALUATION_BATCH: Final = 128
# what draws equal shares of all classes, and of what inside them
BALANCED: Final = {"sampler": (), "signer": ("signers",), "set": ("sets", "signers")}
PREFETCHED: Final = 2  # batches that a thread may have ready


class EpochBatchSampler:
    """Yields (seed, rows) for one epoch after another; a `batch_sampler` for a DataLoader.

    Order and seeds depend on the run's seed and the epoch alone: not on the number of workers, nor
    on whether the epochs before were trained in this process.

    Several processes that train together each take an equal part of every batch; what is left over
    at the end of an epoch, fewer images than processes, waits for another one. For evaluation each
    has a part of the rows, and no row is in two of them.

    Args:
        rows: (n,) rows of the index.
        size: Rows of a batch, of all processes together in training; the last one may be shorter.
        seed: Of the run.
        epoch: Returns the epoch that is about to start; None for evaluation, in order.
        labels: (n, levels) what an epoch has equal shares of: the classes of the rows and, further
            right, what each of them is divided by. Images of a large class wait for another epoch,
            those of a small one come several times.
        rank: Number of this process.
        processes: How many train together.
    """

    def __init__(
        self,
        rows: np.ndarray[Any, np.dtype[np.int64]],
        size: int,
        seed: int = 0,
        epoch: Callable[[], int] | None = None,
        labels: np.ndarray[Any, np.dtype[np.int64]] | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows, self.size, self.seed, self.epoch = rows, size, seed, epoch
        self.labels, self.rank, self.processes = labels, rank, processes
        if epoch is None:  # the first process has the first rows
            self.rows = np.array_split(rows, processes)[rank]

    def __len__(self) -> int:
        """Batches of an epoch; a last one of a single image joins the one before it."""
        if self.epoch is None:
            return -(-len(self.rows) // self.size)
        batch_size, count = self.size // self.processes, len(self.rows) // self.processes
        joins_previous = count % batch_size == 1 and 1 < batch_size < count
        return -(-count // batch_size) - joins_previous

    def __iter__(self) -> Iterator[BatchRows]:
        """Yield the batches of the epoch that starts now."""
        rows, epoch, size = self.rows, 0, self.size
        if self.epoch:
            epoch = self.epoch()
            rng = np.random.default_rng((self.seed, epoch))
            if self.labels is not None:
                rows = rows[balanced(np.arange(len(rows)), self.labels, rng)]
            # all processes draw the same order; each takes every n-th row of it
            usable = len(rows) // self.processes * self.processes
            rows = rng.permutation(rows)[self.rank : usable : self.processes]
            size //= self.processes
        for number in range(len(self)):
            sequence = arrays.seed_sequence(self.seed, epoch, number, rank=self.rank)
            seed = int(sequence.generate_state(1)[0])
            end = len(rows) if number == len(self) - 1 else (number + 1) * size
            yield seed, rows[number * size : end]


def balanced(
    rows: np.ndarray[Any, np.dtype[np.int64]],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    rng: np.random.Generator,
    wanted: int | None = None,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Draw rows, equally many of each class, to within one.

    With several levels, those of a class are divided equally among what the next level tells apart,
    sets or signers, and so on. No row comes again before every other one of its kind has come.

    Args:
        rows: (n,) rows.
        labels: (n, levels) numbers, or (n,) of one level.
        rng: Random numbers.
        wanted: How many to draw; None: as many as there are.

    >>> rows, labels = np.array([7, 8, 9, 4]), np.array([0, 0, 0, 1])
    >>> drawn = balanced(rows, labels, np.random.default_rng(0))
    >>> len(drawn), int(np.count_nonzero(drawn == 4))
    (4, 2)
    >>> signers = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    >>> drawn = balanced(rows, signers, np.random.default_rng(0), 8)
    >>> [int(np.count_nonzero(drawn == row)) for row in (9, 4)]
    [2, 4]
    """
    table = labels.reshape(len(rows), -1)
    classes = rng.permutation(np.unique(table[:, 0]))  # the first ones get what is left over
    share, remainder = divmod(len(rows) if wanted is None else wanted, len(classes))
    drawn = []
    for position, label in enumerate(classes):
        is_of_class = table[:, 0] == label
        class_rows, count = rows[is_of_class], share + (position < remainder)
        if table.shape[1] > 1:
            drawn.append(balanced(class_rows, table[is_of_class, 1:], rng, count))
            continue
        rounds = [rng.permutation(class_rows) for _ in range(-(-count // len(class_rows)))]
        drawn.append(np.concatenate(rounds)[:count] if rounds else class_rows[:0])
    return np.concatenate(drawn)


class AugmentedBatches(Dataset[Batch]):
    """Whole batches of mapped pixels, augmented if there is an augmentation."""

    def __init__(
        self,
        array: image_cache.DecodedImages | arrays.Pixels,
        labels: np.ndarray[Any, np.dtype[np.int64]],
        transform: augmentation.Augmentation,
    ) -> None:
        self.array, self.labels, self.transform = array, labels, transform

    def __getitems__(self, batch: BatchRows) -> Batch:
        """Gather one batch; DataLoader calls this with what the batch sampler yields."""
        seed, rows = batch
        images = self.transform(self.array[rows], seed)
        return torch.from_numpy(images), torch.from_numpy(self.labels[rows])


class Prefetcher:
    """Batches of successive epochs, prepared by a thread during training steps.

    Args:
        images: Make them.
        batches: Of which rows they are.
    """

    def __init__(self, images: AugmentedBatches, batches: EpochBatchSampler) -> None:
        self.images, self.batches = images, batches
        self.pinned = torch.cuda.is_available()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch that starts now."""
        return map_in_order(self._batch, self.batches, workers=1, ahead=PREFETCHED)

    def _batch(self, rows: BatchRows) -> Batch:
        images, labels = self.images.__getitems__(rows)
        return (images.pin_memory(), labels.pin_memory()) if self.pinned else (images, labels)


Loader = Prefetcher | DataLoader[Batch]


def identity_collate(batch: Batch) -> Batch:
    """Collate nothing: a batch comes ready."""
    return batch


class HandSignDataModule(pl.LightningDataModule):
    """Loaders of one fold.

    Args:
        fold: Images and subsets.
        augment: The group `augment` of the configuration, resolved.
        image_size: Width and height of the network's images, in pixels.
        workers: Processes that prepare batches; 0 prepares them in this one, in a thread of its own
            where the network leaves a core free.
        seed: Of shuffling and augmentation.
        balance: `sampler` draws equal shares of all classes for training, `signer` of the signers
            of each class as well, `set` of its sets and of the signers of each of these.
        preparation: Applied to each decoded image, before it is resized.
    """

    def __init__(
        self, *, fold: Fold, augment: Mapping[str, Any], image_size: int, workers: int, seed: int,
        balance: str = "none", preparation: image_cache.Preparation | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.preparation = preparation
        self.balance = balance
        self.fold, self.augment = fold, augment
        self.index, self.subsets = fold.index, fold.subsets
        self.image_size, self.workers, self.seed = image_size, workers, seed
        fixed = preparation.fixed_size if preparation else None
        self.stored_size = int(fixed or fold.data["stored_size"] or image_size)
        self.transforms = augmentation.build_transforms(
            augment["transforms"], self.stored_size, image_size
        )

    @cached_property
    def array(self) -> image_cache.DecodedImages:
        """(N, stored size, stored size, 3) the decoded images, mapped."""
        return image_cache.decode_images(
            self.index, self.stored_size, self.fold.cache_dir, self.preparation
        )

    def training_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, 0 to 1."""
        total, squares, count = np.zeros(3), np.zeros(3), 0
        for start in range(0, len(self.subsets.train), 512):
            chunk = self.array[self.subsets.train[start : start + 512]].reshape(-1, 3) / 255.0
            total, squares, count = (
                total + chunk.sum(0), squares + (chunk**2).sum(0), count + len(chunk)
            )  # fmt: skip
        mean = total / count
        return mean.tolist(), np.sqrt(squares / count - mean**2).tolist()

    def class_weights(self) -> list[float]:
        """Weight of each class in the loss: inverse to its share of the training images.

        They are those of scikit-learn's `compute_class_weight("balanced", ...)`.
        """
        counts = np.bincount(
            self.index.labels[self.subsets.train], minlength=len(self.index.classes)
        )
        weights: list[float] = (counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist()
        return weights

    def train_dataloader(self) -> Loader:
        """Shuffled and augmented; the same in each epoch with `trainer.overfit_batches`."""
        backgrounds = augmentation.read_backgrounds(
            self.augment["backgrounds"],
            self.augment["background_weight"],
            self.stored_size,
            self.seed,
        )
        weight = self.augment["background_weight"] or augmentation.BACKGROUND_WEIGHT
        coded_rows = self.preparation.coded_rows if self.preparation else 0
        transform = augmentation.Augmentation(
            self.transforms, self.image_size, backgrounds, weight, coded_rows
        )
        rows = self.subsets.train
        labels = self._balanced_labels(rows)
        batches = EpochBatchSampler(
            rows, self.fold.batch_size, self.seed, self._epoch, labels, *self._ranks()
        )
        return self._loader(batches, transform, self.workers)

    def _balanced_labels(
        self, rows: np.ndarray[Any, np.dtype[np.int64]]
    ) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """(n, levels) what training draws equal shares of; None takes the images as they are."""
        if self.balance not in BALANCED:
            return None
        levels = [self.index.labels]
        for name in BALANCED[self.balance]:
            values = getattr(self.index, name) or ("",) * len(self.index)
            levels.append(np.unique(np.array(values), return_inverse=True)[1].astype(np.int64))
        table: np.ndarray[Any, np.dtype[np.int64]] = np.stack(levels, axis=1)[rows]
        return table

    def val_dataloader(self) -> Loader:
        """The validation subset, in the order of the index."""
        return self._evaluation_loader(self.subsets.validation)

    def test_dataloader(self) -> Loader:
        """The test fold, in the order of the index."""
        return self._evaluation_loader(self.subsets.test)

    def _evaluation_loader(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Loader:
        rank, processes = self._ranks()
        if len(rows) < processes:
            raise DataError(
                f"{len(rows)} images cannot be divided among {processes} processes: use fewer "
                "devices, or a larger split.validation."
            )
        return self._loader(
            EpochBatchSampler(rows, EVALUATION_BATCH, rank=rank, processes=processes),
            augmentation.Augmentation([], self.image_size),
        )

    def _ranks(self) -> tuple[int, int]:
        """Number of this process, and how many train together."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def _loader(
        self, batches: EpochBatchSampler, transform: augmentation.Augmentation, workers: int = 0
    ) -> Loader:
        images = AugmentedBatches(self.array, self.index.labels, transform)
        processes = self.trainer.num_devices if self.trainer is not None else 1
        has_spare_core = (
            torch.cuda.is_available() or cpu_count() > torch.get_num_threads() * processes
        )
        # without a spare core the thread would only hold up the network
        if has_spare_core and not workers:
            return Prefetcher(images, batches)
        return DataLoader(
            images,
            batch_sampler=batches,  # type: ignore[arg-type]  # torch types it as lists of rows
            collate_fn=identity_collate,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _epoch(self) -> int:
        overfit = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        if self.trainer is None or overfit:  # always the same first batches
            return 0
        return self.trainer.current_epoch
