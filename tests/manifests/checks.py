"""The checks: each yields one sentence per fault of a build."""

import json
import re
import tomllib

import jsonschema
import kubernetes_validate
import yaml

import kustomize
from model import (
    CONTRACT, HERE, ROOT, TREE, as_list, backends, cpus, desktop_ports, listener_port, matches, mebibytes,
    pods_with, ports_of, ranges, reachable, seconds,
)

CRDS = yaml.safe_load((HERE / "crds.yaml").read_text())
VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
UNREADABLE = "cannot be read"
CHECKS = {}


def check(name):
    def register(function):
        CHECKS[name] = function
        return function
    return register


def faults_of(build, name):
    """Every fault that a check finds. What breaks the check's own steps is one, too."""
    found = []
    try:
        found += CHECKS[name](build)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, kustomize.Error) as why:
        found.append(f"{UNREADABLE}: {type(why).__name__} {why}")
    return found


@check("schema")
def schema(build, cache={}):  # noqa: B006 (the same object is validated once)
    for obj in build.objects:
        key = json.dumps(obj, sort_keys=True)
        if key not in cache:
            cache[key] = list(schema_faults(obj))
        yield from cache[key]


def schema_faults(obj):
    name = f"{obj['kind']} {obj['metadata']['name']}"
    if obj["kind"] in CRDS:
        for error in jsonschema.Draft202012Validator(CRDS[obj["kind"]]).iter_errors(obj):
            yield f"{name}: {error.json_path}: {error.message}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(obj, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as why:
            yield f"{name}: Kubernetes {version}: {getattr(why, 'message', why)}"


@check("namespace")
def namespace(build):
    for obj in build.objects:
        if obj["metadata"].get("namespace") != CONTRACT["namespace"]:
            yield f"{obj['kind']} {obj['metadata']['name']} is not in {CONTRACT['namespace']}"


@check("deployment")
def deployment(build):
    if len(build.all("Deployment")) != 1 or len(build.pod["containers"]) != 1:
        yield "there must be one Deployment with one container"
    facts = build.facts
    name = build.deployment["metadata"]["name"]
    if name != facts["deployment"]:
        yield f"the Deployment is {name}, not {facts['deployment']}"
    if build.container["name"] != facts["container"]:
        yield (f"the container is {build.container['name']}, not {facts['container']}: kubectl "
               "would put it beside the old one")
    selector = build.deployment["spec"]["selector"]
    if selector != {"matchLabels": facts["selector"]}:
        yield f"the selector {selector} cannot replace {facts['selector']}: it never changes"
    if not matches(selector, build.labels):
        yield "the Deployment's selector does not select its own pods"


@check("labels")
def labels(build):
    for key, value in build.facts["labels"].items():
        if build.labels.get(key) != value:
            yield f"the pods' label {key} is {build.labels.get(key)!r}, not {value!r}"
    for obj in (build.deployment, *build.all("Service")):
        role = obj["metadata"].get("labels", {}).get("abcdesktop/role")
        if role != build.facts["role"]:
            yield f"{obj['kind']}: abcdesktop/role is {role!r}, not {build.facts['role']!r}"


@check("service")
def service(build):
    services = [s for s in build.all("Service")
                if matches({"matchLabels": s["spec"].get("selector", {})}, build.labels)]
    if len(services) != 1:
        yield f"{len(services)} Services select the pods: desktops accept an edge with exactly one"
    named = [s for s in services if s["metadata"]["name"] == build.facts["service"]]
    if not named:
        yield f"no Service {build.facts['service']} selects the pods"
        return
    spec, fact = named[0]["spec"], CONTRACT["service"]
    if spec.get("clusterIP") == "None":
        yield "the Service is headless: desktops compare its ClusterIP"
    if spec["selector"] != build.facts["service-selector"]:
        yield f"the Service selects {spec['selector']}, not {build.facts['service-selector']}"
    if spec.get("type") != fact["type"]:
        yield f"the Service is a {spec.get('type')}, not a {fact['type']}"
    http = [p for p in spec["ports"] if p["port"] == fact["port"]]
    for key in ("name", "targetPort", "nodePort"):
        if not http or http[0].get(key) != fact[key]:
            yield f"Service port {fact['port']}: {key} is not {fact[key]}"
    for port in spec["ports"]:
        if build.port(port.get("targetPort", port["port"])) is None:
            yield f"Service port {port['port']} leads to a port that no container declares"


