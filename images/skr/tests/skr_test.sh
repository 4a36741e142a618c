#!/bin/bash
# Sidecar and test clients in one container. Variables: those of skr.sh and of the two clients; a client whose variables are
# not set is left out. TestingMismatchedTCB, when set, has the sidecar take the host's certificates for outdated.
here=$(dirname "$0")
words=()
[[ -z ${TestingMismatchedTCB:-} ]] || words=(-allowTestingMismatchedTCB)
/bin/skr "${words[@]}" &
skr=$!
clients=()
[[ -z ${AttestClientMAAEndpoint:-} ]] || { "$here/attest_client.sh" & clients+=($!); }
[[ -z ${SkrClientKID:-} ]] || { "$here/skr_client.sh" & clients+=($!); }
trap 'kill -TERM $skr "${clients[@]}" 2>/dev/null' TERM INT
wait $skr
code=$?
while kill -0 $skr 2>/dev/null; do wait $skr; code=$?; done
((${#clients[@]} == 0)) || { kill -TERM "${clients[@]}"; wait "${clients[@]}"; } 2>/dev/null
exit $code
