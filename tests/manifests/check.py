#!/usr/bin/env python3
"""Holds conf/kubernetes against Kubernetes' schemas and the contract of the incumbents.

    check.py                      every overlay, with and without each component
    check.py --self-test          breaks each property in memory; a break nobody notices is a failure
    check.py --deskgate PROGRAM   also `deskgate check` over each deskgate.toml (with
                                  keys of `deskgate keygen`)
    check.py --conf DIR           the built-in configuration, when it is not ../../conf

Needs Python 3.11 and requirements-manifests.txt, no network, no cluster. Where kubectl (1.21 or
newer) is on the PATH its builds are checked and must equal kustomize.py's; otherwise the latter are
checked alone. promtool, where it is there, checks the alerts and plays alerts_test.yaml.
Exit codes: 0 all holds, 1 something does not, 69 a package is missing.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

sys.dont_write_bytecode = True  # nothing is written into the tree

try:
    import yaml

    import kustomize
    import mutations
    from checks import CHECKS, VERSIONS, faults_of
    from model import CONTRACT, HERE, ROOT, TREE, Build
except ImportError as missing:
    print(f"check.py: {missing}; install tests/manifests/requirements-manifests.txt", file=sys.stderr)
    sys.exit(69)

# Components that every overlay takes, and those of one overlay.
COMMON = ["admin", "autoscaling", "desktop-netpol", "monitoring", "tls"]
EXTRA = {"abcdesktop-3": ["web-client"], "abcdesktop-4": []}


def builtin_configurations(folder):
    """The built-in configuration with each profile's rows, as the program merges them."""
    base = tomllib.loads((folder / "deskgate.toml").read_text())
    found = {}
    for variant in CONTRACT["variants"].values():
        merged = copy.deepcopy(base)
        rows = {row["name"]: row for row in merged["route"]}
        for row in tomllib.loads((folder / f"{variant['profile']}.toml").read_text())["route"]:
            rows.setdefault(row["name"], {}).update(row)
        merged["route"] = list(rows.values())
        found[variant["profile"]] = merged
    return found


def kubectl():
    """kubectl, if its kustomize knows components (1.21)."""
    program = shutil.which("kubectl")
    if not program:
        return None
    answer = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True,
                            text=True, check=False)
    try:
        version = json.loads(answer.stdout)["clientVersion"]
        return program if int(version["minor"].rstrip("+")) >= 21 else None
    except (ValueError, KeyError):
        return None


def combinations():
    for variant in CONTRACT["variants"]:
        own = COMMON + EXTRA[variant]
        yield variant, []
        for component in own:
            yield variant, [component]
        yield variant, own


def by_name(objects):
    return sorted(objects, key=lambda o: (o["kind"], o["metadata"]["name"]))


def built(variant, components, program, faults, own=None, **keys):
    """The objects of an overlay with components, as an operator would combine them."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes relative paths only.
        up = os.path.relpath(TREE, os.path.realpath(folder))
        names = [f"{up}/components/{name}" for name in components]
        if own:
            (Path(folder) / "configuration").mkdir()
            for name, text in own.items():
                (Path(folder) / "configuration" / name).write_text(text)
            names.append("configuration")
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [f"{up}/overlays/{variant}"], "components": names, **keys}))
        objects = kustomize.build(folder)
        if program:
            answer = subprocess.run([program, "kustomize", folder], capture_output=True, text=True,
                                    check=False)
            if answer.returncode:
                faults.append(f"kubectl kustomize: {answer.stderr.strip()}")
                return objects
            theirs = [o for o in yaml.safe_load_all(answer.stdout) if o]
            if by_name(theirs) != by_name(objects):
                faults.append("kubectl's build and kustomize.py's differ")
            return theirs
        return objects


OWN_FILE = "# the operator's own\n"
OWN = {"kustomization.yaml": yaml.safe_dump({
    "apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component",
    "configMapGenerator": [{"name": "deskgate", "behavior": "merge", "files": ["deskgate.toml"]}],
    "generatorOptions": {"disableNameSuffixHash": True}}), "deskgate.toml": OWN_FILE}


def moved(variant, program, faults):
    """In a namespace of the operator's choice, nothing may stay behind in the usual one; the
    operator's own configuration, as docs/install.md brings it in, must win."""
    found = []
    for obj in built(variant, COMMON + EXTRA[variant], program, found, own=OWN, namespace="elsewhere"):
        if obj["kind"] == "ConfigMap" and obj["data"] != {"deskgate.toml": OWN_FILE}:
            found.append("the operator's own deskgate.toml is not the one in use")
        places = [obj["metadata"].get("namespace")]
        places += [subject.get("namespace") for subject in obj.get("subjects", [])]
        if set(places) != {"elsewhere"}:
            found.append(f"{obj['kind']} {obj['metadata']['name']} stays in {places}")
    faults += [f"{variant} with an operator's choices: {fault}" for fault in found]


