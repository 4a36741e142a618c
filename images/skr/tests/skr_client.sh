#!/bin/bash
# Test client of the sidecar: has a key released, every five seconds.
# Variables: SkrClientMAAEndpoint (else $1), SkrClientAKVEndpoint (else $2), SkrClientKID (else $3).
# Writes /keyrelease.out: the whole answer with the key in it, or the error; mode 0600, replaced in one step.
here=$(dirname "$0")
authority=${SkrClientMAAEndpoint:-${1:-}} vault=${SkrClientAKVEndpoint:-${2:-}} kid=${SkrClientKID:-${3:-}}
[[ -n $authority && -n $vault && -n $kid ]] || {
  echo "skr_client.sh: error: SkrClientMAAEndpoint, SkrClientAKVEndpoint and SkrClientKID are wanted" >&2
  exit 2
}
trap 'exit 0' TERM INT
umask 077
while true; do
  "$here/post" /key/release "maa_endpoint=$authority" "akv_endpoint=$vault" "kid=$kid" >/keyrelease.out.new ||
    echo "skr_client.sh: $(head -c 2000 /keyrelease.out.new)" >&2
  mv /keyrelease.out.new /keyrelease.out
  sleep 5 &
  wait $!
done
