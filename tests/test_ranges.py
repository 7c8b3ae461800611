"""Every number of every config has a range, and no value outside is accepted."""

import dataclasses
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from dinosr_plugin.errors import UserError
from dinosr_plugin.ranges import COUNT_OR_NEVER, DROPOUT, FINITE, SHARE, Range, check_ranges, declared_ranges
from dinosr_plugin.runs.fairseq_ranges import FAIRSEQ

REGISTERED = {
    "model": MODEL_DATACLASS_REGISTRY,
    "task": TASK_DATACLASS_REGISTRY,
    **{group: known["dataclass_registry"] for group, known in REGISTRIES.items()},
}
OURS = {
    (group, config)
    for group, configs in REGISTERED.items()
    for config in configs.values()
    if config is not None and config.__module__.startswith("dinosr_plugin")
}
OF_FAIRSEQ = {
    ("model", MODEL_DATACLASS_REGISTRY["wav2vec_ctc"]),
    ("model", MODEL_DATACLASS_REGISTRY["transformer_lm"]),
    ("task", TASK_DATACLASS_REGISTRY["language_modeling"]),
    ("criterion", REGISTERED["criterion"]["ctc"]),
    ("optimizer", REGISTERED["optimizer"]["adam"]),
    *(("lr_scheduler", REGISTERED["lr_scheduler"][name]) for name in ("tri_stage", "polynomial_decay", "fixed")),
    ("lr_scheduler", REGISTERED["lr_scheduler"]["inverse_sqrt"]),
    *(
        (name, FairseqConfig.__dataclass_fields__[name].type)
        for name in ("common", "dataset", "distributed_training", "optimization", "checkpoint", "ema")
    ),
}
CONFIGS = sorted(OURS | OF_FAIRSEQ, key=lambda pair: pair[1].__name__)
FIELDS = [
    pytest.param(group, config, name, allowed, id=f"{config.__name__}.{name}")
    for group, config in CONFIGS
    for name, allowed in declared_ranges(config, FAIRSEQ).items()
]


def name_of(value) -> str | None:
    return getattr(value, "__name__", None)


def test_the_configs_of_this_plugin_are_tested():
    names = {config.__name__ for _, config in OURS}
    assert {"DinoSRConfig", "HubertConfig", "CPCConfig", "CPCDeepClusterConfig", "DinoSRCriterionConfig"} <= names
    assert {"DinoSRPretrainingConfig", "DinoSRFinetuningConfig"} <= names


@pytest.mark.parametrize("group, config, name, allowed", FIELDS)
def test_every_number_has_a_range(group, config, name, allowed):
    assert allowed is not FINITE, "declare its range in the metadata of the field, or in runs.fairseq_ranges"
    assert math.isfinite(allowed.low) and math.isfinite(allowed.high) and allowed.low < allowed.high


def like(annotation, value):
    """The value in a list or a dict if the field's type is one."""
    text = str(annotation)
    return [value] if "List" in text or "Tuple" in text else {"x": value} if "Dict" in text else value


@pytest.mark.parametrize("group, config, name, allowed", FIELDS)
def test_values_out_of_range_are_one_line(group, config, name, allowed):
    wrong = [math.nan, math.inf, -math.inf, allowed.high + 1e9, allowed.low - 1e9]
    wrong += [-1] if -1 not in allowed else []
    wrong += [allowed.low] if allowed.exclude_low else []
    wrong += [allowed.high] if allowed.exclude_high else []
    for number in wrong:
        value = like(config.__dataclass_fields__[name].type, number)
        with pytest.raises(UserError) as error:
            check_ranges({name: value}, config, group, FAIRSEQ)
        assert str(error.value) == f"{group}.{name}={value}: must be {allowed}"
    for number in ([] if allowed.exclude_low else [allowed.low]) + ([] if allowed.exclude_high else [allowed.high]):
        value = like(config.__dataclass_fields__[name].type, number)
        check_ranges({name: value}, config, group, FAIRSEQ)


@pytest.mark.parametrize("group, config", CONFIGS, ids=name_of)
def test_defaults_are_in_range(group, config):
    defaults = {
        one.name: one.default if one.default is not dataclasses.MISSING else one.default_factory()
        for one in dataclasses.fields(config)
        if one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
    }
    check_ranges(defaults, config, group, FAIRSEQ)


def test_the_table_names_fields_of_fairseq():
    known = {}
    for _, config in CONFIGS:
        for one in config.__mro__:
            known.setdefault(one.__name__, set()).update(getattr(one, "__dataclass_fields__", {}))
    known["GenerationConfig"] = set(FairseqConfig.__dataclass_fields__["generation"].type.__dataclass_fields__)
    for name, ranges in FAIRSEQ.items():
        assert ranges.keys() <= known[name], name


@dataclass
class Example:
    share: float = field(default=0.5, metadata={"range": SHARE})
    many: list[int] = field(default_factory=list, metadata={"range": Range(1, 9)})
    several: tuple[float, float] | None = field(default=None, metadata={"range": SHARE})
    weights: dict[str, float] = field(default_factory=dict, metadata={"range": Range(0, 9, exclude_low=True)})
    undeclared: float = 0.0
    text: str = "x"
    flag: bool = True


@pytest.mark.parametrize("make", [lambda **fields: Example(**fields), lambda **fields: OmegaConf.create(fields)])
def test_lists_dicts_and_null(make):
    check_ranges(make(share=1, many=[1, 9], several=None, weights={"a": 0.1}, flag=True), Example, "group")
    for fields, message in (
        ({"many": [1, 10]}, "group.many=[1, 10]: must be between 1 and 9"),
        ({"several": [0.0, math.nan]}, "group.several=[0.0, nan]: must be between 0 and 1"),
        ({"weights": {"a": 0.0}}, "group.weights={'a': 0.0}: must be above 0 and at most 9"),
        ({"undeclared": math.inf}, "group.undeclared=inf: must be between -1e+300 and 1e+300"),
    ):
        with pytest.raises(UserError) as error:
            check_ranges(make(**fields), Example, "group")
        assert str(error.value) == message


def test_values_that_are_not_set_are_not_checked():
    check_ranges(SimpleNamespace(), Example, "group")
    check_ranges(OmegaConf.create({"share": "???"}), Example, "group")


def test_ranges_in_words():
    assert str(DROPOUT) == "at least 0 and less than 1"
    assert (
        str(COUNT_OR_NEVER) == "between 0 and 1000000000, or -1" and -1 in COUNT_OR_NEVER and -2 not in COUNT_OR_NEVER
    )
    assert str(Range(0.5, 2.5)) == "between 0.5 and 2.5"
