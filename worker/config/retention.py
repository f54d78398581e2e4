"""`[retention]` of config.toml: the policy of each job, with the origin of values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    WithJsonSchema,
    create_model,
    model_validator,
)

from milepost.journal.errors import InvalidArgument
from milepost.journal.quantities import seconds, size_bytes, size_in_units
from milepost.journal.retention import field_kinds
from milepost.journal.retention.duration import Span, as_span
from milepost.journal.retention.field_kinds import (
    Best,
    BestOf,
    Fraction,
    Kind,
    Length,
    Size,
    TagLists,
    Whole,
)
from milepost.journal.retention.policies import PRESETS, InForce, Match, Policies
from milepost.journal.retention.policy import FLOORS, KINDS, Count, Policy
from milepost.journal.store.compaction import Threshold
from milepost.worker.config.tables import Table, Zone, quantity


def _span(value: object) -> Span:
    if isinstance(value, (str, Span)):
        return as_span(value)
    return as_span(str(value))  # refused: a bare number has no unit


def _whole(kind: Whole) -> BeforeValidator:
    def check(value: object) -> object:
        try:
            return kind.checked("", value)
        except InvalidArgument as exc:
            raise ValueError(
                f'expected a whole number of at least {kind.least}, or "all"'
            ) from exc

    return BeforeValidator(check)


def _bounds(kind: Any) -> Any:
    return Field(ge=kind.least, le=kind.most)


def _tag_lists(value: object) -> object:
    """Split ``["prod", "a,b", ""]`` into lists of tags, as restic's ``--keep-tag``."""
    if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        raise ValueError('expected a list of tags, such as ["release", "prod,eu"]')
    return [[tag for tag in text.split(",") if tag] for text in value]


