"""Documents about an image: bill of materials (CycloneDX 1.6), provenance (in-toto, SLSA 1.0).

They depend on their arguments alone, so that two builds give the same documents.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMESPACE: Final = uuid.UUID("0f1d7bd2-6a1f-5b0c-8a56-2f7c7a7f3f10")
"""Any fixed UUID: the serial number is derived from it and the digest of the image."""

BUILD_TYPE: Final = "https://verdictd-py.invalid/buildah/v1"
"""Names what `externalParameters` mean: those of `./dev image`, with the files of a commit."""

_FIELD: Final = re.compile(r"^(Package|Status|Version|Architecture|Source): (.*)$", re.MULTILINE)


def packages(status: str, *, distribution: str) -> Iterator[dict[str, str]]:
    """Yield a component for each Debian package that is installed.

    Args:
        status: content of `/var/lib/dpkg/status`.
        distribution: name and version, as in `debian-13`.
    """
    for paragraph in status.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}"
            purl += f"?arch={fields['Architecture']}&distro={distribution}"
            yield {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
            }


def bill(
    image: str, digest: str, python: Mapping[str, Any], of_system: list[dict[str, str]]
) -> str:
    """Return the bill of materials of an image.

    Args:
        digest: digest of its manifest, `sha256:...`.
        python: bill of materials of the program, see `tools.sbom`.
        of_system: components of the system, see `packages`.
    """
    subject = {
        "type": "container",
        "bom-ref": f"{image}@{digest}",
        "name": image,
        "version": digest,
    }
    program = python["metadata"]["component"]
    components = [program, *python["components"], *sorted(of_system, key=lambda c: c["purl"])]
    contents = [part["bom-ref"] for part in (program, *of_system)]
    dependencies = [
        {"ref": subject["bom-ref"], "dependsOn": contents},
        *python.get("dependencies", ()),
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": dependencies,
    }
    return json.dumps(document, indent=1) + "\n"


def provenance(
    subjects: Mapping[str, str],
    *,
    parameters: Mapping[str, Any],
    materials: Mapping[str, Mapping[str, str]],
    builder: str,
) -> str:
    """Return an in-toto statement about images: from what, and how, they were built.

    Args:
        subjects: digest of each image, by its name.
        parameters: what the caller of the build chose.
        materials: digests of what the build used, by URI: `{"sha256": ...}`.
        builder: name and version of the program that built them.
    """
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in subjects.items()
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(parameters),
                "resolvedDependencies": [
                    {"uri": uri, "digest": dict(digests)} for uri, digests in materials.items()
                ],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }
    return json.dumps(statement, indent=1) + "\n"
