"""Evaluate a network: `python -m signlang.evaluate run=RUN data=folder data.root=PICTURES`."""

from omegaconf import DictConfig

from signlang.application import run


def evaluate(cfg: DictConfig) -> float:
    """Show labelled pictures to a trained network, and write how well it reads them.

    Returns:
        Accuracy on the pictures of classes that it knows, over all of its classes.
    """
    from signlang.evaluations import checks

    checks.check(cfg)  # in milliseconds: before pictures are read
    from signlang.evaluations import files, judging, sections, tables

    found = judging.evaluation(cfg)
    out = files.place(cfg, found)
    files.write(found, cfg, out)
    sections.report(found).write(out)
    tables.show(found, out)
    return found.figures["accuracy"]


def main() -> None:
    """Entry point of the command."""
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
