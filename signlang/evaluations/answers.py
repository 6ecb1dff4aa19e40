"""What a network said of labelled pictures, and all that follows from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from signlang.confidence.calibration import Calibration, calibrated
from signlang.confidence.rejection import accepted
from signlang.data.index import Index
from signlang.evaluations import scores
from signlang.evaluations.candidates import Candidate
from signlang.evaluations.history import Seen
from signlang.evaluations.matching import Match
from signlang.evaluations.scores import Flags, Floats, Ints, Share

ABSENT: Final = -1  # label of a picture whose class the network does not know


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said of pictures.

    Attributes:
        candidate: The network.
        calibration: Its temperature and threshold.
        name: Of the data.
        index: All pictures of the data.
        rows: (n,) those that were judged.
        matches: What each class of the data is for the network.
        probabilities: (n, classes of the network), uncalibrated.
        seen: Which pictures are no news to the network.
        seconds: That the network took.
    """

    candidate: Candidate
    calibration: Calibration
    name: str
    index: Index
    rows: Ints
    matches: tuple[Match, ...]
    probabilities: Floats
    seen: Seen
    seconds: float

    @cached_property
    def labels(self) -> Ints:
        """(n,) positions in the classes of the network, `ABSENT` where it is none of them."""
        number = {name: place for place, name in enumerate(self.candidate.classes)}
        places = [ABSENT if m.network is None else number[m.network] for m in self.matches]
        return np.array(places, dtype=np.int64)[self.index.labels[self.rows]]

    @cached_property
    def known(self) -> Flags:
        """(n,) whether the network knows the class."""
        return np.asarray(self.labels != ABSENT, dtype=np.bool_)

    @cached_property
    def calibrated(self) -> Floats:
        """(n, classes of the network) probabilities after the temperature."""
        return calibrated(self.probabilities, self.calibration.temperature)

    @cached_property
    def predicted(self) -> Ints:
        """(n,) the most probable class."""
        best: Ints = self.probabilities.argmax(1)
        return best

    @cached_property
    def correct(self) -> Flags:
        """(n,) whether the picture was recognised; never, where its class is not known."""
        return np.asarray(self.predicted == self.labels, dtype=np.bool_)

    @cached_property
    def accepted(self) -> Flags:
        """(n,) whether the calibrated confidence reaches the threshold."""
        return accepted(self.calibrated.max(1), self.calibration.reject_threshold)

    @cached_property
    def shared(self) -> list[int]:
        """Positions of the classes of the network that some judged picture has."""
        return [int(place) for place in np.unique(self.labels[self.known])]

    @cached_property
    def correct_among(self) -> Flags:
        """(n,) whether it would be recognised if there were the shared classes only."""
        best = np.array(self.shared)[self.probabilities[:, self.shared].argmax(1)]
        return np.asarray(best == self.labels, dtype=np.bool_)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Of pictures of shared classes, over all classes of the network, uncalibrated."""
        return scores.figures(self.probabilities[self.known], self.labels[self.known])

    @cached_property
    def figures_among(self) -> dict[str, float]:
        """Of the same pictures over the shared classes alone, uncalibrated."""
        labels = np.searchsorted(self.shared, self.labels[self.known])
        return scores.figures(scores.among(self.probabilities[self.known], self.shared), labels)

    @property
    def coverage(self) -> Share:
        """How many pictures of shared classes are accepted."""
        return Share.of(self.accepted[self.known])

    @property
    def precision(self) -> Share:
        """How many of these are right."""
        return Share.of(self.correct[self.known & self.accepted])

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(n,) class of each picture, as the data names it."""
        return tuple(self.index.classes[label] for label in self.index.labels[self.rows])

    @cached_property
    def signers(self) -> tuple[str, ...] | None:
        """(n,) who is in each picture, or None."""
        signers = self.index.signers
        return None if signers is None else tuple(signers[row] for row in self.rows)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """(n,) files, relative to the data."""
        return tuple(self.index.paths[row] for row in self.rows)
