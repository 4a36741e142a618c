"""What an image is made of, as CycloneDX 1.5: `sbom.py NAME VERSION SOURCE_DATE_EPOCH`, run in the image.

Debian's packages come from dpkg's database, Python's from the metadata in the virtual environment. Sorted and
without anything random in it, so that the same image gives the same bytes.
"""

import datetime
import importlib.metadata
import json
import subprocess
import sys
import uuid

SITE = "/usr/lib/attested-volumes/lib/python3.11/site-packages"


def debian() -> list[dict[str, object]]:
    """Installed Debian packages."""
    fields = "${Package}\t${Version}\t${Architecture}\t${source:Package}\n"
    words = ["dpkg-query", "-W", "-f", fields]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version}?arch={arch}",
            "properties": [{"name": "debian:source", "value": source}],
        }
        for name, version, arch, source in (line.split("\t") for line in sorted(lines))
    ]


def python() -> list[dict[str, object]]:
    """Distributions in the virtual environment."""
    found = sorted(
        (
            d.metadata["Name"],
            d.version,
            d.metadata.get("License-Expression") or d.metadata.get("License") or "",
        )
        for d in importlib.metadata.distributions(path=[SITE])
    )
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
            **({"licenses": [{"license": {"name": text.splitlines()[0][:100]}}]} if text else {}),
        }
        for name, version, text in found
    ]


def main(name: str, version: str, epoch: str) -> None:
    """Print the document."""
    components = debian() + python()
    made = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(components))}",
        "version": 1,
        "metadata": {
            "timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "container", "name": name, "version": version},
        },
        "components": components,
    }
    print(json.dumps(document, indent=1))


main(*sys.argv[1:])