@check("addresses")
def addresses(build):
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if build.pod.get(key):
            yield f"{key}: desktops refuse peers that do not come from the pod's own address"
    for port in build.container["ports"]:
        if "hostPort" in port:
            yield f"port {port['containerPort']} has a hostPort"
    if build.pod.get("dnsPolicy", "ClusterFirst") != "ClusterFirst":
        yield "dnsPolicy is not ClusterFirst"


@check("ports")
def ports(build):
    declared = build.container["ports"]
    numbers = [p["containerPort"] for p in declared]
    names = [p.get("name") for p in declared]
    if len(set(numbers)) != len(numbers) or len(set(names)) != len(names):
        yield "a port or its name is declared twice"
    for number in build.facts["container-ports"]:
        if number not in numbers:
            yield f"port {number} is not declared"
    if build.port("http") != 80:
        yield "port http is not 80"
    admin = CONTRACT["deskgate"]["admin"]
    if build.port(admin["name"]) != admin["port"]:
        yield f"port {admin['name']} is not {admin['port']}"


@check("probes")
def probes(build):
    admin = CONTRACT["deskgate"]["admin"]
    wanted = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    for name, path in wanted.items():
        probe = build.container.get(name, {}).get("httpGet", {})
        if probe.get("path") != path or path not in admin["probes"]:
            yield f"{name} asks for {probe.get('path')}, not {path}"
        if build.port(probe.get("port")) != admin["port"]:
            yield f"{name} asks port {probe.get('port')}, which is not {admin['name']}"
    liveness = build.container.get("livenessProbe", {})
    if liveness.get("failureThreshold", 3) < 3 or liveness.get("timeoutSeconds", 1) < 2:
        yield "one slow answer must not restart a pod: livenessProbe is too strict"


@check("secrets")
def secrets(build):
    volumes = {v["name"]: v for v in build.pod["volumes"]}
    mounts = {m["mountPath"]: m for m in build.container["volumeMounts"]}
    for fact in CONTRACT["secrets"]:
        mount = mounts.get(fact["mount"], {})
        volume = volumes.get(mount.get("name"), {})
        if volume.get("name") != fact["volume"]:
            yield f"{fact['mount']} is not the volume {fact['volume']}"
        if volume.get("secret", {}).get("secretName") != fact["secret"]:
            yield f"{fact['mount']} is not the Secret {fact['secret']}"
            continue
        if not mount.get("readOnly") or "subPath" in mount:
            yield f"{fact['mount']} must be a whole, read-only folder"
        for item in volume["secret"].get("items", []):
            if item["key"] not in fact["files"]:
                yield f"the Secret {fact['secret']} has no {item['key']}"
    for mount in mounts.values():
        if mount["name"] not in volumes:
            yield f"{mount['mountPath']}: there is no volume {mount['name']}"
    signing = volumes.get("jwtsigningkeys", {}).get("secret", {})
    shown = [i["key"] for i in signing.get("items", [])]
    if not shown or any("private" in name for name in shown):
        yield "the private signing key, which makes tokens, is mounted"


@check("environment")
def environment(build):
    set_here = {}
    for entry in build.container["env"]:
        if entry["name"] in set_here:
            yield f"{entry['name']} is set twice"
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        set_here[entry["name"]] = entry.get("value", {"fieldPath": field})
    for name, value in CONTRACT["environment"].items():
        if set_here.get(name) != value:
            yield f"{name} is {set_here.get(name)}, not {value}"
    if set_here.get("DESKGATE_PROFILE") != build.facts["profile"]:
        yield f"DESKGATE_PROFILE is not {build.facts['profile']}"
    visible = set()
    for volume in build.pod["volumes"]:
        for fact in CONTRACT["secrets"]:
            if volume["name"] == fact["volume"] and "secret" in volume:
                items = volume["secret"].get("items")
                names = [i["path"] for i in items] if items else fact["files"]
                visible |= {f"{fact['mount']}/{n}" for n in names}
    for name, value in CONTRACT["environment"].items():
        if isinstance(value, str) and value not in visible:
            yield f"{name}: no volume brings {value}"


