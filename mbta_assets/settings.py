"""The environment, read once.

Every setting is optional and is described here only: its variable, its default, what it may be and
what it means. Nothing else in the package reads an environment variable.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self


class SettingsError(ValueError):
    """Variables with wrong values; the message names each, what it was and what it may be."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: how its text is read, and what it may be in words."""

    parse: Callable[[str], Any]
    may_be: str


def one_of(*choices: str) -> Kind:
    """Text that is one of a few words."""
    return Kind({choice: choice for choice in choices}.__getitem__, " or ".join(choices))


def whole_number(at_least: int) -> Kind:
    """A whole number with a lower bound."""

    def parse(text: str) -> int:
        number = int(text)
        if number < at_least:
            raise ValueError(text)
        return number

    return Kind(parse, f"a whole number, {at_least} or more")


def _existing_directory(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(text)
    return path


TEXT = Kind(str, "any text")
DAY = Kind(date.fromisoformat, "a date written YYYY-MM-DD")
PATH = Kind(lambda text: Path(text).expanduser().resolve(), "a path")
DIRECTORY = Kind(_existing_directory, "a directory that exists")


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, its default as one would write it, what it may be, its meaning."""

    name: str
    default: str | None
    kind: Kind
    meaning: str

    def read(self, environ: Mapping[str, str]) -> Any:
        """The value in an environment, where empty is the same as unset. Raises SettingsError."""
        text = environ.get(self.name, "").strip() or self.default
        try:
            return None if text is None else self.kind.parse(text)
        except (ValueError, KeyError):
            raise SettingsError(f"{self.name} is {text!r}; it may be {self.kind.may_be}.") from None


def variable(name: str, default: str | None, kind: Kind, meaning: str, *, secret: bool = False) -> Any:
    """A field of Settings that comes from an environment variable; a secret one is never printed."""
    spec = Variable(name, default, kind, meaning)
    return field(default_factory=lambda: spec.read({}), repr=not secret, metadata={"variable": spec})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be set from outside; `Settings()` is the defaults."""

    deployment: str = variable("MBTA_DEPLOYMENT", "local", one_of("local"), "Where tables and bundles are kept.")
    source: str = variable(
        "MBTA_SOURCE", "synthetic", one_of("synthetic", "files"), "Where the upstream tables come from."
    )
    files_dir: Path | None = variable(
        "MBTA_FILES_DIR", None, DIRECTORY, "The upstream tables as files, for the `files` source."
    )
    store: Path = variable("MBTA_STORE", ".local", PATH, "The directory of tables, bundles and reports.")
    start_date: date = variable("MBTA_START_DATE", "2023-01-01", DAY, "The first service day.")
    seed: int = variable("MBTA_SEED", "0", whole_number(0), "Seed of the simulator and of training.")
    training_days: int = variable(
        "MBTA_TRAINING_DAYS", "28", whole_number(1), "How many of the latest service days models are trained on."
    )
    tune_trials: int = variable(
        "MBTA_TUNE_TRIALS", "8", whole_number(1), "How many configurations each tuned model tries."
    )
    ray_address: str | None = variable(
        "RAY_ADDRESS", None, TEXT, "The Ray cluster that runs the trials; unset, this machine."
    )
    wandb_mode: Literal["online", "offline", "disabled"] = variable(
        "WANDB_MODE", "offline", one_of("online", "offline", "disabled"), "Where Weights & Biases logs trials."
    )
    wandb_api_key: str | None = variable(
        "WANDB_API_KEY", None, TEXT, "The key of Weights & Biases, needed online.", secret=True
    )
    wandb_project: str = variable("WANDB_PROJECT", "mbta_assets", TEXT, "The project trials are logged to.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every variable. Raises SettingsError with all that is wrong, a line each."""
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for name, spec in _VARIABLE_OF.items():
            try:
                values[name] = spec.read(environ)
            except SettingsError as error:
                wrong.append(str(error))
        if values.get("source") == "files" and values.get("files_dir", "") is None:
            wrong.append("MBTA_FILES_DIR is not set; MBTA_SOURCE=files needs it: the directory with the tables.")
        if values.get("wandb_mode") == "online" and values.get("wandb_api_key") is None:
            wrong.append("WANDB_API_KEY is not set; WANDB_MODE=online needs it. WANDB_MODE may also be offline.")
        if wrong:
            raise SettingsError("\n".join(wrong))
        return cls(**values)


_VARIABLE_OF: dict[str, Variable] = {spec.name: spec.metadata["variable"] for spec in fields(Settings)}

VARIABLES: tuple[Variable, ...] = tuple(_VARIABLE_OF.values())
"""Every variable that is read, in order: what the documentation's table of settings is made from."""
