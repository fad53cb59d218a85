"""The Helm chart: what it renders by default, with each option, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support import chart
from tests.support.chart import (
    DIGEST,
    EXAMPLES,
    MINIMAL,
    ROOT,
    Rendered,
    render,
    render_file,
    violations,
)
from tools.chart.values import VALUES
from verdictd_py.config import Settings, Unsafe, load
from verdictd_py.daemon.contradictions import contradictions
from verdictd_py.daemon.reload import LIVE

VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
OTHER_APIS = ("cert-manager.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/")
SHARED = {
    "replicas": 3,
    "settingsFromSecrets": [
        {"setting": "default_wrap_key", "secret": "urls", "key": "key"},
    ],
}


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return render({}, tmp_path_factory.mktemp("minimal"))


class TestDefaults:
    def test_every_pod_meets_the_policy_restricted(self, minimal: Rendered) -> None:
        pods = list(minimal.pods())
        assert len(pods) == 2  # the broker, and the test
        assert [violations(spec) for spec in pods] == [[], []]

    def test_no_pod_has_a_token_or_service_links(self, minimal: Rendered) -> None:
        for spec in minimal.pods():
            assert spec["automountServiceAccountToken"] is False
            assert spec["enableServiceLinks"] is False
            for container in spec["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["resources"]["limits"]["memory"]
        assert minimal.only("ServiceAccount")["automountServiceAccountToken"] is False

    def test_the_image_is_named_by_digest(self, minimal: Rendered) -> None:
        for spec in minimal.pods():
            for container in spec["containers"]:
                assert container["image"] == f"registry.example.com/verdictd-py@{DIGEST}"

    def test_volumes_are_retained(self, minimal: Rendered) -> None:
        spec = minimal.only("StatefulSet")["spec"]
        retention = spec["persistentVolumeClaimRetentionPolicy"]
        assert retention == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        (claim,) = spec["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "data"

    def test_the_probes_ask_three_questions(self, minimal: Rendered) -> None:
        paths = {
            minimal.container[f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("startup", "readiness", "liveness")
        }
        assert paths == {"/startupz", "/readyz", "/livez"}

    def test_guests_come_in_and_names_and_collateral_go_out(self, minimal: Rendered) -> None:
        (guests,) = minimal.policy["ingress"]
        assert [port["port"] for port in guests["ports"]] == ["rats-tls", "https"]
        dns, collateral = minimal.policy["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert [port["port"] for port in collateral["ports"]] == [443]
        assert minimal.policy["policyTypes"] == ["Ingress", "Egress"]

    def test_evictions_are_limited(self, minimal: Rendered) -> None:
        assert minimal.only("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1

    def test_the_settings_are_accepted_by_the_broker(
        self, minimal: Rendered, tmp_path: Path
    ) -> None:
        settings = settings_of(minimal, tmp_path)
        assert settings.listen == "0.0.0.0:20002"
        assert settings.kbs_tls_cert == Path("/etc/verdictd-py/tls/tls.crt")
        assert settings.reload_on_change

    def test_no_unsafe_option_is_given(self, minimal: Rendered) -> None:
        assert not [one for one in minimal.container["args"] if "safe" in one or "insecure" in one]

    def test_the_test_uses_no_secret_and_another_namespace(self, minimal: Rendered) -> None:
        pod = minimal.only("Pod")
        assert pod["metadata"]["namespace"] == "verdictd-test"
        assert [list(volume)[1] for volume in pod["spec"]["volumes"]] == ["emptyDir", "emptyDir"]
        assert "serviceAccountName" not in pod["spec"]
        labels = minimal.only("Namespace")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_every_volume_is_mounted_and_every_mount_has_a_volume(self) -> None:
        for example in EXAMPLES:
            rendered = render_file(example)
            claims = rendered.only("StatefulSet")["spec"].get("volumeClaimTemplates", [])
            volumes = {one["name"] for one in rendered.broker["volumes"]}
            volumes |= {one["metadata"]["name"] for one in claims}
            assert {one["name"] for one in rendered.container["volumeMounts"]} == volumes, example


def settings_of(rendered: Rendered, place: Path) -> Settings:
    """Return the settings that the broker reads from what was rendered."""
    file = place / "config.toml"
    file.write_text(rendered.toml)
    return load({}, file=file)


class TestOptions:
    """One test for each option: what it adds, and where."""

    def test_settings(self, tmp_path: Path) -> None:
        values = {
            "max_connections": 9000,
            "verifier": ["tdx"],
            "log_format": "json",
            "workers": "auto",
            "handshake_timeout": 2.5,
            "collateral_url": ["https://pccs.example.com:8081"],
            "keyprovider_name": 'a"b\\c<é>',
            "audit_key": None,
            "tee": {"other": {"root": "/x"}},
        }
        settings = settings_of(render({"config": values}, tmp_path), tmp_path)
        assert settings.max_connections == 9000
        assert settings.verifier == ("tdx",)
        assert settings.workers == "auto"
        assert settings.handshake_timeout == 2.5
        assert settings.keyprovider_name == 'a"b\\c<é>'
        assert settings.tee == {"other": {"root": "/x"}}

    def test_only_settings_that_need_a_restart_replace_the_pods(self, tmp_path: Path) -> None:
        digests = [
            checksum(render({"config": config}, tmp_path))
            for config in ({}, {"max_connections": 9}, {"log_level": "debug"})
        ]
        assert digests[0] == digests[1] != digests[2]
        assert json.loads((chart.CHART / "files" / "live-settings.json").read_text()) == list(LIVE)

    def test_rats_tls_only(self, tmp_path: Path) -> None:
        rendered = render({"http": {"enabled": False}, "tls": {"existingSecret": ""}}, tmp_path)
        assert [port["name"] for port in rendered.container["ports"]] == ["rats-tls", "status"]
        assert "kbs_" not in rendered.toml

    def test_cert_manager(self, tmp_path: Path) -> None:
        issuer = {"issuer": "ca", "dnsNames": ["kbs.example.com"]}
        values = {"tls": {"existingSecret": "", "certManager": issuer}}
        rendered = render(values, tmp_path)
        spec = rendered.only("Certificate")["spec"]
        assert {"kbs.example.com", "verdictd.verdictd.svc"} <= set(spec["dnsNames"])
        assert volume(rendered, "tls")["secret"]["secretName"] == spec["secretName"]

    def test_client_api(self, tmp_path: Path) -> None:
        peers: list[dict[str, Any]] = [{"podSelector": {}}]
        values = {
            "clientApi": {"enabled": True, "tlsSecret": "api", "rolesSecret": "roles"},
            "networkPolicy": {"operators": peers},
        }
        rendered = render(values, tmp_path)
        settings = settings_of(rendered, tmp_path)
        assert settings.client_api_ca == Path("/etc/verdictd-py/client-api/ca.crt")
        assert settings.client_api_roles == Path("/etc/verdictd-py/roles/roles.toml")
        assert rendered.policy["ingress"][1]["from"] == peers
        ports = rendered.only("Service", "-operators")["spec"]["ports"]
        assert [port["name"] for port in ports] == ["status", "client-api"]
        assert "client-api" not in str(rendered.only("Service", "verdictd"))

    def test_administrators(self, tmp_path: Path) -> None:
        rendered = render({"administrators": {"existingSecret": "admins"}}, tmp_path)
        path = Path("/etc/verdictd-py/administrators/admins.toml")
        assert settings_of(rendered, tmp_path).kbs_admins == path
        assert volume(rendered, "administrators")["secret"]["secretName"] == "admins"

    def test_keys_and_resources(self, tmp_path: Path) -> None:
        values = {
            "keys": [{"secret": "a", "path": "team/signing"}, {"secret": "b", "path": "other"}],
            "resources": [{"secret": "c", "path": "default/team"}],
        }
        rendered = render(values, tmp_path)
        paths = {one["name"]: one["mountPath"] for one in rendered.container["volumeMounts"]}
        assert paths["keys-0"] == "/opt/verdictd/data/keys/team/signing"
        assert paths["resources-0"] == "/opt/verdictd/data/resources/default/team"
        (first,) = rendered.broker["initContainers"]
        assert "/opt/verdictd/data/keys/team" in first["args"]
        assert violations(rendered.broker) == []

    def test_settings_from_secrets(self, tmp_path: Path) -> None:
        entry = {"setting": "default_wrap_key", "secret": "s", "key": "k"}
        (variable,) = [
            one
            for one in render({"settingsFromSecrets": [entry]}, tmp_path).container["env"]
            if one["name"].startswith("VERDICTD_")
        ]
        assert variable["name"] == "VERDICTD_DEFAULT_WRAP_KEY"
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "s", "key": "k"}

    def test_settings_files(self, tmp_path: Path) -> None:
        entry = {"setting": "audit_key", "secret": "audit", "key": "audit.pem"}
        rendered = render({"settingsFiles": [entry]}, tmp_path)
        path = Path("/etc/verdictd-py/files/audit_key/audit.pem")
        assert settings_of(rendered, tmp_path).audit_key == path
        assert volume(rendered, "audit-key")["secret"]["secretName"] == "audit"

    @pytest.mark.parametrize("source", ["existingSecret", "existingClaim"])
    def test_air_gap(self, tmp_path: Path, source: str) -> None:
        rendered = render({"collateral": {source: "collateral"}}, tmp_path)
        path = Path("/etc/verdictd-py/collateral")
        assert settings_of(rendered, tmp_path).collateral == path
        assert len(rendered.policy["egress"]) == 1  # name servers only

    def test_monitoring(self, tmp_path: Path) -> None:
        peers = [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]
        values = {
            "serviceMonitor": {"enabled": True, "labels": {"release": "p"}},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True},
            "networkPolicy": {"monitoring": peers},
        }
        rendered = render(values, tmp_path)
        monitor = rendered.only("ServiceMonitor")
        assert monitor["metadata"]["labels"]["release"] == "p"
        labels = monitor["spec"]["selector"]["matchLabels"]
        selected = [
            one
            for one in rendered.of("Service")
            if labels.items() <= one["metadata"]["labels"].items()
        ]
        assert [one["metadata"]["name"] for one in selected] == ["verdictd-operators"]
        rules = yaml.safe_load(
            (ROOT / "verdictd_py/deploy/prometheus/verdictd-py.rules.yaml").read_text()
        )
        assert rendered.only("PrometheusRule")["spec"] == rules
        dashboard = rendered.only("ConfigMap", "-dashboard")["data"]["verdictd-py.json"]
        source = ROOT / "verdictd_py/deploy/grafana/verdictd-py.json"
        assert json.loads(dashboard) == json.loads(source.read_text())
        assert rendered.policy["ingress"][1]["from"] == peers

    def test_tls_route(self, tmp_path: Path) -> None:
        route = {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["a.example.com"]}
        rendered = render({"tlsRoute": route}, tmp_path)
        spec = rendered.only("TLSRoute")["spec"]
        assert spec["rules"] == [{"backendRefs": [{"name": "verdictd", "port": 8443}]}]
        assert spec["hostnames"] == ["a.example.com"]

    def test_replicas_are_spread(self, tmp_path: Path) -> None:
        values = deepcopy(SHARED) | {
            "config": {
                "store": "postgresql://verdictd@db.example/verdictd",
                "seal": "file:/etc/verdictd-py/kek",
                "kbs_sessions": "valkeys://cache.example",
            }
        }
        rendered = render(values, tmp_path)
        keys = [one["topologyKey"] for one in rendered.broker["topologySpreadConstraints"]]
        assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert rendered.only("StatefulSet")["spec"]["replicas"] == 3
        settings = settings_of(rendered, tmp_path)
        assert list(contradictions(settings, Unsafe())) == []

    @pytest.mark.parametrize(
        ("values", "path", "expected"),
        [
            ({"priorityClassName": "high"}, "priorityClassName", "high"),
            ({"nodeSelector": {"a": "b"}}, "nodeSelector", {"a": "b"}),
            ({"tolerations": [{"key": "a"}]}, "tolerations", [{"key": "a"}]),
            ({"affinity": {"podAffinity": {}}}, "affinity", {"podAffinity": {}}),
            ({"imagePullSecrets": ["a"]}, "imagePullSecrets", [{"name": "a"}]),
            ({"config": {"drain_timeout": 60}}, "terminationGracePeriodSeconds", 75),
        ],
    )
    def test_pods(
        self, tmp_path: Path, values: dict[str, Any], path: str, expected: object
    ) -> None:
        assert render(values, tmp_path).broker[path] == expected

    def test_labels_and_annotations(self, tmp_path: Path) -> None:
        values = {"podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}}
        metadata = render(values, tmp_path).only("StatefulSet")["spec"]["template"]["metadata"]
        assert metadata["annotations"]["a"] == "b"
        assert metadata["labels"]["c"] == "d"

    def test_a_user_that_the_cluster_chooses(self, tmp_path: Path) -> None:
        none = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
        rendered = render({"security": none}, tmp_path)
        assert not set(none) & set(rendered.broker["securityContext"])
        assert violations(rendered.broker) == []

    def test_volume(self, tmp_path: Path) -> None:
        values = {"persistence": {"size": "1Gi", "storageClass": "fast"}}
        claim = render(values, tmp_path).only("StatefulSet")["spec"]["volumeClaimTemplates"][0]
        assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
        assert claim["spec"]["storageClassName"] == "fast"

    def test_unsafe_ephemeral(self, tmp_path: Path) -> None:
        values = {
            "image": {"digest": "", "unsafeTag": "trial"},
            "persistence": {"unsafeEphemeral": True},
        }
        rendered = render(values, tmp_path)
        assert volume(rendered, "data") == {"name": "data", "emptyDir": {}}
        assert rendered.container["image"].endswith(":trial")

    def test_service(self, tmp_path: Path) -> None:
        values = {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}}
        service = render(values, tmp_path).only("Service", "verdictd")
        assert service["spec"]["externalTrafficPolicy"] == "Local"
        assert service["metadata"]["annotations"] == {"a": "b"}

    def test_ports(self, tmp_path: Path) -> None:
        values = {"guests": {"port": 2000}, "http": {"port": 2001}, "statusPort": 2002}
        rendered = render(values, tmp_path)
        assert [one["containerPort"] for one in rendered.container["ports"]] == [2000, 2001, 2002]
        assert settings_of(rendered, tmp_path).kbs_http == "0.0.0.0:2001"
        assert "0.0.0.0:2000" in rendered.container["args"]

    def test_network(self, tmp_path: Path) -> None:
        rule = {"ports": [{"port": 5432}], "to": [{"podSelector": {}}]}
        peers = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
        policy = {"guests": peers, "collateral": peers, "collateralPort": 8081, "egress": [rule]}
        rendered = render({"networkPolicy": policy}, tmp_path)
        assert rendered.policy["ingress"][0]["from"] == peers
        assert rendered.policy["egress"][1:] == [
            {"ports": [{"protocol": "TCP", "port": 8081}], "to": peers},
            rule,
        ]

    def test_what_can_be_disabled(self, tmp_path: Path) -> None:
        values = {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
        rendered = render(values, tmp_path)
        assert rendered.of("NetworkPolicy", "verdictd") == []
        assert rendered.of("PodDisruptionBudget") == []

    def test_a_namespace_for_tests(self, tmp_path: Path) -> None:
        rendered = render({"test": {"namespace": "trials"}}, tmp_path)
        assert rendered.of("Namespace") == []
        assert rendered.only("Pod")["metadata"]["namespace"] == "trials"

    def test_unsafe_options(self, tmp_path: Path) -> None:
        option = "--unsafe-tdx-root-ca=/etc/verdictd-py/collateral/root.pem"
        rendered = render({"unsafeOptions": [option]}, tmp_path)
        assert option in rendered.container["args"]
        assert len(rendered.only("Pod")["spec"]["containers"]) == 1

    def test_names(self, tmp_path: Path) -> None:
        rendered = render({"fullnameOverride": "kbs"}, tmp_path)
        assert rendered.only("StatefulSet")["metadata"]["name"] == "kbs"
        assert "verdictd" not in {one["metadata"]["name"] for one in rendered.of("Service")}


def checksum(rendered: Rendered) -> str:
    metadata = rendered.only("StatefulSet")["spec"]["template"]["metadata"]
    found: str = metadata["annotations"]["checksum/config"]
    return found


def volume(rendered: Rendered, name: str) -> dict[str, Any]:
    (found,) = [one for one in rendered.broker["volumes"] if one["name"] == name]
    return dict(found)


API = {"enabled": True, "tlsSecret": "a", "rolesSecret": "b"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": {"repository": ""}}, "image.repository is empty: set it"),
    "no digest": ({"image": {"digest": ""}}, "image.digest is empty: set it"),
    "short digest": ({"image": {"digest": "sha256:12"}}, "does not match pattern"),
    "digest and tag": ({"image": {"unsafeTag": "x"}}, "remove image.unsafeTag"),
    "no certificate": ({"tls": {"existingSecret": ""}}, "set tls.existingSecret"),
    "two certificates": ({"tls": {"certManager": {"issuer": "x"}}}, "remove one"),
    "certificate without HTTPS": ({"http": {"enabled": False}}, "remove tls, or set http.enabled"),
    "administrators without HTTPS": (
        {
            "http": {"enabled": False},
            "tls": {"existingSecret": ""},
            "administrators": {"existingSecret": "a"},
        },
        "set http.enabled=true, or clientApi",
    ),
    "client API without certificates": (
        {"clientApi": {**API, "tlsSecret": ""}},
        "needs clientApi.tlsSecret",
    ),
    "client API without roles": (
        {"clientApi": {**API, "rolesSecret": ""}},
        "needs clientApi.rolesSecret",
    ),
    "roles without client API": ({"clientApi": {"rolesSecret": "a"}}, "set clientApi.enabled=true"),
    "operators without client API": (
        {"networkPolicy": {"operators": [{}]}},
        "set clientApi.enabled=true",
    ),
    "two sources of collateral": (
        {"collateral": {"existingSecret": "a", "existingClaim": "b"}},
        "remove one",
    ),
    "URL at an air-gapped site": (
        {"collateral": {"existingSecret": "a"}, "config": {"collateral_url": []}},
        "remove one",
    ),
    "replicas without a store": ({"replicas": 2}, "needs the setting store"),
    "keys lost with the pod": ({"persistence": {"unsafeEphemeral": True}}, "remove it, or"),
    "route without Gateway": ({"tlsRoute": {"enabled": True}}, "name the Gateway"),
    "route without names": (
        {"tlsRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}},
        "needs tlsRoute.hostnames",
    ),
    "one port twice": ({"statusPort": 20002}, "choose different ports"),
    "monitor that reaches nothing": (
        {"serviceMonitor": {"enabled": True}},
        "name the namespace of Prometheus",
    ),
    "one path twice": (
        {"keys": [{"secret": "a", "path": "x"}, {"secret": "b", "path": "x"}]},
        "a path of its own",
    ),
    "a path within another": (
        {"resources": [{"secret": "a", "path": "x"}, {"secret": "b", "path": "x/y"}]},
        "the path x/y is within x",
    ),
    "a path that leaves the directory": (
        {"keys": [{"secret": "a", "path": "../opa"}]},
        "does not match pattern",
    ),
    "a setting twice": (
        {
            "config": {"audit_key": "/x"},
            "settingsFiles": [{"setting": "audit_key", "secret": "a", "key": "b"}],
        },
        "audit_key is set twice: remove it",
    ),
    "a misspelt setting": ({"config": {"max_conections": 1}}, "'max_conections' not allowed"),
    "a setting of the chart": ({"config": {"listen": "x:1"}}, "'listen' not allowed"),
    "a misspelt value": ({"replica": 2}, "'replica' not allowed"),
    "a privileged port": ({"http": {"port": 443}}, "minimum: got 443, want 1,024"),
    "root": ({"security": {"runAsUser": 0}}, "minimum: got 0, want 1"),
    "an unknown unsafe option": ({"unsafeOptions": ["--unsafe"]}, "does not match pattern"),
    "a wrong type": ({"http": {"enabled": "yes"}}, "got string, want boolean"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    values, expected = WRONG[name]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(chart.merged(MINIMAL, values)))
    done = chart.template(file)
    assert done.returncode != 0
    assert expected in done.stderr, done.stderr


def test_every_value_of_the_templates_is_described() -> None:
    """And no described value is without effect."""
    described = chart_values()
    used = "".join(file.read_text() for file in (chart.CHART / "templates").rglob("*.*"))
    for path in described:
        last = path.rpartition(".")[2]
        assert last in used, path


def chart_values() -> list[str]:
    return [value.path for value in VALUES]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_pass_the_strict_linter(example: Path) -> None:
    done = chart.run("lint", "--strict", str(chart.CHART), "-f", str(example))
    assert done.returncode == 0, done.stdout + done.stderr


def kubernetes_errors(*documents: dict[str, Any]) -> list[str]:
    """Return what each supported version of Kubernetes refuses in the documents."""
    place = ROOT / ".cache" / "chart" / "python"
    if not (place / "kubernetes_validate").is_dir():
        pytest.skip("kubernetes-validate is missing: ./dev chart")
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import kubernetes_validate as k\n"
        "documents, versions = json.load(sys.stdin)\n"
        "for document in documents:\n"
        "  for version in versions:\n"
        "    try: k.validate(document, version, strict=True)\n"
        "    except Exception as error:\n"
        "      print(version, document['kind'], str(error).splitlines()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(place)],
        input=json.dumps([documents, VERSIONS]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid_for_every_kubernetes(example: Path) -> None:
    rendered = render_file(example)
    own = [one for one in rendered.objects if not one["apiVersion"].startswith(OTHER_APIS)]
    assert kubernetes_errors(*own) == []


def test_a_misspelt_field_is_not_valid(minimal: Rendered) -> None:
    broken = deepcopy(minimal.only("StatefulSet"))
    broken["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert len(kubernetes_errors(broken)) == len(VERSIONS)


@pytest.mark.parametrize(
    ("place", "member", "expected"),
    [
        ("securityContext", {"runAsUser": 0}, "runAsNonRoot"),
        ("securityContext", {"seccompProfile": {}}, "seccompProfile"),
        ("container", {"securityContext": {"runAsUser": 0}}, "privileged"),
        ("container", {"ports": [{"hostPort": 1}]}, "hostPort"),
        ("volumes", [{"name": "a", "hostPath": {}}], "hostPath"),
        ("hostNetwork", True, "hostNetwork"),
    ],
)
def test_a_root_container_violates_the_policy(
    minimal: Rendered, place: str, member: Any, expected: str
) -> None:
    spec = deepcopy(minimal.broker)
    if place == "container":
        spec["containers"][0] |= member
    elif isinstance(member, dict):
        spec[place] |= member
    else:
        spec[place] = member
    assert expected in violations(spec)


def test_generated_files_are_current() -> None:
    chart.require_helm()
    done = subprocess.run(
        [sys.executable, "-m", "tools.chart", "check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifests_for_kubectl_meet_the_policy() -> None:
    file = ROOT / "verdictd_py" / "deploy" / "kustomize" / "verdictd-py.yaml"
    rendered = Rendered(tuple(one for one in yaml.safe_load_all(file.read_text()) if one))
    assert [violations(spec) for spec in rendered.pods()] == [[]]
    assert rendered.container["image"] == "verdictd-py"  # kustomization.yaml sets it
