"""One build of conf/kubernetes, and the small questions that the checks ask about it."""

import copy
import re
import tomllib
from pathlib import Path

import yaml

import kustomize

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TREE = ROOT / "conf" / "kubernetes"
CONTRACT = yaml.safe_load((HERE / "contract.yaml").read_text())


class Build:
    """One overlay with some components, and everything that is compared with it."""

    def __init__(self, variant, components, objects, builtin):
        self.variant = variant
        self.components = components
        self.objects = objects
        self.facts = CONTRACT["variants"][variant]
        self.builtin = builtin

    def __str__(self):
        return " + ".join([self.variant, *self.components])

    def all(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    @property
    def deployment(self):
        return self.all("Deployment")[0]

    @property
    def template(self):
        return self.deployment["spec"]["template"]

    @property
    def pod(self):
        return self.template["spec"]

    @property
    def labels(self):
        return self.template["metadata"]["labels"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def config(self):
        """The ConfigMap's deskgate.toml over the built-in configuration."""
        own = tomllib.loads(self.all("ConfigMap")[0]["data"]["deskgate.toml"])
        merged = copy.deepcopy(self.builtin[self.facts["profile"]])
        overlay(merged, own)
        return merged

    def port(self, reference):
        """The number of a container port, by name or number; None if it is not declared."""
        for port in self.container.get("ports", []):
            if reference in (port.get("name"), port["containerPort"]):
                return port["containerPort"]
        return None

    def policies(self, direction):
        """The NetworkPolicies over the pods, for one direction."""
        return [p for p in self.all("NetworkPolicy")
                if matches(p["spec"]["podSelector"], self.labels)
                and direction in p["spec"]["policyTypes"]]


def overlay(below, above):
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            overlay(below[key], value)
        else:
            below[key] = value


def matches(selector, labels):
    """Whether a label selector selects; an empty one selects everything."""
    if set(selector) - {"matchLabels"}:
        raise kustomize.Error(f"a selector this check does not know: {selector}")
    return selector.get("matchLabels", {}).items() <= labels.items()


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def cpus(text):
    text = str(text)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", str(text)).groups()
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def listener_port(address):
    return int(address.rpartition(":")[2])


def as_list(value):
    return value if isinstance(value, list) else [value]


def ports_of(rule, protocol):
    """The ports that a rule of a NetworkPolicy allows."""
    found = set()
    for port in rule.get("ports", []):
        if port.get("protocol", "TCP") == protocol:
            found |= set(range(port["port"], port.get("endPort", port["port"]) + 1))
    return found


def reachable(build, peer_matches, protocol="TCP"):
    """The ports of certain peers that the pods may reach."""
    found = set()
    for policy in build.policies("Egress"):
        for rule in policy["spec"].get("egress", []):
            if any(peer_matches(peer) for peer in rule.get("to", [])):
                found |= ports_of(rule, protocol)
    return found


def pods_with(labels):
    """Matches a peer that selects pods of the own namespace with these labels."""
    return lambda peer: ("podSelector" in peer and "namespaceSelector" not in peer
                         and matches(peer["podSelector"], labels))


def backends(config):
    """The rows' backends that name something; one that deskgate answers itself may be a word."""
    return [row["backend"] for row in config["route"] if isinstance(row["backend"], dict)]


def desktop_ports(config):
    """Every port of a desktop that some row may lead to."""
    found = set(config["desktop"]["ports"].values())
    for backend in backends(config):
        for item in backend.get("desktop_ports", []):
            first, _, last = str(item).partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def ranges(numbers):
    numbers, parts, start = sorted(numbers), [], None
    for index, number in enumerate(numbers):
        start = number if start is None else start
        if index + 1 == len(numbers) or numbers[index + 1] != number + 1:
            parts.append(str(start) if start == number else f"{start}-{number}")
            start = None
    return ", ".join(parts)
