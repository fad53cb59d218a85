// tdxverify verifies TDX quotes with go-tdx-guest, an implementation by other people, for
// tests/peers/test_other_verifier.py. It reads cases from standard input and prints the outcome of
// each. Nothing is fetched: the collateral of a case stands in for the answers of Intel's service.
//
// Usage: tdxverify < CASES.json
package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/google/go-tdx-guest/verify"
)

// answer is the answer of the service to one path.
type answer struct {
	Headers map[string][]string `json:"headers"`
	Body    []byte              `json:"body"`
}

// answers implements trust.HTTPSGetter.
type answers map[string]answer

func (known answers) Get(address string) (map[string][]string, []byte, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, nil, err
	}
	found, ok := known[parsed.Path]
	if !ok {
		return nil, nil, fmt.Errorf("the case has no answer to %s", parsed.Path)
	}
	return found.Headers, found.Body, nil
}

type testCase struct {
	Quote   []byte    `json:"quote"`
	Root    []byte    `json:"root"` // PEM
	Now     time.Time `json:"now"`
	Answers answers   `json:"answers"` // by path
}

// outcome returns an empty text for a quote that was verified, else the error.
func outcome(one testCase) string {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(one.Root) {
		return "the root is not a certificate"
	}
	err := verify.RawTdxQuote(one.Quote, &verify.Options{
		CheckRevocations: true,
		GetCollateral:    true,
		Getter:           one.Answers,
		Now:              one.Now,
		TrustedRoots:     roots,
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

func main() {
	var cases map[string]testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, "tdxverify: the cases are not valid JSON:", err)
		os.Exit(2)
	}
	outcomes := map[string]string{}
	for name, one := range cases {
		outcomes[name] = outcome(one)
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcomes); err != nil {
		fmt.Fprintln(os.Stderr, "tdxverify:", err)
		os.Exit(1)
	}
}
