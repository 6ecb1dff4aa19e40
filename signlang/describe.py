"""Describe a data set as a data card: `python -m signlang.describe data=digits split=signer`."""

from pathlib import Path

from omegaconf import DictConfig

from signlang.files import expanded
from signlang.hydra_app import run


def describe(cfg: DictConfig) -> Path:
    """Look at every image once and write what somebody must know who wants to learn from them.

    Returns:
        The folder of the data card.
    """
    from signlang import validation

    validation.check_describe_config(cfg)  # in milliseconds: before images are read
    from signlang.datacard import analysis, card

    out = expanded(cfg.out)
    result = analysis.analyse(cfg)
    analysis.write_tables(result, out)
    card.data_card(result).write(out)
    analysis.show_summary(result, out)
    return out


def main() -> None:
    """Entry point of the command."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
