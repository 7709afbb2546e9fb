"""Settings: typed dataclasses, every flag defined once; strict reading of flags and YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

import yaml

from diffdpo.errors import UserError, nearest, short
from diffdpo.flags import StrictParser, default_of, one_of, out_of_bounds, unfit_text
from diffdpo.words import SettingsLoader, as_word, is_off, misfit

Settings = TypeVar("Settings", bound="BaseSettings")


@dataclass(frozen=True)
class Layer:
    """Settings from a file, used where the user gives no others; with the name of the file."""

    source: str
    content: Mapping[str, Any]
    heading: str | None = None  # of the line that lists the settings taken from here; None: no line


@dataclass(frozen=True)
class Translation:
    """A file of settings in which names and values of other programs became this one's.

    ``beneath`` gives that program's own defaults, for the settings that are given.
    """

    content: Mapping[str, Any]
    mistakes: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    beneath: Callable[[Mapping[str, Any]], Layer] | None = None


@dataclass(frozen=True)
class BaseSettings:
    """The base of every command's settings. ``problems`` lists all mistakes at once."""

    def problems(self) -> list[str]:
        """One line for every setting that cannot work."""
        return [
            line
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
            for line in misfits(field, getattr(self, field.name))
        ]

    def sound(self) -> Self:
        """The settings with the defaults in place of values that cannot be, so that what depends on
        several can be looked at beside the lines about single ones."""
        defaults = {
            field.name: default_of(type(self), field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None and misfits(field, getattr(self, field.name))
        }
        known = {name: it for name, it in defaults.items() if it is not dataclasses.MISSING}
        return dataclasses.replace(self, **known)

    def idle(self) -> dict[str, str]:
        """Settings that nothing reads beside the others, each with the reason; told where given."""
        return {}

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """Settings from a file that hold where neither a flag nor ``--config`` sets them.

        ``given`` are the settings from flags and ``--config``. None: there is no such file.
        """
        return None

    @classmethod
    def inert(cls) -> dict[str, str]:
        """Flags of other programs that are accepted without effect, each with the reason.

        Launch commands written for those programs run as they are, and say what was ignored.
        """
        return {}

    @classmethod
    def refused(cls) -> dict[str, str]:
        """Settings of other programs that cannot be had here, each with what to write instead.

        A value that switches one of them off is no mistake: nothing was asked for.
        """
        return {}

    @classmethod
    def foreign(cls) -> set[str]:
        """Settings of other programs whose values ``translated`` turns into settings of this one's
        own names."""
        return set()

    @classmethod
    def translated(cls, content: Mapping[str, Any]) -> Translation:
        """What a file, or flags, with ``foreign`` names stand for."""
        return Translation(content)


def misfits(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """A line for each reason why a setting cannot have this value, whatever the others are."""
    lines = out_of_bounds(field.name, value, field.metadata.get("bounds", {}))
    lines += unfit_text(field.name, value)
    if "choices" in field.metadata and not lines:
        for word in value if isinstance(value, list) else [value]:
            lines += one_of(field.name, word, field.metadata["choices"])
    return lines


def as_recorded(cls: type[Settings], source: str, content: Mapping[str, Any]) -> Settings:
    """The settings that a run recorded, as they were: whether data are still there is not asked.

    Raises UserError for names and values that are no settings of ``cls``.
    """
    mistakes: list[str] = []
    values = read_layer(StrictParser(cls), cls, Layer(source, content), mistakes)
    if mistakes:
        raise UserError(*mistakes)
    names = [field.name for field in dataclasses.fields(cls) if field.name in values]
    return cls(**{name: values[name] for name in names})


def checked(settings: Settings) -> Settings:
    """The settings as they are. Raises UserError with a line for each that cannot work."""
    if mistakes := settings.problems():
        raise UserError(*mistakes)
    return settings


def parse(
    cls: type[Settings], argv: list[str], prog: str | None = None, about: str | None = None
) -> tuple[Settings, list[str]]:
    """Settings from the flags in ``argv``, and notices to print.

    Flags come first, then the file ``--config``, then ``cls.beneath``, then the defaults. ``prog``
    and ``about`` stand at the top of --help.

    Raises UserError with a line for each unknown flag, unreadable value and impossible setting.
    """
    parser = StrictParser(cls, prog, about)
    given, mistakes = parser.read(argv)
    repeated = [f"--{name} is given twice; the last holds" for name in parser.repeated]
    settings, notices = complete(cls, parser, given, mistakes)
    return settings, [*repeated, *notices]


def settings_of(cls: type[Settings], **values: Any) -> Settings:
    """Settings from Python values, checked as those of the command line are.

    ``config`` names a YAML file of settings that hold where no value is given.

    Raises UserError with a line for each unknown name and impossible value.
    """
    parser, mistakes = StrictParser(cls), list[str]()
    config = {name: values.pop(name) for name in ("config",) if name in values}
    given = read_layer(parser, cls, Layer("settings", values), mistakes)
    settings, _ = complete(cls, parser, config | given, mistakes)
    return settings


def complete(
    cls: type[Settings], parser: StrictParser, given: dict[str, Any], mistakes: list[str]
) -> tuple[Settings, list[str]]:
    """Fill up the ``given`` settings from ``--config``, ``cls.beneath`` and defaults; with notices.

    Raises UserError with the ``mistakes`` so far and those met here.
    """
    notices: list[str] = []
    foreign = {name: given[name] for name in sorted(cls.foreign()) if name in given}
    given = {name: value for name, value in given.items() if name not in foreign}
    layers = [Layer("flags", foreign)] if foreign else []
    try:
        if path := given.get("config"):
            layers.append(Layer(path, read_yaml(path, "--config ")))
        for layer in layers:
            words = cls.translated(layer.content)
            mistakes = mistakes + [f"{layer.source}: {line}" for line in words.mistakes]
            notices += words.notices
            upper = read_layer(parser, cls, Layer(layer.source, words.content), mistakes)
            given = {**upper, **given}
            if words.beneath:
                given |= lower_layer(parser, cls, words.beneath(given), given, mistakes, notices)
        if beneath := cls.beneath(given):
            given |= lower_layer(parser, cls, beneath, given, mistakes, notices)
    except UserError as error:
        # A file cannot be read. What it would have set is unknown, so checking values would only
        # add mistakes that are none.
        raise UserError(*mistakes, *error.mistakes) from error
    names = [field.name for field in dataclasses.fields(cls) if field.name in given]
    settings = cls(**{name: given[name] for name in names})
    if mistakes := mistakes + settings.problems():
        raise UserError(*mistakes)
    inert = [f"--{name}: {reason}" for name, reason in cls.inert().items() if name in given]
    # A run's own config.yaml gives every setting; one at its default asks for nothing.
    idle = [
        f"--{name} has no effect: {reason}"
        for name, reason in settings.idle().items()
        if getattr(settings, name) != default_of(cls, name)
    ]
    return settings, inert + idle + notices


def lower_layer(
    parser: StrictParser,
    cls: type[BaseSettings],
    layer: Layer,
    given: Mapping[str, Any],
    mistakes: list[str],
    notices: list[str],
) -> dict[str, Any]:
    """The settings of a layer that nothing above it gives; adds to ``mistakes`` and ``notices``."""
    lower = read_layer(parser, cls, layer, mistakes)
    lower = {name: value for name, value in lower.items() if name not in given}
    told = {name: value for name, value in lower.items() if value != default_of(cls, name)}
    notices += layer_notice(layer, told)
    return lower


def read_yaml(path: str, prefix: str = "") -> dict[str, Any]:
    """The content of a YAML file of settings. Raises UserError where it cannot be read."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), SettingsLoader) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else short(error, 300)
        raise UserError(f"{prefix}{path}: {reason}") from error
    if content == {}:
        raise UserError(f"{prefix}{path}: holds no settings")
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{prefix}{path}: expected 'name: value' lines, found {kind}")
    return content


def read_layer(
    parser: StrictParser, cls: type[BaseSettings], layer: Layer, mistakes: list[str]
) -> dict[str, Any]:
    """The settings in a YAML file, read by the same parser as flags; adds to ``mistakes``.

    A name is a setting's own, one that it has in other programs, or one without effect here.
    """
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, get_type_hints(cls)
    own = (*fields, *cls.inert(), *cls.foreign())
    own_names, refused = {**other_names(cls), **{name: name for name in own}}, cls.refused()
    settings: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in layer.content.items():
        name = own_names.get(str(key), "")
        if earlier := written.get(name):
            mistakes.append(f"{layer.source}: {earlier} and {key} are one setting; keep one")
        elif str(key) in refused:
            mistakes += [] if is_off(value) else [f"{layer.source}: {key}: {refused[str(key)]}"]
        elif not name:
            hint = nearest(str(key), sorted(own_names))
            mistakes.append(f"{layer.source}: unknown setting {short(repr(str(key)))}{hint}")
        elif name not in fields:
            settings[name] = value
        elif reason := misfit(value, hints[name], "choices" in fields[name].metadata):
            mistakes.append(f"{layer.source}: {key} {reason}")
        elif value in (None, []):
            settings[name] = value
        else:
            # As flags, so that one parser decides what a word means, wherever it stands; each word
            # for itself, because a list may hold words that look like flags.
            items = value if isinstance(value, list) else [value]
            for item in items:
                given, unread = parser.read([f"--{name}={as_word(item)}"])
                more = isinstance(value, list) and name in settings and given
                settings |= {name: settings[name] + given[name]} if more else given
                mistakes += unread
        written |= {name: str(key)} if name else {}
    return settings


def other_names(cls: type[BaseSettings]) -> dict[str, str]:
    """The names that settings have in other programs, each with the setting's own."""
    return {
        alias.removeprefix("--"): field.name
        for field in dataclasses.fields(cls)
        for alias in field.metadata.get("aliases", [])
    }


def layer_notice(layer: Layer, settings: Mapping[str, Any]) -> list[str]:
    """The line that lists settings taken from a layer; none where there is nothing to list."""
    shown = [f"{name} {short(value)}" for name, value in settings.items()]
    return [f"{layer.heading:<12} {', '.join(shown)}"] if layer.heading and shown else []


def as_dict(settings: BaseSettings) -> dict[str, Any]:
    """All settings by name, without secrets: this is what config.yaml and model cards show."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key != "hub_token"}