@check("security")
def security(build):
    pod = build.pod.get("securityContext", {})
    uid = CONTRACT["deskgate"]["uid"]
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"
    if not pod.get("runAsNonRoot") or pod.get("runAsUser") != uid or pod.get("fsGroup") != uid:
        yield f"the pod does not run as uid {uid}, with its files in a group of that number"
    for container in build.pod["containers"] + build.pod.get("initContainers", []):
        context = container.get("securityContext", {})
        name = container["name"]
        if not context.get("readOnlyRootFilesystem"):
            yield f"{name}: the root file system can be written"
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{name}: privileges can be gained"
        capabilities = context.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{name}: not all capabilities are dropped"
        if ":" not in container["image"] or container["image"].endswith(":latest"):
            yield f"{name}: the image {container['image']} has no fixed tag"
    sysctls = {s["name"]: int(s["value"]) for s in pod.get("sysctls", [])}
    lowest = min(listener_port(a) for a in build.config["listen"]["http"])
    if lowest < sysctls.get("net.ipv4.ip_unprivileged_port_start", 1024):
        yield f"uid {uid} may not listen on port {lowest}"


@check("resources")
def resources(build):
    for container in build.pod["containers"]:
        found = container.get("resources", {})
        for kind in ("requests", "limits"):
            if set(found.get(kind, {})) != {"cpu", "memory"}:
                yield f"{container['name']}: {kind} must name cpu and memory"
                return
        for kind in ("requests", "limits"):
            if cpus(found[kind]["cpu"]) > CONTRACT["limits"]["cpu"]:
                yield f"{container['name']}: {kind}.cpu is above {CONTRACT['limits']['cpu']}"
            if mebibytes(found[kind]["memory"]) > CONTRACT["limits"]["memory-mebibytes"]:
                yield f"{container['name']}: {kind}.memory is above the contract's"


@check("drain")
def drain(build):
    server = build.config["server"]
    needed = (seconds(server["linger"]) + seconds(server["drain"])
              + CONTRACT["deskgate"]["exit-margin"])
    granted = build.pod.get("terminationGracePeriodSeconds", 30)
    if granted < needed:
        yield f"terminationGracePeriodSeconds is {granted}, linger + drain + margin are {needed:g}"
    if seconds(server["linger"]) < 5:
        yield "linger is under 5 s: load balancers still send what nobody accepts"


@check("rollout")
def rollout(build):
    spec = build.deployment["spec"]
    scaled = build.all("HorizontalPodAutoscaler")
    if scaled and "replicas" in spec:
        yield "the Deployment and the autoscaler both set the number of pods"
    if not scaled and spec.get("replicas", 1) < 2:
        yield "fewer than two replicas"
    update = spec.get("strategy", {}).get("rollingUpdate", {})
    if update.get("maxUnavailable") != 0 or update.get("maxSurge") != 1:
        yield "a rolling update must keep all pods (maxUnavailable 0, maxSurge 1)"
    spread = build.pod.get("topologySpreadConstraints", [])
    if not any(s["topologyKey"] == "kubernetes.io/hostname"
               and matches(s["labelSelector"], build.labels) for s in spread):
        yield "nothing spreads the pods over nodes"
    if any(s["whenUnsatisfiable"] != "ScheduleAnyway" for s in spread):
        yield "on a cluster of one node, the spread must not block"


@check("disruption")
def disruption(build):
    budgets = [b for b in build.all("PodDisruptionBudget")
               if matches(b["spec"]["selector"], build.labels)]
    if len(budgets) != 1 or len(build.all("PodDisruptionBudget")) != 1:
        yield "there must be one PodDisruptionBudget over the pods"
    elif budgets[0]["spec"].get("minAvailable") != 1:
        yield "the PodDisruptionBudget does not keep one pod"


