# Accepts a guest only while all images that it has pulled are named in the data.
# Guests measure each pull in RTMR3 if enable_eventlog is set in attestation-agent.

package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	input.mrTd in data.mrTd
	images_allowed
}

images_allowed if {
	input.eventLog.runtimeEventsComplete
	every event in input.eventLog.runtimeEvents {
		event.operation == "PullImage"
		json.unmarshal(event.content).digest in data.images
	}
}

reasons contains "it has pulled an image that is not named, or did not measure its pulls" if {
	not images_allowed
}
