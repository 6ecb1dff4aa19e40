"""Compare the runs of a study: `python -m signlang.compare runs/digits`."""

from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field, field_validator

from signlang.constraints import Strict, Text, validated
from signlang.errors import SettingError, SignlangError
from signlang.files import expanded
from signlang.hydra_app import run


class CompareConfig(Strict):
    """The settings of `conf/compare.yaml`, which documents each."""

    studies: Annotated[list[Text], BeforeValidator(lambda x: [x] if isinstance(x, str) else x)]
    allow_incomplete: bool = False
    sort: Text = "rank"
    runs_dir: Text = "runs"
    out: Annotated[Path, Field(strict=False, description="the path of a folder")] | None = None
    verbose: bool = True

    @field_validator("studies", mode="after")
    @classmethod
    def _not_empty(cls, studies: list[str]) -> list[str]:
        if not studies:
            raise ValueError(
                "name what to compare, one or more studies: folders runs/<study>, or their names."
            )
        return studies

    def targets(self) -> dict[Path, Path | None]:
        """Each study with the folder that its comparison goes to; None is the study itself.

        Raises:
            SettingError: If two studies of one name would go to one folder.
        """
        out = self.out and expanded(self.out)
        studies = [self._folder(study) for study in self.studies]
        names = {study: study.resolve().name for study in studies}
        if out is None or len(names) == 1:
            return dict.fromkeys(names, out)
        if len(set(names.values())) < len(names):
            raise SettingError(
                f"out={out} would get two studies of one name: compare them one by one."
            )
        return {study: out / name for study, name in names.items()}

    def _folder(self, study: str) -> Path:
        """The folder of a study; a name alone is looked up in `runs_dir`."""
        from signlang.runs.folder import is_other_folder

        path, runs_dir = expanded(study), expanded(self.runs_dir)
        is_name = Path(study).name == study and not path.is_dir()
        return runs_dir / study if is_name or is_other_folder(study, runs_dir) else path


def compare(cfg: DictConfig) -> None:
    """Compare studies, each on its own, and write the results.

    Raises:
        SignlangError: If a study could not be compared; the others are, all the same.
    """
    config = validated(CompareConfig, OmegaConf.to_container(cfg, resolve=True))
    targets = config.targets()
    from signlang.console import log
    from signlang.studies.study import check_study_folder

    failed = []
    for study, out in targets.items():
        try:
            check_study_folder(study)
            from signlang.studies.comparison import compare_study  # brings matplotlib

            compare_study(study, out, allow_incomplete=config.allow_incomplete, sort=config.sort)
        except SignlangError as error:
            if len(targets) == 1:
                raise
            log.error("%s", error)
            failed.append(error)
    if failed:
        raise SignlangError(
            f"{len(failed)} of {len(targets)} studies could not be compared, see above."
        )


def main() -> None:
    """Entry point of the command."""
    run(compare, "compare")


if __name__ == "__main__":
    main()
