"""Describe a data set as a data card: `python -m signlang.describe data=digits split=signer`."""

from omegaconf import DictConfig

from signlang.application import run


def describe(cfg: DictConfig) -> None:
    """Look at every picture once and write what somebody must know who wants to learn from them."""
    from signlang.cards import checks

    checks.check(cfg)  # in milliseconds: before pictures are read
    from pathlib import Path

    from signlang.cards import making, sections

    out = Path(cfg.out).expanduser()
    found = making.material(cfg)
    making.write_tables(found, out)
    sections.card(found).write(out)
    making.report(found, out)


def main() -> None:
    """Entry point of the command."""
    run(describe, "describe")


if __name__ == "__main__":
    main()
