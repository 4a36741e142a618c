#!/bin/bash
# Start script under the predecessor's name: settings in EncfsSideCarArgs, and LogFile, LogLevel. Stays as long as the
# volumes do, stores and unmounts them on SIGTERM, and ends with an exit code that says whether all was stored.
# The agent writes the file `result`, and `result.json` beside it. Words after the script's name are options for the agent.
exec /bin/encfs agent "$@"