SpanSetting = Annotated[
    Span,
    PlainValidator(_span),
    WithJsonSchema({"type": "string", "examples": ["90min", "7d", "1y6mo"]}),
]
BytesSetting = Annotated[
    int,
    quantity(size_bytes, "1B", size_in_units(Size().most)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
TagListsSetting = Annotated[
    list[list[str]],
    BeforeValidator(_tag_lists),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]


class BestSettings(Table):
    """`keep_best`: the metric, whether low or high is best, and how many to keep."""

    metric: str = Field(min_length=1)
    mode: Literal["min", "max"]
    keep: Annotated[int, _bounds(BestOf().keep)] = 1


_SETTINGS: dict[type[Kind], Any] = {
    Size: BytesSetting,
    Length: SpanSetting,
    TagLists: TagListsSetting,
    BestOf: BestSettings,
    field_kinds.Zone: Zone,
}


def _setting(kind: Kind) -> Any:
    """Return the type of a policy's field as config.toml writes it."""
    if isinstance(kind, Whole) and kind.or_all:
        return Annotated[Count, _whole(kind)]
    if isinstance(kind, Whole):
        return Annotated[int, _bounds(kind)]
    if isinstance(kind, Fraction):
        return Annotated[float, _bounds(kind)]
    return _SETTINGS[type(kind)]


if TYPE_CHECKING:
    PolicyKeys = Table
else:
    PolicyKeys = create_model(
        "PolicyKeys",
        __base__=Table,
        **{name: (_setting(kind) | None, None) for name, kind in KINDS.items()},
    )


class CompletedRule(PolicyKeys):
    """Keep rules, caps and floors.  With no keep rule set, everything is kept.

    The keys are the fields of `Policy`, with its bounds.
    """

    preset: Literal["gfs"] | None = None
    inherit: bool = False


class Rule(CompletedRule):
    """`[retention.default]`: a rule, and optionally another for completed jobs."""

    dry_run: bool | None = None
    completed: CompletedRule | None = None


class MatchRule(Rule):
    """One `[[retention.rule]]`: a rule for the jobs whose id matches a glob."""

    match: str = Field(min_length=1)


class Value(NamedTuple):
    """One value of a policy and its origin."""

    value: Any
    origin: str


class RetentionSettings(Table):
    """`[retention]`: policies, limits and thresholds of scheduled removals."""

    timezone: Zone = "UTC"
    min_keep: Annotated[int, _bounds(KINDS["min_keep"])] = 3
    min_age: SpanSetting = Span(seconds=3600)
    trash_seconds: Annotated[float, quantity(seconds, "0s", "1000y")] = Field(
        default=7 * 86_400.0, validation_alias="trash_period"
    )
    max_remove_fraction: Annotated[float, _bounds(KINDS["max_remove_fraction"])] = 0.5
    max_per_run: int = Field(default=10_000, ge=1, le=10_000_000)
    max_store_bytes: BytesSetting | None = None
    confirm_deadline: SpanSetting = Span()
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

    _policies: Policies = PrivateAttr()

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        self._policies = Policies(
            self._match(self.default, "*", "default"),
            tuple(
                self._match(rule, rule.match, f"rule:{rule.match}")
                for rule in self.rule
            ),
        )
        return self

    @property
    def compaction(self) -> Threshold:
        """The threshold from which a journal is compacted."""
        return Threshold(
            self.compact_min_bytes, self.compact_fraction, self.erase_within_seconds
        )

    @property
    def policies(self) -> Policies:
        """The policies by glob, with the origins of their values."""
        return self._policies

    def trial(self, rule: CompletedRule, name: str = "trial") -> Policy:
        """Return the policy that `rule` would have as a `retention.rule`.

        Raises:
            InvalidArgument: `rule` is not a valid policy; the text says why.
        """
        layers = _layers(rule, name)
        if rule.inherit:
            layers = [*_layers(self.default, "retention.default"), *layers]
        return self._merged(name, layers)[0]

    def effective(self, job_id: str, *, is_completed: bool = False) -> InForce:
        """Return the policy of a job with the origin of each value."""
        return self.policies.in_force(job_id, is_completed=is_completed)

    def _match(self, rule: Rule, pattern: str, name: str) -> Match:
        """Return the policies of one rule.

        It takes its unset keys from the default only if `inherit` is true.
        """
        place = "retention.default" if name == "default" else name
        layers = _layers(rule, place)
        if rule.inherit and name != "default":
            layers = [*_layers(self.default, "retention.default"), *layers]
        policy, origins = self._valid(name, layers)
        match = Match(
            pattern,
            policy,
            is_dry=self.dry_run if rule.dry_run is None else rule.dry_run,
            origins=origins,
        )
        if rule.completed is None:
            return match
        own = _layers(rule.completed, f"{place}.completed")
        above = layers if rule.completed.inherit else []
        policy, origins = self._valid(f"{name}:completed", [*above, *own])
        return replace(match, completed=policy, completed_origins=origins)

    def _valid(
        self, name: str, layers: list[dict[str, Value]]
    ) -> tuple[Policy, dict[str, str]]:
        try:
            return self._merged(name, layers)
        except InvalidArgument as exc:
            hint = f"; {exc.hint}" if exc.hint else ""
            raise ValueError(f"policy {name!r}: {exc}{hint}") from exc

    def _merged(
        self, name: str, layers: list[dict[str, Value]]
    ) -> tuple[Policy, dict[str, str]]:
        """Return the policy of all layers, the last winning, and its origins.

        Raises:
            InvalidArgument: the values are not a valid policy.
        """
        merged = {
            floor: Value(
                getattr(self, floor),
                "retention" if floor in self.model_fields_set else "default",
            )
            for floor in FLOORS
        }
        for layer in layers:
            merged |= layer
        policy = Policy(name=name, **{k: v.value for k, v in merged.items()})
        self._check_deadline(policy)
        return policy, {k: v.origin for k, v in merged.items()}

    def _check_deadline(self, policy: Policy) -> None:
        """Refuse a policy that can remove checkpoints before `confirm_deadline`.

        Raises:
            InvalidArgument: `policy` can do so.
        """
        deadline = self.confirm_deadline
        sooner = _removes_before(policy, deadline.about_seconds)
        if self.max_store_bytes is not None and _is_before(policy.min_age, deadline):
            sooner.append(f"max_store_bytes = {self.max_store_bytes}")
        if sooner:
            raise InvalidArgument(
                f"{sooner[0]} with min_age = {policy.min_age} can remove checkpoints "
                f"before confirm_deadline = {deadline}",
                hint="set min_age to at least confirm_deadline"
                + " and max_age too" * sooner[0].startswith("max_age"),
            )


def _is_before(span: Span | str, deadline: Span) -> bool:
    return as_span(span).about_seconds < deadline.about_seconds


def _removes_before(policy: Policy, seconds: float) -> list[str]:
    """Return the settings that can remove checkpoints younger than `seconds`.

    Empty if `min_age` is at least that long.  Otherwise these are safe: a `max_age` of
    that length, and keep rules combined with ``keep_last = "all"`` or a `keep_within`
    of that length.
    """

    def is_shorter(span: Span | str | None) -> bool:
        return span is None or as_span(span).about_seconds < seconds

    if not is_shorter(policy.min_age):
        return []
    unsafe = {name: value for name, value in policy.caps.items() if name != "max_age"}
    if policy.max_age is not None and is_shorter(policy.max_age):
        unsafe = {"max_age": policy.max_age, **unsafe}
    if is_shorter(policy.keep_within) and policy.keep_last != "all":
        unsafe |= policy.rules
    if policy.keep_failed not in (None, "all"):
        unsafe["keep_failed"] = policy.keep_failed
    return [f"{name} = {value}" for name, value in unsafe.items()]


def _layers(rule: CompletedRule, place: str) -> list[dict[str, Value]]:
    """Return the values of the rule's preset, then its own, which take precedence."""
    preset = {
        name: Value(value, f"preset {rule.preset}")
        for name, value in PRESETS.get(rule.preset or "", {}).items()
    }
    own = {
        name: Value(_policy_value(value), place)
        for name in KINDS
        if (value := getattr(rule, name)) is not None
    }
    return [preset, own]


def _policy_value(value: object) -> object:
    if isinstance(value, BestSettings):
        return Best(value.metric, value.mode, value.keep)
    return value
