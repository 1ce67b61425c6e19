"""Builds a kustomization without kubectl: the part of kustomize that conf/kubernetes uses.

Whatever it does not know is an error, never ignored. Where kubectl is at hand, check.py compares
both builds.
"""

import copy
import json
from pathlib import Path

import yaml

KNOWN = {
    "apiVersion", "kind", "namespace", "resources", "components", "images", "patches",
    "configMapGenerator", "generatorOptions", "replacements",
}
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PersistentVolume"}


class Error(Exception):
    """A kustomization that cannot be built."""


def build(folder):
    """The objects of a kustomization, in the order in which they were added."""
    objects = []
    _accumulate(Path(folder), objects)
    return objects


def _accumulate(folder, objects):
    path = folder / "kustomization.yaml"
    spec = yaml.safe_load(path.read_text())
    unknown = set(spec) - KNOWN
    if unknown:
        raise Error(f"{path}: not supported here: {', '.join(sorted(unknown))}")
    own = []
    for name in spec.get("resources", []):
        target = folder / name
        if target.is_dir():
            _accumulate(target, own)
        else:
            own += [doc for doc in yaml.safe_load_all(target.read_text()) if doc]
    if spec["kind"] == "Component":
        own = _joined(objects, own)
    for generator in spec.get("configMapGenerator", []):
        _config_map(folder, generator, spec.get("generatorOptions", {}), own)
    for name in spec.get("components", []):
        _accumulate(folder / name, own)
    for patch in spec.get("patches", []):
        _patch(folder, patch, own)
    if "namespace" in spec:
        _namespace(spec["namespace"], own)
    for image in spec.get("images", []):
        _image(image, own)
    for replacement in spec.get("replacements", []):
        _replace(path, replacement, own)
    if spec["kind"] == "Component":
        objects[:] = own
    else:
        _joined(objects, own)


def _joined(objects, more):
    for obj in more:
        if any(_identity(obj) == _identity(other) for other in objects):
            raise Error(f"{_identity(obj)} is there twice")
        objects.append(obj)
    return objects


def _identity(obj):
    return obj["apiVersion"], obj["kind"], obj["metadata"]["name"]


def _config_map(folder, generator, options, objects):
    unknown = set(generator) - {"name", "behavior", "files"}
    if unknown or options != {"disableNameSuffixHash": True}:
        raise Error(f"{folder}: this form of configMapGenerator is not supported here")
    data = {Path(name).name: (folder / name).read_text() for name in generator["files"]}
    existing = [o for o in objects
                if o["kind"] == "ConfigMap" and o["metadata"]["name"] == generator["name"]]
    if generator.get("behavior") == "merge":
        if len(existing) != 1:
            raise Error(f"{folder}: no ConfigMap {generator['name']} to merge into")
        existing[0]["data"].update(data)
    else:
        _joined(objects, [{
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": generator["name"]}, "data": data,
        }])


def _selected(target, objects):
    unknown = set(target) - {"kind", "name"}
    if unknown:
        raise Error(f"a target by {unknown} is not supported here")
    return [o for o in objects if o["kind"] == target.get("kind", o["kind"])
            and o["metadata"]["name"] == target.get("name", o["metadata"]["name"])]


def _patch(folder, patch, objects):
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
    operations = yaml.safe_load(text)
    if not isinstance(operations, list):
        raise Error(f"{folder}: only JSON patches (RFC 6902) are supported here")
    for obj in _selected(patch["target"], objects):
        for operation in operations:
            try:
                _apply(obj, copy.deepcopy(operation))
            except (KeyError, IndexError, ValueError) as why:
                raise Error(f"{folder}: {operation['op']} {operation['path']}: {why}") from why


def _apply(obj, operation):
    steps = [s.replace("~1", "/").replace("~0", "~") for s in operation["path"].split("/")[1:]]
    parent = obj
    for step in steps[:-1]:
        parent = parent[int(step) if isinstance(parent, list) else step]
    last = steps[-1]
    op = operation["op"]
    if isinstance(parent, list):
        if op == "add" and last == "-":
            parent.append(operation["value"])
        elif op == "add":
            parent.insert(int(last), operation["value"])
        elif op == "replace":
            parent[int(last)] = operation["value"]
        elif op == "remove":
            del parent[int(last)]
        else:
            raise ValueError("unknown operation")
    elif op == "add":
        parent[last] = operation["value"]
    elif op == "replace":
        if last not in parent:
            raise KeyError(last)
        parent[last] = operation["value"]
    elif op == "remove":
        del parent[last]
    else:
        raise ValueError("unknown operation")


def _namespace(namespace, objects):
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    for obj in objects:
        if obj["kind"] not in CLUSTER_SCOPED:
            obj["metadata"]["namespace"] = namespace
        for subject in obj.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and subject["name"] in accounts:
                subject["namespace"] = namespace


def _image(image, objects):
    for obj in objects:
        pod = obj.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", []) + pod.get("initContainers", []):
            name, _, tag = container["image"].rpartition(":")
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def _replace(path, replacement, objects):
    source = dict(replacement["source"])
    field = source.pop("fieldPath")
    found = _selected(source, objects)
    if len(found) != 1:
        raise Error(f"{path}: the source of a replacement matches {len(found)} objects")
    value = found[0]
    for step in field.split("."):
        value = value[step]
    for target in replacement["targets"]:
        selected = _selected(target["select"], objects)
        if not selected:
            raise Error(f"{path}: nothing is selected by {json.dumps(target['select'])}")
        for obj in selected:
            for field_path in target["fieldPaths"]:
                parent = obj
                *steps, last = field_path.split(".")
                for step in steps:
                    parent = parent[int(step) if isinstance(parent, list) else step]
                if last not in parent:
                    raise Error(f"{path}: {obj['kind']} has no {field_path}")
                parent[last] = value
