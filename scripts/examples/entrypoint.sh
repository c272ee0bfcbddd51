#!/bin/sh
# Starts a command in a container whose environment was made with BNBENV_FACTS: on a machine on which its kernels have
# not run yet they run first, 10 to 60 seconds and once a container. It needs no network and asks nothing. On a machine
# for which it was not made it says so and starts nothing: exit 4 (the GPUs or the driver do not fit), 5 (the kernels
# failed), 6 (the driver waits for a reboot).
set -eu
project=${BNBENV_PROJECT:-/srv/train}
bnbenv=${BNBENV:-/opt/bnbenv/bin/bnbenv}
unset BNBENV_FACTS # of the machine that the image was built for

code=0
"$bnbenv" sync --locked --wait 600 --project "$project" >&2 || code=$?
if [ "$code" -ne 0 ]; then
  echo "entrypoint: not started, since the environment in $project does not run on this machine as it is (above)" >&2
  exit "$code"
fi
[ $# -gt 0 ] || set -- python
exec "$@"
