# Appraisal policy for SGX enclaves, evaluated at every attestation.
#
# The enclave is accepted only if `allow` is true. `input` contains its verified claims, `data` is
# the reference data in the file sgxData; README.md lists the names.
package policy

import rego.v1

default allow := false

allow if {
	known("mrEnclave", data.mrEnclave)
	known("mrSigner", data.mrSigner)
	at_least("productId", data.productId)
	at_least("svn", data.svn)
	not debuggable
	not tcb_refused
}

# An empty list accepts any value; a missing list refuses, because it is an error.
known(_, values) if values == []

known(name, values) if {
	is_array(values)
	is_string(input[name])
	input[name] in values
}

at_least(name, least) if {
	is_number(least)
	is_number(input[name])
	input[name] >= least
}

# A verifier may add these claims to the four above; then they must have accepted values.
debuggable if input.debug != false

tcb_refused if {
	status := input.tcbStatus
	not status in tcb_reference
}

tcb_refused if input.tcbStatus == "Revoked"

default tcb_reference := ["UpToDate", "SWHardeningNeeded"]

tcb_reference := data.tcbStatus if data.tcbStatus != []
