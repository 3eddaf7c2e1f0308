"""Types of settings: how the text of a variable is read, parsed and written, which values are valid and accepted.

Each is an annotated type for a field of `mbta_assets.settings.Settings`; which settings there are is defined there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, DirectoryPath, Field, FilePath, StrictInt, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource


def variable(name: str, default: object, description: str, *, secret: bool = False) -> Any:
    """Return a field of Settings that an environment variable sets; the value of a secret is never printed."""
    return Field(default=default, validation_alias=name, description=description, repr=not secret)


class EnvironmentSource(PydanticBaseSettingsSource):
    """Settings source that reads a mapping of environment variables, in which empty means unset."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """Return a field's text, None if it is unset; the variable's name; and False, as no text is nested JSON."""
        name = str(field.validation_alias)
        return self.environ.get(name, "").strip() or None, name, False

    def __call__(self) -> dict[str, Any]:
        """Return the text of each variable that is set, by the variable's name."""
        texts: dict[str, Any] = {}
        for field_name, field in self.settings_cls.model_fields.items():
            text, name, _ = self.get_field_value(field, field_name)
            if text is not None:
                texts[name] = text
        return texts


@dataclass(frozen=True)
class Accepts:
    """Annotation that describes in words which values a type accepts."""

    description: str


def resolve_path(path: Path) -> Path:
    """Return an absolute path with `~` and symbolic links resolved."""
    return path.expanduser().resolve()


def parse_directory(value: str | Path) -> Path:
    """Convert text or a path to an absolute path."""
    return resolve_path(Path(value))


def parse_date(value: object) -> object:
    """Convert text written YYYY-MM-DD to a date and return anything else unchanged. Raise ValueError."""
    return date.fromisoformat(value) if isinstance(value, str) else value


def parse_json_object(value: object) -> object:
    """Convert JSON text, or the path of a JSON file, to its content. Raise ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value if value.startswith("{") else Path(value).expanduser().read_bytes())
    except OSError as error:
        raise ValueError(str(error)) from error


def complete_url(address: str) -> str:
    """Return a URL without a trailing slash; `host:port` becomes `http://host:port`, as Google's clients take it."""
    return (address if "://" in address else f"http://{address}").rstrip("/")


def check_time_zone(name: str) -> str:
    """Return the name of a time zone. Raise ValueError if there is none of that name."""
    try:
        ZoneInfo(name)
    except (OSError, KeyError) as error:  # such as a name that is a directory of the database
        raise ValueError(str(error)) from error
    return name


def parse_stop_ids(value: object) -> object:
    """Convert ids separated by commas to a tuple and return anything else unchanged. Raise ValueError."""
    if not isinstance(value, str):
        return value
    ids = tuple(part.strip() for part in value.split(","))
    if not all(ids):
        raise ValueError("an id is empty")
    return ids


