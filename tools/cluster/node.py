"""One node with its control plane, in namespaces of mounts, network and processes of its own.

What it does to the host ends with its first process: mounts, interfaces, rules and processes are
in these namespaces. Two things are outside them: the state below `.cache/cluster`, and a control
group for each controller; `remove` removes both. This needs root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tools.cluster.apiserver import Cluster, Ports, commands, wait_until_ready
from tools.cluster.binaries import ROOT, Failed, Programs
from tools.cluster.images import import_images

STATE: Final = ROOT / ".cache" / "cluster"
INSIDE: Final = Path("/run/verdictd-py-cluster")
"""The state in the namespaces: the paths of sockets must be short."""
NODE: Final = "node"
NODE_ADDRESS: Final = "10.89.0.1"
PODS: Final = "10.88.0.0/24"
DOMAIN: Final = "cluster.local"
PORTS: Final = Ports(etcd=2379, peers=2380, api=6443)
GROUP: Final = f"verdictd-py-cluster-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"
"""Control group of all pods. Each checkout has its own, so that `down` of one is not hindered."""
VOLUMES: Final = INSIDE / "volumes"
HOSTS: Final = INSIDE / "hosts"
"""Directory of files of addresses and names, which the name server reads when they change."""
CONFIG: Final = INSIDE / "kubeconfig"
PLUGINS: Final = Path("/usr/lib/cni")
"""Where Debian's package containernetworking-plugins has `bridge`."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_TUNABLES: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What a kubelet sets for the whole host. In the namespace, files stand in for them."""
_START_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 60.0


def start(programs: Programs, archive: Path) -> float:
    """Start a node, and return the seconds until it is ready.

    Args:
        archive: the broker's image, an OCI archive.

    Raises:
        Failed: there is one already, or it does not start.
    """
    if process() is not None:
        raise Failed("the node runs already: ./dev cluster down")
    remove()
    STATE.mkdir(mode=0o700, parents=True)
    begin = time.monotonic()
    words = (
        *("unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"),
        *(sys.executable, "-m", "tools.cluster.node", str(programs.directory), str(archive)),
    )
    with (STATE / "node.log").open("wb") as log:
        outer = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    while not (STATE / "ready").exists():
        _note(outer.pid)
        if outer.poll() is not None or time.monotonic() - begin > _START_SECONDS:
            end = (STATE / "node.log").read_text(errors="replace")[-3000:]
            raise Failed(f"the node does not start; logs are in {STATE}:\n{end}")
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - begin


def _note(outer: int) -> None:
    """Write down which process is the first one of the namespaces, a child of `unshare`."""
    file = STATE / "process"
    with suppress(OSError):
        if not file.exists() and (
            children := Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        ):
            file.write_text(f"{children[0]} {_started(int(children[0]))}")


def process() -> int | None:
    """Return the first process of the namespaces, as the host counts, or None if there is none."""
    with suppress(OSError, ValueError):
        number, started = (STATE / "process").read_text().split()
        if _started(int(number)) == started:
            return int(number)
    return None


