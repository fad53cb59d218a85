# Accepts a guest only if its platform is up to date and its firmware and kernel are pinned.
# An empty list accepts no guest; with the packaged policy it accepts any value.

package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	up_to_date
	known_kernel
}

up_to_date if input.tcbStatus == "UpToDate"

known_kernel if {
	input.mrTd in data.mrTd
	input.rtmr1 in data.rtmr1
}

reasons contains "the platform is not up to date" if not up_to_date

reasons contains "the firmware or the kernel is not one of ours" if not known_kernel
