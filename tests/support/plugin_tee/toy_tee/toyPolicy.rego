package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	input.level != "broken"
	input.level in levels
	count(mismatches) == 0
}

default levels := ["current"]

levels := data.level if data.level != []

mismatches contains "image" if {
	data.image != []
	not input.image in data.image
}
