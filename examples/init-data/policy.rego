# Accepts a guest only with the configuration of one of our teams.
# The init-data is in the input only if its digest was measured in MRCONFIGID.

package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	input.mrTd in data.mrTd
	of_a_team
}

of_a_team if input.mrConfigId in data.mrConfigId

reasons contains "its init-data is not that of one of our teams" if not of_a_team
