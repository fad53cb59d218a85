# Appraisal policy for sample guests, which prove nothing (`--insecure-sample-verifier` only).
#
# `input` contains the unverified claims of the guest, `data` is the file sampleData.
package policy

import rego.v1

default allow := false

allow if is_string(input.svn)
