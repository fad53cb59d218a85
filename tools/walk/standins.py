"""What a page finds on a host with a network, without one: a registry, packages, names, tools.

* `docker.io` is a registry on loopback with TLS. It has `library/alpine`, a tiny image.
* `skopeo` is `tools/ocicopy` with skopeo's command line, because skopeo cannot be built everywhere.
* `cosign` is cosign, which records nothing in a public log (`--tlog-upload=false`).
* `pip` installs the packages of the lock, which were downloaded before. `python3.12` is the Python
  of this tool, whichever it is.
* `podman` is podman with crun. `podman build` loads the image that `./dev image` has written, and
  `podman run` has neither control groups nor a network but loopback, which namespaces cannot give.
* The names of hosts in the pages are those of this host.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from threading import Thread
from typing import IO, Final, cast

import trustme

from tests.peers import oci
from tests.support.command import OUR_VARIABLES
from verdictd_py import __version__

HOSTS: Final = ("registry-1.docker.io", "index.docker.io", "docker.io", "kbs", "broker.example")
PROGRAMS: Final = {
    "skopeo": ("ocicopy", "docker-registry"),
    "cosign": ("cosign",),
    "./dev bundle": ("helm",),
    "podman": ("podman", "crun"),
}
"""Program of a page -> what stands in for it, and must be there."""

_BUILD_TOOLS: Final = re.compile(
    r"^(?:hatchling|pathspec|pluggy|packaging|trove-classifiers|editables|tomlkit)==.*?(?=^\S)",
    re.MULTILINE | re.DOTALL,
)
_PODMAN: Final = """#!/usr/bin/env bash
export CONTAINERS_CONF={private}/containers.conf CONTAINERS_STORAGE_CONF={private}/storage.conf
command=$1
shift
case $command in
  build)
    while [ "$1" != -t ]; do shift; done
    {podman} load --quiet --input {private}/image.tar > /dev/null || exit
    exec {podman} tag {image} "$2"
    ;;
  run)
    words=()
    while [ $# -gt 0 ]; do
      if [ "$1" = -p ]; then shift; else words+=("$1"); fi
      shift
    done
    limits=(--ulimit nofile=8192:8192 --ulimit nproc=4096:4096)
    exec {podman} run --cgroups=disabled --network none "${{limits[@]}}" "${{words[@]}}"
    ;;
esac
exec {podman} "$command" "$@"
"""
_CONTAINERS: Final = """[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{private}/podman"
"""
_STORAGE: Final = """[storage]
driver = "overlay"
graphroot = "{private}/images"
runroot = "{private}/containers"
"""
_REGISTRY: Final = """version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:443", tls: {{certificate: {certificate}, key: {key}}}}}
"""


def missing(page: str, path: str) -> list[str]:
    """Return the programs that a page needs and `path` does not have."""
    return [
        program
        for used, programs in PROGRAMS.items()
        if re.search(rf"^\$ (?:.*[ ;&])?{used} ", page, re.MULTILINE)
        for program in programs
        if shutil.which(program, path=path) is None
    ]


def download(checkout: Path) -> Path:
    """Download the locked packages and the build tools once; return their directory.

    Raises:
        subprocess.CalledProcessError: no package index answers.
    """
    locked = (checkout / "requirements.lock").read_text()
    tools = "".join(_BUILD_TOOLS.findall((checkout / "requirements-dev.lock").read_text()))
    digest = hashlib.sha256((locked + tools).encode()).hexdigest()[:16]
    directory = checkout / ".cache" / "walk" / digest
    if (directory / "complete").is_file():
        return directory
    shutil.rmtree(directory.parent, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, text in (("packages", locked), ("tools", tools)):
        wanted = directory / f"{name}.txt"
        wanted.write_text(text)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        options = ("--require-hashes", "--only-binary=:all:", "--dest", str(directory))
        subprocess.run([*pip, "download", *options, "--requirement", str(wanted)], check=True)
    (directory / "complete").touch()
    return directory


def fill_caches(page: str, checkout: Path) -> None:
    """Run the page's `./dev bundle` once with a network, so that it works without one.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    found = re.search(r"^\$ \./dev bundle .*?--arch (\S+) --only (\S+)", page, re.MULTILINE)
    if found is not None:
        with tempfile.TemporaryDirectory() as output:
            command = ("./dev", "bundle", "--arch", found[1], "--only", found[2])
            subprocess.run([*command, "--output", output], cwd=checkout, check=True)


def environment(private: Path, packages: Path, path: str) -> dict[str, str]:
    """Return the environment of a page's first command; its home is empty."""
    home = private / "home"
    home.mkdir(mode=0o700)
    own = {name: text for name, text in os.environ.items() if not _is_foreign(name)}
    first = (private / "bin", Path(sys.base_prefix) / "bin")
    return {
        **own,
        "HOME": str(home),
        "PATH": os.pathsep.join([*map(str, first), _without_ours(path)]),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "80",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(packages),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COSIGN_PASSWORD": "",
        "SSL_CERT_FILE": str(private / "registry-ca.pem"),
    }


def _without_ours(path: str) -> str:
    """Return a search path without this program's environment, whose programs no page installed."""
    return os.pathsep.join(part for part in path.split(os.pathsep) if ".venv" not in part)


def _is_foreign(name: str) -> bool:
    """Return whether a variable of the caller must not reach the page."""
    return name.startswith((*OUR_VARIABLES, "XDG_", "PYTHON", "VIRTUAL_ENV", "PIP_", "OCICRYPT_"))


def install(private: Path, path: str) -> None:
    """Write the programs that stand in for others, and the names of hosts."""
    programs = private / "bin"
    programs.mkdir()
    found = {name: shutil.which(name, path=path) for name in ("ocicopy", "cosign")}
    skopeo = f"""#!/usr/bin/env bash
words=()
for word in "$@"; do [ "$word" = copy ] || words+=("$word"); done
exec {shlex.quote(found["ocicopy"] or "ocicopy")} "${{words[@]}}"
"""
    cosign = f"""#!/usr/bin/env bash
[ "$1" = sign ] && set -- sign --tlog-upload=false --yes "${{@:2}}"
exec {shlex.quote(found["cosign"] or "cosign")} "$@"
"""
    python = f'#!/bin/sh\nexec {shlex.quote(str(Path(sys.base_prefix, "bin", "python3")))} "$@"\n'
    for name, script in (("skopeo", skopeo), ("cosign", cosign), ("python3.12", python)):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    names = " ".join(HOSTS)
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {names}\n::1 localhost ip6-localhost\n")


def image(checkout: Path) -> Path | None:
    """Return the archive of the image for this machine; None if `./dev image` has written none."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "none")
    return next((checkout / "dist" / "image").glob(f"*-{machine}.tar.gz"), None)


def furnish_podman(private: Path, archive: Path, path: str) -> None:
    """Write the program that stands in for podman, and mount what podman reads."""
    podman = shlex.quote(shutil.which("podman", path=path) or "podman")
    with gzip.open(archive) as packed, (private / "image.tar").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    name = f"localhost/verdictd-py:{__version__}"
    script = _PODMAN.format(private=private, podman=podman, image=name)
    for file, text in (
        ("bin/podman", script),
        ("containers.conf", _CONTAINERS.format(private=private)),
        ("storage.conf", _STORAGE.format(private=private)),
    ):
        (private / file).write_text(text)
    (private / "bin" / "podman").chmod(0o755)
    # podman reads the unified hierarchy, whichever the host has.
    groups = "/sys/fs/cgroup"
    subprocess.run(["umount", "--recursive", groups], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", "cgroup2", "none", groups], check=True)


def start_registry(private: Path, programs: dict[str, str]) -> None:
    """Start the registry, and put `library/alpine:latest` into it. It ends with the namespace."""
    authority = trustme.CA()
    certificate = authority.issue_cert(*HOSTS)
    chain, key = private / "registry.pem", private / "registry.key"
    authority.cert_pem.write_to_path(private / "registry-ca.pem")
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    configuration = private / "registry.yml"
    configuration.write_text(
        _REGISTRY.format(root=private / "registry", certificate=chain, key=key)
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", configuration], env=programs, stderr=subprocess.PIPE, text=True
    )
    log = cast("IO[str]", process.stderr)
    if not any("listening on" in line for line in log):
        raise RuntimeError("docker-registry ended at once")
    Thread(target=deque, args=(log, 0), daemon=True).start()  # a full pipe stops it
    layout = private / "alpine"
    oci.write_image(layout, "a layer", "another layer")
    pushed = ["skopeo", "copy", f"oci:{layout}", "docker://docker.io/library/alpine:latest"]
    ended = subprocess.run(pushed, env=programs, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"cannot fill the registry: {ended.stderr}")
