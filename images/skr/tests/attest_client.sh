#!/bin/bash
# Test client of the sidecar, every five seconds. Variables: AttestClientRuntimeData (base64; else $1), and
# AttestClientMAAEndpoint (else $2). Without an endpoint it writes /raw.out and /combined.out, with one /maatoken.out:
# the whole answer, or the error; each is replaced in one step.
here=$(dirname "$0")
data=${AttestClientRuntimeData:-${1:-}} endpoint=${AttestClientMAAEndpoint:-${2:-}}
[[ -n $data ]] || { echo "attest_client.sh: error: AttestClientRuntimeData is not set" >&2; exit 2; }
trap 'exit 0' TERM INT
ask() {
  local file=$1
  shift
  "$here/post" "$@" >"$file.new" || echo "attest_client.sh: $1: $(head -c 2000 "$file.new")" >&2
  mv "$file.new" "$file"
}
while true; do
  if [[ -z $endpoint ]]; then
    ask /raw.out /attest/raw "runtime_data=$data"
    ask /combined.out /attest/combined "runtime_data=$data"
  else
    ask /maatoken.out /attest/maa "maa_endpoint=$endpoint" "runtime_data=$data"
  fi
  sleep 5 &
  wait $!
done
