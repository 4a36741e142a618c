#!/bin/bash
# The sidecar for tests: as /skr.sh, and TestingMismatchedTCB (true or false; else $2) has it take the host's certificates for
# outdated. Settings from SkrSideCarArgs (else $1), port from Port (else $3); LogFile and LogLevel are read by skr.
export TestingMismatchedTCB=${TestingMismatchedTCB:-${2:-}}
exec /skr.sh "${1:-}" "${3:-}"
