# Appraisal policy for sample guests, who prove nothing: `--insecure-sample-verifier` only.
#
# `input` holds what such a guest says of itself, `data` the file sampleData beside this one.
package policy

import rego.v1

default allow := false

allow if is_string(input.svn)
