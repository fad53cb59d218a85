"""The values of the chart: schema, `values.yaml` and the table of its README are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from verdictd_py.config import UNSAFE_NAMES, Settings

SET_BY_CHART: Final = {
    "listen": "guests.port",
    "kbs_http": "http.port",
    "kbs_tls_cert": "tls.existingSecret",
    "kbs_tls_key": "tls.existingSecret",
    "kbs_admins": "administrators.existingSecret",
    "client_api": "clientApi.enabled",
    "client_api_cert": "clientApi.tlsSecret",
    "client_api_key": "clientApi.tlsSecret",
    "client_api_ca": "clientApi.tlsSecret",
    "client_api_roles": "clientApi.rolesSecret",
    "collateral": "collateral.existingSecret",
    "data_dir": "persistence",
    "status": "statusPort",
    "reload_on_change": "tls",
}
"""Settings that the chart sets, and the values from which."""

_DNS: Final = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_NAME: Final = {"pattern": f"^$|{_DNS}"}
_PATH: Final = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,2}$"
_PORT: Final = {"minimum": 1024, "maximum": 65535}
_PEERS: Final = {"items": {"type": "object"}}
_TEXTS: Final = {"additionalProperties": {"type": "string"}}


@dataclass(frozen=True)
class Value:
    """A value of the chart.

    Attributes:
        path: its name, with dots.
        default: its default, from which the schema has the type.
        text: its meaning, one or two sentences.
        more: further members of its schema.
    """

    path: str
    default: Any
    text: str
    more: dict[str, Any] = field(default_factory=dict)


def _entries(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list of objects with these members."""
    entry = {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {name: {"type": "string", **more} for name, more in properties.items()},
    }
    return {"items": entry}


def settings_schema() -> dict[str, Any]:
    """Return the schema of the settings that the chart does not set itself."""
    schema = Settings.model_json_schema()
    found = {}
    for name, member in schema["properties"].items():
        if name not in SET_BY_CHART:
            found[name] = _without_titles(_inlined(member, schema.get("$defs", {})))
    return found


