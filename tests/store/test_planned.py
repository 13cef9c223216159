"""Planned artifacts are found as published ones are, and leave no trace."""

from sdquant_cli.manifests import PromptsFacts, PromptsSpec, Ref, TextEmbedsFacts, TextEmbedsSpec
from sdquant_cli.store import PlannedStore
from sdquant_cli.types import Kind
from tests.fakes import MODEL

PROMPTS = Ref(kind=Kind.PROMPTS, key="0" * 20, digest="1" * 64)
SPEC, FACTS = TextEmbedsSpec(model=MODEL), TextEmbedsFacts(unique=1, truncated=0)


def test_a_planned_artifact_is_found_by_tag_and_reference(tmp_path):
    store = PlannedStore(str(tmp_path / "store"))
    assert store.latest(Kind.TEXT_EMBEDS) is None
    assert store.plan(SPEC, FACTS, {"prompts": PROMPTS}, ["latest"])
    found = store.need(Kind.TEXT_EMBEDS)
    assert (found.spec, found.facts, found.manifest.inputs) == (SPEC, FACTS, {"prompts": PROMPTS})
    assert store.follow(found.ref).key == found.key
    assert not (tmp_path / "store").exists()


def test_the_same_artifact_is_new_once_and_its_tags_move(tmp_path):
    store = PlannedStore(str(tmp_path / "store"))
    others = {"prompts": PROMPTS.model_copy(update={"digest": "2" * 64})}
    assert store.plan(SPEC, FACTS, {"prompts": PROMPTS}, ["latest"])
    first = store.need(Kind.TEXT_EMBEDS)
    assert store.plan(SPEC, FACTS, others, ["latest"])
    assert store.need(Kind.TEXT_EMBEDS).key != first.key
    assert not store.plan(SPEC, FACTS, {"prompts": PROMPTS}, ["latest"])
    assert store.need(Kind.TEXT_EMBEDS).key == first.key


def test_published_artifacts_are_there_too(tmp_path, sdquant):
    from sdquant_cli.artifacts.prompts import store_prompts
    from sdquant_cli.prompts import PromptFile

    made = store_prompts(sdquant.workspace(), PromptFile(tmp_path / "p.txt", ("a cat",), 0, 0))
    found = PlannedStore(str(sdquant.store)).need(Kind.PROMPTS)
    assert found.ref == made.ref
    assert isinstance(found.spec, PromptsSpec)
    assert isinstance(found.facts, PromptsFacts)
