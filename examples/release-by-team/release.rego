# Releases the secrets below team-a/ to the guests of team A only, and below common/ to every guest.
# The teams' guests differ in the init-data that the host measured in MRCONFIGID.

package policy

import rego.v1

default allow := false

allow if startswith(input.resource.path, "common/")

allow if {
	startswith(input.resource.path, "team-a/")
	of_team_a
}

of_team_a if input.claims.mrConfigId in data.teamA

reasons contains "this secret belongs to a team, and the guest is not one of its guests" if not allow