@check("rbac")
def rbac(build):
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        if build.all(kind):
            yield f"a {kind} reaches beyond the namespace"
    roles = build.all("Role")
    allowed = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                "verbs": ["list", "watch"]},
               {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    if len(roles) != 1 or roles[0]["rules"] != allowed:
        yield "the Role grants something else than to list and watch endpointslices and to get pods"
    account = build.pod.get("serviceAccountName")
    accounts = [a["metadata"]["name"] for a in build.all("ServiceAccount")]
    if [account] != accounts:
        yield f"the pods run as {account}, the ServiceAccount is {accounts}"
    bindings = build.all("RoleBinding")
    subject = {"kind": "ServiceAccount", "name": account, "namespace": CONTRACT["namespace"]}
    if len(bindings) != 1 or bindings[0]["subjects"] != [subject]:
        yield "the RoleBinding does not bind the pods' ServiceAccount, and it alone"
    elif not roles or bindings[0]["roleRef"]["name"] != roles[0]["metadata"]["name"]:
        yield "the RoleBinding names another Role"
    if build.pod.get("automountServiceAccountToken") is False:
        yield "the pods get no token: discovery could not log in"


@check("egress")
def egress(build):
    if not build.policies("Egress"):
        yield "no NetworkPolicy limits what the pods reach"
        return
    for policy in build.policies("Egress"):
        for rule in policy["spec"]["egress"]:
            if not rule.get("to") or not rule.get("ports"):
                yield f"{policy['metadata']['name']}: a rule without `to` or `ports` allows too much"
    config = build.config
    used = {backend["upstream"] for backend in backends(config) if "upstream" in backend}
    for name in sorted(used):
        fact = CONTRACT["upstreams"][name]
        if name == "pyos" and config["upstreams"]["pyos"]["port"] not in fact["ports"]:
            yield "the configured port of pyos is not the contract's"
        for number in fact.get("ports", build.facts["speedtest-ports"]):
            if number not in reachable(build, pods_with(fact["labels"])):
                yield f"{name} ({fact['labels']}, port {number}) is out of reach"
    desktops = CONTRACT["desktops"]["labels"]
    missing = desktop_ports(config) - reachable(build, pods_with(desktops))
    if missing:
        yield f"ports of the desktops that are out of reach: {ranges(missing)}"

    def cluster_dns(peer):
        return matches(peer.get("namespaceSelector", {"matchLabels": {"?": "?"}}),
                       {"kubernetes.io/metadata.name": "kube-system"})
    for protocol in ("UDP", "TCP"):
        if 53 not in reachable(build, cluster_dns, protocol):
            yield f"the cluster's DNS is out of reach ({protocol} 53)"
    missing = {443, 6443} - reachable(build, lambda p: p.get("ipBlock", {}).get("cidr") == "0.0.0.0/0")
    if missing:
        yield f"the API server is out of reach (port {ranges(missing)})"


@check("egress-minimal")
def egress_minimal(build):
    anywhere = reachable(build, lambda p: p.get("ipBlock", {}).get("cidr") in ("0.0.0.0/0", "::/0"))
    for fact in CONTRACT["forbidden"]:
        if fact["port"] in anywhere | reachable(build, pods_with(fact["labels"])):
            yield f"{fact['labels']} port {fact['port']} can be reached"
    extra = reachable(build, pods_with(CONTRACT["desktops"]["labels"])) - desktop_ports(build.config)
    if extra:
        yield f"ports of the desktops that no row needs: {ranges(extra)}"


@check("ingress")
def ingress(build):
    open_to_all, admin_rules = set(), []
    admin = CONTRACT["deskgate"]["admin"]["port"]
    policies = build.policies("Ingress")
    if not policies:
        yield "no NetworkPolicy limits who reaches the pods"
        return
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("ports"):
                yield "an ingress rule without ports opens all of them"
            peers = rule.get("from", [])
            if not peers:
                open_to_all |= {p["port"] for p in rule.get("ports", [])}
            if admin in ports_of(rule, "TCP"):
                admin_rules.append(peers)
    if open_to_all != {80, 443}:
        yield f"open to anyone are {sorted(open_to_all)}, not 80 and 443"
    if not admin_rules:
        yield "monitoring cannot scrape the admin port"
    for peers in admin_rules:
        for peer in peers or [{}]:
            if not peer.get("namespaceSelector", {}).get("matchLabels"):
                yield "the admin port is open to more than monitoring namespaces"


@check("desktop-ingress")
def desktop_ingress(build):
    policies = [p for p in build.all("NetworkPolicy")
                if matches(p["spec"]["podSelector"], CONTRACT["desktops"]["labels"])]
    if not policies:
        if "desktop-netpol" in build.components:
            yield "the component desktop-netpol brings no policy over the desktops"
        return
    if "desktop-netpol" not in build.components:
        yield "a policy over the desktops closes their other ports where there was none before"
    allowed = set()
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield "the desktops' ports are opened to anyone"
            if any(pods_with(build.labels)(peer) for peer in rule.get("from", [])):
                allowed |= ports_of(rule, "TCP")
    needed = desktop_ports(build.config)
    if needed - allowed:
        yield f"ports of the desktops that stay closed: {ranges(needed - allowed)}"
    if allowed - needed:
        yield f"ports of the desktops that no row needs: {ranges(allowed - needed)}"


@check("config")
def config(build):
    maps = build.all("ConfigMap")
    volumes = [v for v in build.pod["volumes"] if "configMap" in v]
    if [m["metadata"]["name"] for m in maps] != [v["configMap"]["name"] for v in volumes]:
        yield "the pods' ConfigMap is not the one that is made"
        return
    mounts = [m for m in build.container["volumeMounts"] if m["name"] == volumes[0]["name"]]
    args = build.container.get("args", [])
    if args[:2] != ["run", "--config"] or [f"{m['mountPath']}/deskgate.toml" for m in mounts] != args[2:]:
        yield "the program is not told where its configuration is"
    if any("subPath" in m for m in mounts):
        yield "changes never reach a file that is mounted by subPath"
    settings = build.config
    if [listener_port(a) for a in settings["listen"]["http"]] != [80]:
        yield "deskgate does not listen on port 80"
    listening = as_list(settings.get("admin", {}).get("listen", []))
    admin = CONTRACT["deskgate"]["admin"]["port"]
    if [listener_port(a) for a in listening] != [admin] or any("127." in a for a in listening):
        yield f"the admin listener is not on the pod's port {admin}"
    if settings.get("discovery", {}).get("mode") != "kubernetes":
        yield "desktops are not found through EndpointSlices"
    if "profile" in tomllib.loads(maps[0]["data"]["deskgate.toml"]):
        yield "the profile is set by DESKGATE_PROFILE, which wins over the file"
    places = [m["mountPath"] for m in build.container["volumeMounts"]]
    if "web-client" in build.components and "/var/webModules" not in places:
        yield "the web client is not where profile abcdesktop-3 serves it from"


@check("tls")
def tls(build):
    settings, fact = build.config, CONTRACT["tls"]
    listens = [listener_port(a) for a in settings["listen"].get("https", [])]
    spec = [s for s in build.all("Service") if s["metadata"]["name"] == build.facts["service"]]
    led = [p.get("targetPort") for s in spec for p in s["spec"]["ports"] if p["port"] == fact["port"]]
    volumes = {v["name"]: v.get("secret", {}) for v in build.pod["volumes"]}
    mounted = [volumes[m["name"]].get("secretName") for m in build.container["volumeMounts"]
               if m["mountPath"] == fact["mount"]]
    if listens != [fact["port"]]:
        yield f"deskgate does not listen on port {fact['port']}"
    if "tls" not in build.components:
        if led or mounted:
            yield "TLS without the component tls"
        return
    if led != [fact["port"]]:
        yield f"Service port {fact['port']} is missing"
    if mounted != [fact["secret"]]:
        yield f"{fact['mount']} is not the Secret {fact['secret']}"
    wanted = [f"{fact['mount']}/{name}" for name in fact["files"]]
    if [[pair["certificate"], pair["key"]] for pair in settings["tls"]["certificates"]] != [wanted]:
        yield f"the certificate and key are not {wanted}"


@check("admin")
def admin_token(build):
    fact = CONTRACT["deskgate"]["token"]
    own = tomllib.loads(build.all("ConfigMap")[0]["data"]["deskgate.toml"])
    token = own["admin"].pop("token", None)
    volumes = {v["name"]: v.get("secret", {}) for v in build.pod["volumes"]}
    mounted = [volumes[m["name"]] for m in build.container["volumeMounts"]
               if m["mountPath"] == fact["mount"]]
    if "admin" not in build.components:
        if token or mounted:
            yield "an admin token without the component admin"
        return
    if token != f"{fact['mount']}/{fact['file']}":
        yield f"the admin token is read from {token}"
    if [v.get("secretName") for v in mounted] != [fact["secret"]]:
        yield f"{fact['mount']} is not the Secret {fact['secret']}"
    elif fact["file"] not in [i["path"] for i in mounted[0].get("items", [])]:
        yield f"the Secret {fact['secret']} brings no {fact['file']}"
    if own != tomllib.loads((TREE / "base" / "deskgate.toml").read_text()):
        yield "but for the token, components/admin/deskgate.toml differs from base/deskgate.toml"


@check("autoscaling")
def autoscaling(build):
    scalers = build.all("HorizontalPodAutoscaler")
    if bool(scalers) != ("autoscaling" in build.components):
        yield "an autoscaler without its component, or the other way round"
    for scaler in scalers:
        spec = scaler["spec"]
        target = spec["scaleTargetRef"]
        if (target["kind"], target["name"]) != ("Deployment", build.facts["deployment"]):
            yield f"the autoscaler scales {target['kind']} {target['name']}"
        if spec.get("minReplicas", 1) < 2:
            yield "the autoscaler may leave fewer than two pods"
        used = [m["pods"]["metric"]["name"] for m in spec["metrics"] if m["type"] == "Pods"]
        used += [m["resource"]["name"] for m in spec["metrics"] if m["type"] == "Resource"]
        if sorted(used) != ["cpu", "deskgate_tunnels_open"]:
            yield f"the autoscaler looks at {used}"
        down = spec.get("behavior", {}).get("scaleDown", {})
        if down.get("stabilizationWindowSeconds", 300) < 600:
            yield "the autoscaler shrinks too early: every pod that goes ends tunnels"


@check("monitoring")
def monitoring(build):
    monitors, rules = build.all("PodMonitor"), build.all("PrometheusRule")
    if build.all("ServiceMonitor"):
        yield "a ServiceMonitor needs a Service over the pods"
    if "monitoring" not in build.components:
        return
    admin = CONTRACT["deskgate"]["admin"]
    if len(monitors) != 1 or not matches(monitors[0]["spec"]["selector"], build.labels) \
            or not monitors[0]["spec"]["selector"].get("matchLabels"):
        yield "the PodMonitor does not select the pods"
    for monitor in monitors:
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if build.port(endpoint["port"]) != admin["port"] or endpoint["path"] != admin["metrics"]:
                yield "the PodMonitor does not scrape the admin port's metrics"
    found = [r for rule in rules for g in rule["spec"]["groups"] for r in g["rules"]]
    if [r["alert"] for r in found] != CONTRACT["deskgate"]["alerts"]:
        yield f"the alerts are {[r['alert'] for r in found]}"
    for rule in found:
        for metric in re.findall(r"\bdeskgate_\w+", rule["expr"]):
            if metric not in CONTRACT["deskgate"]["metrics"]:
                yield f"{rule['alert']}: there is no metric {metric}"
        yield from alert_words(build, rule)


def alert_words(build, rule):
    """Faults of the names of routes and reasons in an alert."""
    own = CONTRACT["deskgate"]["users-own"]
    tunnels = {r["name"] for r in build.config["route"] if r.get("websocket")} - set(own)
    known = {r["name"] for config in build.builtin.values() for r in config["route"]}
    for names in re.findall(r'route=~"([^"]*)"', rule["expr"]):
        named = set(names.split("|"))
        if named - known or tunnels - named:
            yield f"{rule['alert']}: not the rows with WebSocket: {sorted(named - known | tunnels - named)}"
    told = (ROOT / "src" / "upstream.rs").read_text()
    for names in re.findall(r'reason=~"([^"]*)"', rule["expr"]):
        for name in names.split("|"):
            if f'=> "{name}"' not in told:
                yield f"{rule['alert']}: no upstream fails with the reason {name}"