def _started(number: int) -> str:
    """Return when a process started, which no later process of its number has."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]


def remove() -> None:
    """End the node, and remove all that it made.

    Raises:
        Failed: a process or a control group remains.
    """
    if (number := process()) is not None:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)  # the kernel kills every process of the namespace
        _wait_for(lambda: not Path(f"/proc/{number}").exists(), f"the end of process {number}")
    _wait_for(_without_groups, "the removal of the control groups")
    shutil.rmtree(STATE, ignore_errors=True)
    if STATE.exists():
        raise Failed(f"{STATE} cannot be removed")


def _without_groups() -> bool:
    """Remove the control groups from the leaves on; return whether none is left."""
    for controller in _CGROUPS.iterdir():
        for group, _, _ in os.walk(controller / GROUP, topdown=False):
            with suppress(OSError):
                Path(group).rmdir()
    return not any((one / GROUP).exists() for one in _CGROUPS.iterdir())


def _wait_for(condition: Callable[[], bool], name: str) -> None:
    end = time.monotonic() + _STOP_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{name} takes too long")
        time.sleep(_POLL_SECONDS)


def enter(words: Sequence[str]) -> list[str]:
    """Return a command line that runs in the namespaces of the node.

    Raises:
        Failed: no node runs.
    """
    number = process()
    if number is None:
        raise Failed("no node runs: ./dev cluster up")
    return ["nsenter", f"--target={number}", "--mount", "--net", "--pid", *words]


# What follows runs as the first process of the namespaces.


def main(argv: Sequence[str]) -> int:
    """Run the node until a daemon ends."""
    programs = Programs(Path(argv[0]))
    _mounts()
    _network()
    _groups()
    daemons = Daemons(programs)
    daemons.control_plane()
    daemons.runtime()
    import_images(programs, INSIDE / "containerd.sock", Path(argv[1]), INSIDE)
    daemons.node()
    (INSIDE / "ready").touch()
    return daemons.wait()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: {done.stderr.strip()}")


def _mounts() -> None:
    _run("mount", "--make-rshared", "/")
    (STATE / "files").mkdir()
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    INSIDE.mkdir()
    _run("mount", "--bind", str(STATE), str(INSIDE))
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/log")
    # Plug-ins for networks keep results below /var/lib.
    upper, work = Path("/run/upper"), Path("/run/work")
    for each in (upper, work):
        each.mkdir(mode=0o755)
    layers = f"lowerdir=/var/lib,upperdir={upper},workdir={work}"
    _run("mount", "-t", "overlay", "-o", layers, "overlay", "/var/lib")
    for name, value in _TUNABLES.items():
        _cover(Path("/proc/sys") / name, value)
    _cover(Path("/etc/resolv.conf").resolve(), f"nameserver {NODE_ADDRESS}\n")


def _cover(target: Path, text: str) -> None:
    file = INSIDE / "files" / str(target).strip("/").replace("/", ".")
    file.write_text(text)
    _run("mount", "--bind", str(file), str(target))


def _network() -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "node0", "type", "bridge")
    _run("ip", "address", "add", f"{NODE_ADDRESS}/24", "dev", "node0")
    _run("ip", "link", "set", "node0", "up")
    _run("ip", "route", "add", "default", "dev", "node0")
    # Answers of a pod to a pod of the same bridge must pass the translation of addresses, too.
    for name in ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables"):
        (Path("/proc/sys/net") / name).write_text("1")


def _groups() -> None:
    """Make the control group below which the kubelet puts all pods."""
    for controller in _CGROUPS.iterdir():
        if not os.path.ismount(controller):
            continue
        group = controller / GROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.mems", "cpuset.cpus"):
            if (controller / name).exists():
                (group / name).write_text((controller / name).read_text())


class Daemons:
    """The daemons of the node, each with a log in the state directory."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._running: dict[int, str] = {}
        self._made = commands(
            *(programs, INSIDE, PORTS, "--kubelet-preferred-address-types=InternalIP"),
            address=NODE_ADDRESS,
        )

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        name = Path(words[0]).name
        environment = {**os.environ, "PATH": f"{self._programs.directory}:{os.environ['PATH']}"}
        with (INSIDE / f"{name}.log").open("wb") as log:
            started = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        self._running[started.pid] = name
        return started

    def control_plane(self) -> None:
        """Start etcd, the API server, the controllers and the scheduler."""
        started = [self._start(*self._made.etcd), self._start(*self._made.api)]
        wait_until_ready(Cluster(self._programs, CONFIG, INSIDE), started)
        key = INSIDE / "service-accounts.key"
        self._start(
            self._programs.path("kube-controller-manager"),
            *(f"--kubeconfig={CONFIG}", "--leader-elect=false", "--bind-address=127.0.0.1"),
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={INSIDE / 'certificates' / 'apiserver.crt'}",
        )
        self._start(
            self._programs.path("kube-scheduler"),
            *(f"--kubeconfig={CONFIG}", "--leader-elect=false", "--bind-address=127.0.0.1"),
        )

    def runtime(self) -> None:
        """Start containerd."""
        (INSIDE / "cni").mkdir()
        (INSIDE / "cni" / "10-bridge.conflist").write_text(json.dumps(cni()))
        config = INSIDE / "containerd.toml"
        config.write_text(containerd())
        self._start(self._programs.path("containerd"), f"--config={config}")
        _wait_for((INSIDE / "containerd.sock").exists, "the start of containerd")

    def node(self) -> None:
        """Start the name server, the kubelet and the proxy of Services."""
        HOSTS.mkdir(mode=0o755)
        VOLUMES.mkdir(mode=0o755)
        self._start(
            *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file="),
            *(f"--hostsdir={HOSTS}", f"--listen-address={NODE_ADDRESS}", "--bind-interfaces"),
            *("--user=root", "--pid-file=", f"--local=/{DOMAIN}/", "--cache-size=0"),
        )
        for name, content in (("kubelet", kubelet()), ("kube-proxy", proxy())):
            (INSIDE / f"{name}.json").write_text(json.dumps(content))
        self._start(
            self._programs.path("kubelet"),
            *(f"--config={INSIDE / 'kubelet.json'}", f"--kubeconfig={CONFIG}"),
            *(f"--root-dir={INSIDE / 'kubelet'}", f"--cert-dir={INSIDE / 'kubelet-certificates'}"),
            *(f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}"),
        )
        self._start(self._programs.path("kube-proxy"), f"--config={INSIDE / 'kube-proxy.json'}")
        cluster = Cluster(self._programs, CONFIG, INSIDE)
        _wait_for(
            lambda: cluster.kubectl("get", f"node/{NODE}").returncode == 0,
            "the start of the kubelet",
        )
        cluster.must("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=120s")

    def wait(self) -> int:
        """Reap the processes whose parent this one is, until a daemon ends."""
        while True:
            number, status = os.wait()
            if name := self._running.get(number):
                print(f"{name} ended with status {status}", flush=True)
                return 1


