#!/bin/sh
# Run a command that is silent for long, and say once a minute that it still runs.
start=$(date +%s)
(while sleep 60; do echo "      still at it after $((($(date +%s) - start) / 60)) min"; done) &
heartbeat=$!
"$@"
status=$?
kill $heartbeat 2>/dev/null
exit $status
