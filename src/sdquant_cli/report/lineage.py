"""The section that lists every artifact behind a page."""

import string

from ..artifacts.lineage import Lineage
from ..manifests import Manifest, Provenance
from . import page


def section(lineage: Lineage) -> page.Lineage:
    """Return every artifact, oldest first and removed ones last, and the software that made them."""
    letters: dict[str, str] = {}  # environment -> its letter
    artifacts = []
    for manifest in sorted(lineage.manifests.values(), key=_created):
        environment = _environment(manifest.provenance)
        letters.setdefault(environment, string.ascii_uppercase[len(letters) % 26])
        artifacts.append(
            page.Ancestor(
                name=manifest.ref.name,
                digest=manifest.digest,
                created=manifest.provenance.created_at,
                environment=letters[environment],
                inputs=tuple(f"{ref.kind}/{ref.key[:8]}" for ref in manifest.inputs.values()),
            )
        )
    for name in lineage.removed:
        artifacts.append(page.Ancestor(name, "", "", "", (), removed=True))
    environments = {letter: environment for environment, letter in letters.items()}
    return page.Lineage(environments, tuple(artifacts))


def _created(manifest: Manifest) -> str:
    return manifest.provenance.created_at


def _environment(provenance: Provenance) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in provenance.packages.items())
    return (
        f"sdquant {provenance.sdquant}, Python {provenance.python}, {packages}; threads: {provenance.threads}"
    )
