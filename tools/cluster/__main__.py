"""The command line: `./dev cluster apply|up|test|down`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from tools.cluster import images, node
from tools.cluster.apply import RELEASES, apply_all
from tools.cluster.binaries import API_SERVER, KUBERNETES, NODE, ROOT, Failed, Programs

UNAVAILABLE: Final = 3
PACKAGES: Final = {
    "runc": "runc",
    str(node.PLUGINS / "bridge"): "containernetworking-plugins",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Debian's package of each program that a node needs."""
HELM: Final = "helm is missing: go install helm.sh/helm/v3/cmd/helm (tools/go-tools.txt)"


class Unavailable(Exception):
    """This machine lacks what a command needs; the text says what."""


def main(argv: Sequence[str]) -> int:
    """Run a command; return 1 if something that it shows is not so, 3 if it cannot run here."""
    parser = argparse.ArgumentParser(
        prog="./dev cluster",
        description=f"Kubernetes {KUBERNETES}, built from its sources, for the chart. `apply` "
        "needs Go and helm: an API server on loopback gets every example. `up` starts a node with "
        "kubelet and containerd in namespaces of its own (root), `test` installs the chart there "
        "and disturbs it, `down` removes all of it. The first build takes 15 minutes or more.",
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("case", nargs="*", help="of `test`; default: all")
    options = parser.parse_args(argv)
    # An exception unwinds the processes, so that none is left.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return COMMANDS[options.command](options.case)
    except Unavailable as error:
        print(f"./dev cluster: {error}", file=sys.stderr)
        return UNAVAILABLE
    except Failed as error:
        print(f"./dev cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _report(line: str) -> None:
    print(line, flush=True)


def _programs(*names: str) -> Programs:
    """Return the programs, which are built if necessary."""
    if shutil.which("helm") is None:
        raise Unavailable(HELM)
    programs = Programs.kept()
    if programs.missing(names) and shutil.which("go") is None:
        raise Unavailable("go is missing: apt-get install golang-go")
    programs.build(names, _report)
    return programs


def _apply(_: Sequence[str]) -> int:
    programs = _programs(*API_SERVER)
    failed = 0
    for release in RELEASES:
        for case, complaints in apply_all(programs, release):
            print(f"{release}: {'FAILED' if complaints else 'ok'}: {case}", flush=True)
            for line in complaints:
                print(f"    {line}")
            failed += bool(complaints)
    print(f"cluster: {failed} failed" if failed else "cluster: all as it must be")
    return int(failed > 0)


def _up(_: Sequence[str]) -> int:
    if os.geteuid() != 0:
        raise Unavailable("only root can start a node; run it as root")
    if missing := [PACKAGES[name] for name in PACKAGES if shutil.which(name) is None]:
        raise Unavailable(f"programs are missing: apt-get install {' '.join(sorted(set(missing)))}")
    programs = _programs(*API_SERVER, *NODE)
    seconds = node.start(programs, images.built())
    print(f"cluster: the node is ready after {seconds:.0f} s; ./dev cluster test")
    return 0


def _test(cases: Sequence[str]) -> int:
    programs = _programs(*API_SERVER, *NODE)
    words = node.enter((sys.executable, "-m", "tools.cluster.cases", str(programs.directory)))
    return subprocess.run([*words, *cases], cwd=ROOT, check=False).returncode


def _down(_: Sequence[str]) -> int:
    node.remove()
    print("cluster: nothing is left")
    return 0


COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "apply": _apply,
    "up": _up,
    "test": _test,
    "down": _down,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
