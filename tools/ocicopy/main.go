// ocicopy copies one image between OCI layouts and registries, encrypts or decrypts it on the way and
// checks its signatures, with the libraries that skopeo 1.18 is made of. It stands in for skopeo
// where skopeo cannot be built: the key provider's client in it is ocicrypt's own, the reader of
// policies and signatures that of containers/image. Options are named as skopeo's.
//
// Usage: ocicopy [OPTION ...] SOURCE DESTINATION
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/transports/alltransports"
	"github.com/containers/image/v5/types"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/helpers"
)

func main() {
	var asked request
	flag.StringVar(&asked.encryptionKey, "encryption-key", "", "provider:<name>:<parameter>")
	flag.StringVar(&asked.decryptionKey, "decryption-key", "", "provider:<name>")
	flag.StringVar(&asked.policy, "policy", "", "image policy; without one everything is accepted")
	flag.StringVar(&asked.registriesDir, "registries.d", "", "where registries keep signatures")
	flag.BoolVar(&asked.removeSignatures, "remove-signatures", false, "do not copy signatures")
	tlsVerify := flag.Bool("tls-verify", true, "=false: plain HTTP and unknown certificates too")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	asked.insecure = !*tlsVerify
	if err := run(flag.Arg(0), flag.Arg(1), asked); err != nil {
		fmt.Fprintln(os.Stderr, "ocicopy:", err)
		os.Exit(1)
	}
}

type request struct {
	encryptionKey, decryptionKey, policy, registriesDir string
	removeSignatures, insecure                          bool
}

func run(source, destination string, asked request) error {
	from, err := alltransports.ParseImageName(source)
	if err != nil {
		return err
	}
	to, err := alltransports.ParseImageName(destination)
	if err != nil {
		return err
	}
	system := &types.SystemContext{
		RegistriesDirPath:           asked.registriesDir,
		DockerInsecureSkipTLSVerify: types.NewOptionalBool(asked.insecure),
	}
	options := &copy.Options{
		SourceCtx: system, DestinationCtx: system, RemoveSignatures: asked.removeSignatures,
	}
	if asked.encryptionKey != "" {
		made, err := helpers.CreateCryptoConfig([]string{asked.encryptionKey}, nil)
		if err != nil {
			return err
		}
		options.OciEncryptLayers = &[]int{} // every layer
		options.OciEncryptConfig = config.CombineCryptoConfigs([]config.CryptoConfig{made}).EncryptConfig
	}
	if asked.decryptionKey != "" {
		made, err := helpers.CreateCryptoConfig(nil, []string{asked.decryptionKey})
		if err != nil {
			return err
		}
		options.OciDecryptConfig = config.CombineCryptoConfigs([]config.CryptoConfig{made}).DecryptConfig
	}
	policy := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	if asked.policy != "" {
		if policy, err = signature.NewPolicyFromFile(asked.policy); err != nil {
			return err
		}
	}
	decides, err := signature.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	_, err = copy.Image(context.Background(), decides, to, from, options)
	return err
}
