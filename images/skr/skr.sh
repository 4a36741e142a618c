#!/bin/bash
# Start script under the predecessor's name: settings from SkrSideCarArgs (else $1), port from Port (else $2), and LogFile,
# LogLevel, ServerType, which skr reads itself. Writes 1 or 0 to the file `result` when skr has ended, and ends as it did.
# Settings can hold secrets, and logs leave the machine: only what is harmless is echoed.
export SkrSideCarArgs=${SkrSideCarArgs:-${1:-}} Port=${Port:-${2:-}}
words=()
[[ -z ${TestingMismatchedTCB:-} ]] || words=("-allowTestingMismatchedTCB=$TestingMismatchedTCB")
echo "skr.sh: Port=${Port:-8080} ServerType=${ServerType:-http} LogLevel=${LogLevel:-warning} LogFile=${LogFile:-}" \
  "SkrSideCarArgs: ${#SkrSideCarArgs} characters" "${words[@]}"
/bin/skr "${words[@]}" &
pid=$!
trap 'kill -TERM $pid 2>/dev/null' TERM INT
wait $pid
code=$?
# A signal interrupts `wait`; skr is still answering what is open then.
while kill -0 $pid 2>/dev/null; do
  wait $pid
  code=$?
done
{ ((code == 0)) && echo 1 || echo 0; } >result
exit $code
