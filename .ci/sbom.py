"""Writes the CycloneDX documents of .ci/sbom into a directory.

The list of packages of each document is that of `cargo tree` for its target, without the
dependencies of tests. The rest is from `cargo metadata`, Cargo.lock and component/toolchain.toml.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# Name of the document, package, target, and prebuilt component.
DOCUMENTS = [
    ("optoken", "optoken", "x86_64-unknown-linux-gnu", None),
    ("component-optoken", "optoken-authority", "wasm32-wasip2", "optoken.wasm"),
    ("component-optoken-cli", "optoken-cli", "wasm32-wasip2", "optoken-cli.wasm"),
    ("component-optoken-http", "optoken-http", "wasm32-wasip2", "optoken-http.wasm"),
]
PREBUILT = Path("component/prebuilt")


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def sha256(content):
    return [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]


def reference(package):
    return f"{package['name']}@{package['version']}"


def properties(values):
    return [{"name": f"optoken:{name}", "value": value} for name, value in sorted(values.items())]


def of_package(package, checksums):
    """One package of Rust."""
    component = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
    }
    if package["description"]:
        component["description"] = " ".join(package["description"].split())
    if package["license"]:
        # Older packages separate alternatives by a slash.
        expression = re.sub(r"\s*/\s*", " OR ", package["license"])
        component["licenses"] = [{"expression": expression}]
    elif package["license_file"]:
        component["licenses"] = [{"license": {"name": package["license_file"]}}]
    # A package of this workspace is in no registry.
    if package["source"] is not None:
        checksum = checksums[package["name"], package["version"]]
        component["purl"] = f"pkg:cargo/{reference(package)}"
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return component


def sqlite(package):
    """The library in C that libsqlite3-sys compiles into the program."""
    header = Path(package["manifest_path"]).parent / "sqlite3/sqlite3.h"
    version = re.search(r'#define SQLITE_VERSION\s+"([^"]+)"', header.read_text())[1]
    return {
        "type": "library",
        "bom-ref": f"sqlite@{version}",
        "name": "sqlite",
        "version": version,
        "purl": f"pkg:generic/sqlite@{version}",
        "licenses": [{"license": {"id": "blessing"}}],
    }


def of_prebuilt(wasm, version):
    """A prebuilt component, with the toolchain that made it."""
    toolchain = tomllib.loads(Path("component/toolchain.toml").read_text())
    return {
        "type": "application",
        "bom-ref": wasm,
        "name": wasm,
        "version": version,
        "hashes": sha256((PREBUILT / wasm).read_bytes()),
        "properties": properties({f"toolchain:{key}": value for key, value in toolchain.items()}),
    }


def document(package_name, target, wasm, checksums):
    metadata = json.loads(
        cargo("metadata", "--locked", "--format-version=1", f"--filter-platform={target}")
    )
    tree = cargo(
        "tree", "--quiet", "--locked", f"--package={package_name}", f"--target={target}",
        "--edges=normal,build", "--prefix=none", "--no-dedupe", "--charset=ascii", "--format={p}",
    )
    included = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = {
        package["id"]: package
        for package in metadata["packages"]
        if (package["name"], f"v{package['version']}") in included
    }
    assert len(packages) == len(included), f"{package_name}: {len(packages)} of {len(included)} packages"

    edges = {}
    for node in metadata["resolve"]["nodes"]:
        if node["id"] in packages:
            edges[reference(packages[node["id"]])] = {
                reference(packages[dependency["pkg"]])
                for dependency in node["deps"]
                if dependency["pkg"] in packages
                and any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
            }
    components = [of_package(package, checksums) for package in packages.values()]
    for package in packages.values():
        if package["name"] == "libsqlite3-sys":
            library = sqlite(package)
            components.append(library)
            edges[reference(package)].add(library["bom-ref"])
            edges[library["bom-ref"]] = set()

    [top] = [package for package in packages.values() if package["name"] == package_name]
    if wasm is None:
        # The program, and the component that is part of it.
        built_in = of_prebuilt("optoken.wasm", top["version"])
        components.append(built_in)
        edges[reference(top)].add(built_in["bom-ref"])
        edges[built_in["bom-ref"]] = set()
        [subject] = [part for part in components if part["bom-ref"] == reference(top)]
        components.remove(subject)
        subject["type"] = "application"
    else:
        subject = of_prebuilt(wasm, top["version"])
        edges[subject["bom-ref"]] = {reference(top)}

    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject, "properties": properties({"target": target})},
        "components": sorted(components, key=lambda component: component["bom-ref"]),
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(edges[ref])} for ref in sorted(edges)
        ],
    }
    # Of the content, so that the same checkout makes the same bytes.
    content = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{content}").urn
    return bom


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    lock = tomllib.loads(Path("Cargo.lock").read_text())
    checksums = {
        (package["name"], package["version"]): package["checksum"]
        for package in lock["package"]
        if "checksum" in package
    }
    for name, package, target, wasm in DOCUMENTS:
        bom = document(package, target, wasm, checksums)
        text = json.dumps(bom, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        if error is not None:
            sys.exit(f".ci/sbom: {name} is not valid: {error}")
        file = directory / f"{name}.cdx.json"
        file.write_text(text)
        print(f"{hashlib.sha256(text.encode()).hexdigest()}  {len(bom['components'])} packages  {file}")


main()
