#!/usr/bin/env python3
"""What the executables are linked from. Enters: `cargo metadata`; leaves: the licences of all crates as one text, and a
bill of materials (CycloneDX 1.5). Crates that only build or test are not in it. The same lock file gives the same bytes.

    inventory.py OUT_THIRD_PARTY OUT_SBOM VERSION [cuda]         cuda: of callbox-engine-cuda, else of the package callbox
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = sys.argv[4:] == ["cuda"]
PRODUCT = "callbox-engine-cuda" if CUDA else "callbox"
OURS = ["callbox-engine"] if CUDA else ["callbox", "callbox-engine"]
EXECUTABLES = "callbox-engine-cuda is" if CUDA else "callboxd, callbox and callbox-engine are"
TARGET = "x86_64-unknown-linux-gnu"
LICENCE = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright)([-._].*)?", re.IGNORECASE)


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={TARGET}"]
    command += ["--features=callbox-engine/cuda"] if CUDA else []
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def linked(graph):
    """Ids of the crates that the executables link, ours among them, and for each what it links."""
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    names = {package["id"]: package["name"] for package in graph["packages"]}
    todo = [i for i in graph["workspace_members"] if names[i] in OURS]
    edges = {}
    while todo:
        node = todo.pop()
        if node in edges:
            continue
        edges[node] = sorted(
            dep["pkg"] for dep in nodes[node]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])
        )
        todo += edges[node]
    return edges


def texts(folder):
    """Licence files of a crate, also of sources that it bundles one or two folders down."""
    found = []
    for pattern in ["*", "*/*", "*/*/*"]:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and LICENCE.fullmatch(path.name) and path.suffix not in {".rs", ".h", ".c", ".py"}:
                found.append(path.read_text(errors="replace").strip())
    return found


def third_party(crates):
    by_text, without = {}, []
    lines = [f"{EXECUTABLES} linked from these crates:", ""]
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        lines.append(f"{name}: {crate['license'] or 'see its licence file'}; {crate.get('repository') or 'crates.io'}")
        own = texts(Path(crate["manifest_path"]).parent)
        if not own:
            without.append(name)
        for text in own:
            by_text.setdefault(text, []).append(name)
    if without:
        lines += ["", "These come without a licence file of their own; the licence named above is theirs:"]
        lines += [f"  {name}" for name in without]
    for text, names in by_text.items():
        lines += ["", "=" * 80, *(f"{name}" for name in names), "-" * 80, text]
    return "\n".join(lines) + "\n"


def libraries():
    """NVIDIA's libraries that travel with the engine for cards: as wheels they are pinned."""
    pinned = (ROOT / "packaging/cuda/requirements.txt").read_text()
    for name, version, checksum in re.findall(r"^(nvidia-(?:cublas|curand|cuda-runtime))==(\S+) --hash=sha256:(\w+)$", pinned, re.M):
        ref = f"pkg:pypi/{name}@{version}"
        one = {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
        yield one | {"licenses": [{"license": {"name": "NVIDIA CUDA Toolkit EULA"}}], "hashes": [{"alg": "SHA-256", "content": checksum}]}


def sbom(edges, packages, checksums, version):
    def ref(i):
        return f"pkg:cargo/{packages[i]['name']}@{packages[i]['version']}"

    def component(i):
        package = packages[i]
        one = {"type": "library", "bom-ref": ref(i), "name": package["name"], "version": package["version"]}
        one["purl"] = ref(i)
        if package["license"]:
            one["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := checksums.get((package["name"], package["version"])):
            one["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return one

    stamp = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    product = {"type": "application", "bom-ref": PRODUCT, "name": PRODUCT, "version": version}
    order = sorted(edges, key=ref)
    ours = [ref(i) for i in order if packages[i]["name"] in OURS]
    theirs = list(libraries()) if CUDA else []
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": stamp.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": product},
        "components": [component(i) for i in order] + theirs,
        "dependencies": [{"ref": PRODUCT, "dependsOn": ours + [one["bom-ref"] for one in theirs]}]
        + [{"ref": ref(i), "dependsOn": sorted({ref(d) for d in edges[i]})} for i in order],
    }


def main():
    licences, bill, version = sys.argv[1:4]
    graph = metadata()
    packages = {package["id"]: package for package in graph["packages"]}
    edges = linked(graph)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    foreign = [packages[i] for i in edges if packages[i]["source"]]
    foreign.sort(key=lambda crate: (crate["name"], crate["version"]))
    Path(licences).write_text(third_party(foreign))
    Path(bill).write_text(json.dumps(sbom(edges, packages, checksums, version), indent=1) + "\n")


main()
