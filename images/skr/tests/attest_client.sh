#!/bin/bash
# Test client of the sidecar: asks for the raw report, the combined evidence and an attestation token, every five seconds.
# Variables: AttestClientRuntimeData (text; else $1), AttestClientMAAEndpoint (else $2).
# Writes /raw.out, /combined.out, /maatoken.out: the whole answer, or the error; each is replaced in one step.
here=$(dirname "$0")
data=$(printf %s "${AttestClientRuntimeData:-${1:-}}" | base64 -w0)
endpoint=${AttestClientMAAEndpoint:-${2:-}}
[[ -n $data && -n $endpoint ]] || {
  echo "attest_client.sh: error: AttestClientRuntimeData and AttestClientMAAEndpoint are wanted" >&2
  exit 2
}
trap 'exit 0' TERM INT
ask() {
  local file=$1
  shift
  "$here/post" "$@" >"$file.new" || echo "attest_client.sh: $1: $(head -c 2000 "$file.new")" >&2
  mv "$file.new" "$file"
}
while true; do
  ask /raw.out /attest/raw "runtime_data=$data"
  ask /combined.out /attest/combined "runtime_data=$data"
  ask /maatoken.out /attest/maa "maa_endpoint=$endpoint" "runtime_data=$data"
  sleep 5 &
  wait $!
done
