// ocicopy copies one image between OCI layouts and encrypts or decrypts it on the way, with the
// libraries that skopeo 1.18 is made of. It stands in for skopeo where skopeo cannot be built: the
// key provider's client in it is ocicrypt's own.
//
// Usage: ocicopy [--encryption-key KEY] [--decryption-key KEY] SOURCE DESTINATION
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
	encryptionKey := flag.String("encryption-key", "", "as skopeo's, provider:<name>:<parameter>")
	decryptionKey := flag.String("decryption-key", "", "as skopeo's, provider:<name>")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *encryptionKey, *decryptionKey); err != nil {
		fmt.Fprintln(os.Stderr, "ocicopy:", err)
		os.Exit(1)
	}
}

func run(source, destination, encryptionKey, decryptionKey string) error {
	from, err := alltransports.ParseImageName(source)
	if err != nil {
		return err
	}
	to, err := alltransports.ParseImageName(destination)
	if err != nil {
		return err
	}
	options := &copy.Options{SourceCtx: &types.SystemContext{}, DestinationCtx: &types.SystemContext{}}
	if encryptionKey != "" {
		made, err := helpers.CreateCryptoConfig([]string{encryptionKey}, nil)
		if err != nil {
			return err
		}
		options.OciEncryptLayers = &[]int{} // every layer
		options.OciEncryptConfig = config.CombineCryptoConfigs([]config.CryptoConfig{made}).EncryptConfig
	}
	if decryptionKey != "" {
		made, err := helpers.CreateCryptoConfig(nil, []string{decryptionKey})
		if err != nil {
			return err
		}
		options.OciDecryptConfig = config.CombineCryptoConfigs([]config.CryptoConfig{made}).DecryptConfig
	}
	accept := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	policy, err := signature.NewPolicyContext(accept)
	if err != nil {
		return err
	}
	_, err = copy.Image(context.Background(), policy, to, from, options)
	return err
}