def cni() -> Mapping[str, Any]:
    """Return the network of pods: a bridge. It enforces no NetworkPolicy."""
    addresses: dict[str, Any] = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS}]],
        "dataDir": str(INSIDE / "ipam"),
    }
    addresses["routes"] = [{"dst": "0.0.0.0/0"}]
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{**bridge, "ipam": addresses}],
    }


def containerd() -> str:
    """Return the configuration of containerd."""
    return f"""version = 3
root = "{INSIDE / "containerd"}"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "{INSIDE / "containerd.sock"}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{INSIDE / "cni"}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{shutil.which("runc") or "runc"}"
SystemdCgroup = false
"""


def kubelet() -> Mapping[str, Any]:
    """Return the configuration of the kubelet. How often it looks at Secrets is its default."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{GROUP}",
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": f"unix://{INSIDE / 'containerd.sock'}",
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": str(INSIDE / "pod-logs"),
        "volumePluginDir": str(INSIDE / "plugins"),
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
    }


def proxy() -> Mapping[str, Any]:
    """Return the configuration of the proxy of Services, which changes nothing of the host."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(CONFIG)},
        "hostnameOverride": NODE,
        "mode": "nftables",
        "clusterCIDR": PODS,
        "oomScoreAdj": 0,
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def pods_processes() -> Iterator[int]:
    """Yield the processes of all pods, as the caller counts."""
    for file in (_CGROUPS / "pids" / GROUP).rglob("cgroup.procs"):
        yield from map(int, file.read_text().split())


def pods_seconds() -> float:
    """Return the CPU time that all pods have used."""
    return int((_CGROUPS / "cpuacct" / GROUP / "cpuacct.usage").read_text()) / 1e9


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