def metrics_served(faults):
    """Each metric of the contract must be written by the program, which adds unit and suffix itself."""
    source = ROOT / "src" / "telemetry" / "metrics" / "exposition.rs"
    text = source.read_text() if source.is_file() else ""
    for name in CONTRACT["deskgate"]["metrics"]:
        if f'"{name.removesuffix("_total").removesuffix("_seconds")}"' not in text:
            faults.append(f"{source.relative_to(ROOT)} writes no {name}")


def promtool(rules, faults):
    """Checks the alerts and plays alerts_test.yaml, with promtool if it is there."""
    program = shutil.which("promtool")
    if not program:
        return "promtool is not here: the alerts' expressions were not parsed"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "alerts.yaml").write_text(yaml.safe_dump(rules["spec"]))
        shutil.copy(HERE / "alerts_test.yaml", folder)
        for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
            answer = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True,
                                    check=False)
            if answer.returncode:
                faults.append(f"promtool {' '.join(words)}: {answer.stdout}{answer.stderr}")
    return "alerts parsed and played with promtool"


def deskgate_check(program, build, faults):
    """`deskgate check` over the ConfigMap's file, with fresh keys where the Secrets' would be."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        made = subprocess.run([program, "keygen", "--out", str(keys)], capture_output=True, text=True,
                              check=False)
        text = build.all("ConfigMap")[0]["data"]["deskgate.toml"]
        token = Path(folder) / "token"
        token.write_text("0" * 32)
        text = text.replace("/config.admin/token", str(token))
        (Path(folder) / "deskgate.toml").write_text(text)
        environ = {"DESKGATE_PROFILE": build.facts["profile"]}
        for name, value in CONTRACT["environment"].items():
            if isinstance(value, str):
                environ[name] = str(keys / Path(value).name)
        answer = made if made.returncode else subprocess.run(
            [program, "check", "--config", str(Path(folder) / "deskgate.toml")], env=environ,
            capture_output=True, text=True, check=False)
        if answer.returncode:
            faults.append(f"{build}: deskgate check: {answer.stderr.strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--deskgate", metavar="PROGRAM")
    parser.add_argument("--conf", type=Path, default=TREE.parent, metavar="DIR")
    arguments = parser.parse_args()

    builtin = builtin_configurations(arguments.conf)
    program = kubectl()
    faults, builds = [], []
    for variant, components in combinations():
        own = []
        try:
            objects = built(variant, components, program, own)
        except kustomize.Error as why:
            faults.append(f"{variant} + {components}: {why}")
            continue
        build = Build(variant, components, objects, builtin)
        builds.append(build)
        for name in CHECKS:
            own += [f"{name}: {sentence}" for sentence in faults_of(build, name)]
        faults += [f"{build}: {fault}" for fault in own]
    for variant in CONTRACT["variants"]:
        moved(variant, program, faults)
    metrics_served(faults)
    told = "built by kubectl and kustomize.py alike" if program else "built by kustomize.py (no kubectl)"
    alerts = [r for build in builds for r in build.all("PrometheusRule")]
    remark = promtool(alerts[0], faults) if alerts else "no alerts"
    if arguments.deskgate:
        for build in builds:
            if build.components in ([], ["admin"]):
                deskgate_check(arguments.deskgate, build, faults)
    if arguments.self_test and not faults:
        faults += mutations.unnoticed(builds, faults_of, set(CHECKS))
        remark += f"; {len(mutations.MUTATIONS)} breaks noticed by {len(CHECKS)} checks"
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    if faults:
        print(f"{len(faults)} faults", file=sys.stderr)
        return 1
    objects = sum(len(build.objects) for build in builds)
    print(f"{len(builds)} combinations, {objects} objects, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}: "
          f"all hold ({told}; {remark})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
