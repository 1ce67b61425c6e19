"""Breaks each property that check.py checks, in memory: a break that no check notices is a fault.

Each row names the check that must notice, the overlay and the component it is tried on, and the break.
"""

import copy

from checks import UNREADABLE

V3, V4 = "abcdesktop-3", "abcdesktop-4"


def one(objects, kind, name=None):
    return next(o for o in objects
                if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def spec(objects):
    return one(objects, "Deployment")["spec"]


def pod(objects):
    return spec(objects)["template"]["spec"]


def container(objects):
    return pod(objects)["containers"][0]


def labels(objects):
    return spec(objects)["template"]["metadata"]["labels"]


def egress(objects):
    return one(objects, "NetworkPolicy", "deskgate")["spec"]["egress"]


def ingress(objects):
    return one(objects, "NetworkPolicy", "deskgate")["spec"]["ingress"]


def toml(objects, old, new):
    data = one(objects, "ConfigMap")["data"]
    assert old in data["deskgate.toml"], old
    data["deskgate.toml"] = data["deskgate.toml"].replace(old, new)


def put(value, *path):
    """A break that sets, at a path below what `value(objects)` finds, the last item."""
    *steps, key, new = path

    def mutate(objects):
        at = value(objects)
        for step in steps:
            at = at[step]
        at[key] = new
    return mutate


def cut(value, *path):
    *steps, key = path

    def mutate(objects):
        at = value(objects)
        for step in steps:
            at = at[step]
        del at[key]
    return mutate


def rename(kind, new, old=None):
    return lambda objects: one(objects, kind, old)["metadata"].update(name=new)


def drop(kind, name=None):
    return lambda objects: objects.remove(one(objects, kind, name))


def second_service(objects):
    other = copy.deepcopy(one(objects, "Service"))
    other["metadata"]["name"] = "metrics"
    other["spec"] = {"selector": {"name": labels(objects)["name"]},
                     "ports": [{"name": "admin", "port": 9180}]}
    objects.append(other)


def env(objects, name):
    return next(e for e in container(objects)["env"] if e["name"] == name)


def rule_to(objects, run):
    return next(r for r in egress(objects)
                if any(p.get("podSelector", {}).get("matchLabels", {}).get("run") == run
                       for p in r["to"]))


def desktop_rule(objects):
    return next(r for r in egress(objects)
                if r["to"][0].get("podSelector", {}).get("matchLabels") == {"type": "x11server"})


def port_of(rule, number):
    return next(p for p in rule["ports"] if p["port"] == number)


def sp(objects):
    return one(objects, "Service")["spec"]


def role(objects):
    return one(objects, "Role")["rules"]


def hpa(objects):
    return one(objects, "HorizontalPodAutoscaler")["spec"]


def alerts(objects):
    return one(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]


def reword(objects, index, old, new):
    rule = alerts(objects)[index]
    assert old in rule["expr"], old
    rule["expr"] = rule["expr"].replace(old, new)


def desktops(objects):
    return one(objects, "NetworkPolicy", "deskgate-desktops")["spec"]


# (check, overlay, component or None, what is broken, break)
MUTATIONS = [
    ("schema", V4, None, "a misspelt field", put(pod, "terminationGracePeriodSecond", 5)),
    ("schema", V4, None, "text for a number", put(spec, "replicas", "two")),
    ("schema", V4, None, "no such API", put(lambda o: one(o, "PodDisruptionBudget"), "apiVersion",
                                            "policy/v1beta1")),
    ("schema", V4, "monitoring", "a misspelt field of a CRD",
     put(lambda o: one(o, "PodMonitor")["spec"], "podMetricsEndpoint", [])),
    ("namespace", V4, None, "another namespace",
     put(lambda o: one(o, "Role")["metadata"], "namespace", "default")),
    ("deployment", V4, None, "another name", rename("Deployment", "deskgate")),
    ("deployment", V4, None, "another container name", put(container, "name", "deskgate")),
    ("deployment", V3, None, "another selector", put(spec, "selector", {"matchLabels": {"run": "nginx-od"}})),
    ("deployment", V4, None, "a sidecar", lambda o: pod(o)["containers"].append(dict(container(o), name="x"))),
    ("labels", V4, None, "no netpol/ocuser", cut(labels, "netpol/ocuser")),
    ("labels", V3, None, "another type", put(labels, "type", "nginx-od")),
    ("labels", V4, None, "another role", put(lambda o: one(o, "Service")["metadata"]["labels"],
                                             "abcdesktop/role", "nginx")),
    ("service", V4, None, "a second Service over the pods", second_service),
    ("service", V4, None, "another name", rename("Service", "nginx")),
    ("service", V3, None, "a headless Service", put(sp, "clusterIP", "None")),
    ("service", V4, None, "another selector", put(sp, "selector", {"name": "router-od"})),
    ("service", V4, None, "another node port", put(sp, "ports", 0, "nodePort", 30080)),
    ("service", V4, None, "another target", put(sp, "ports", 0, "targetPort", 8080)),
    ("service", V4, None, "a LoadBalancer", put(sp, "type", "LoadBalancer")),
    ("service", V4, None, "a selector that selects nothing", put(sp, "selector", {"run": "edge"})),
    ("addresses", V4, None, "hostNetwork", put(pod, "hostNetwork", True)),
    ("addresses", V4, None, "a hostPort", put(container, "ports", 0, "hostPort", 80)),
    ("addresses", V4, None, "another dnsPolicy", put(pod, "dnsPolicy", "Default")),
    ("ports", V4, None, "port 8080 in the pod", put(container, "ports", 0, "containerPort", 8080)),
    ("ports", V3, None, "no port 443", cut(container, "ports", 1)),
    ("ports", V4, None, "another admin port", put(container, "ports", 2, "containerPort", 9000)),
    ("ports", V4, None, "a port twice", lambda o: container(o)["ports"].append({"name": "x", "containerPort": 80})),
    ("probes", V4, None, "readiness asks for liveness",
     put(container, "readinessProbe", "httpGet", "path", "/livez")),
    ("probes", V4, None, "no liveness", cut(container, "livenessProbe")),
    ("probes", V4, None, "a port that is not there", put(container, "startupProbe", "httpGet", "port", "metrics")),
    ("probes", V4, None, "one failure kills", put(container, "livenessProbe", "failureThreshold", 1)),
    ("secrets", V4, None, "another Secret", put(pod, "volumes", 0, "secret", "secretName", "signing")),
    ("secrets", V4, None, "another place", put(container, "volumeMounts", 1, "mountPath", "/keys")),
    ("secrets", V4, None, "a writable mount", put(container, "volumeMounts", 0, "readOnly", False)),
    ("secrets", V4, None, "the private signing key", cut(pod, "volumes", 0, "secret", "items")),
    ("secrets", V4, None, "a file that no Secret has",
     put(pod, "volumes", 0, "secret", "items", 0, "key", "public.pem")),
    ("secrets", V4, None, "a mount without volume",
     lambda o: container(o)["volumeMounts"].append({"name": "no", "mountPath": "/no"})),
    ("environment", V4, None, "no POD_IP", lambda o: container(o)["env"].remove(env(o, "POD_IP"))),
    ("environment", V4, None, "another field", put(lambda o: env(o, "NODE_NAME"), "valueFrom", "fieldRef",
                                                   "fieldPath", "status.hostIP")),
    ("environment", V3, None, "the other profile", put(lambda o: env(o, "DESKGATE_PROFILE"), "value", V4)),
    ("environment", V4, None, "a key that no volume brings",
     put(pod, "volumes", 0, "secret", "items", 0, "path", "signing.pem")),
    ("environment", V4, None, "a variable twice",
     lambda o: container(o)["env"].append({"name": "POD_IP", "value": "::1"})),
    ("security", V4, None, "no seccomp", cut(pod, "securityContext", "seccompProfile")),
    ("security", V4, None, "root", put(pod, "securityContext", "runAsUser", 0)),
    ("security", V4, None, "a writable root", put(container, "securityContext", "readOnlyRootFilesystem", False)),
    ("security", V4, None, "a capability", put(container, "securityContext", "capabilities", "add", ["NET_ADMIN"])),
    ("security", V4, None, "escalation", cut(container, "securityContext", "allowPrivilegeEscalation")),
    ("security", V4, None, "no right to port 80", cut(pod, "securityContext", "sysctls")),
    ("security", V4, None, "a floating tag", put(container, "image", "deskgate:latest")),
    ("security", V3, "web-client", "an init container as it comes",
     cut(pod, "initContainers", 0, "securityContext")),
    ("resources", V4, None, "too much CPU", put(container, "resources", "limits", "cpu", "2")),
    ("resources", V4, None, "too much memory", put(container, "resources", "limits", "memory", "1Gi")),
    ("resources", V4, None, "no requests", cut(container, "resources", "requests")),
    ("drain", V4, None, "the default grace period", cut(pod, "terminationGracePeriodSeconds")),
    ("drain", V4, None, "a longer drain", lambda o: toml(o, 'drain = "60s"', 'drain = "5m"')),
    ("drain", V4, None, "no linger", lambda o: toml(o, 'linger = "10s"', 'linger = "0s"')),
    ("rollout", V4, None, "one replica", put(spec, "replicas", 1)),
    ("rollout", V4, None, "a gap while updating", put(spec, "strategy", "rollingUpdate", "maxUnavailable", 1)),
    ("rollout", V4, None, "a spread over other pods",
     put(pod, "topologySpreadConstraints", 0, "labelSelector", "matchLabels", "run", "edge")),
    ("rollout", V4, None, "a spread that blocks",
     put(pod, "topologySpreadConstraints", 0, "whenUnsatisfiable", "DoNotSchedule")),
    ("rollout", V4, "autoscaling", "two owners of the number", put(spec, "replicas", 2)),
    ("disruption", V4, None, "no budget", drop("PodDisruptionBudget")),
    ("disruption", V4, None, "a budget of nothing",
     put(lambda o: one(o, "PodDisruptionBudget")["spec"], "minAvailable", 0)),
    ("disruption", V3, None, "a budget over other pods",
     put(lambda o: one(o, "PodDisruptionBudget")["spec"], "selector", {"matchLabels": {"run": "edge"}})),
    ("rbac", V4, None, "get secrets", lambda o: role(o).append(
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})),
    ("rbac", V4, None, "one verb more", lambda o: role(o)[0]["verbs"].append("get")),
    ("rbac", V4, None, "one verb less", lambda o: role(o)[0]["verbs"].remove("watch")),
    ("rbac", V4, None, "another account", put(pod, "serviceAccountName", "default")),
    ("rbac", V4, None, "another namespace's account",
     put(lambda o: one(o, "RoleBinding"), "subjects", 0, "namespace", "default")),
    ("rbac", V4, None, "no token", put(pod, "automountServiceAccountToken", False)),
    ("rbac", V4, None, "a ClusterRole", lambda o: one(o, "Role").update(kind="ClusterRole")),
    ("egress", V4, None, "no policy", lambda o: [o.remove(p) for p in list(o) if p["kind"] == "NetworkPolicy"]),
    ("egress", V4, None, "no way to pyos", lambda o: egress(o).remove(rule_to(o, "pyos-od"))),
    ("egress", V4, None, "no way to the console", lambda o: rule_to(o, "console-od")["to"].pop()),
    ("egress", V4, None, "no way to the web client", lambda o: rule_to(o, "nginx-od")["to"].pop(0)),
    ("egress", V4, None, "no way to the speed test of 4.x", lambda o: rule_to(o, "speedtest-od")["ports"].pop()),
    ("egress", V3, None, "no way to the speed test of 3.x", lambda o: rule_to(o, "speedtest-od")["ports"].pop(0)),
    ("egress", V4, None, "no gamepad",
     lambda o: port_of(desktop_rule(o), 29781).update(endPort=29789)),
    ("egress", V4, None, "no screen", lambda o: desktop_rule(o)["ports"].remove(port_of(desktop_rule(o), 6081))),
    ("egress", V4, None, "no user's service",
     lambda o: desktop_rule(o)["ports"].remove(port_of(desktop_rule(o), 7000))),
    ("egress", V4, None, "a port that only the file knows",
     lambda o: one(o, "ConfigMap")["data"].update(
         {"deskgate.toml": one(o, "ConfigMap")["data"]["deskgate.toml"] + "[desktop.ports]\nnew = 29791\n"})),
    ("egress", V4, None, "DNS over TCP only", lambda o: egress(o)[0]["ports"].pop(0)),
    ("egress", V4, None, "no API server", drop("NetworkPolicy", "deskgate-api-server")),
    ("egress", V4, None, "a rule to anywhere", lambda o: egress(o)[1].pop("to")),
    ("egress", V4, None, "a rule for all ports", lambda o: egress(o)[1].pop("ports")),
    ("egress", V4, None, "a policy over other pods",
     put(lambda o: one(o, "NetworkPolicy", "deskgate")["spec"], "podSelector", {"matchLabels": {"run": "edge"}})),
    ("egress-minimal", V4, None, "X11 of the desktops",
     lambda o: desktop_rule(o)["ports"].append({"protocol": "TCP", "port": 6000})),
    ("egress-minimal", V4, None, "the data base",
     lambda o: egress(o).append({"to": [{"podSelector": {}}], "ports": [{"port": 27017}]})),
    ("egress-minimal", V4, None, "a range too wide",
     lambda o: port_of(desktop_rule(o), 29781).update(port=29780)),
    ("ingress", V4, None, "port 80 for some only",
     lambda o: ingress(o)[0].update({"from": [{"podSelector": {}}]})),
    ("ingress", V4, None, "the admin port for anyone", lambda o: ingress(o)[1].pop("from")),
    ("ingress", V4, None, "the admin port for the namespace",
     lambda o: ingress(o)[1]["from"].append({"podSelector": {}})),
    ("ingress", V4, None, "the admin port for all namespaces",
     lambda o: ingress(o)[1]["from"].append({"namespaceSelector": {}})),
    ("ingress", V4, None, "no scraping", lambda o: ingress(o).pop(1)),
    ("ingress", V4, None, "all ports", lambda o: ingress(o)[0].pop("ports")),
    ("desktop-ingress", V4, "desktop-netpol", "no gamepad",
     lambda o: port_of(desktops(o)["ingress"][0], 29781).update(endPort=29789)),
    ("desktop-ingress", V3, "desktop-netpol", "for other pods",
     put(desktops, "ingress", 0, "from", 0, "podSelector", "matchLabels", "run", "edge")),
    ("desktop-ingress", V4, "desktop-netpol", "for anyone", cut(desktops, "ingress", 0, "from")),
    ("desktop-ingress", V4, None, "a policy over the desktops in every cluster",
     lambda o: o.append({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
                         "metadata": {"name": "x", "namespace": "abcdesktop"},
                         "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}})),
    ("config", V4, None, "another file", put(container, "args", 2, "/deskgate.toml")),
    ("config", V4, None, "no arguments", cut(container, "args")),
    ("config", V4, None, "another ConfigMap", rename("ConfigMap", "deskgate-x")),
    ("config", V4, None, "a subPath", put(container, "volumeMounts", 2, "subPath", "deskgate.toml")),
    ("config", V4, None, "another port", lambda o: toml(o, "0.0.0.0:80", "0.0.0.0:8080")),
    ("config", V4, None, "admin on loopback", lambda o: toml(o, "0.0.0.0:9180", "127.0.0.1:9180")),
    ("config", V4, None, "DNS only", lambda o: toml(o, 'mode = "kubernetes"', 'mode = "dns"')),
    ("config", V4, None, "a profile in the file", lambda o: toml(o, "[listen]", 'profile = "abcdesktop-3"\n[listen]')),
    ("config", V4, None, "no TOML", lambda o: toml(o, "[listen]", "[listen")),
    ("config", V3, "web-client", "the web client elsewhere",
     lambda o: container(o)["volumeMounts"][-1].update(mountPath="/var/www")),
    ("tls", V4, "tls", "no listener", lambda o: toml(o, 'https = ["0.0.0.0:443"]', "https = []")),
    ("tls", V4, "tls", "no Service port", lambda o: sp(o)["ports"].pop()),
    ("tls", V4, "tls", "another Secret", put(pod, "volumes", 3, "secret", "secretName", "tls")),
    ("tls", V4, "tls", "another certificate",
     lambda o: toml(o, "[server]", '[tls]\ncertificates = [{certificate = "/a", key = "/b"}]\n[server]')),
    ("tls", V4, None, "TLS in the base", lambda o: sp(o)["ports"].append({"port": 443, "targetPort": 443})),
    ("admin", V4, "admin", "no token in the file", lambda o: toml(o, 'token = "/config.admin/token"', "")),
    ("admin", V4, "admin", "another Secret", put(pod, "volumes", 3, "secret", "secretName", "admin")),
    ("admin", V4, "admin", "another place", put(container, "volumeMounts", 3, "mountPath", "/token")),
    ("admin", V4, "admin", "another file", put(pod, "volumes", 3, "secret", "items", 0, "path", "admin")),
    ("admin", V4, "admin", "another drain than the base's", lambda o: toml(o, 'drain = "60s"', 'drain = "50s"')),
    ("admin", V4, None, "a token that nothing brings",
     lambda o: toml(o, "[admin]", '[admin]\ntoken = "/config.admin/token"')),
    ("autoscaling", V3, "autoscaling", "another Deployment", put(hpa, "scaleTargetRef", "name", "edge")),
    ("autoscaling", V4, "autoscaling", "one pod", put(hpa, "minReplicas", 1)),
    ("autoscaling", V4, "autoscaling", "no tunnels", lambda o: hpa(o)["metrics"].pop()),
    ("autoscaling", V4, "autoscaling", "shrinks at once", cut(hpa, "behavior")),
    ("autoscaling", V4, "autoscaling", "no autoscaler", drop("HorizontalPodAutoscaler")),
    ("monitoring", V3, "monitoring", "other pods",
     put(lambda o: one(o, "PodMonitor")["spec"], "selector", {"matchLabels": {"run": "edge"}})),
    ("monitoring", V4, "monitoring", "another port",
     put(lambda o: one(o, "PodMonitor")["spec"], "podMetricsEndpoints", 0, "port", "http")),
    ("monitoring", V4, "monitoring", "a metric that is not there",
     lambda o: alerts(o)[3].update(expr="deskgate_reload_ok == 0")),
    ("monitoring", V4, "monitoring", "a row less in an alert", lambda o: reword(o, 1, "|gamepad", "")),
    ("monitoring", V4, "monitoring", "a row that is not there", lambda o: reword(o, 1, "|gamepad", "|gamepad|x")),
    ("monitoring", V4, "monitoring", "a reason that is not there", lambda o: reword(o, 2, "name_failed", "dns")),
    ("monitoring", V4, "monitoring", "an alert less", lambda o: alerts(o).pop()),
    ("monitoring", V4, "monitoring", "a ServiceMonitor",
     lambda o: o.append(dict(one(o, "PodMonitor"), kind="ServiceMonitor"))),
]


def unnoticed(builds, faults_of, checks):
    """One sentence per break that its check does not notice, and per check without a break."""
    found = []
    for name, variant, component, what, mutate in MUTATIONS:
        wanted = [component] if component else []
        build = next(b for b in builds if (b.variant, b.components) == (variant, wanted))
        broken = copy.copy(build)
        broken.objects = copy.deepcopy(build.objects)
        mutate(broken.objects)
        faults = faults_of(broken, name)
        if not faults:
            found.append(f"self-test: {name} does not notice: {what}")
        elif all(fault.startswith(UNREADABLE) for fault in faults) and what != "no TOML":
            found.append(f"self-test: {name} has no words for: {what} ({faults[0]})")
    for name in sorted(checks - {row[0] for row in MUTATIONS}):
        found.append(f"self-test: nothing tries the check {name}")
    return found
