"""Evaluate a network: `python -m signlang.evaluate run=RUN data=folder data.root=IMAGES`."""

from pathlib import Path

from omegaconf import DictConfig

from signlang.hydra_app import run


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a trained network on labelled images, and write the results.

    Returns:
        The folder of the evaluation.
    """
    from signlang import validation
    from signlang.studies import ranking

    ranking.locate_run(cfg)
    validation.check_evaluate_config(cfg)  # in milliseconds: before images are read
    from signlang.evaluation import evaluator

    evaluation = evaluator.evaluate_network(cfg)
    from signlang.evaluation import report, writer  # matplotlib, once there is something to draw

    out = writer.output_folder(cfg, evaluation)
    writer.write_evaluation(evaluation, cfg, out)
    report.evaluation_page(evaluation).write(out)
    writer.show_evaluation(evaluation, out)
    return out


def main() -> None:
    """Entry point of the command."""
    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
