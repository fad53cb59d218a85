# Appraisal policy for TDX guests, evaluated at every attestation.
#
# The guest is accepted only if `allow` is true. `input` contains its verified claims, `data` is
# the reference data in the file tdxData; README.md lists the names.
package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	tcb_accepted
	count(mismatches) == 0
}

# A revoked TCB is refused, also if tdxData lists it.
tcb_accepted if {
	input.tcbStatus != "Revoked"
	input.tcbStatus in tcb_reference
}

# tcbGraceDays accepts a status for this number of days after the release of a newer TCB.
tcb_accepted if {
	input.tcbStatus != "Revoked"
	days := data.tcbGraceDays[input.tcbStatus]
	is_number(days)
	is_number(input.tcbBehindDays)
	input.tcbBehindDays <= days
}

default tcb_reference := ["UpToDate", "SWHardeningNeeded"]

tcb_reference := data.tcbStatus if data.tcbStatus != []

# Claims that tdxData may pin. A missing or empty list accepts any value.
mismatches contains "mrTd" if misses("mrTd", data.mrTd)

mismatches contains "mrSeam" if misses("mrSeam", data.mrSeam)

mismatches contains "mrSignerSeam" if misses("mrSignerSeam", data.mrSignerSeam)

mismatches contains "mrConfigId" if misses("mrConfigId", data.mrConfigId)

mismatches contains "mrOwner" if misses("mrOwner", data.mrOwner)

mismatches contains "mrOwnerConfig" if misses("mrOwnerConfig", data.mrOwnerConfig)

mismatches contains "mrServiceTd" if misses("mrServiceTd", data.mrServiceTd)

mismatches contains "rtmr0" if misses("rtmr0", data.rtmr0)

mismatches contains "rtmr1" if misses("rtmr1", data.rtmr1)

mismatches contains "rtmr2" if misses("rtmr2", data.rtmr2)

mismatches contains "rtmr3" if misses("rtmr3", data.rtmr3)

mismatches contains "reportData" if misses("reportData", data.reportData)

mismatches contains "teeTcbSvn" if misses("teeTcbSvn", data.teeTcbSvn)

mismatches contains "teeTcbSvn2" if misses("teeTcbSvn2", data.teeTcbSvn2)

mismatches contains "tdAttributes" if misses("tdAttributes", data.tdAttributes)

mismatches contains "xfam" if misses("xfam", data.xfam)

mismatches contains "fmspc" if misses("fmspc", data.fmspc)

mismatches contains "tcbDate" if misses("tcbDate", data.tcbDate)

mismatches contains "advisoryIds" if misses("advisoryIds", data.advisoryIds)

misses(name, values) if {
	values != []
	not matches(name, values)
}

matches(name, values) if {
	is_array(values)
	is_string(input[name])
	input[name] in values
}

# This claim is a list itself: every advisory must be in the reference values.
matches(name, values) if {
	name == "advisoryIds"
	is_array(values)
	is_array(input.advisoryIds)
	every advisory in input.advisoryIds { advisory in values }
}
