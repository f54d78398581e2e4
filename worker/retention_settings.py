"""`[retention]` of config.toml: which job has which policy, and who said so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    model_validator,
)

from journal.compaction import Threshold
from journal.errors import InvalidArgument
from journal.policies import PRESETS, Match, Policies
from journal.policy import CAPS, KEEP_RULES, Best, Policy
from journal.span import Span, as_span
from worker.tables import Table, quantity
from worker.units import seconds, size_bytes

# What one rule may set otherwise than `[retention]` does for all.
FLOORS = ("min_keep", "min_age", "max_remove_fraction", "timezone")


def _span(value: object) -> Span:
    if isinstance(value, (str, Span)):
        return as_span(value)
    return as_span(str(value))  # refused: nobody can see whether 200 is seconds


def _count(value: object) -> object:
    if isinstance(value, str) and value != "all":
        raise ValueError('expected a whole number of at least 1, or "all"')
    return value


def _tag_lists(value: object) -> object:
    """Return ``["prod", "a,b", ""]`` as lists of tags, as restic's ``--keep-tag``."""
    if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise ValueError('expected a list of tags, such as ["release", "prod,eu"]')
    return [[tag for tag in text.split(",") if tag] for text in value]


SpanSetting = Annotated[Span, PlainValidator(_span)]
CountSetting = Annotated[int | Literal["all"], BeforeValidator(_count)]
BytesSetting = Annotated[int, quantity(size_bytes, "1KiB", "1048576GiB")]


class BestSettings(Table):
    """`keep_best`: the metric, which of its ends is the best, and how many to keep."""

    metric: str
    mode: Literal["min", "max"]
    keep: int = 1


class CompletedRule(Table):
    """What to keep.  Each key keeps on its own; with none set everything stays."""

    preset: Literal["gfs"] | None = None
    keep_last: CountSetting | None = None
    keep_hourly: CountSetting | None = None
    keep_daily: CountSetting | None = None
    keep_weekly: CountSetting | None = None
    keep_monthly: CountSetting | None = None
    keep_yearly: CountSetting | None = None
    keep_within: SpanSetting | None = None
    keep_within_hourly: SpanSetting | None = None
    keep_within_daily: SpanSetting | None = None
    keep_within_weekly: SpanSetting | None = None
    keep_within_monthly: SpanSetting | None = None
    keep_within_yearly: SpanSetting | None = None
    keep_tags: Annotated[list[list[str]], BeforeValidator(_tag_lists)] | None = None
    keep_every: int | None = None
    keep_best: BestSettings | None = None
    keep_failed: CountSetting | None = None
    max_age: SpanSetting | None = None
    max_count: int | None = None
    max_bytes: BytesSetting | None = None
    min_keep: int | None = None
    min_age: SpanSetting | None = None
    max_remove_fraction: float | None = None
    timezone: str | None = None
    inherit: bool = False


class Rule(CompletedRule):
    """`[retention.default]`: the same, and what holds once a job is complete."""

    dry_run: bool | None = None
    completed: CompletedRule | None = None


class MatchRule(Rule):
    """One `[[retention.rule]]`: a rule for the jobs whose id matches a glob."""

    match: str = Field(min_length=1)


class Value(NamedTuple):
    """One value of a policy, and where it came from."""

    value: Any
    origin: str


class Effective(NamedTuple):
    """A policy with the origin of everything in it.

    Attributes:
        origins: by the policy's field.
        is_dry: plans are made and told, but not carried out.
    """

    policy: Policy
    origins: dict[str, str]
    is_dry: bool


class _Cascade(NamedTuple):
    """What decides about the jobs of one glob."""

    pattern: str
    running: Effective
    completed: Effective | None


