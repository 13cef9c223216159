"""The shape of stored documents: specs, facts, manifests, and keys that stay what they are."""

import pytest
from pydantic import ValidationError

from sdquant_cli import manifests
from sdquant_cli.errors import UsageProblem
from sdquant_cli.manifests.base import ModelRef, Receipt, Ref, Setting, Spec, artifact_key
from sdquant_cli.manifests.facts import MetricsFacts, MetricSummary
from sdquant_cli.manifests.kinds import MANIFESTS
from sdquant_cli.manifests.specs import LatentsSpec, PromptsSpec, SelectSpec, TextEmbedsSpec
from sdquant_cli.types import Kind, Select

MODEL = ModelRef(source="shapes", digest="0" * 64)
SETTING = Setting(
    model=MODEL, scheduler="pndm", steps=5, guidance_scale=3.0, height=64, width=64, dtype="fp32"
)
LATENTS = LatentsSpec(setting=SETTING, per_prompt=2, seed=0, micro_batch=8)
PROMPTS = Ref(kind=Kind.PROMPTS, key="a" * 20, digest="b" * 64)


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_a_manifest_of_its_own_spec_and_facts(kind):
    fields = MANIFESTS[kind].model_fields
    assert issubclass(fields["spec"].annotation, Spec)
    assert fields["spec"].annotation.kind is kind
    assert fields["facts"].annotation.__name__ == fields["spec"].annotation.__name__.replace("Spec", "Facts")


@pytest.mark.parametrize(
    ("spec", "inputs", "key"),
    [
        (PromptsSpec(count=1, sha256="0" * 64), {}, "bc4e41f7cbb05e0d4b9a"),
        (TextEmbedsSpec(model=MODEL), {"prompts": PROMPTS}, "d0f1d5b01ca94c263358"),
        (LATENTS, {"prompts": PROMPTS}, "fb480aee9a008d4634a1"),
    ],
    ids=lambda value: value.kind if isinstance(value, Spec) else "",
)
def test_keys_are_those_of_stored_artifacts(spec, inputs, key):
    assert artifact_key(spec, inputs, {}) == key


def test_a_key_follows_from_set_fields_inputs_and_layout():
    key = artifact_key(LATENTS, {}, {})
    assert key == artifact_key(LATENTS.model_copy(update={"select": None}), {}, {})
    others = [
        artifact_key(LATENTS.model_copy(update={"select": SelectSpec(rule=Select.STRIDE)}), {}, {}),
        artifact_key(LATENTS.model_copy(update={"seed": 1}), {}, {}),
        artifact_key(LATENTS, {"prompts": PROMPTS}, {}),
        artifact_key(LATENTS, {}, {"x": {"shape": [1]}}),
    ]
    assert len({key, *others}) == 5


def test_a_key_has_no_numbers_that_are_not_finite():
    setting = SETTING.model_copy(update={"guidance_scale": float("nan")})
    with pytest.raises(UsageProblem, match=r"latents: setting\.guidance_scale is not a finite number"):
        artifact_key(LATENTS.model_copy(update={"setting": setting}), {}, {})


def test_values_refuse_unknown_fields_and_changes():
    with pytest.raises(ValidationError, match="extra"):
        ModelRef(source="shapes", digest="", colour="red")
    with pytest.raises(ValidationError, match="frozen"):
        MODEL.source = "other"


def test_default_values_are_not_shared():
    receipts = [Receipt(unit=0, objects=()) for _ in range(2)]
    receipts[0].counts["n"] = 1
    assert receipts[1].counts == {}


def test_facts_go_through_json_unchanged():
    summary = MetricSummary(mean=1.5, n=2, ci95=(1.0, 2.0), worst=(1, 0))
    facts = MetricsFacts(metrics={"psnr": summary}, floor={}, itself={})
    assert MetricsFacts.model_validate_json(facts.model_dump_json()) == facts


def test_all_names_are_exported():
    for name in manifests.__all__:
        assert hasattr(manifests, name)
    assert {cls.__name__ for cls in Spec.__subclasses__()} <= set(manifests.__all__)
    assert PROMPTS.name == f"prompts/{'a' * 20}"
