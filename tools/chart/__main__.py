"""Write the generated files of the chart, or compare them: `./dev chart [check]`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from tools.chart.values import VALUES, Value, settings_schema
from verdictd_py.daemon.reload import LIVE

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "verdictd_py" / "deploy"
CHART: Final = DEPLOY / "helm" / "verdictd-py"
KUSTOMIZE: Final = DEPLOY / "kustomize"
COPIED: Final = {
    "files/verdictd-py.rules.yaml": DEPLOY / "prometheus" / "verdictd-py.rules.yaml",
    "files/verdictd-py.dashboard.json": DEPLOY / "grafana" / "verdictd-py.json",
}
BEGIN: Final = "<!-- Made by `./dev chart`. -->\n"
END: Final = "<!-- End. -->\n"
KUBERNETES: Final = "1.34.0"
_TYPES: Final = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


def main(argv: list[str]) -> int:
    check = argv == ["check"]
    stale = _write({CHART / name: text for name, text in generated().items()}, check=check)
    if not shutil.which("helm"):
        print("WARNING: helm is missing: the manifests for kubectl are not rendered")
    elif not (check and stale):  # they are rendered from the other files
        stale |= _write({KUSTOMIZE / "verdictd-py.yaml": rendered()}, check=check)
    return int(check and stale)


def _write(files: dict[Path, str], *, check: bool) -> bool:
    """Write files whose content differs, or only report them; return whether there was one."""
    different = [f for f, text in files.items() if not f.is_file() or f.read_text() != text]
    for file in different:
        name = file.relative_to(ROOT)
        if check:
            print(f"{name} is not what its sources give: ./dev chart")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(files[file])
            print(name)
    return bool(different)


def generated() -> dict[str, str]:
    """Return the content of each generated file, by its name in the chart."""
    readme = (CHART / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        "values.yaml": "".join(defaults()),
        "README.md": f"{before}{BEGIN}{''.join(table())}{END}{after}",
        "files/live-settings.json": json.dumps(LIVE) + "\n",
        **{name: source.read_text() for name, source in COPIED.items()},
    }


def schema() -> dict[str, Any]:
    """Return the schema of the values: unknown names are refused."""
    root = _object()
    for value in VALUES:
        *parents, name = value.path.split(".")
        place = root
        for parent in parents:
            place = place["properties"].setdefault(parent, _object())
        member = {"type": _TYPES[type(value.default)], "description": value.text, **value.more}
        if value.path == "config":
            member |= {"additionalProperties": False, "properties": settings_schema()}
        place["properties"][name] = member
    root["properties"]["global"] = {"type": "object"}  # helm adds it for a chart in a chart
    return {"$schema": "http://json-schema.org/draft-07/schema#", **root}


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def defaults() -> Iterator[str]:
    """Yield `values.yaml`: each value with its meaning."""
    yield "# Made by `./dev chart` from tools/chart/values.py.\n"
    opened: tuple[str, ...] = ()
    for value in VALUES:
        *parents, name = value.path.split(".")
        if not parents:
            yield "\n"
        for depth, parent in enumerate(parents):
            if opened[: depth + 1] != tuple(parents[: depth + 1]):
                yield ("" if depth else "\n") + f"{'  ' * depth}{parent}:\n"
        opened = tuple(parents)
        indent = "  " * len(parents)
        yield f"{indent}# {value.text}\n"
        yield _yaml(name, value, indent)


def _yaml(name: str, value: Value, indent: str) -> str:
    text: str = yaml.safe_dump({name: value.default}, default_flow_style=False, sort_keys=False)
    return "".join(f"{indent}{line}\n" for line in text.splitlines())


def table() -> Iterator[str]:
    """Yield the table of the README."""
    yield "\n| value | default | meaning |\n| --- | --- | --- |\n"
    for value in VALUES:
        yield f"| `{value.path}` | `{json.dumps(value.default)}` | {value.text} |\n"
    yield "\n"


def rendered() -> str:
    """Return the manifests for `kubectl apply -k`; the image is set in the kustomization."""
    command = [
        *("helm", "template", "verdictd-py", str(CHART), "--namespace", "verdictd-py"),
        *("--kube-version", KUBERNETES, "--skip-tests"),
        *("--values", str(KUSTOMIZE / "values.yaml")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    note = "# Made by `./dev chart` from the Helm chart and values.yaml.\n"
    digest = "@sha256:" + "0" * 64
    return note + done.stdout.replace(digest, "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