def check_windows(windows: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return accuracy windows by bin. Raise ValueError if bins have gaps or errors of zero are not accurate."""
    expected_start = 0
    for name, (min_error, max_error) in windows.items():
        start, end = parse_minutes(name)
        if start != expected_start or end <= start:
            raise ValueError(f"the bin {name!r} does not begin at {expected_start} min and end later")
        if not min_error < 0 < max_error:
            raise ValueError(f"the window {min_error} to {max_error} of the bin {name!r} does not contain 0")
        expected_start = end
    if not windows:
        raise ValueError("there is no bin")
    return windows


def parse_minutes(name: str) -> tuple[int, int]:
    """Return the minutes at which a bin begins and ends, by its name such as `3-6 min`. Raise ValueError."""
    minutes = re.fullmatch(r"(0|[1-9][0-9]{0,3})-([1-9][0-9]{0,3}) min", name)
    if minutes is None:
        raise ValueError(f"the bin {name!r} is not written as '3-6 min'")
    return int(minutes[1]), int(minutes[2])


def parse_bounds_file(value: object) -> object:
    """Convert text to an absolute path and return the word `none` unchanged."""
    return value if value == "none" or not isinstance(value, str) else resolve_path(Path(value))


Count = Annotated[int, Ge(1)]
StoragePath = Annotated[Path, AfterValidator(resolve_path), Accepts("a path")]
ExistingDirectory = Annotated[DirectoryPath, BeforeValidator(parse_directory), Accepts("a directory that exists")]
Day = Annotated[date, BeforeValidator(parse_date), Accepts("a date written YYYY-MM-DD")]
JSONObject = Annotated[
    dict[str, Any], BeforeValidator(parse_json_object), Accepts("a JSON object, or the path of a file with one")
]
Share = Annotated[float, Ge(0), Le(1), Accepts("a number from 0 to 1")]
URL = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$"), Accepts("a URL that begins with http:// or https://")
]
FeedAddress = Annotated[
    str,
    StringConstraints(pattern=r"^(https?://[^\s/]+\S*|[^:]+|[^:]+:[^/].*)$"),
    Accepts("a URL that begins with http:// or https://, or a path"),
]
ArchiveAddress = Annotated[
    str,
    StringConstraints(pattern=r"^(gs://[^\s/]+(/\S*)?|[^:]+|[^:]+:[^/].*)$"),
    Accepts("a path, or an address gs://bucket/prefix"),
]
TimeZone = Annotated[str, AfterValidator(check_time_zone), Accepts("the name of a time zone, such as Europe/Berlin")]
StopIds = Annotated[tuple[str, ...], BeforeValidator(parse_stop_ids), Accepts("stop ids separated by commas")]
AccuracyWindows = Annotated[
    dict[str, tuple[StrictInt, StrictInt]],
    BeforeValidator(parse_json_object),
    AfterValidator(check_windows),
    Accepts(
        'a JSON object from bins without gaps to two whole numbers of seconds around 0, such as {"0-5 min": [-60, 90]}'
    ),
]
BoundsFile = Annotated[
    Literal["none"] | FilePath,
    BeforeValidator(parse_bounds_file),
    Accepts("the path of a CSV file, or none"),
]
Endpoint = Annotated[
    str, AfterValidator(complete_url), Accepts("host:port, or a URL that begins with http:// or https://")
]
Cron = Annotated[
    str,
    StringConstraints(pattern=r"^\S+( +\S+){4}$"),
    Accepts("a cron expression of five fields, such as 0 6 * * *"),
]
BearerToken = Annotated[str, StringConstraints(pattern=r"^\S{16,}$"), Accepts("16 characters or more, without spaces")]
ServiceAccount = Annotated[
    str, StringConstraints(pattern=r"^[^@ ]+@[^@ ]+$"), Accepts("the e-mail address of a service account")
]
Project = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9-]*[a-z0-9](:[a-z][a-z0-9-]*)?$"),
    Accepts("the id of a project, such as my-project-1"),
]
Dataset = Annotated[
    str,
    StringConstraints(pattern=r"^\w+$", max_length=1024),
    Accepts("the name of a dataset: letters, digits and underscores"),
]
QualifiedDataset = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z][a-z0-9:-]*\.)?\w+$"),
    Accepts("the name of a dataset, or project.dataset"),
]
BucketName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$"),
    Accepts("the name of a bucket, without gs://"),
]
BucketPath = Annotated[str, StringConstraints(pattern=r"^gs://\S+$"), Accepts("an address that begins with gs://")]


def accepted_values(annotation: Any) -> str:
    """Describe in words the values that a field's type accepts."""
    arguments = [argument for argument in get_args(annotation) if argument is not NoneType]
    if get_origin(annotation) is Annotated:
        bounds: dict[type, Any] = {type(constraint): constraint for constraint in annotation.__metadata__}
        if Accepts in bounds:
            return bounds[Accepts].description
        if Le in bounds:
            return f"a whole number, {bounds[Ge].ge} to {bounds[Le].le}"
        return f"a whole number, {bounds[Ge].ge} or more"
    if get_origin(annotation) is Literal:
        return " or ".join(arguments)
    return accepted_values(arguments[0]) if arguments else "any text"


def format_value(value: object) -> str:
    """Return a value as one would write it in the environment; None is empty."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
