#!/usr/bin/env bash
# Installs what the tests need into .test-env and runs them all.
# usage: scripts/test.sh [--install] [pytest options]      (--install: only install)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bootstrap.sh

make_env .test-env
stamp=.test-env/.installed
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "test: installing what the tests need into .test-env" >&2
  install .test-env --editable '.[dev]'
  touch "$stamp"
fi
[ "${1:-}" = --install ] && exit 0

# missing COMMAND: whether a command is not there and this machine can get it from Debian.
missing() {
  ! command -v "$1" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# The examples for images are carried out in a clean Debian, made once; where it cannot be had they are skipped.
if missing mmdebstrap || missing shellcheck; then
  echo "test: installing mmdebstrap and shellcheck, for the tests of the bootstrap" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -q update && apt-get -q -y --no-install-recommends install mmdebstrap shellcheck; } \
    >.test-env/debian.log 2>&1 || echo "test: that failed (.test-env/debian.log says why)" >&2
fi
if [ ! -e .test-env/debian.tar ] && [ "$(id -u)" = 0 ] && command -v mmdebstrap >/dev/null; then
  echo "test: making a clean Debian" >&2
  slim=(--dpkgopt='path-exclude=/usr/share/'{doc,info,locale,man}'/*') # as the slim images of Debian are
  mmdebstrap --quiet --variant=minbase "${slim[@]}" --include=python3 "$(. /etc/os-release && echo "$VERSION_CODENAME")" \
    .test-env/debian.part.tar >>.test-env/debian.log 2>&1 && mv .test-env/debian.part.tar .test-env/debian.tar ||
    echo "test: that failed (.test-env/debian.log says why)" >&2
fi

# The fleet of the tests has a real sshd on each host. Where systemd runs, Debian would start one for this machine too.
if { missing sshd || missing ip || missing sudo; } && [ ! -d /run/systemd/system ]; then
  echo "test: installing openssh-server, iproute2 and sudo, for the tests of a fleet" >&2
  export DEBIAN_FRONTEND=noninteractive
  packages=(openssh-server openssh-client iproute2 sudo)
  { apt-get -q update && apt-get -q -y --no-install-recommends install "${packages[@]}"; } \
    >.test-env/fleet.log 2>&1 || echo "test: that failed (.test-env/fleet.log says why)" >&2
fi

# The tests start bnbenv thousands of times. Where Python is told to keep no bytecode, each would compile it anew.
.test-env/bin/python -m compileall -q bnbenv

# The tests of the page drive a real Chromium. It is no Python package; where it cannot be had they are skipped.
if ! command -v chromium-headless-shell chromium google-chrome chromium-browser chrome >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing Chromium, for the tests of the page" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -q update && apt-get -q -y --no-install-recommends install chromium-headless-shell; } \
      >.test-env/chromium.log 2>&1 || echo "test: that failed (.test-env/chromium.log says why)" >&2
  else
    echo "test: no Chromium is here (apt install chromium-headless-shell)" >&2
  fi
fi
# One worker a core: threads of torch in one would wait, spinning, for a core that the other has.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .test-env/bin/python -m pytest -n 2 --dist loadgroup "$@"
