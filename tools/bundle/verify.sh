#!/bin/sh
# Verify an unpacked bundle of verdictd-py. It needs a POSIX shell, openssl and sha256sum (coreutils).
#
# usage: sh verify.sh DIRECTORY PUBLIC-KEY
#        sh verify.sh DIRECTORY --unsigned
#
# PUBLIC-KEY is a PEM file with an Ed25519 or ECDSA key, which reached the site by another way than the bundle; so did
# this script, because an attacker who can alter a bundle can alter the copy of the script in it. --unsigned compares the
# checksums only: it detects damage, no attacker. The exit status is 0 only if the directory has the files that were
# signed, unaltered, and no other. Nothing is written.
set -u
LC_ALL=C
export LC_ALL

refuse() {
  printf 'verify: refused: %s\n' "$1" >&2
  exit 1
}

wrong_use() {
  printf 'verify: %s; usage: sh verify.sh DIRECTORY PUBLIC-KEY\n' "$1" >&2
  exit 2
}

# Verify the signature of the checksums with the site's key.
check_signature() {
  # Its first line names the type: "ED25519 Public-Key:", or "Public-Key: (256 bit)" of an elliptic curve and of RSA.
  case $key in "$PWD"/*) refuse "$key is part of the bundle; give the public key that the site has" ;; esac
  described=$(openssl pkey -pubin -in "$key" -noout -text 2> /dev/null) ||
    refuse "$key is no public key in PEM; give the public key of the site ('openssl pkey -in KEY -pubout')"
  [ -f SHA256SUMS.sig ] && [ ! -L SHA256SUMS.sig ] || refuse "the bundle has no signature (SHA256SUMS.sig)"
  case $described in
    ED25519*)
      case $(openssl version) in
        *' 0.'* | *' 1.'*) refuse "this openssl verifies no Ed25519 signature; use OpenSSL 3, or an ECDSA key" ;;
      esac
      openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig > /dev/null 2>&1 ;;
    *"ASN1 OID: "*)
      openssl dgst -sha256 -verify "$key" -signature SHA256SUMS.sig SHA256SUMS > /dev/null 2>&1 ;;
    *) refuse "$key is neither an Ed25519 nor an ECDSA key" ;;
  esac || refuse "SHA256SUMS was not signed with the key in $key"
}

# Compare each file with its checksum. Sets `listed` to the names between slashes and line feeds.
check_files() {
  listed=$newline
  while IFS= read -r line || [ -n "$line" ]; do
    digest=${line%%  *}
    name=${line#*  }
    [ "$line" = "$digest  $name" ] && [ ${#digest} -eq 64 ] || refuse "SHA256SUMS is damaged"
    case $digest in *[!0-9a-f]*) refuse "SHA256SUMS is damaged" ;; esac
    case $name in
      '' | /* | */ | .* | *//* | */.* | */*/* | *[!A-Za-z0-9._+~/-]*) refuse "SHA256SUMS has a name that no bundle has" ;;
    esac
    case $listed in *"$newline$name$newline"*) refuse "SHA256SUMS has $name twice" ;; esac
    listed=$listed$name$newline
    case $name in */*) [ ! -L "${name%/*}" ] || refuse "${name%/*} is a link" ;; esac
    [ ! -L "$name" ] || refuse "$name is a link"
    [ -f "$name" ] || refuse "$name is missing"
    actual=$(sha256sum < "$name") || refuse "$name cannot be read"
    [ "${actual%% *}" = "$digest" ] || refuse "$name is altered"
  done < SHA256SUMS
}

# Refuse each entry of a directory that is not listed: $1 is a prefix of names, empty or `directory/`.
check_no_other() {
  for path in "$1"* "$1".*; do
    name=${path#"$1"}
    case $name in
      . | ..) continue ;;
      '*' | '.*') [ -e "$path" ] || [ -L "$path" ] || continue ;; # the pattern itself: it matches nothing
    esac
    case $path in SHA256SUMS | SHA256SUMS.sig) continue ;; esac
    case $path in *[!A-Za-z0-9._+~/-]*) refuse "the bundle has a file that was not signed, with an unusual name" ;; esac
    case $listed in
      *"$newline$path$newline"*) ;;
      *"$newline$path/"*) [ -z "$1" ] && [ -d "$path" ] && check_no_other "$path/" ;;
      *) refuse "$path is not in SHA256SUMS" ;;
    esac || refuse "$path is not in SHA256SUMS"
  done
}

newline='
'
[ $# -eq 2 ] || wrong_use "a directory and a key are needed"
key=$2
case $key in
  --unsigned) ;;
  -*) wrong_use "no option: $key" ;;
  /*) ;;
  *) key=$PWD/$key ;;
esac
command -v openssl > /dev/null && command -v sha256sum > /dev/null || wrong_use "openssl and sha256sum are needed"
CDPATH='' cd -- "$1" 2> /dev/null || wrong_use "no directory: $1"
[ -f SHA256SUMS ] && [ ! -L SHA256SUMS ] || refuse "the bundle has no SHA256SUMS"
[ "$key" = --unsigned ] || check_signature
check_files
check_no_other ''
IFS= read -r title < BUNDLE || refuse "BUNDLE has no first line"
case $title in *[!A-Za-z0-9.+~\ -]*) refuse "this is no bundle of verdictd-py" ;; "verdictd-py "*) ;; *) refuse "this is no bundle of verdictd-py" ;; esac
case $listed in *"${newline}BUNDLE$newline"*) ;; *) refuse "this is no bundle of verdictd-py" ;; esac
if [ "$key" = --unsigned ]; then
  printf '%s: checksums match; the SIGNATURE WAS NOT VERIFIED\n' "$title"
else
  printf '%s: verified\n' "$title"
fi
