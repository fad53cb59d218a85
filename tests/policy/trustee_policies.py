"""Release policies with the names and constructs of policies for trustee."""

from __future__ import annotations

HEAD = "package policy\n\ndefault allow = false\n\n"
EVIDENCE = 'input["submods"]["cpu0"]["ear.veraison.annotated-evidence"]'
OPEN = HEAD + 'asked = data.plugin\n\nallow if {\n\tasked == "resource"\n}\n'
PROVED = HEAD + f'allow if {{\n\tdata.plugin == "resource"\n\tnot {EVIDENCE}["sample"]\n}}\n'
TRUSTED = HEAD.replace("\n\n", "\nimport rego.v1\n", 1) + (
    "allow if {\n    count(input.submods) > 0\n    not doubtful\n}\n\n"
    'doubtful if {\n    some _, part in input.submods\n    part["ear.status"] != "affirming"\n}\n'
)
