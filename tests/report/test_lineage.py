import pytest

from sdquant_cli.artifacts.lineage import Lineage, read_lineage
from sdquant_cli.errors import MissingArtifact
from sdquant_cli.manifests.kinds import ImagesManifest, PromptsManifest, QuantStateManifest
from sdquant_cli.report.lineage import section


def test_all_ancestors_are_read_and_removed_ones_named(changeable):
    store = changeable.opened()
    metrics, latents = store.resolve("metrics/mixed"), store.resolve("latents")
    whole = read_lineage([metrics], store)
    assert latents.name in whole.manifests
    assert not whole.removed
    changeable("rm", latents.name, "--force")
    lineage = read_lineage([metrics], store)
    reason = f"{latents.name} was removed; make it with `sdquant sample --prompts FILE`"
    assert lineage.removed == {latents.name: reason}
    # what only the latents were made from is not reached any more
    assert set(lineage.manifests) < set(whole.manifests) - {latents.name}
    images = lineage.input(metrics.manifest, "images", ImagesManifest)
    state = lineage.input(images, "state", QuantStateManifest)
    with pytest.raises(MissingArtifact, match="was removed"):
        lineage.input(state, "latents", PromptsManifest)
    with pytest.raises(TypeError, match="expected PromptsManifest, found ImagesManifest"):
        lineage.input(metrics.manifest, "images", PromptsManifest)


def test_the_section_is_oldest_first_and_removed_artifacts_are_last(measured):
    store = measured.opened()
    lineage = read_lineage([store.resolve("metrics/mixed")], store)
    shown = section(Lineage(lineage.manifests, {"latents/gone": "why"}))
    created = [row.created for row in shown.artifacts[:-1]]
    assert created == sorted(created)
    assert (shown.artifacts[-1].name, shown.artifacts[-1].removed) == ("latents/gone", True)
    assert list(shown.environments) == ["A"]
    assert {row.environment for row in shown.artifacts[:-1]} == {"A"}
    assert shown.artifacts[-2].inputs