def _inlined(schema: object, definitions: dict[str, Any]) -> object:
    """Return a schema in which each reference is replaced by what it refers to."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            return _inlined(definitions[reference.rpartition("/")[2]], definitions)
        return {name: _inlined(member, definitions) for name, member in schema.items()}
    return [_inlined(one, definitions) for one in schema] if isinstance(schema, list) else schema


def _without_titles(schema: object) -> object:
    if isinstance(schema, dict):
        unused = ("title", "default", "format")
        return {k: _without_titles(v) for k, v in schema.items() if k not in unused}
    return [_without_titles(one) for one in schema] if isinstance(schema, list) else schema


def _mounts() -> dict[str, Any]:
    return _entries(
        ("secret", "path"), secret={"pattern": _DNS}, path={"pattern": _PATH, "maxLength": 200}
    )


_SETTING: Final = {"enum": sorted(set(Settings.model_fields) - set(SET_BY_CHART))}
_UNSAFE: Final = "|".join(sorted(name.replace("_", "-") for name in UNSAFE_NAMES))

VALUES: Final = (
    Value(
        "image.repository",
        "",
        "Repository of the image, without a tag. Required.",
        {"pattern": "^[^@\\s]*$"},
    ),
    Value(
        "image.digest",
        "",
        "Digest of the image, `sha256:...`. Required, because what a tag names can change.",
        {"pattern": "^$|^sha256:[0-9a-f]{64}$"},
    ),
    Value(
        "image.unsafeTag",
        "",
        "Tag instead of the digest, for trials.",
        {"pattern": "^[A-Za-z0-9_.-]*$"},
    ),
    Value(
        "image.pullPolicy",
        "IfNotPresent",
        "When the image is pulled.",
        {"enum": ["Always", "IfNotPresent", "Never"]},
    ),
    Value(
        "imagePullSecrets",
        [],
        "Names of Secrets for the registry.",
        {"items": {"type": "string", "pattern": _DNS}},
    ),
    Value("nameOverride", "", "Name instead of that of the chart.", _NAME),
    Value("fullnameOverride", "", "Name of all objects instead of the release's.", _NAME),
    Value(
        "replicas",
        1,
        "Number of brokers. More than one needs the settings `store`, `seal` and `kbs_sessions`.",
        {"minimum": 1, "maximum": 64},
    ),
    Value(
        "config",
        {},
        "Settings of the broker by their TOML keys, see docs/reference/configuration.md. Changed "
        "limits (`max_*`, `*_timeout`) are reloaded; other changes replace the pods.",
    ),
    Value(
        "settingsFromSecrets",
        [],
        "Settings that are secrets themselves, such as the URL of `store`: `{setting, secret, "
        "key}`. They become environment variables.",
        _entries(
            ("setting", "secret", "key"),
            setting=_SETTING,
            secret={"pattern": _DNS},
            key={"minLength": 1},
        ),
    ),
    Value(
        "settingsFiles",
        [],
        "Settings that name a file of a Secret, such as `audit_key`: `{setting, secret, key, "
        "prefix}`. The setting is the path, after `prefix` if there is one (`file:`).",
        _entries(
            ("setting", "secret", "key"),
            setting=_SETTING,
            secret={"pattern": _DNS},
            key={"pattern": "^[-._A-Za-z0-9]+$"},
            prefix={"pattern": "^[a-z]*:?$"},
        ),
    ),
    Value("guests.port", 20002, "Port of RATS-TLS.", _PORT),
    Value("http.enabled", True, "Serve guests over HTTPS (RCAR), too."),
    Value("http.port", 8443, "Port of HTTPS.", _PORT),
    Value("statusPort", 9464, "Port of the probes and metrics.", _PORT),
    Value(
        "tls.existingSecret",
        "",
        "Secret of type `kubernetes.io/tls` for HTTPS. Rotation takes effect within two minutes.",
        _NAME,
    ),
    Value(
        "tls.certManager.issuer",
        "",
        "Issuer of cert-manager that makes the certificate instead.",
        _NAME,
    ),
    Value(
        "tls.certManager.kind",
        "Issuer",
        "Kind of the issuer.",
        {"enum": ["Issuer", "ClusterIssuer"]},
    ),
    Value(
        "tls.certManager.dnsNames",
        [],
        "Names that guests call, in addition to those of the Service.",
        {"items": {"type": "string", "minLength": 1}},
    ),
    Value(
        "clientApi.enabled",
        False,
        "Serve the client API to other pods, with client certificates. Otherwise it is on the "
        "pod's loopback: `kubectl exec POD -- verdict-py status`.",
    ),
    Value("clientApi.port", 60000, "Port of the client API.", _PORT),
    Value(
        "clientApi.tlsSecret",
        "",
        "Secret with `tls.crt`, `tls.key`, and `ca.crt` of client certificates.",
        _NAME,
    ),
    Value(
        "clientApi.rolesSecret",
        "",
        "Secret with `roles.toml`: roles by the name in a certificate.",
        _NAME,
    ),
    Value(
        "administrators.existingSecret",
        "",
        "Secret with `admins.toml` and the public keys that it names, for administration over "
        "HTTPS.",
        _NAME,
    ),
    Value(
        "keys",
        [],
        "Keys from Secrets: `{secret, path}`; member `mykey` of the Secret with path "
        "`team/signing` is the key `team/signing/mykey`.",
        _mounts(),
    ),
    Value(
        "resources",
        [],
        "Resources from Secrets, as `keys`. No path may be within another one.",
        _mounts(),
    ),
    Value(
        "collateral.existingSecret",
        "",
        "Secret with collateral (JSON files), for an air-gapped site: nothing is fetched.",
        _NAME,
    ),
    Value("collateral.existingClaim", "", "The same from a volume.", _NAME),
    Value("persistence.size", "8Gi", "Size of the volume of each broker.", {"minLength": 2}),
    Value("persistence.storageClass", "", "Class of the volume; empty: the cluster's default."),
    Value(
        "persistence.unsafeEphemeral",
        False,
        "No volume: keys and the audit trail are lost with the pod.",
    ),
    Value(
        "service.type",
        "ClusterIP",
        "Type of the Service of guests.",
        {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    ),
    Value("service.annotations", {}, "Annotations of that Service.", _TEXTS),
    Value(
        "service.externalTrafficPolicy",
        "Local",
        "Of a LoadBalancer or NodePort: `Local` preserves the addresses of guests, which the "
        "limits count.",
        {"enum": ["Local", "Cluster"]},
    ),
    Value("podAnnotations", {}, "Further annotations of the pods.", _TEXTS),
    Value("podLabels", {}, "Further labels of the pods.", _TEXTS),
    Value(
        "security.runAsUser",
        10001,
        "User of the broker; null: chosen by the cluster (OpenShift).",
        {"type": ["integer", "null"], "minimum": 1},
    ),
    Value(
        "security.runAsGroup",
        10001,
        "Its group; null as above.",
        {"type": ["integer", "null"], "minimum": 1},
    ),
    Value(
        "security.fsGroup",
        10001,
        "Group to which volumes are given; null as above.",
        {"type": ["integer", "null"], "minimum": 1},
    ),
    Value(
        "resourceRequirements",
        {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "Requests and limits of the container. Each guest worker needs 140 MiB more.",
    ),
    Value("nodeSelector", {}, "Labels of the nodes.", _TEXTS),
    Value("tolerations", [], "Tolerations of the pods.", _PEERS),
    Value("affinity", {}, "Affinity of the pods."),
    Value(
        "spread",
        ["kubernetes.io/hostname", "topology.kubernetes.io/zone"],
        "Labels of nodes across which several brokers are spread.",
        {"items": {"type": "string"}},
    ),
    Value("priorityClassName", "", "Priority of the pods.", _NAME),
    Value("podDisruptionBudget.enabled", True, "Limit voluntary evictions."),
    Value(
        "podDisruptionBudget.maxUnavailable",
        1,
        "Brokers that may be evicted at once. 0 blocks the drain of a node.",
        {"minimum": 0},
    ),
    Value("networkPolicy.enabled", True, "Allow only the traffic that the broker needs."),
    Value("networkPolicy.guests", [], "Peers that may attest; empty: all.", _PEERS),
    Value(
        "networkPolicy.monitoring",
        [],
        "Peers that may read metrics; empty: none. Probes of the kubelet need no rule.",
        _PEERS,
    ),
    Value(
        "networkPolicy.operators", [], "Peers that may call the client API; empty: none.", _PEERS
    ),
    Value(
        "networkPolicy.dns",
        [
            {
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}
                },
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "Name servers.",
        _PEERS,
    ),
    Value(
        "networkPolicy.collateral",
        [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}],
        "Addresses of the PCCS or of Intel's service, without effect at an air-gapped site.",
        _PEERS,
    ),
    Value(
        "networkPolicy.collateralPort",
        443,
        "Port of the PCCS.",
        {"minimum": 1, "maximum": 65535},
    ),
    Value(
        "networkPolicy.egress",
        [],
        "Further rules of egress, such as for the store.",
        _PEERS,
    ),
    Value("serviceMonitor.enabled", False, "Have the Prometheus operator scrape the metrics."),
    Value("serviceMonitor.labels", {}, "Labels that your Prometheus selects.", _TEXTS),
    Value(
        "serviceMonitor.interval",
        "30s",
        "Pause between two scrapes.",
        {"pattern": "^[0-9]+(ms|s|m)$"},
    ),
    Value("prometheusRule.enabled", False, "Alert rules for the Prometheus operator."),
    Value("prometheusRule.labels", {}, "Labels that your Prometheus selects.", _TEXTS),
    Value("dashboards.enabled", False, "ConfigMap with the dashboard for Grafana."),
    Value(
        "dashboards.labels",
        {"grafana_dashboard": "1"},
        "Labels by which Grafana's sidecar finds it.",
        _TEXTS,
    ),
    Value(
        "tlsRoute.enabled",
        False,
        "TLSRoute of the Gateway API for HTTPS. The listener of the Gateway must have "
        "`tls.mode: Passthrough`.",
    ),
    Value(
        "tlsRoute.apiVersion",
        "gateway.networking.k8s.io/v1alpha2",
        "Version of the API; v1 since Gateway API 1.5.",
        {"pattern": "^gateway\\.networking\\.k8s\\.io/v1(alpha[23])?$"},
    ),
    Value("tlsRoute.parentRefs", [], "The Gateway.", _PEERS),
    Value(
        "tlsRoute.hostnames",
        [],
        "Names that guests call.",
        {"items": {"type": "string", "minLength": 1}},
    ),
    Value(
        "test.namespace",
        "",
        "Namespace of `helm test`; empty: the release's name and `-test`, created for the test.",
        _NAME,
    ),
    Value(
        "unsafeOptions",
        [],
        "Options that disable protection (`--insecure-...`, `--unsafe-...`), for trials.",
        {"items": {"type": "string", "pattern": f"^--({_UNSAFE})(=.*)?$"}},
    ),
)
