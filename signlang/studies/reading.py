"""How to read a report: what each column is, what the tests ask, and where they come from."""

from typing import Final

from signlang.pages.page import Section, Table, Text

PROTOCOL: Final = (
    "A fold is a set of test pictures. “test fold untouched” means that training, early stopping "
    "and the choice of the checkpoint looked only at a validation part cut out of the other "
    "folds. “validation=fold” is the optimistic protocol of many published tables, in which "
    "the test fold also picks the checkpoint: "
    "its accuracies are too high by an unknown amount, and are here to be compared with those "
    "tables only."
)
CHANCE: Final = (
    "Folds share training pictures, so the spread over folds understates how much results vary; "
    "the corrected test allows for that. A p value says how often chance alone would bring such a "
    "difference, not how large or how useful it is; 0.05 is the limit used here. No significant "
    "difference does not mean equally good: the interval beside it says what is still possible. "
    "That interval is not adjusted for the number of comparisons, so it may leave out 0 where the "
    "adjusted p is above the limit."
)
COLUMNS: Final = {
    "accuracy ± 2 sd": "share of the pictures of a test fold that is recognised: mean over the "
    "finished folds, and two standard deviations (n - 1) of the folds",
    "95 % interval": "of the accuracy on all tested pictures together, by Wilson's score (Wilson "
    "1927, JASA 22). It takes the pictures for independent: where they show few people, it is too "
    "narrow",
    "p": "against the best setting with the same folds: corrected resampled t-test on the folds "
    "(Nadeau and Bengio 2003, Machine Learning 52), adjusted for the number of comparisons (Holm "
    "1979, Scandinavian Journal of Statistics 6)",
    "p (McNemar)": "likewise, from the pictures that only one of the two recognises (McNemar 1947, "
    "Psychometrika 12), adjusted by Holm",
    "macro F1": "F1 of each class, averaged with equal weights; mean over folds",
    "calibration error": "how far confidence is from accuracy, over 15 bins of equal width (Guo et "
    "al. 2017, arXiv 1706.04599); mean over folds. 0 is best",
    "parameters": "trainable numbers of the network",
    "FLOPs": "of one picture, as fvcore counts them: a multiply-add is 1",
    "MB": "of the weights as stored; 1 MB is a million bytes",
    "ms": "median time for one picture on the device named above; only times of one device compare",
    "images/s": "pictures trained on in a second, mean over folds",
    "epochs": "passes over the training pictures, mean over folds",
    "time per fold": "of training, mean over folds",
    "accuracy of each fold": "the finished folds, from the first to the last",
}
FIGURES: Final = {
    "cost against accuracy": "a dashed line joins the networks that no other beats in both (the "
    "Pareto front); bars are two standard deviations over folds, cut off at 1",
    "learning curves": "thin lines are folds, bold ones their mean over the folds that still run: "
    "it may jump where a fold stops early",
    "confusion": "rows are what pictures show, columns what they were taken for; numbers are "
    "pictures of all test folds",
    "reliability": "of a well calibrated network the dots lie on the dashed line; dots above it "
    "mean too little confidence, dots below it too much",
    "effect of each factor": "mean accuracy of all settings with that level, one standard "
    "deviation of settings and folds to a side. The p value compares the levels fold by fold "
    "(corrected t-test for two, Friedman 1937 for more), only where the grid is complete and no "
    "run is missing; not adjusted for the number of factors",
}


def section() -> Section:
    """The last section of every report."""
    columns = [[name, text] for name, text in COLUMNS.items()]
    figures = [[name, text] for name, text in FIGURES.items()]
    return Section(
        "How to read it",
        [
            Text(PROTOCOL),
            Text(CHANCE),
            Table("Columns of the leaderboard", ["column", "meaning"], columns),
            Table("Figures", ["figure", "meaning"], figures),
        ],
    )