class RetentionSettings(Table):
    """`[retention]`: what the scheduled cleanup keeps and removes."""

    timezone: str = "UTC"
    min_keep: int = Field(default=3, ge=1, le=1_000_000)
    min_age: SpanSetting = Span(seconds=3600)
    trash_seconds: Annotated[float, quantity(seconds, "0s", "1000y")] = Field(
        default=7 * 86_400.0, validation_alias="trash_period"
    )
    max_remove_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    max_per_run: int = Field(default=10_000, ge=1, le=10_000_000)
    max_store_bytes: BytesSetting | None = None
    approval_deadline: SpanSetting = Span()
    dry_run: bool = False
    compact_min_bytes: Annotated[int, quantity(size_bytes, "1KiB", "1GiB")] = Field(
        default=1024 * 1024, validation_alias="compact_min"
    )
    compact_fraction: float = Field(default=0.25, ge=0.0, le=1.0)
    erase_within_seconds: Annotated[float, quantity(seconds, "0s", "1000y")] = Field(
        default=7 * 86_400.0, validation_alias="erase_within"
    )
    default: Rule = Rule()
    rule: list[MatchRule] = Field(default_factory=list)

    _default: _Cascade = PrivateAttr()
    _cascades: tuple[_Cascade, ...] = PrivateAttr()

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        self._default = self._cascade(self.default, "*", "default")
        self._cascades = tuple(
            self._cascade(rule, rule.match, f"rule:{rule.match}") for rule in self.rule
        )
        return self

    @property
    def compaction(self) -> Threshold:
        """When a journal is rewritten without the states that have to go."""
        return Threshold(
            self.compact_min_bytes, self.compact_fraction, self.erase_within_seconds
        )

    @property
    def policies(self) -> Policies:
        """Which job has which policy."""
        default, *matches = (_match(c) for c in (self._default, *self._cascades))
        return Policies(default, tuple(matches))

    def effective(self, job_id: str, *, is_completed: bool = False) -> Effective:
        """Return the policy of a job, and where everything in it came from.

        The first rule that matches decides, or the default.  A rule starts from
        nothing; only with `inherit` does it take what it leaves unset from the default.
        """
        cascade = next(
            (c for c in self._cascades if fnmatchcase(job_id, c.pattern)), self._default
        )
        if is_completed and cascade.completed is not None:
            return cascade.completed
        return cascade.running

    def _cascade(self, rule: Rule, pattern: str, name: str) -> _Cascade:
        place = "retention.default" if name == "default" else name
        layers = _said(rule, place)
        if rule.inherit and name != "default":
            layers = [*_said(self.default, "retention.default"), *layers]
        is_dry = self.dry_run if rule.dry_run is None else rule.dry_run
        running = self._effective(name, layers, is_dry=is_dry)
        completed = None
        if rule.completed is not None:
            own = _said(rule.completed, f"{place}.completed")
            above = layers if rule.completed.inherit else []
            completed = self._effective(
                f"{name}:completed", [*above, *own], is_dry=is_dry
            )
        return _Cascade(pattern, running, completed)

    def _effective(
        self, name: str, layers: list[dict[str, Value]], *, is_dry: bool
    ) -> Effective:
        floors = {floor: Value(getattr(self, floor), "retention") for floor in FLOORS}
        merged: dict[str, Value] = {}
        for layer in (floors, *layers):
            merged |= layer
        try:
            policy = Policy(name=name, **{k: v.value for k, v in merged.items()})
            self._check_deadline(policy)
        except InvalidArgument as exc:
            hint = f"; {exc.hint}" if exc.hint else ""
            raise ValueError(f"policy {name!r}: {exc}{hint}") from exc
        return Effective(policy, {k: v.origin for k, v in merged.items()}, is_dry)

    def _check_deadline(self, policy: Policy) -> None:
        """Refuse a policy that may let go what somebody still has to approve.

        Raises:
            InvalidArgument: so it is.
        """
        if policy.max_age is None:
            return
        longest = self.approval_deadline
        if as_span(policy.max_age).about_seconds < longest.about_seconds:
            raise InvalidArgument(
                f"max_age = {policy.max_age} keeps less than an approval may take, "
                f"approval_deadline = {longest}",
                hint="set max_age to at least that much",
            )


def _said(rule: CompletedRule, place: str) -> list[dict[str, Value]]:
    """Return what a rule says, its preset below its own words."""
    preset = {
        name: Value(value, f"preset {rule.preset}")
        for name, value in PRESETS.get(rule.preset or "", {}).items()
    }
    own = {}
    for name in (*KEEP_RULES, *CAPS, *FLOORS):
        if (value := getattr(rule, name)) is not None:
            own[name] = Value(_as_policy_has_it(value), place)
    return [preset, own]


def _as_policy_has_it(value: object) -> object:
    if isinstance(value, BestSettings):
        return Best(value.metric, value.mode, value.keep)
    if isinstance(value, list):
        return tuple(tuple(tags) for tags in value)
    return value


def _match(cascade: _Cascade) -> Match:
    completed = cascade.completed
    return Match(
        cascade.pattern, cascade.running.policy, completed and completed.policy
    )
